//! A directory as a ZIP archive, made while it is sent: nothing is known beforehand, and nothing is kept but the index.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, MetadataExt as _};
use chrono::{DateTime, Datelike as _, Timelike as _};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use super::{UPLOADS, files};

/// Entries of an archive at most: the index is kept in memory.
const MAX_ENTRIES: u64 = 1_000_000;
/// Files from this size on have their sizes written with 64 bits. Less than 2^32, as what doesn't compress grows a bit.
const LARGE: u64 = 0xF000_0000;
const MAX_32: u64 = 0xFFFF_FFFF;
const READ: usize = 128 << 10;
/// Sizes follow the data; names are UTF-8.
const FLAGS: u16 = 0x0808;
const DEFLATE: u16 = 8;
const STORED: u16 = 0;

/// A walk through a directory that leaves an archive behind.
#[derive(Debug)]
pub(super) struct Walk {
    root: Dir,
    /// Directories to be visited.
    pending: Vec<PathBuf>,
    /// Entries of the directory at hand, with their paths.
    entries: Vec<PathBuf>,
    current: Option<Open>,
    index: Vec<u8>,
    count: u64,
    offset: u64,
}

/// A file on its way into the archive.
struct Open {
    file: File,
    /// Bytes that are still to be read: what the file had when it was opened.
    left: u64,
    entry: Entry,
    encoder: DeflateEncoder<Vec<u8>>,
    crc: Crc,
    packed: u64,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("name", &self.entry.name).field("left", &self.left).finish_non_exhaustive()
    }
}

struct Entry {
    name: String,
    at: u64,
    mode: u32,
    stamp: (u16, u16),
    large: bool,
    method: u16,
}

impl Walk {
    pub(super) fn new(root: Dir) -> Self {
        Self {
            root,
            pending: vec![PathBuf::new()],
            entries: Vec::new(),
            current: None,
            index: Vec::new(),
            count: 0,
            offset: 0,
        }
    }

