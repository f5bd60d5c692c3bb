//! What may be kept of values that people gave or that the database holds: no secrets, and no length.

use serde_json::{Map, Value as Json};

/// Texts are cut to so many characters, lists to so many members, and documents that are longer all the same keep their
/// first names only.
const MAX_TEXT: usize = 256;
const MAX_ITEMS: usize = 64;
const MAX_DOCUMENT: usize = 8 << 10;

/// What stands in place of what must not be read.
pub const HIDDEN: &str = "***";
/// Values under names with one of these in them are secrets.
const SECRET_WORDS: &[&str] =
    &["password", "passwd", "passphrase", "secret", "privkey", "private", "token", "credential", "api_key", "apikey"];
/// Values under these names hold whatever people put there, secrets included.
const SECRET_NAMES: &[&str] =
    &["data", "script", "bootstrap_script", "bootstrapscript", "environ", "env", "envs", "payload"];

/// Whether a name says that what it names is secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET_NAMES.contains(&name.as_str()) || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Whether the last component of a key of the configuration tree says that its value is secret.
pub fn is_secret_key(key: &str) -> bool {
    key.rsplit('/').next().is_some_and(is_secret)
}

/// A document, fit to be kept: without secrets, `null`s and length.
pub fn redacted(document: &Json) -> Json {
    let kept = kept(document);
    match &kept {
        Json::Object(map) if kept.to_string().len() > MAX_DOCUMENT => {
            let names = map.keys().take(MAX_ITEMS).map(|name| (cut(name), Json::from("…")));
            Json::Object(names.collect())
        }
        _ if kept.to_string().len() > MAX_DOCUMENT => Json::from("…"),
        _ => kept,
    }
}

/// A text, or its beginning with its length.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text.to_owned(),
    }
}

/// A text without what lets somebody in if it is an address: user, password and query.
pub fn without_credentials(text: &str) -> String {
    let is_scheme = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return text.to_owned();
    };
    if text.contains(char::is_whitespace) {
        return text.to_owned();
    }
    // Rather too much than a password with a slash or a question mark in it.
    let (hidden, shown) = match rest.rsplit_once('@') {
        Some((_, shown)) => (format!("{HIDDEN}@"), shown),
        None => (String::new(), rest),
    };
    format!("{scheme}://{hidden}{}", shown.split('?').next().unwrap_or_default())
}

fn kept(value: &Json) -> Json {
    match value {
        Json::String(text) => Json::from(cut(&without_credentials(text))),
        Json::Array(items) => items.iter().take(MAX_ITEMS).map(kept).collect(),
        Json::Object(map) => {
            // A key of the configuration tree beside its value.
            let names_secret = map.get("key").and_then(Json::as_str).is_some_and(is_secret_key);
            let mut out = Map::new();
            for (name, value) in map.iter().filter(|(_, value)| !value.is_null()).take(MAX_ITEMS) {
                let value = match value {
                    _ if is_secret(name) || (names_secret && name == "value") => Json::from(HIDDEN),
                    // What follows may let somebody in.
                    Json::String(url) if name.to_lowercase().contains("url") => {
                        Json::from(cut(url.split('?').next().unwrap_or_default()))
                    }
                    other => kept(other),
                };
                out.insert(cut(name), value);
            }
            Json::Object(out)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_stay_out() {
        let asked = json!({
            "email": "a@x", "props": {"password": "hunter2", "full_name": null, "role": "admin"},
            "callback_url": "http://x/y?token=1", "privkey": "PEM", "data": "export KEY=1", "environ": {"KEY": "1"},
            "oneTimeToken": "t",
        });
        assert_eq!(
            redacted(&asked),
            json!({
                "email": "a@x", "props": {"password": "***", "role": "admin"}, "callback_url": "http://x/y",
                "privkey": "***", "data": "***", "environ": "***", "oneTimeToken": "***",
            })
        );
        let set = |key: &str| redacted(&json!({"key": key, "value": "v"}))["value"].clone();
        assert_eq!(set("config/docker/registry/cr/password"), "***");
        assert_eq!(set("config/watcher/token"), "***");
        assert_eq!(set("config/logs/error/retention"), "v");
    }

    #[test]
    fn length_stays_out() {
        let long = redacted(&json!({"name": "x".repeat(10_000)}))["name"].as_str().unwrap_or_default().to_owned();
        assert!(long.ends_with("… (10000 characters)") && long.len() < 300, "{long}");
        let wide: Json = (0..60).map(|i| (i.to_string(), json!("y".repeat(250)))).collect::<Map<_, _>>().into();
        let kept = redacted(&wide);
        assert_eq!((kept["0"].as_str(), kept.to_string().len() < MAX_DOCUMENT), (Some("…"), true));
    }

    #[test]
    fn names_of_secrets() {
        assert!(is_secret_key("config/docker/registry/cr.x/password") && is_secret_key("config/watcher/token"));
        assert!(
            is_secret_key("volumes/proxies/local/secret") && is_secret("secret_key") && is_secret("Bootstrap_Script")
        );
        assert!(!is_secret_key("config/plugins/trusted-keys/release") && !is_secret_key("config/password/length"));
    }

    #[test]
    fn addresses_lose_what_lets_somebody_in() {
        for (address, shown) in [
            ("redis://:pw@host:6379/0", "redis://***@host:6379/0"),
            ("https://a:b@c.test/x?token=1", "https://***@c.test/x"),
            ("https://c.test/a/b", "https://c.test/a/b"),
            ("postgres://u:p/?w@h/d?x=1", "postgres://***@h/d"),
            ("plain a@b?", "plain a@b?"),
            ("see http://a:b@c?d e", "see http://a:b@c?d e"),
        ] {
            assert_eq!(without_credentials(address), shown);
        }
    }
}
