//! What can be done with the files of a folder. Paths are confined and normalised before they come here.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use cap_std::fs::{Dir, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use chrono::{DateTime, SecondsFormat};
use nix::libc;

use super::{UPLOADS, open_to_all, tree};
use crate::error::{Error, Result};
use crate::{Entry, Stat};

fn errno(code: i32, path: &str) -> Error {
    Error::os(&std::io::Error::from_raw_os_error(code), &[path])
}

/// Opens a file to be read. Sessions may have put a pipe in its place: that isn't waited for, and no file.
pub(super) fn open(dir: &Dir, path: impl AsRef<Path>) -> std::io::Result<File> {
    let file = dir.open_with(path, OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK))?.into_std();
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

/// Makes a directory.
pub(super) fn mkdir(dir: &Dir, path: &str, parents: bool, exist_ok: bool) -> Result<()> {
    let told = |error: &std::io::Error| Error::os(error, &[path]);
    if parents && let Some((above, _)) = path.rsplit_once('/') {
        make_all(dir, above).map_err(|e| told(&e))?;
    }
    match dir.create_dir(path) {
        Ok(()) => open_to_all(dir, Path::new(path)).map_err(|e| told(&e)),
        // The root is always there, whatever the system calls that.
        Err(_) if path == "." && exist_ok => Ok(()),
        Err(_) if path == "." => Err(errno(libc::EEXIST, path)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let is_dir = dir.metadata(path).is_ok_and(|m| m.is_dir());
            if exist_ok && is_dir { Ok(()) } else { Err(told(&error)) }
        }
        Err(error) => Err(told(&error)),
    }
}

/// Makes a directory and those above it, as far as they are missing.
pub(super) fn make_all(dir: &Dir, path: &str) -> std::io::Result<()> {
    if dir.metadata(path).is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        let part = &path[..end];
        match dir.create_dir(part) {
            Ok(()) => open_to_all(dir, Path::new(part))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !dir.metadata(part)?.is_dir() {
                    return Err(std::io::Error::from_raw_os_error(libc::ENOTDIR));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The entries of a directory; those that vanish or can't be read are left out.
pub(super) fn list(dir: &Dir, path: &str, limit: usize) -> Result<Vec<Entry>> {
    let told = |error: &std::io::Error| Error::os(error, &[path]);
    if !dir.metadata(path).map_err(|e| told(&e))?.is_dir() {
        return Err(errno(libc::ENOTDIR, path));
    }
    let directory = dir.open_dir(path).map_err(|e| told(&e))?;
    let mut entries = Vec::new();
    for entry in directory.entries().map_err(|e| told(&e))? {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        if path == "." && name == UPLOADS {
            continue;
        }
        let Ok(meta) = directory.symlink_metadata(&name) else { continue };
        entries.push(described(name.to_string_lossy().into_owned(), &meta));
        if limit > 0 && entries.len() == limit {
            break;
        }
    }
    Ok(entries)
}

fn described(name: String, meta: &Metadata) -> Entry {
    let kind = if meta.is_symlink() {
        "SYMLINK"
    } else if meta.is_dir() {
        "DIRECTORY"
    } else {
        "FILE"
    };
    let stat = Stat {
        mode: meta.mode(),
        size: meta.size(),
        created: iso(meta.ctime(), meta.ctime_nsec()),
        modified: iso(meta.mtime(), meta.mtime_nsec()),
    };
    Entry { name, kind: kind.to_owned(), stat }
}

/// ISO 8601 with microseconds, which are left out when there are none.
fn iso(seconds: i64, nanos: i64) -> String {
    let at = DateTime::from_timestamp(seconds, u32::try_from(nanos).unwrap_or_default()).unwrap_or_default();
    let format = if nanos / 1_000 == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
    at.to_rfc3339_opts(format, false)
}

/// Gives something another name.
pub(super) fn rename(dir: &Dir, path: &str, target: &str) -> Result<()> {
    dir.symlink_metadata(path).map_err(|e| Error::os(&e, &[path]))?;
    dir.rename(path, dir, target).map_err(|e| Error::os(&e, &[path, target]))
}

/// Moves something onto a file, into a directory, or to a new name.
pub(super) fn move_to(dir: &Dir, from: &str, to: &str) -> Result<()> {
    dir.symlink_metadata(from).map_err(|e| Error::os(&e, &[from]))?;
    let target = match dir.metadata(to) {
        Ok(meta) if meta.is_dir() => {
            let name = from.rsplit('/').next().unwrap_or(from);
            if to == "." { name.to_owned() } else { format!("{to}/{name}") }
        }
        _ => to.to_owned(),
    };
    dir.rename(from, dir, &target).map_err(|error| match error.kind() {
        // The source was there a moment ago: what is missing is where it is to go.
        ErrorKind::NotFound => Error::os(&error, &[to]),
        _ => Error::os(&error, &[from, to]),
    })
}

/// Removes a file or, if `recursive`, a directory. Links are removed themselves, not what they lead to.
pub(super) fn remove(dir: &Dir, path: &str, recursive: bool) -> Result<()> {
    let told = |error: &std::io::Error| Error::os(error, &[path]);
    let meta = dir.symlink_metadata(path).map_err(|e| told(&e))?;
    if !meta.is_dir() {
        return dir.remove_file(path).map_err(|e| told(&e));
    }
    if !recursive {
        return Err(errno(libc::EISDIR, path));
    }
    tree::remove(dir, Path::new(path)).map_err(|e| told(&e))
}

/// A small file's content.
pub(super) fn fetch(dir: &Dir, path: &str, limit: u64) -> Result<Vec<u8>> {
    let file = open(dir, path).map_err(|_| Error::no_file())?;
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(|e| Error::os(&e, &[path]))?;
    if content.len() as u64 > limit {
        return Err(Error::too_large("The file is too large to be read as a whole"));
    }
    Ok(content)
}
