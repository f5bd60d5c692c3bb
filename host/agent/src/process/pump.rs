//! Reading what a program prints, in an order that keeps what belongs together.

use std::io;

use serde_json::Value;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::runs::Stream;
use super::spawn::{Exit, Io};

const CHUNK: usize = 64 * 1024;
/// The longest line of the event pipe.
const MAX_LINE: usize = 1024 * 1024;
/// How many chunks of the event pipe are read before the other pipes have their turn.
const TURN: usize = 4;
/// More chunks than a pipe can hold: what was there is read, whoever goes on writing.
const PIPEFUL: usize = 17;

struct Source {
    pipe: pipe::Receiver,
    open: bool,
}

impl Source {
    fn new(pipe: pipe::Receiver) -> Self {
        Self { pipe, open: true }
    }

    async fn ready(&self) {
        if !self.open || self.pipe.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What is there, at most one chunk; nothing when there is nothing.
    fn read(&mut self) -> Option<Vec<u8>> {
        if !self.open {
            return None;
        }
        let mut buffer = vec![0; CHUNK];
        let read = match self.pipe.try_read(&mut buffer) {
            // The runtime may not have heard yet of what is there, though it has of what came later on another pipe, or
            // of the program's end: the kernel knows.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                nix::unistd::read(&self.pipe, &mut buffer).map_err(io::Error::from)
            }
            read => read,
        };
        match read {
            Ok(0) => self.open = false,
            Ok(size) => {
                buffer.truncate(size);
                return Some(buffer);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.open = false,
        }
        None
    }
}

/// Reads a program's pipes in an order that keeps what belongs together: the driver of an interpreter sends an event
/// only after the plain output before it was read, so events that are there come before plain output that is there.
pub(super) struct Pump {
    out: Source,
    err: Source,
    events: Option<Source>,
    lines: Lines,
    tx: mpsc::Sender<Io>,
}

impl Pump {
    /// One for these pipes; it tells `tx`.
    pub(super) fn new(
        out: pipe::Receiver,
        err: pipe::Receiver,
        events: Option<pipe::Receiver>,
        tx: mpsc::Sender<Io>,
    ) -> Self {
        let (out, err, events) = (Source::new(out), Source::new(err), events.map(Source::new));
        Self { out, err, events, lines: Lines::default(), tx }
    }

    /// Reads until the program's end.
    pub(super) async fn run(mut self, mut exit: Exit) {
        let exited = loop {
            let exited = tokio::select! {
                () = async { match &self.events { Some(source) => source.ready().await, None => std::future::pending().await } } => None,
                () = self.out.ready() => None,
                () = self.err.ready() => None,
                code = &mut exit => Some(code),
            };
            self.pass_events(TURN).await;
            self.pass_output().await;
            if let Some(code) = exited {
                break code;
            }
        };
        self.pass_events(PIPEFUL).await;
        self.pass_rest().await;
        let _ = self.tx.send(Io::Exited(exited)).await;
    }

    /// One chunk of each stream; whether there was any.
    async fn pass_output(&mut self) -> bool {
        let (out, err) = (self.out.read(), self.err.read());
        let any = out.is_some() || err.is_some();
        for (stream, chunk) in [(Stream::Stdout, out), (Stream::Stderr, err)] {
            if let Some(chunk) = chunk {
                let _ = self.tx.send(Io::Output(stream, chunk)).await;
            }
        }
        any
    }

    /// The output that is there now.
    async fn pass_rest(&mut self) {
        for _ in 0..PIPEFUL {
            if !self.pass_output().await {
                return;
            }
        }
    }

    /// At most that many chunks of events.
    async fn pass_events(&mut self, chunks: usize) {
        for _ in 0..chunks {
            let Some(chunk) = self.events.as_mut().and_then(Source::read) else { return };
            for line in self.lines.feed(&chunk) {
                let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
                match (event["k"].as_str(), event["d"].as_str()) {
                    (Some(kind), Some(text)) => {
                        let stream = if kind == "stderr" { Stream::Stderr } else { Stream::Stdout };
                        let _ = self.tx.send(Io::Output(stream, text.as_bytes().to_vec())).await;
                    }
                    _ => {
                        self.pass_rest().await;
                        let _ = self.tx.send(Io::Event(event)).await;
                    }
                }
            }
        }
    }
}

/// Cuts bytes into lines; those that are too long are dropped.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// The lines that end in these bytes, without their ends.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (part, ends) = part.strip_suffix(b"\n").map_or((part, false), |part| (part, true));
            self.too_long |= self.rest.len() + part.len() > MAX_LINE;
            match self.too_long {
                true => self.rest = Vec::new(),
                false => self.rest.extend_from_slice(part),
            }
            if ends && !std::mem::take(&mut self.too_long) {
                lines.push(std::mem::take(&mut self.rest));
            }
        }
        lines
    }
}

/// Turns the bytes of a stream into text, however they are cut.
#[derive(Default)]
pub(super) struct Decoder {
    rest: Vec<u8>,
}

impl Decoder {
    pub(super) fn text(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.rest.len());
        let mut done = 0;
        for chunk in self.rest.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.rest.len();
            if invalid.is_empty() || (at_end && invalid.len() < 4 && begins_character(invalid)) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.rest.drain(..done);
        text
    }
}

/// Whether more bytes could make this a character.
fn begins_character(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => false,
        Err(error) => error.error_len().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_be_cut_anywhere_and_have_a_limit() {
        let mut lines = Lines::default();
        assert!(lines.feed(b"on").is_empty());
        assert_eq!(lines.feed(b"e\n\ntwo\nth"), [b"one".to_vec(), b"".to_vec(), b"two".to_vec()]);
        for _ in 0..40 {
            assert!(lines.feed(&[b'x'; CHUNK]).is_empty());
            assert!(lines.rest.len() <= MAX_LINE);
        }
        assert_eq!(lines.feed(b"ree\nfour\n"), [b"four".to_vec()]);
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let mut decoder = Decoder::default();
        let text = "aä€😀z";
        let seen: String = text.as_bytes().iter().map(|byte| decoder.text(&[*byte])).collect();
        assert_eq!(seen, text);
        assert_eq!(decoder.text(b"x\xffy\xc3"), "x\u{fffd}y");
        assert_eq!(decoder.text(b"\xa4"), "ä");
    }
}
