//! Whole trees: counting, copying, removing. They may be of any shape, as sessions write them; nothing here recurses.

use std::ffi::OsString;
use std::fs::FileTimes;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use cap_std::fs::{Dir, Metadata, MetadataExt as _, OpenOptions, Permissions, PermissionsExt as _};

use super::{UPLOADS, WORK, files};
use crate::Usage;

/// How long counting may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// What takes longer than this to be removed was left by somebody who is gone.
const WORK_AGE: Duration = Duration::from_secs(48 * 3600);

/// Shows what is in a directory whose folders lie `depth` levels below it (0: it is one), with the directory where it is,
/// as long as it is wanted; uploads under way are left out, which only a folder's root has, and what can't be read.
fn walk(root: &Dir, depth: usize, mut show: impl FnMut(&Path, &Metadata) -> bool) {
    let mut pending = vec![(PathBuf::from("."), 0)];
    while let Some((path, level)) = pending.pop() {
        let Ok(dir) = root.open_dir(&path) else { continue };
        let Ok(entries) = dir.entries() else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if level == depth && name == UPLOADS {
                continue;
            }
            let Ok(meta) = dir.symlink_metadata(&name) else { continue };
            if !show(&path, &meta) {
                return;
            }
            if meta.is_dir() {
                pending.push((path.join(name), level + 1));
            }
        }
    }
}

/// Counts what is in a folder; −1 when that takes longer than `patience`.
pub(super) fn usage(root: &Dir, patience: Option<Duration>) -> Usage {
    let begun = Instant::now();
    let (mut file_count, mut used_bytes, mut is_known) = (0_i64, 0_u64, true);
    walk(root, 0, |_, meta| {
        file_count += 1;
        used_bytes = used_bytes.saturating_add(meta.size());
        is_known = patience.is_none_or(|patience| begun.elapsed() <= patience);
        is_known
    });
    if !is_known {
        return Usage { file_count: -1, used_bytes: -1 };
    }
    Usage { file_count, used_bytes: i64::try_from(used_bytes).unwrap_or(i64::MAX) }
}

/// Bytes in a directory whose folders lie `depth` levels below it, as [`usage`] counts them, and those of them that are in
/// the folder at the path `part`.
pub(super) fn bytes_with_part(root: &Dir, depth: usize, part: &Path) -> (u64, u64) {
    let (mut all, mut in_part) = (0_u64, 0_u64);
    walk(root, depth, |directory, meta| {
        all = all.saturating_add(meta.size());
        if directory.starts_with(part) {
            in_part = in_part.saturating_add(meta.size());
        }
        true
    });
    (all, in_part)
}

/// Copies what is in a directory, with modes and times. Links stay links; pipes and the like are left out.
pub(super) fn copy(source: &Dir, target: &Dir) -> std::io::Result<()> {
    let mut pending = vec![PathBuf::from(".")];
    let mut made: Vec<(PathBuf, u32, SystemTime)> = Vec::new();
    while let Some(path) = pending.pop() {
        let (from, to) = (source.open_dir(&path)?, target.open_dir(&path)?);
        for entry in from.entries()? {
            let name = entry?.file_name();
            if path == Path::new(".") && name == UPLOADS {
                continue;
            }
            let meta = from.symlink_metadata(&name)?;
            let modified = meta.modified()?.into_std();
            if meta.is_symlink() {
                to.symlink_contents(from.read_link_contents(&name)?, &name)?;
            } else if meta.is_dir() {
                to.create_dir(&name)?;
                let path = path.join(&name);
                made.push((path.clone(), meta.mode() & 0o7777, modified));
                pending.push(path);
            } else if meta.is_file() {
                let mut input = files::open(&from, &name)?;
                let mut output = to.open_with(&name, OpenOptions::new().write(true).create_new(true))?.into_std();
                // The kernel copies, by reference where the file system can.
                std::io::copy(&mut input, &mut output)?;
                output.set_permissions(mode(meta.mode()))?;
                output.set_times(FileTimes::new().set_modified(modified))?;
            }
        }
    }
    // From the bottom up: a directory that nobody may write to is closed last, and its time isn't touched again.
    for (path, bits, modified) in made.into_iter().rev() {
        target.set_permissions(&path, Permissions::from_mode(bits))?;
        target.open(&path)?.into_std().set_times(FileTimes::new().set_modified(modified))?;
    }
    Ok(())
}

