//! Archives of what users have in a work directory.

use std::io::{self, Read as _, Write};
use std::path::{Component, Path, PathBuf};

use cap_std::fs::{Dir, Metadata, MetadataExt as _};

use super::open_regular;

/// Directories within directories, as deep as an archive goes.
const DEEPEST: usize = 128;
/// Entries of an archive that is made in memory.
const FEW: u64 = 10_000;
/// Progress is told after so many bytes.
const STEP: u64 = 1024 * 1024;

/// Which symbolic links an archive has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// Those that lead to something within what is archived: others could lead anywhere where it is unpacked.
    Inside,
    /// All.
    All,
}

/// How much an archive may take, and whom its progress concerns.
pub(crate) struct Budget<'a> {
    bytes: u64,
    entries: u64,
    done: u64,
    told: u64,
    progress: Box<dyn FnMut(u64) -> bool + 'a>,
}

impl<'a> Budget<'a> {
    /// For an archive in memory.
    pub(crate) fn small(bytes: u64) -> Self {
        Self { bytes, entries: FEW, done: 0, told: 0, progress: Box::new(|_| true) }
    }

    /// For an archive on the disk.
    pub(crate) fn unbounded(progress: impl FnMut(u64) -> bool + 'a) -> Self {
        Self { bytes: u64::MAX, entries: u64::MAX, done: 0, told: 0, progress: Box::new(progress) }
    }

    fn entry(&mut self) -> io::Result<()> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| io::Error::other("Too many files for one archive"))?;
        Ok(())
    }

    fn bytes(&mut self, size: u64) -> io::Result<()> {
        self.bytes = self.bytes.checked_sub(size).ok_or_else(|| io::Error::other("Too large for an archive"))?;
        Ok(())
    }

    fn written(&mut self, size: u64) -> io::Result<()> {
        self.done += size;
        if self.done - self.told >= STEP {
            self.told = self.done;
            if !(self.progress)(self.done) {
                return Err(io::Error::other("nobody waits for the archive any more"));
            }
        }
        Ok(())
    }
}

/// Writes a tar of `path` (a file or a directory, followed if it is a link) under its own name; of the whole directory
/// the entries have no name before theirs.
pub(crate) fn archive<W: Write>(
    writer: W,
    dir: &Dir,
    path: &Path,
    links: Links,
    budget: &mut Budget<'_>,
) -> io::Result<W> {
    let mut tar = Tar { builder: tar::Builder::new(writer), links, budget };
    let is_whole = path == Path::new(".");
    let metadata = dir.metadata(path)?;
    let name = match path.file_name() {
        Some(name) => PathBuf::from(name),
        None => PathBuf::from("work"),
    };
    if metadata.is_dir() {
        // A download is unpacked beside other things, an archive of the directory in its place.
        let name = if is_whole && links == Links::All { PathBuf::from(".") } else { name };
        tar.directory(&dir.open_dir(path)?, &name, &metadata, 0)?;
    } else {
        tar.file(dir, path, &name)?;
    }
    tar.builder.into_inner()
}

/// The bytes of all regular files below a directory.
pub(super) fn size(dir: &Dir) -> io::Result<u64> {
    let mut sum = 0;
    let mut left = vec![(dir.try_clone()?, 0)];
    while let Some((dir, depth)) = left.pop() {
        for entry in dir.entries()? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() {
                sum += metadata.size();
            } else if metadata.is_dir() && depth < DEEPEST {
                left.extend(entry.open_dir().ok().map(|dir| (dir, depth + 1)));
            }
        }
    }
    Ok(sum)
}

struct Tar<'a, 'b, W: Write> {
    builder: tar::Builder<W>,
    links: Links,
    budget: &'a mut Budget<'b>,
}

impl<W: Write> Tar<'_, '_, W> {
    fn directory(&mut self, dir: &Dir, name: &Path, metadata: &Metadata, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other("Too many directories within each other"));
        }
        self.budget.entry()?;
        let mut header = header(metadata, tar::EntryType::Directory, 0);
        self.builder.append_data(&mut header, name, io::empty())?;
        let mut entries: Vec<_> = dir.entries()?.collect::<io::Result<_>>()?;
        entries.sort_by_key(cap_std::fs::DirEntry::file_name);
        for entry in entries {
            let file_name = entry.file_name();
            let name = name.join(&file_name);
            // What goes away meanwhile isn't in the archive.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_symlink() {
                self.link(dir, Path::new(&file_name), &name, &metadata)?;
            } else if metadata.is_dir() {
                match entry.open_dir() {
                    Ok(inner) => self.directory(&inner, &name, &metadata, depth + 1)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            } else if metadata.is_file() {
                match self.file(dir, Path::new(&file_name), &name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }

    /// Its size is that of the moment when it was opened: what is added meanwhile is left out, what is taken away reads
    /// as zeros.
    fn file(&mut self, dir: &Dir, path: &Path, name: &Path) -> io::Result<()> {
        let (file, metadata) = open_regular(dir, path)?;
        self.budget.entry()?;
        self.budget.bytes(metadata.size())?;
        let mut header = header(&metadata, tar::EntryType::Regular, metadata.size());
        let content = Told { inner: file.chain(io::repeat(0)).take(metadata.size()), budget: &mut *self.budget };
        self.builder.append_data(&mut header, name, content)
    }

    fn link(&mut self, dir: &Dir, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        let Ok(target) = dir.read_link_contents(path) else { return Ok(()) };
        if self.links == Links::Inside && !stays_inside(name, &target) {
            return Ok(());
        }
        self.budget.entry()?;
        let mut header = header(metadata, tar::EntryType::Symlink, 0);
        self.builder.append_link(&mut header, name, &target)
    }
}

/// Whether a link at `name` of an archive leads to something within the archive's first directory.
fn stays_inside(name: &Path, target: &Path) -> bool {
    let mut depth = name.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 1 => depth -= 1,
            _ => return false,
        }
    }
    true
}

fn header(metadata: &Metadata, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header
}

/// Tells of what is read.
struct Told<'a, 'b, R> {
    inner: R,
    budget: &'a mut Budget<'b>,
}

impl<R: io::Read> io::Read for Told<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer)?;
        self.budget.written(size as u64)?;
        Ok(size)
    }
}
