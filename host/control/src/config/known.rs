//! The keys of the configuration tree that mean something to the server, and which values they can have.
//!
//! Every reader looks at the tree when it needs a value, so a change takes effect without a restart. Keys that aren't
//! here may be written all the same: sites and other programs keep things of their own in the tree.

use ipnet::IpNet;
use quarterdeck_model::duration::Duration;
use quarterdeck_model::size;
use quarterdeck_model::slots::SlotKind;
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::signatures::TrustedKey;

/// What a value may be. An empty one means the default, everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything.
    Text,
    /// `true`, `yes`, `1`, `on` and their opposites.
    Bool,
    /// A whole number in a range.
    Number(i64, i64),
    /// A span of time: `90d`, `1.5h`, `30` seconds.
    Span,
    /// An amount of bytes: `64m`, `1g`.
    Size,
    /// One of several words.
    Word(&'static [&'static str]),
    /// `http://…` or `https://…`.
    Url,
    /// `host:port`.
    HostPort,
    /// A network in CIDR notation.
    Network,
    /// Networks with commas between.
    Networks,
    /// The name of a time zone.
    TimeZone,
    /// What a slot counts.
    SlotType,
    /// A public key of minisign.
    PublicKey,
}

/// A key that means something, or a family of them.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The key; `*` stands for one component of any name.
    pub key: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What happens without it.
    pub default: &'static str,
    /// What it is for.
    pub about: &'static str,
}

macro_rules! known {
    ($($key:literal $kind:expr, $default:literal, $about:literal;)+) => {
        &[$(Known { key: $key, kind: $kind, default: $default, about: $about }),+]
    };
}

const REGISTRY_TYPES: &[&str] = &["docker", "harbor", "harbor2", "hub", "local"];
const STATUSES: &[&str] = &["running", "frozen", "terminated", "preparing"];

/// All of them, by name.
pub const KNOWN: &[Known] = known! {
    "config/api/resources/group_resource_visibility" Kind::Bool, "false", "show projects' limits when presets are checked";
    "config/audit/retention" Kind::Span, "365d", "how long entries of the audit are kept; 0: for ever";
    "config/auth/login-attempts" Kind::Number(0, 1_000_000), "50", "wrong passwords for an account from one address within 15 minutes; 0: any number";
    "config/auth/max_password_age" Kind::Span, "none", "how old passwords may become";
    "config/docker/image/auto_pull" Kind::Word(&["digest", "tag", "none"]), "digest", "when agents pull images";
    "config/docker/registry/*" Kind::Url, "none", "where a registry of images is";
    "config/docker/registry/*/hub" Kind::Url, "https://hub.docker.com", "where Docker Hub, or what stands in for it, lists what its users have";
    "config/docker/registry/*/password" Kind::Text, "none", "the registry's password";
    "config/docker/registry/*/project" Kind::Text, "none", "projects of a Harbor registry, with commas between";
    "config/docker/registry/*/ssl-verify" Kind::Bool, "true", "check the registry's certificate";
    "config/docker/registry/*/type" Kind::Word(REGISTRY_TYPES), "docker", "which protocol the registry speaks";
    "config/docker/registry/*/username" Kind::Text, "none", "the registry's account";
    "config/idle/app-streaming-packet-timeout" Kind::Span, "5m", "how long a connection without traffic counts as used";
    "config/idle/enabled" Kind::Text, "none", "idle checkers that are asked, with commas between";
    "config/logs/error/retention" Kind::Span, "90d", "how long reported errors are kept";
    "config/network/overlay/mtu" Kind::Number(1, 65_535), "1500", "size of packets of overlay networks";
    "config/network/rpc/keepalive-timeout" Kind::Span, "60s", "how long a silent connection to an agent is kept";
    "config/network/subnet/agent" Kind::Network, "0.0.0.0/0", "where agents are";
    "config/network/subnet/container" Kind::Network, "0.0.0.0/0", "where kernels are";
    "config/outgoing/allowed-networks" Kind::Networks, "none", "networks that addresses given by users may lead to, with commas between";
    "config/plugins/error-budget/failures" Kind::Number(0, 1_000_000), "5", "failures in a row that suspend a plugin";
    "config/plugins/error-budget/percent" Kind::Number(0, 100), "20", "share of failed calls that suspends a plugin";
    "config/plugins/error-budget/window" Kind::Number(0, 1_000_000), "50", "calls of which that share is taken, 1000 at most";
    "config/plugins/signatures" Kind::Word(&["off", "required"]), "off", "whether components must be signed";
    "config/plugins/trusted-keys/*" Kind::PublicKey, "none", "whose signatures count";
    "config/redis/addr" Kind::HostPort, "none", "kept for other programs";
    "config/resource_slots/*" Kind::SlotType, "none", "what a slot counts: count, bytes or unique";
    "config/rounds/keep" Kind::Number(1, 100_000), "200", "recorded rounds kept for each scaling group";
    "config/rounds/max-bytes" Kind::Number(1, i64::MAX), "67108864", "bytes of recordings kept for each scaling group";
    "config/rounds/mode" Kind::Word(&["all", "decisive", "off"]), "decisive", "which rounds are recorded";
    "config/system/timezone" Kind::TimeZone, "UTC", "the time zone of reports";
    "config/usage/half-life" Kind::Span, "7d", "in what time usage counts half";
    "config/usage/retention" Kind::Span, "730d", "how long records of usage are kept";
    "config/watcher/token" Kind::Text, "none", "what watchers of agents want to be told";
    "manager/announcement" Kind::Text, "none", "what everybody is told";
    "manager/status" Kind::Word(STATUSES), "running", "whether changes are taken";
    "nodes/agents/*/watcher_port" Kind::Number(1, 65_535), "6099", "where an agent's watcher listens";
    "volumes/default_host" Kind::Text, "none", "where folders go unless said otherwise";
    "volumes/exposed_volume_info" Kind::Text, "percentage", "what users are told of a folder host's use";
    "volumes/proxies/*/client_api" Kind::Url, "none", "where clients reach a storage proxy";
    "volumes/proxies/*/manager_api" Kind::Url, "none", "where the server reaches a storage proxy";
    "volumes/proxies/*/secret" Kind::Text, "none", "what the storage proxy wants to be told";
    "volumes/proxies/*/ssl_verify" Kind::Bool, "true", "check the storage proxy's certificate";
};

