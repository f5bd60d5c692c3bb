//! The files that users see in a kernel: those of its work directory, and no others.
//!
//! Everything goes through a handle of that directory which follows no link out of it, whatever the kernel's programs
//! change meanwhile. Paths are as users know them: relative, or as in a container below `/home/work`.

mod archive;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use nix::fcntl::OFlag;
use quarterdeck_model::file_mode;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use serde_json::{Value, json};

pub(crate) use self::archive::{Budget, Links, archive};
use crate::error::Failure;

/// Where containers have what is the work directory here.
pub(crate) const IN_CONTAINER: &str = "/home/work";
/// More entries of one directory than this aren't listed.
const MOST_ENTRIES: usize = 20_000;

/// The work directory of one kernel.
pub struct UserFiles {
    dir: Dir,
    path: PathBuf,
    /// Whom files belong to that come in; none = this process.
    owner: Option<(u32, u32)>,
}

/// Why there is no such file for the user, in the system's words.
fn failure(path: &str, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "No such file or directory".to_owned(),
        io::ErrorKind::NotADirectory => "Not a directory".to_owned(),
        io::ErrorKind::IsADirectory => "Is a directory".to_owned(),
        io::ErrorKind::PermissionDenied => "Permission denied".to_owned(),
        _ => error.to_string(),
    };
    Failure::Refused(format!("{why}: {path:?}"))
}

impl UserFiles {
    /// The files below that directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { dir: Dir::open_ambient_dir(path, ambient_authority())?, path: path.to_owned(), owner: None })
    }

    /// Gives what comes in to that user and group.
    pub(crate) fn owned_by(mut self, owner: Option<(u32, u32)>) -> Self {
        self.owner = owner;
        self
    }

    /// A user's path as one below the directory; the directory itself is `.`.
    fn inside(&self, path: &str) -> Result<PathBuf, Failure> {
        if path.contains('\0') {
            return Err(Failure::Refused(format!("{path:?} is no path")));
        }
        let given = Path::new(path);
        let home = [Path::new(IN_CONTAINER), &self.path, Path::new("~")];
        let rest = home.into_iter().find_map(|home| given.strip_prefix(home).ok()).unwrap_or(given);
        let mut inside = PathBuf::new();
        for part in rest.components() {
            match part {
                Component::Normal(name) => inside.push(name),
                Component::CurDir => {}
                Component::ParentDir if inside.pop() => {}
                _ => return Err(Failure::Refused(format!("{path:?} is outside of {IN_CONTAINER}"))),
            }
        }
        if inside.as_os_str().is_empty() {
            inside.push(".");
        }
        Ok(inside)
    }

    /// Begins to take a file in. Directories on its way are made.
    pub fn create(&self, path: &str, size: u64) -> Result<Incoming, Failure> {
        let inside = self.inside(path)?;
        let Some(name) = inside.file_name() else {
            return Err(Failure::Refused(format!("{path:?} names no file")));
        };
        let begin = || {
            let dir = match inside.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => {
                    self.make_directories(parent)?;
                    self.dir.open_dir(parent)?
                }
                None => self.dir.try_clone()?,
            };
            let temporary = format!(".upload-{}", uuid::Uuid::new_v4().simple());
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o644);
            let file = dir.open_with(&temporary, &options)?;
            if let Some((uid, gid)) = self.owner {
                rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
            Ok(Incoming { dir, temporary, name: name.to_owned(), file, left: size, path: path.to_owned() })
        };
        begin().map_err(|error: io::Error| failure(path, &error))
    }

    /// Makes the directories that aren't there, and gives them to whom files belong to.
    fn make_directories(&self, path: &Path) -> io::Result<()> {
        let Some((uid, gid)) = self.owner else { return self.dir.create_dir_all(path) };
        let mut made = PathBuf::new();
        for part in path.components() {
            made.push(part);
            match self.dir.create_dir(&made) {
                Ok(()) => {
                    let parent = match made.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                        Some(parent) => self.dir.open_dir(parent)?,
                        None => self.dir.try_clone()?,
                    };
                    // A directory and nothing else, whatever is put in its place meanwhile.
                    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let dir = rustix::fs::openat(&parent, part.as_os_str(), flags, Mode::empty())?;
                    rustix::fs::fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Opens a regular file and tells its size.
    pub fn read(&self, path: &str) -> Result<(File, u64), Failure> {
        let inside = self.inside(path)?;
        let open = || {
            let (file, metadata) = open_regular(&self.dir, &inside)?;
            Ok((file, metadata.size()))
        };
        open().map_err(|error: io::Error| failure(path, &error))
    }

    /// A tar of a file or directory, under its own name. At most `limit` bytes of files.
    pub fn tar(&self, path: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let inside = self.inside(path)?;
        let mut budget = Budget::small(limit);
        archive(Vec::new(), &self.dir, &inside, Links::Inside, &mut budget).map_err(|error| failure(path, &error))
    }

    /// What lies in a directory, as a JSON list in order of names.
    pub fn list(&self, path: &str) -> Result<Value, Failure> {
        let inside = self.inside(path)?;
        let list = || {
            let mut entries = Vec::new();
            for entry in self.dir.read_dir(&inside)? {
                let entry = entry?;
                // What went away meanwhile isn't there.
                let Ok(metadata) = entry.metadata() else { continue };
                entries.push((entry.file_name().to_string_lossy().into_owned(), metadata));
                if entries.len() > MOST_ENTRIES {
                    return Err(io::Error::other(format!("More than {MOST_ENTRIES} files")));
                }
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(entries.iter().map(|(name, metadata)| row(name, metadata)).collect())
        };
        list().map_err(|error: io::Error| failure(path, &error))
    }

    /// Archives the whole directory, compressed, into a file outside of it that appears whole or not at all. `progress`
    /// is told the number of bytes done so far, and answers whether to go on.
    pub fn commit(&self, target: &Path, progress: impl FnMut(u64) -> bool) -> io::Result<()> {
        let parent = target.parent().ok_or_else(|| io::Error::other("the archive has no directory"))?;
        std::fs::create_dir_all(parent)?;
        let file = tempfile::Builder::new().prefix(".commit-").tempfile_in(parent)?;
        let writer = flate2::write::GzEncoder::new(io::BufWriter::new(file), flate2::Compression::fast());
        let mut budget = Budget::unbounded(progress);
        let writer = archive(writer, &self.dir, Path::new("."), Links::All, &mut budget)?;
        let file = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(target).map_err(|error| error.error)?;
        Ok(())
    }

    /// How many bytes the files of the directory have.
    pub fn size(&self) -> io::Result<u64> {
        archive::size(&self.dir)
    }
}

/// Opens a regular file; whatever else is there is an error at once.
fn open_regular(dir: &Dir, path: &Path) -> io::Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    // A pipe that nobody writes to must not hold anybody up.
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = dir.open_with(path, &options)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "Not a regular file")),
    }
}

