//! Files of recordings: one JSON document a line, plain or compressed.

use std::io::{BufRead, Read as _};

use super::record::{MAX_JSON_BYTES, Recording};
use crate::error::{Error, Result};

/// The first bytes of a compressed file.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads recordings one by one, so that a file may be larger than the memory.
pub struct Recordings<'r> {
    lines: Box<dyn BufRead + 'r>,
    line: u64,
}

impl std::fmt::Debug for Recordings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recordings").field("line", &self.line).finish_non_exhaustive()
    }
}

impl<'r> Recordings<'r> {
    /// What `quarterdeck round export` wrote; whether it is compressed shows in its first bytes.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] when it can't be read at all.
    pub fn new(mut source: impl BufRead + 'r) -> Result<Self> {
        let unreadable = |e: std::io::Error| Error::invalid(format!("the recordings can't be read: {e}"));
        let compressed = source.fill_buf().map_err(unreadable)?.starts_with(&ZSTD_MAGIC);
        let lines: Box<dyn BufRead + 'r> = if compressed {
            Box::new(std::io::BufReader::new(zstd::stream::Decoder::with_buffer(source).map_err(unreadable)?))
        } else {
            Box::new(source)
        };
        Ok(Self { lines, line: 0 })
    }

    fn read(&mut self) -> Result<Option<Recording>> {
        loop {
            self.line += 1;
            let wrong = |e: &dyn std::fmt::Display| Error::invalid(format!("line {}: {e}", self.line));
            let mut line = Vec::new();
            let mut bounded = (&mut self.lines).take(MAX_JSON_BYTES as u64 + 1);
            bounded.read_until(b'\n', &mut line).map_err(|e| wrong(&e))?;
            if line.len() > MAX_JSON_BYTES {
                return Err(wrong(&"it is larger than any recording"));
            }
            if line.is_empty() {
                return Ok(None);
            }
            if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Recording::from_json(&line).map(Some).map_err(|e| wrong(&e));
            }
        }
    }
}

impl Iterator for Recordings<'_> {
    type Item = Result<Recording>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
