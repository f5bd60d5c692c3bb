//! Headers that concern one hop only, and those that a proxy adds.

use std::net::SocketAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Removes what concerns one hop only (RFC 9110 §7.6.1).
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// The protocol that a request wants to go over to.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    wants.then(|| headers.get(UPGRADE).cloned()).flatten()
}

/// Says whom a request comes from and what it was for, as proxies do. The token was for the proxy.
pub(crate) fn forwarded(
    headers: &mut HeaderMap,
    peer: SocketAddr,
    host: Option<HeaderValue>,
    prefix: &str,
    private: bool,
) {
    headers.remove(HOST);
    if private {
        headers.remove(AUTHORIZATION);
    }
    let address = peer.ip().to_canonical().to_string();
    let chain = match headers.get(&FORWARDED_FOR).and_then(|value| value.to_str().ok()) {
        Some(before) => format!("{before}, {address}"),
        None => address,
    };
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if let Some(host) = host {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Ok(prefix) = HeaderValue::from_str(prefix) {
        headers.insert(FORWARDED_PREFIX, prefix);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_hop_headers_stay_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Own"), ("x-own", "1"), ("te", "trailers"), ("x-kept", "2")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn upgrades_need_both_headers() {
        let headers = |list: &[(&'static str, &'static str)]| {
            list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect::<HeaderMap>()
        };
        assert_eq!(
            upgrade(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).unwrap(),
            "websocket"
        );
        assert!(upgrade(&headers(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade(&headers(&[("connection", "upgrade")])).is_none());
    }

    #[test]
    fn the_way_is_told() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        headers.insert(FORWARDED_FOR, HeaderValue::from_static("1.2.3.4"));
        forwarded(&mut headers, "5.6.7.8:1".parse().unwrap(), Some(HeaderValue::from_static("svc")), "/e/a", true);
        assert_eq!(headers[FORWARDED_FOR], "1.2.3.4, 5.6.7.8");
        assert_eq!(
            (&headers[FORWARDED_HOST], &headers[FORWARDED_PREFIX]),
            (&HeaderValue::from_static("svc"), &HeaderValue::from_static("/e/a"))
        );
        assert!(!headers.contains_key(AUTHORIZATION));
    }
}