fn mode(bits: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits & 0o777)
}

/// Opens a directory for changes, whatever its mode says: whoever made it may have closed it to its owner.
fn opened(parent: &Dir, name: &Path) -> std::io::Result<Dir> {
    parent.set_permissions(name, Permissions::from_mode(0o700))?;
    parent.open_dir(name)
}

/// Removes a directory and everything in it. Deep trees are flattened on the way: a directory's directories move up until
/// there are none.
pub(super) fn remove(parent: &Dir, name: &Path) -> std::io::Result<()> {
    let root = opened(parent, name)?;
    loop {
        let entries: Vec<(OsString, bool)> = listed(&root)?;
        if entries.is_empty() {
            return parent.remove_dir(name);
        }
        for (entry, is_dir) in entries {
            if !is_dir {
                absent(root.remove_file(&entry))?;
            } else if root.remove_dir(&entry).is_err() {
                let inner = opened(&root, Path::new(&entry))?;
                for (child, is_dir) in listed(&inner)? {
                    if !is_dir {
                        absent(inner.remove_file(&child))?;
                    } else if inner.remove_dir(&child).is_err() {
                        drop(opened(&inner, Path::new(&child))?);
                        inner.rename(&child, &root, uuid::Uuid::new_v4().simple().to_string())?;
                    }
                }
                // Something new may have come meanwhile: then there is another turn.
                let _ = root.remove_dir(&entry);
            }
        }
    }
}

fn listed(dir: &Dir) -> std::io::Result<Vec<(OsString, bool)>> {
    dir.entries()?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name(), entry.file_type()?.is_dir()))
        })
        .collect()
}

fn absent(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes what was left on a volume by work that broke off, and uploads whose tokens have expired.
pub(super) fn tidy(volume: &Dir, upload_age: Duration) -> std::io::Result<()> {
    if let Ok(work) = volume.open_dir(WORK) {
        for (name, is_dir) in listed(&work)? {
            if is_dir && is_older(&work, &name, WORK_AGE) {
                remove(&work, Path::new(&name))?;
            }
        }
    }
    for (scope, _) in directories(volume)? {
        if scope == WORK {
            continue;
        }
        let scope = volume.open_dir(&scope)?;
        for (first, _) in directories(&scope)? {
            let first = scope.open_dir(&first)?;
            for (second, _) in directories(&first)? {
                let second = first.open_dir(&second)?;
                for (folder, _) in directories(&second)? {
                    let Ok(uploads) = second.open_dir(Path::new(&folder).join(UPLOADS)) else { continue };
                    for (session, is_dir) in listed(&uploads)? {
                        if !is_dir && is_older(&uploads, &session, upload_age) {
                            absent(uploads.remove_file(&session))?;
                        }
                    }
                    drop(uploads);
                    let _ = second.remove_dir(Path::new(&folder).join(UPLOADS));
                }
            }
        }
    }
    Ok(())
}

fn directories(dir: &Dir) -> std::io::Result<impl Iterator<Item = (OsString, bool)>> {
    Ok(listed(dir)?.into_iter().filter(|(_, is_dir)| *is_dir))
}

fn is_older(dir: &Dir, name: &OsString, age: Duration) -> bool {
    let changed = dir.symlink_metadata(name).and_then(|m| m.modified());
    changed.is_ok_and(|at| at.into_std().elapsed().is_ok_and(|elapsed| elapsed > age))
}