/// What is known of a key.
pub fn known(key: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| {
        let (mut pattern, mut parts) = (known.key.split('/'), key.split('/'));
        loop {
            match (pattern.next(), parts.next()) {
                (None, None) => return true,
                (Some("*"), Some(part)) if !part.is_empty() => {}
                (Some(expected), Some(part)) if expected == part => {}
                _ => return false,
            }
        }
    })
}

impl Kind {
    /// What is wrong with a value.
    fn fault(self, value: &str) -> Option<String> {
        let text = value.trim();
        let fits = match self {
            _ if text.is_empty() => true,
            Self::Text => true,
            Self::Bool => is_boolish(text),
            Self::Number(least, most) => text.parse().is_ok_and(|n: i64| (least..=most).contains(&n)),
            // As `null` of the reference.
            Self::Span if text == "null" => true,
            Self::Span => match Duration::parse_text(text) {
                Ok(_) => true,
                Err(error) => return Some(format!("{text:?} is no span of time such as 90d or 30s ({error})")),
            },
            Self::Size => size::parse_u64(text).is_ok(),
            Self::Word(words) => words.contains(&text),
            Self::Url => is_url(text),
            Self::HostPort => text
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0)),
            Self::Network => text.parse::<IpNet>().is_ok(),
            Self::Networks => text.split(',').all(|part| crate::scope::network(part).is_some()),
            Self::TimeZone => {
                let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+'));
                text.len() <= 64 && !text.contains(odd) && !text.starts_with('/')
            }
            Self::SlotType => match text.parse::<SlotKind>() {
                Ok(_) => true,
                Err(error) => return Some(error.to_string()),
            },
            Self::PublicKey => match TrustedKey::new("value", text) {
                Ok(_) => true,
                Err(reason) => return Some(reason),
            },
        };
        (!fits).then(|| format!("{text:?} is not {}", self.words()))
    }

    /// What it is, for people.
    pub fn words(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Number(least, i64::MAX) => format!("a whole number from {least} on"),
            Self::Number(least, most) => format!("a whole number from {least} to {most}"),
            Self::Span => "a span of time".to_owned(),
            Self::Size => "an amount of bytes such as 64m".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Url => "an address that begins with http:// or https://".to_owned(),
            Self::HostPort => "a host and a port".to_owned(),
            Self::Network => "a network such as 10.0.0.0/8".to_owned(),
            Self::Networks => "a list of networks such as 10.0.0.0/8, 192.168.0.0/16".to_owned(),
            Self::TimeZone => "the name of a time zone".to_owned(),
            Self::SlotType => "a kind of slot".to_owned(),
            Self::PublicKey => "a public key of minisign".to_owned(),
        }
    }
}

