//! What a kernel printed: a file of bounded size, the newest part kept.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use quarterdeck_rpc::limits::MAX_LOG;

use super::files;

const CURRENT: &str = "output.log";
const OLDER: &str = "output.log.1";
/// Two files of this size take turns, so that at least half of the limit is always there.
const HALF: usize = MAX_LOG / 2;

/// The log of one kernel.
pub struct KernelLog {
    dir: PathBuf,
    current: Mutex<(File, usize)>,
}

impl KernelLog {
    /// A log in that directory, empty.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let file = Self::open(dir)?;
        Ok(Self { dir: dir.to_owned(), current: Mutex::new((file, 0)) })
    }

    /// The log that lies in that directory, to go on with.
    pub fn go_on(dir: &Path) -> io::Result<Self> {
        let path = dir.join(CURRENT);
        // Only a regular file of the agent's own is gone on with.
        let size = files::open(&path)?.metadata()?.len();
        let file = File::options().append(true).open(&path)?;
        Ok(Self { dir: dir.to_owned(), current: Mutex::new((file, usize::try_from(size).unwrap_or(HALF))) })
    }

    fn open(dir: &Path) -> io::Result<File> {
        files::create(&dir.join(CURRENT))
    }

    /// Appends bytes. A full disk costs log lines, never the kernel.
    pub fn append(&self, bytes: &[u8]) {
        let mut current = self.current.lock();
        for part in bytes.chunks(HALF) {
            if current.1 + part.len() > HALF {
                let _ = std::fs::rename(self.dir.join(CURRENT), self.dir.join(OLDER));
                match Self::open(&self.dir) {
                    Ok(file) => *current = (file, 0),
                    Err(error) => tracing::warn!(%error, "a kernel's log can't go on"),
                }
            }
            match current.0.write_all(part) {
                Ok(()) => current.1 += part.len(),
                Err(error) => tracing::debug!(%error, "a kernel's log misses lines"),
            }
        }
    }

    /// Appends a line of the agent itself.
    pub fn note(&self, text: &str) {
        self.append(format!("[agent] {text}\n").as_bytes());
    }

    /// What is there.
    pub fn read(&self) -> Vec<u8> {
        let _quiet = self.current.lock();
        read_log(&self.dir)
    }
}

/// Reads the log that lies in a kernel's directory; empty when there is none.
pub fn read_log(dir: &Path) -> Vec<u8> {
    let mut log = Vec::new();
    for name in [OLDER, CURRENT] {
        let Ok(mut file) = files::open(&dir.join(name)) else { continue };
        let size = file.metadata().map_or(0, |meta| meta.len());
        let skip = size.saturating_sub(HALF as u64);
        if file.seek(SeekFrom::Start(skip)).is_ok() {
            let _ = file.take(HALF as u64).read_to_end(&mut log);
        }
    }
    log
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_part_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = KernelLog::create(dir.path()).unwrap();
        log.append(b"first\n");
        assert_eq!(log.read(), b"first\n");
        for _ in 0..24 {
            log.append(&vec![b'x'; 1024 * 1024]);
        }
        log.note("last");
        let kept = log.read();
        assert!(kept.len() <= MAX_LOG && kept.len() >= HALF, "{}", kept.len());
        assert!(kept.ends_with(b"[agent] last\n"));
    }

    #[test]
    fn a_pipe_in_place_of_a_log_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let log = KernelLog::create(dir.path()).unwrap();
        log.note("here");
        nix::unistd::mkfifo(&dir.path().join(OLDER), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(log.read(), b"[agent] here\n");
    }
}
