//! A kernel's terminal: a pseudo-terminal with a shell, which lives on while nobody is attached.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use super::container::Resizer;
use super::spawn::{Exit, Launcher};
use crate::runtime::{Attachment, TerminalInput};
use crate::sandbox::pty;

const CHUNK: usize = 16 * 1024;
/// What was shown while nobody was attached: the newest part of it is kept for whoever comes next.
const UNSEEN: usize = 64 * 1024;
/// Chunks on their way to somebody who is attached.
const WAY: usize = 16;
/// Who takes nothing for so long isn't attached any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the last output of a shell that ended may take to arrive.
const LAST: Duration = Duration::from_millis(500);
const LAST_CHUNKS: usize = 64;
/// How long a new shell may take to show its first prompt.
const START: Duration = Duration::from_secs(1);
/// When a new size is looked at again.
const LOOKS: [Duration; 3] = [Duration::from_millis(30), Duration::from_millis(200), Duration::from_millis(1000)];
const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// An open terminal.
pub(super) struct Terminal {
    master: OwnedFd,
    /// The master's two directions. They aren't pipes, but are read and written like ones.
    screen: pipe::Receiver,
    keys: pipe::Sender,
    /// Where the master is no terminal itself.
    resizer: Option<Resizer>,
    /// How often its size was told: only the newest word counts.
    resized: AtomicU64,
    audience: Mutex<Audience>,
    /// Whether the shell has shown anything yet.
    shown: watch::Sender<bool>,
    ended: AtomicBool,
}

#[derive(Default)]
struct Audience {
    attached: Vec<mpsc::Sender<Vec<u8>>>,
    unseen: VecDeque<u8>,
}

impl Terminal {
    /// Opens a terminal and starts a shell on it.
    pub(super) async fn open(launcher: &Launcher, shell: &Path) -> io::Result<Arc<Self>> {
        let (master, resizer, end) = launcher.spawn_on_terminal(&[shell.as_os_str()], (ROWS, COLUMNS)).await?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let screen = pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
        let keys = pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?;
        let (audience, ended) = (Mutex::default(), AtomicBool::default());
        let (resized, shown) = (AtomicU64::default(), watch::Sender::new(false));
        let terminal = Self { master, screen, keys, resizer, resized, audience, shown, ended };
        let terminal = Arc::new(terminal);
        tokio::spawn(terminal.clone().show(end));
        Ok(terminal)
    }

    /// Whether its shell is gone.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Tells the shell and its programs the terminal's new size.
    ///
    /// The word can be lost: with every prompt, shells that read lines with GNU readline get the size and set what they
    /// got, and a change in between is undone. So the size is looked at again a little later.
    pub(super) fn resize(self: &Arc<Self>, rows: u16, columns: u16) {
        let word = self.resized.fetch_add(1, Ordering::AcqRel) + 1;
        let (rows, columns) = (rows.max(1), columns.max(1));
        if let Some(resizer) = &self.resizer {
            return resizer(rows, columns);
        }
        let before = pty::size(&self.master).ok();
        if let Err(error) = pty::resize(&self.master, rows, columns) {
            tracing::debug!(%error, "a terminal's size can't be changed");
            return;
        }
        let Some(before) = before.filter(|before| *before != (rows, columns)) else { return };
        let terminal = self.clone();
        tokio::spawn(async move {
            for wait in LOOKS {
                tokio::time::sleep(wait).await;
                if terminal.has_ended() || terminal.resized.load(Ordering::Acquire) != word {
                    return;
                }
                // Any other size was set by a program that means it.
                if pty::size(&terminal.master).is_ok_and(|now| now == before) {
                    let _ = pty::resize(&terminal.master, rows, columns);
                }
            }
        });
    }

    /// Attaches somebody: first comes what nobody saw.
    pub(super) fn attach(self: &Arc<Self>) -> Attachment {
        let (to, output) = mpsc::channel(WAY);
        let (input, typed) = mpsc::channel(WAY);
        {
            let mut audience = self.audience.lock();
            let unseen: Vec<u8> = audience.unseen.drain(..).collect();
            if !unseen.is_empty() {
                // There is room: nothing was sent yet.
                let _ = to.try_send(unseen);
            }
            // The one who is told of the end is told under the same lock.
            if !self.has_ended() {
                audience.attached.push(to);
            }
        }
        tokio::spawn(self.clone().take(typed));
        Attachment { input, output }
    }

    /// Hands on what somebody types.
    async fn take(self: Arc<Self>, mut typed: mpsc::Receiver<TerminalInput>) {
        while let Some(input) = typed.recv().await {
            match input {
                TerminalInput::Resize { rows, columns } => {
                    // See `resize`: of all prompts the first is the likeliest to come in between.
                    let _ = tokio::time::timeout(START, self.shown.subscribe().wait_for(|shown| *shown)).await;
                    self.resize(rows, columns);
                }
                TerminalInput::Data(data) => {
                    if let Err(error) = self.write(&data).await {
                        tracing::debug!(%error, "a terminal takes no input");
                        return;
                    }
                }
            }
        }
    }

    async fn write(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            if self.has_ended() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // A shell that reads nothing and ends meanwhile must not keep this waiting.
            let Ok(ready) = tokio::time::timeout(LAST, self.keys.writable()).await else { continue };
            ready?;
            match self.keys.try_write(data) {
                Ok(size) => data = &data[size..],
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Shows what the shell and its programs write, until the shell ends.
    async fn show(self: Arc<Self>, mut end: Exit) {
        let mut over = false;
        loop {
            tokio::select! {
                chunk = self.read() => match chunk {
                    Ok(chunk) => self.tell(chunk).await,
                    // All programs let go of the terminal; the shell's end follows.
                    Err(_) => break,
                },
                _ = &mut end => {
                    over = true;
                    break;
                }
            }
        }
        if !over {
            end.await;
        }
        for _ in 0..LAST_CHUNKS {
            let Ok(Ok(chunk)) = tokio::time::timeout(LAST, self.read()).await else { break };
            self.tell(chunk).await;
        }
        let mut audience = self.audience.lock();
        self.ended.store(true, Ordering::Release);
        audience.attached.clear();
    }

    /// The next bytes; an error when no program has the terminal open any more.
    async fn read(&self) -> io::Result<Vec<u8>> {
        loop {
            self.screen.readable().await?;
            let mut buffer = vec![0; CHUNK];
            match self.screen.try_read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(size) => {
                    buffer.truncate(size);
                    return Ok(buffer);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a chunk to everybody who is attached. The slowest sets the pace, as on any terminal, but not for ever.
    async fn tell(&self, chunk: Vec<u8>) {
        self.shown.send_replace(true);
        let attached = {
            let mut audience = self.audience.lock();
            audience.attached.retain(|to| !to.is_closed());
            if audience.attached.is_empty() {
                audience.unseen.extend(&chunk);
                let excess = audience.unseen.len().saturating_sub(UNSEEN);
                audience.unseen.drain(..excess);
            }
            audience.attached.clone()
        };
        for to in attached {
            if to.send_timeout(chunk.clone(), PATIENCE).await.is_err() {
                self.audience.lock().attached.retain(|other| !other.same_channel(&to));
            }
        }
    }
}