    /// Adds about `wanted` bytes of the archive to `out`; whether there is more.
    pub(super) fn step(&mut self, out: &mut Vec<u8>, wanted: usize) -> std::io::Result<bool> {
        let mut buffer = vec![0; READ];
        while out.len() < wanted {
            if let Some(open) = self.current.take() {
                self.pump(open, &mut buffer, out)?;
            } else if let Some(path) = self.entries.pop() {
                self.enter(path, out)?;
            } else if let Some(path) = self.pending.pop() {
                self.visit(&path, out)?;
            } else {
                self.finish(out);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks into a directory; one with nothing in it gets an entry.
    fn visit(&mut self, path: &Path, out: &mut Vec<u8>) -> std::io::Result<()> {
        let at = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let Ok(entries) = self.root.open_dir(at).and_then(|dir| dir.entries()) else { return Ok(()) };
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
        names.retain(|name| !(path.as_os_str().is_empty() && name == UPLOADS));
        names.sort_unstable_by(|a, b| b.cmp(a));
        if names.is_empty() && !path.as_os_str().is_empty() {
            let meta = self.root.metadata(path)?;
            let entry = Entry {
                name: format!("{}/", path.to_string_lossy()),
                at: self.offset,
                mode: meta.mode(),
                stamp: stamp(meta.mtime()),
                large: false,
                method: STORED,
            };
            self.head(&entry, out);
            self.record(&entry, 0, 0, 0)?;
        }
        self.entries = names.into_iter().map(|name| path.join(name)).collect();
        Ok(())
    }

    /// Begins with an entry. Links are followed to files within the directory's folder; others are left out.
    fn enter(&mut self, path: PathBuf, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Ok(own) = self.root.symlink_metadata(&path) else { return Ok(()) };
        if own.is_dir() {
            self.pending.push(path);
            return Ok(());
        }
        let Ok(meta) = self.root.metadata(&path) else { return Ok(()) };
        if !meta.is_file() {
            return Ok(());
        }
        let Ok(file) = files::open(&self.root, &path) else { return Ok(()) };
        let meta = file.metadata()?;
        let entry = Entry {
            name: path.to_string_lossy().into_owned(),
            at: self.offset,
            mode: meta.mode(),
            stamp: stamp(meta.mtime()),
            large: meta.len() >= LARGE,
            method: DEFLATE,
        };
        self.head(&entry, out);
        self.current = Some(Open {
            file,
            left: meta.len(),
            entry,
            encoder: DeflateEncoder::new(Vec::new(), Compression::fast()),
            crc: Crc::new(),
            packed: 0,
        });
        Ok(())
    }

    /// Packs some of a file, or ends it.
    fn pump(&mut self, mut open: Open, buffer: &mut [u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        let most = usize::try_from(open.left).unwrap_or(READ).min(READ);
        let read = open.file.read(&mut buffer[..most])?;
        if read > 0 {
            open.left -= read as u64;
            open.crc.update(&buffer[..read]);
            open.encoder.write_all(&buffer[..read])?;
            let packed = std::mem::take(open.encoder.get_mut());
            open.packed += packed.len() as u64;
            self.emit(&packed, out);
            self.current = Some(open);
            return Ok(());
        }
        let rest = open.encoder.finish()?;
        let packed = open.packed + rest.len() as u64;
        self.emit(&rest, out);
        // What was read, whatever the file was announced to have.
        let size = std::io::Seek::stream_position(&mut open.file)?;
        let mut tail = Vec::with_capacity(24);
        put32(&mut tail, 0x0807_4b50);
        put32(&mut tail, open.crc.sum());
        for number in [packed, size] {
            if open.entry.large { put64(&mut tail, number) } else { put32(&mut tail, low(number)) }
        }
        self.emit(&tail, out);
        self.record(&open.entry, open.crc.sum(), packed, size)
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.offset += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }

    fn head(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        let mut head = Vec::with_capacity(64 + entry.name.len());
        put32(&mut head, 0x0403_4b50);
        put16(&mut head, if entry.large { 45 } else { 20 });
        put16(&mut head, flags(entry));
        put16(&mut head, entry.method);
        put16(&mut head, entry.stamp.0);
        put16(&mut head, entry.stamp.1);
        put32(&mut head, 0);
        let size = if entry.large { u32::MAX } else { 0 };
        put32(&mut head, size);
        put32(&mut head, size);
        put16(&mut head, length(&entry.name));
        put16(&mut head, if entry.large { 20 } else { 0 });
        head.extend_from_slice(name(entry));
        if entry.large {
            put16(&mut head, 1);
            put16(&mut head, 16);
            put64(&mut head, 0);
            put64(&mut head, 0);
        }
        self.emit(&head, out);
    }

    /// Notes an entry in the index.
    fn record(&mut self, entry: &Entry, crc: u32, packed: u64, size: u64) -> std::io::Result<()> {
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(std::io::Error::other("the directory has too many files for an archive"));
        }
        let mut extra = Vec::new();
        for number in [size, packed, entry.at] {
            if number >= MAX_32 {
                put64(&mut extra, number);
            }
        }
        let index = &mut self.index;
        put32(index, 0x0201_4b50);
        // Made on Unix: the upper half of the attributes is the mode.
        put16(index, (3 << 8) | 45);
        put16(index, if entry.large || !extra.is_empty() { 45 } else { 20 });
        put16(index, flags(entry));
        put16(index, entry.method);
        put16(index, entry.stamp.0);
        put16(index, entry.stamp.1);
        put32(index, crc);
        put32(index, low(packed));
        put32(index, low(size));
        put16(index, length(&entry.name));
        put16(index, if extra.is_empty() { 0 } else { u16::try_from(extra.len() + 4).unwrap_or(u16::MAX) });
        put16(index, 0);
        put16(index, 0);
        put16(index, 0);
        put32(index, entry.mode << 16);
        put32(index, low(entry.at));
        index.extend_from_slice(name(entry));
        if !extra.is_empty() {
            put16(index, 1);
            put16(index, u16::try_from(extra.len()).unwrap_or(u16::MAX));
            index.extend_from_slice(&extra);
        }
        Ok(())
    }

    /// The index and the end.
    fn finish(&mut self, out: &mut Vec<u8>) {
        let (at, index) = (self.offset, std::mem::take(&mut self.index));
        let size = index.len() as u64;
        self.emit(&index, out);
        let mut end = Vec::with_capacity(98);
        if at >= MAX_32 || size >= MAX_32 || self.count >= 0xFFFF {
            let here = self.offset;
            put32(&mut end, 0x0606_4b50);
            put64(&mut end, 44);
            put16(&mut end, (3 << 8) | 45);
            put16(&mut end, 45);
            put32(&mut end, 0);
            put32(&mut end, 0);
            put64(&mut end, self.count);
            put64(&mut end, self.count);
            put64(&mut end, size);
            put64(&mut end, at);
            put32(&mut end, 0x0706_4b50);
            put32(&mut end, 0);
            put64(&mut end, here);
            put32(&mut end, 1);
        }
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        put32(&mut end, 0x0605_4b50);
        put16(&mut end, 0);
        put16(&mut end, 0);
        put16(&mut end, count);
        put16(&mut end, count);
        put32(&mut end, low(size));
        put32(&mut end, low(at));
        put16(&mut end, 0);
        self.emit(&end, out);
    }
}

/// Directories have no data that anything could follow.
fn flags(entry: &Entry) -> u16 {
    if entry.method == STORED { FLAGS & !8 } else { FLAGS }
}

fn name(entry: &Entry) -> &[u8] {
    &entry.name.as_bytes()[..usize::from(length(&entry.name))]
}

fn length(name: &str) -> u16 {
    u16::try_from(name.len()).unwrap_or(u16::MAX)
}

fn low(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Time and date as the format has them: two seconds fine, from 1980 to 2107.
fn stamp(seconds: i64) -> (u16, u16) {
    let at = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let part = |number: u32| u16::try_from(number).unwrap_or_default();
    let year = part(u32::try_from(at.year().clamp(1980, 2107) - 1980).unwrap_or_default());
    (
        (part(at.hour()) << 11) | (part(at.minute()) << 5) | (part(at.second()) / 2),
        (year << 9) | (part(at.month()) << 5) | part(at.day()),
    )
}
