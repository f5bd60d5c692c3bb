//! Calls to addresses that users gave.

use ipnet::IpNet;
use quarterdeck_outgoing::{Certificates, Client, Reach};

use crate::Control;

/// Where the configuration lists networks (comma-separated, as `10.0.0.0/8`) that users' addresses may lead to, though
/// they aren't public.
pub const ALLOWED_NETWORKS_KEY: &str = "config/outgoing/allowed-networks";

/// A client for addresses that users gave (call-backs, notifications): it reaches public addresses, and the networks
/// that the configuration allows. What administrators configured is called with [`Reach::Anywhere`].
pub(crate) fn to_users(control: &Control) -> Client {
    Client::new(
        Reach::Public(allowed(control.config_tree().value(ALLOWED_NETWORKS_KEY).as_deref())),
        Certificates::Checked,
    )
}

fn allowed(configured: Option<&str>) -> Vec<IpNet> {
    let texts = configured.unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty());
    texts
        .filter_map(|text| {
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
            net.inspect_err(|_| tracing::warn!(key = ALLOWED_NETWORKS_KEY, text, "this is no network")).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_and_single_addresses_can_be_allowed() {
        let nets = allowed(Some("10.0.0.0/8, 192.168.1.7,nonsense,, fd00::/8"));
        let texts: Vec<_> = nets.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/8", "192.168.1.7/32", "fd00::/8"]);
        assert!(allowed(None).is_empty());
    }
}
