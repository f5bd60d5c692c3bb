//! A kernel's terminal: a pseudo-terminal with a shell, which lives on while nobody is attached.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::spawn::{Exit, Launcher};
use crate::runtime::{Attachment, TerminalInput};

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
const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// An open terminal.
pub(super) struct Terminal {
    master: OwnedFd,
    /// The master's two directions. They aren't pipes, but are read and written like ones.
    screen: pipe::Receiver,
    keys: pipe::Sender,
    audience: Mutex<Audience>,
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
        let (master, end) = launcher.spawn_on_terminal(&[shell.as_os_str()], (ROWS, COLUMNS)).await?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let screen = pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
        let keys = pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?;
        let terminal = Self { master, screen, keys, audience: Mutex::default(), ended: AtomicBool::default() };
        let terminal = Arc::new(terminal);
        tokio::spawn(terminal.clone().show(end));
        Ok(terminal)
    }

    /// Whether its shell is gone.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows.max(1), ws_col: columns.max(1), ws_xpixel: 0, ws_ypixel: 0 };
        if let Err(error) = tcsetwinsize(&self.master, size) {
            tracing::debug!(%error, "a terminal's size can't be changed");
        }
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
                TerminalInput::Resize { rows, columns } => self.resize(rows, columns),
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
