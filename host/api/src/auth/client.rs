//! Where a request comes from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::ConnectInfo;
use http::request::Parts;
use ipnet::IpNet;

use crate::wire::{INVALID_AUTH_PARAMS, Problem};

/// The address of the client, as far as it can be told.
///
/// `X-Forwarded-For` counts only when the peer is a proxy that the operator trusts. It is read from
/// its end: every proxy appends whom it talked to, so the last address that isn't a trusted proxy is the
/// client, while whatever stands before it is the client's own invention.
///
/// # Errors
/// A problem when a trusted proxy sends something that is no address.
pub fn address(parts: &Parts, trusted: &[IpNet]) -> Result<Option<IpAddr>, Problem> {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
    let Some(peer) = peer else { return Ok(None) };
    if !is_in(trusted, peer) {
        return Ok(Some(peer));
    }
    let mut client = peer;
    for header in parts.headers.get_all("x-forwarded-for").iter().rev() {
        let text = String::from_utf8_lossy(header.as_bytes());
        for hop in text.rsplit(',').map(str::trim).filter(|hop| !hop.is_empty()) {
            client = parse(hop)
                .ok_or_else(|| Problem::new(INVALID_AUTH_PARAMS).msg(format!("{hop} is invalid IP address value")))?;
            if !is_in(trusted, client) {
                return Ok(Some(client));
            }
        }
    }
    Ok(Some(client))
}

/// Some proxies add the port.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|a| a.ip())).ok();
    address.map(|a: IpAddr| a.to_canonical())
}

/// Whom an address is counted as: one of IPv6 is as good as any other of its network of 64 bits.
pub fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

/// Whether an address belongs to one of the networks.
pub fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::{HeaderValue, Request};

    fn from(peer: &str, forwarded: &[&'static str]) -> Result<Option<IpAddr>, Problem> {
        let mut request = Request::new(());
        for value in forwarded {
            request.headers_mut().append("x-forwarded-for", HeaderValue::from_static(value));
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 40000);
        request.extensions_mut().insert(ConnectInfo(peer));
        address(&request.into_parts().0, &["127.0.0.0/8".parse().unwrap(), "10.9.0.0/16".parse().unwrap()])
    }

    fn client(peer: &str, forwarded: &[&'static str]) -> String {
        from(peer, forwarded).unwrap().unwrap().to_string()
    }

    #[test]
    fn strangers_cannot_say_who_they_are() {
        assert_eq!(client("192.0.2.7", &["10.0.0.1"]), "192.0.2.7");
    }

    #[test]
    fn trusted_proxies_tell_who_it_is() {
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("127.0.0.1", &["192.0.2.7, 10.9.1.1"]), "192.0.2.7");
        assert_eq!(client("127.0.0.1", &["192.0.2.7", "10.9.1.1"]), "192.0.2.7");
        assert_eq!(client("127.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client("::ffff:127.0.0.1", &["192.0.2.7"]), "192.0.2.7");
    }

    #[test]
    fn what_the_client_put_in_front_counts_nothing() {
        assert_eq!(client("127.0.0.1", &["10.0.0.1, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("127.0.0.1", &["junk, 192.0.2.7"]), "192.0.2.7");
    }

    #[test]
    fn junk_is_refused() {
        assert!(from("127.0.0.1", &["somewhere"]).is_err());
        assert!(from("127.0.0.1", &["192.0.2.7, junk"]).is_err());
    }
}
