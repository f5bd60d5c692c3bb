//! What the agent and the first process of a sandbox say to each other: one message a packet, as JSON, with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest message: a command line and its environment.
const LARGEST: usize = 192 * 1024;
/// Descriptors that one message may carry.
pub(super) const DESCRIPTORS: usize = 64;

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The first message.
    Begin(super::plan::Plan),
    /// The user namespace has its maps.
    Mapped,
    /// Start a program. Carries its standard input, output and error, unless it gets a terminal.
    Start { id: u64, command: Vec<Vec<u8>>, env: Vec<(String, String)>, terminal: Option<(u16, u16)> },
    /// Signal a program and its process group.
    Signal { id: u64, signal: i32 },
    /// Connect to a port.
    Connect { id: u64, port: u16 },
    /// Listen on a port of the loopback.
    Listen { id: u64, port: u16 },
    /// To the holder of a session's network: lay a cable to a kernel. Carries the kernel's network namespace.
    Attach { id: u64 },
    /// Ask all programs to end; after so long, end them.
    End { grace_ms: u64 },
}

/// What the sandbox says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// The namespaces are there: the user namespace needs its maps, or, in a shared network, the network namespace that
    /// this carries needs its cable. The holder of such a network carries its user namespace.
    Unshared,
    /// Everything is in place.
    Ready,
    /// It can't be, and why.
    Failed(String),
    /// The program runs. Carries the terminal, if it got one.
    Started { id: u64 },
    /// The program can't be started, and why (an error number of the system).
    NotStarted { id: u64, error: i32 },
    /// The connection is being made, or somebody listens. Carries the socket.
    Connecting { id: u64 },
    /// There is no such socket, and why.
    NotConnecting { id: u64, error: i32 },
    /// There is a cable, or none, and why.
    Attached { id: u64, error: Option<String> },
    /// The program ended.
    Ended { id: u64, code: i32 },
}

/// Both ends of a conversation.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message.
pub(super) fn send(to: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let data = serde_json::to_vec(message)?;
    if data.len() > LARGEST || fds.len() > DESCRIPTORS {
        return Err(io::Error::from_raw_os_error(nix::libc::E2BIG));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(nix::libc::E2BIG));
    }
    sendmsg(to, &[IoSlice::new(&data)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message; nothing when the other end is gone.
pub(super) fn receive<T: DeserializeOwned>(from: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut data = vec![0; LARGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(from, &mut [IoSliceMut::new(&mut data)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&data[..got.bytes])?, fds)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn messages_carry_descriptors_and_have_a_limit() {
        let (one, other) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&one, &Word::Started { id: 7 }, &[writer.as_fd()]).unwrap();
        drop(writer);
        let (word, fds): (Word, _) = receive(&other).unwrap().unwrap();
        assert_eq!((word, fds.len()), (Word::Started { id: 7 }, 1));
        std::fs::File::from(fds.into_iter().next().unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(send(&one, &Word::Failed("x".repeat(LARGEST)), &[]).is_err());
        assert!(send(&one, &Word::Ready, &[one.as_fd(); DESCRIPTORS + 1]).is_err());
        send(&one, &Word::Ready, &[one.as_fd(); DESCRIPTORS]).unwrap();
        assert_eq!(receive::<Word>(&other).unwrap().unwrap().1.len(), DESCRIPTORS);
        drop(one);
        assert!(receive::<Word>(&other).unwrap().is_none());
    }
}
