//! The few words of the system's network protocol (rtnetlink) that sandboxes need: raise an interface, give it an address,
//! make a bridge, and make a pair of interfaces with one end in another network.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

const NEW_LINK: u16 = libc::RTM_NEWLINK;
const NEW_ADDRESS: u16 = libc::RTM_NEWADDR;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// There must be none yet.
const CREATE: u16 = 0x200 | 0x400;
/// Attributes of interfaces.
const NAME: u16 = 3;
const MASTER: u16 = 10;
const INFO: u16 = 18;
const NETWORK: u16 = 28;
/// Attributes inside [`INFO`], and inside [`DATA`] of a pair.
const KIND: u16 = 1;
const DATA: u16 = 2;
const PEER: u16 = 1;
/// Attributes of addresses.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// The answer to a request: a negative error number, or nothing.
const ANSWER: u16 = 2;
const HEADER: usize = 16;

/// The loopback of every network.
pub(super) const LOOPBACK: u32 = 1;

/// A conversation with the system about this process's network.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A message, or a part of one, that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// About an interface; 0 = one that doesn't exist yet.
    fn link(index: u32, up: bool) -> Self {
        let up = if up { libc::IFF_UP.unsigned_abs() } else { 0 };
        let mut message = Self::default();
        // Family and type; then which interface, its flags, and which of them change.
        message.0.extend([0; 4]);
        for number in [index, up, up] {
            message.0.extend(number.to_ne_bytes());
        }
        message
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("attributes are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        // Everything begins at a multiple of four.
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn name(self, name: &str) -> Self {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        self.attribute(NAME, &text)
    }

    fn number(self, kind: u16, number: u32) -> Self {
        self.attribute(kind, &number.to_ne_bytes())
    }

    fn nested(self, kind: u16, inner: Self) -> Self {
        self.attribute(kind, &inner.0)
    }
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let route = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, kind: u16, flags: u16, body: &Message) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.0.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.0.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | ACKNOWLEDGE | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(&body.0);
        sendto(self.socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = [0; 4096];
        loop {
            let size = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if let Some(error) = answer(&buffer[..size], self.sequence) {
                return if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) };
            }
        }
    }

    /// Raises an interface.
    pub(super) fn raise(&mut self, index: u32) -> io::Result<()> {
        self.ask(NEW_LINK, 0, &Message::link(index, true))
    }

    /// Gives an interface an address in a network of `prefix` bits.
    pub(super) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut message = Message::default();
        // Family, length of the prefix, flags, scope (everywhere).
        message.0.extend([libc::AF_INET as u8, prefix, 0, 0]);
        message.0.extend(index.to_ne_bytes());
        let message = message.attribute(LOCAL, &address.octets()).attribute(ADDRESS, &address.octets());
        self.ask(NEW_ADDRESS, CREATE, &message)
    }

    /// Makes a bridge, which is up.
    pub(super) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let info = Message::default().attribute(KIND, b"bridge\0");
        self.ask(NEW_LINK, CREATE, &Message::link(0, true).name(name).nested(INFO, info))
    }

    /// Makes a pair of interfaces: one here, on that bridge, and up; the other in another network.
    pub(super) fn add_pair(&mut self, name: &str, bridge: u32, other: &str, network: BorrowedFd<'_>) -> io::Result<()> {
        let peer = Message::link(0, false).name(other).number(NETWORK, network.as_raw_fd().unsigned_abs());
        let info = Message::default().attribute(KIND, b"veth\0").nested(DATA, Message::default().nested(PEER, peer));
        let pair = Message::link(0, true).name(name).number(MASTER, bridge).nested(INFO, info);
        self.ask(NEW_LINK, CREATE, &pair)
    }
}

/// The answer to a request in what was received: 0, or a negative error number.
fn answer(mut received: &[u8], sequence: u32) -> Option<i32> {
    let number =
        |bytes: &[u8], at: usize| -> Option<u32> { Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    loop {
        let length = usize::try_from(number(received, 0)?).ok()?;
        let kind = u16::from_ne_bytes(received.get(4..6)?.try_into().ok()?);
        if kind == ANSWER && number(received, 8)? == sequence {
            return number(received, HEADER).map(u32::cast_signed);
        }
        received = received.get(length.max(HEADER).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn attributes_are_aligned_and_nest() {
        let message = Message::default().name("ab").number(MASTER, 7);
        let mut wanted = Vec::new();
        wanted.extend(7_u16.to_ne_bytes());
        wanted.extend(NAME.to_ne_bytes());
        wanted.extend(*b"ab\0\0");
        wanted.extend(8_u16.to_ne_bytes());
        wanted.extend(MASTER.to_ne_bytes());
        wanted.extend(7_u32.to_ne_bytes());
        assert_eq!(message.0, wanted);
        let nested = Message::default().nested(INFO, message);
        assert_eq!((nested.0.len(), &nested.0[4..]), (20, &wanted[..]));
    }

    #[test]
    fn the_answer_is_found_among_others() {
        let message = |kind: u16, sequence: u32, body: i32| {
            let mut bytes = Vec::new();
            bytes.extend(20_u32.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(body.to_ne_bytes());
            bytes
        };
        let received = [message(NEW_LINK, 2, 9), message(ANSWER, 1, -1), message(ANSWER, 2, -17)].concat();
        assert_eq!(answer(&received, 2), Some(-17));
        assert_eq!((answer(&received, 3), answer(&received[..10], 2), answer(&[], 1)), (None, None, None));
    }

    #[test]
    fn the_system_answers() {
        let mut netlink = Netlink::open().unwrap();
        let error = netlink.raise(u32::MAX >> 1).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }
}