fn row(name: &str, metadata: &Metadata) -> Value {
    let time = |seconds: i64, nanos: i64| seconds as f64 + nanos as f64 / 1e9;
    json!({
        "mode": file_mode::text(metadata.mode()),
        "size": metadata.size(),
        "ctime": time(metadata.ctime(), metadata.ctime_nsec()),
        "mtime": time(metadata.mtime(), metadata.mtime_nsec()),
        "atime": time(metadata.atime(), metadata.atime_nsec()),
        "filename": name,
    })
}

/// A file on its way in. Dropped before [`Incoming::finish`], it leaves nothing.
pub struct Incoming {
    dir: Dir,
    temporary: String,
    name: OsString,
    file: File,
    left: u64,
    path: String,
}

impl Incoming {
    /// Takes more of it.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.left = u64::try_from(data.len())
            .ok()
            .and_then(|size| self.left.checked_sub(size))
            .ok_or_else(|| Failure::Refused(format!("{:?} is larger than announced", self.path)))?;
        self.file.write_all(data).map_err(|error| failure(&self.path, &error))
    }

    /// It is whole: puts it in its place.
    pub fn finish(self) -> Result<(), Failure> {
        if self.left > 0 {
            return Err(Failure::Refused(format!("{:?} broke off", self.path)));
        }
        self.dir.rename(&self.temporary, &self.dir, &self.name).map_err(|error| failure(&self.path, &error))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After `finish` there is nothing of that name.
        let _ = self.dir.remove_file(&self.temporary);
    }
}