fn is_boolish(text: &str) -> bool {
    const WORDS: &[&str] = &["true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n", "none"];
    WORDS.contains(&text.to_ascii_lowercase().as_str())
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace))
}

/// Refuses values that known keys can't have.
///
/// # Errors
/// [`Error::InvalidParams`] that names each such key and what is wrong.
pub fn check(pairs: &[(String, String)]) -> Result<()> {
    let faults: Vec<_> = pairs.iter().filter_map(|(key, value)| Some((key, known(key)?.kind.fault(value)?))).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = faults.iter().map(|(key, fault)| format!("{key}: {fault}")).collect();
    let data: Map<String, Json> = faults.into_iter().map(|(key, fault)| (key.clone(), fault.into())).collect();
    Err(Error::InvalidParams { msg: told.join("; "), data: Some(Json::Object(data)) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fault(key: &str, value: &str) -> Option<String> {
        match check(&[(key.to_owned(), value.to_owned())]) {
            Ok(()) => None,
            Err(Error::InvalidParams { msg, .. }) => Some(msg),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn values_are_checked_and_the_key_is_named() {
        for (key, good, bad) in [
            ("config/auth/max_password_age", "90d", "soon"),
            ("config/auth/max_password_age", "3mo", "-1d"),
            ("config/docker/registry/cr.example.org%2Fx", "https://cr.example.org", "cr.example.org"),
            ("config/docker/registry/x/type", "harbor2", "Harbor"),
            ("config/docker/registry/x/ssl-verify", "no", "maybe"),
            ("config/network/overlay/mtu", "1400", "0"),
            ("config/network/subnet/agent", "10.0.0.0/8", "10.0.0.0/33"),
            ("config/redis/addr", "127.0.0.1:6379", "127.0.0.1:0"),
            ("config/resource_slots/cuda.device", "count", "colour"),
            ("config/rounds/keep", "1", "0"),
            ("config/system/timezone", "Asia/Seoul", "Asia Seoul"),
            ("config/plugins/signatures", "required", "on"),
            ("config/plugins/trusted-keys/me", "", "RW"),
            ("manager/status", "frozen", "asleep"),
            ("nodes/agents/i-1/watcher_port", "6099", "65536"),
            ("volumes/proxies/local/manager_api", "http://127.0.0.1:6022", "127.0.0.1:6022"),
        ] {
            assert_eq!(fault(key, good), None, "{key} = {good}");
            assert_eq!(fault(key, ""), None, "{key}");
            let said = fault(key, bad).unwrap_or_else(|| panic!("{key} = {bad} passed"));
            assert!(said.starts_with(&format!("{key}: ")), "{said}");
        }
    }

    #[test]
    fn unknown_keys_hold_anything() {
        for key in
            ["config", "config/auth", "config/auth/max_password_age/x", "site/motd", "config/docker/registry/x/y"]
        {
            assert!(known(key).is_none(), "{key}");
            assert_eq!(fault(key, "anything \u{1F4A5}"), None);
        }
        assert_eq!(known("config/docker/registry/").map(|k| k.key), None);
    }

    #[test]
    fn the_table_is_in_order_and_tells_enough() {
        assert!(KNOWN.windows(2).all(|pair| pair[0].key < pair[1].key));
        let page = include_str!("../../../../docs/src/settings.md");
        for known in KNOWN {
            assert!(!known.about.is_empty() && !known.default.is_empty());
            assert!(page.contains(&format!("| `{}` |", known.key)), "settings.md doesn't tell of {}", known.key);
        }
    }
}
