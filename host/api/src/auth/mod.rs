//! Who is asking: date, signature, client address, and how often.

pub mod client;
pub mod date;
pub mod header;
pub mod ratelimit;
pub mod signing;

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::request::Parts;
use quarterdeck_control::hooks::{self, Mode};
use quarterdeck_control::identity::Credential;
use quarterdeck_control::{Control, Principal};
use quarterdeck_model::UserStatus;
use serde_json::{Map, Value, json};

use crate::version::Version;
use crate::wire::{AUTH_FAILED, INVALID_AUTH_PARAMS, Problem};
use header::Authorization;
use signing::{Hash, Signed};

const PRE_AUTH: &str = "PRE_AUTH_MIDDLEWARE";
/// What requests of unknown key pairs are checked against, so that they take as long as others.
const NOBODYS_SECRET: &[u8] = b"0000000000000000000000000000000000000000";

/// Whether a request comes from somebody.
///
/// # Errors
/// A problem when it says that it does but can't show it.
pub async fn authenticate(
    control: &Control,
    parts: &Parts,
    version: &Version,
) -> Result<Option<Arc<Principal>>, Problem> {
    let (date, stamp) = read_date(&parts.headers)
        .filter(|(_, stamp)| stamp.is_near(control.clock().now().micros()))
        .ok_or_else(|| Problem::new(INVALID_AUTH_PARAMS).msg("Date/time sync error"))?;
    let known = match repairer(control, parts, version, date, &stamp).await {
        Some(credential) => Some(credential),
        None => vouched_for(control, parts).await?,
    };
    let credential = match known {
        Some(credential) => credential,
        None => {
            let Some(value) = parts.headers.get(AUTHORIZATION).filter(|v| !v.is_empty()) else { return Ok(None) };
            let text = String::from_utf8_lossy(value.as_bytes());
            verify(control, parts, version, date, stamp.day, &Authorization::parse(&text)?).await?
        }
    };
    let principal = &credential.principal;
    control.identity().count_query(&principal.access_key);
    check_address(control, parts, &credential)?;
    Ok(Some(principal.clone()))
}

/// The date header's text and what it means.
fn read_date(headers: &HeaderMap) -> Option<(&str, date::Stamp)> {
    let value = ["date", "x-backendai-date", "x-sorna-date"]
        .iter()
        .filter_map(|name| headers.get(*name))
        .find(|value| !value.is_empty())?;
    let text = value.to_str().ok()?;
    Some((text, date::parse(text)?))
}

/// The credential of a known, active key pair whose user is active too. Accounts can be switched off
/// without touching their key pairs, and then nobody may sign with them.
async fn credential(control: &Control, access_key: &str) -> Result<Option<Arc<Credential>>, Problem> {
    Ok(control.identity().credential(access_key).await?.filter(|c| c.is_active && c.user_status == UserStatus::Active))
}

fn unknown_key() -> Problem {
    Problem::new(AUTH_FAILED).msg("Access key not found")
}

/// A superadmin who administers plugins, by signature. Hooks have no say about that: one that is broken, or denies
/// everybody, could never be repaired otherwise.
async fn repairer(
    control: &Control,
    parts: &Parts,
    version: &Version,
    date: &str,
    stamp: &date::Stamp,
) -> Option<Arc<Credential>> {
    let path = parts.uri.path();
    if !(path == "/plugins" || path.starts_with("/plugins/")) || !control.policies().has_hooks(PRE_AUTH) {
        return None;
    }
    let value = parts.headers.get(AUTHORIZATION).filter(|v| !v.is_empty())?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let given = Authorization::parse(&text).ok()?;
    let credential = verify(control, parts, version, date, stamp.day, &given).await.ok()?;
    credential.principal.is_superadmin().then_some(credential)
}

/// Whom a hook vouches for; signatures aren't looked at then.
async fn vouched_for(control: &Control, parts: &Parts) -> Result<Option<Arc<Credential>>, Problem> {
    if !control.policies().has_hooks(PRE_AUTH) {
        return Ok(None);
    }
    let headers: Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let address = client::address(parts, &control.settings().trusted_proxies)?;
    let body = json!({
        "method": parts.method.as_str(),
        "path": parts.uri.path(),
        "query": parts.uri.query().unwrap_or_default(),
        "headers": headers,
        "client_address": address.map(|a| a.to_string()),
    });
    let answer = hooks::dispatch(control, PRE_AUTH, Mode::First, None, None, body).await?;
    let named = answer.values.first().and_then(|(_, value)| value.get("access_key").or(Some(value))?.as_str());
    match named {
        None | Some("") => Ok(None),
        Some(access_key) => credential(control, access_key).await?.map(Some).ok_or_else(unknown_key),
    }
}

/// Checks the signature.
async fn verify(
    control: &Control,
    parts: &Parts,
    version: &Version,
    date: &str,
    day: [u8; 8],
    given: &Authorization<'_>,
) -> Result<Arc<Credential>, Problem> {
    let known = credential(control, given.access_key).await?;
    let content_type = content_type(&parts.headers);
    let host = parts.headers.get(HOST).map_or_else(
        || parts.uri.authority().map_or(&b""[..], |authority| authority.as_str().as_bytes()),
        |value| value.as_bytes(),
    );
    let method = hash_of(given.sign_method);
    let (version_header, version_text) = version.named.unwrap_or(("x-backendai-version", ""));
    let request = Signed {
        method: parts.method.as_str().as_bytes(),
        target: parts.uri.path_and_query().map_or(&b"/"[..], |target| target.as_str().as_bytes()),
        date: date.as_bytes(),
        day,
        host,
        content_type: content_type.as_bytes(),
        version_header,
        version: version_text,
    };
    let secret = known.as_ref().map_or(NOBODYS_SECRET, |credential| credential.secret_key.as_bytes());
    let signature = signing::sign(*method.as_ref().unwrap_or(&Hash::Sha256), secret, &request);
    let fits = signature.matches(given.signature.as_bytes());
    // Everything was computed by now, whoever asks: the time says nothing about which key pairs exist.
    let credential = known.ok_or_else(unknown_key)?;
    method?;
    if version.named.is_none() {
        return Err(Problem::new(INVALID_AUTH_PARAMS).msg("API version missing in request headers"));
    }
    if !fits {
        return Err(Problem::new(AUTH_FAILED).msg("Signature mismatch"));
    }
    Ok(credential)
}

/// `HMAC-SHA256` → SHA-256.
fn hash_of(sign_method: &str) -> Result<Hash, Problem> {
    let unsupported =
        |what: &str| Problem::new(INVALID_AUTH_PARAMS).msg(format!("Unsupported request signing method ({what} type)"));
    match sign_method.split_once('-') {
        Some((mac, hash)) if !hash.contains('-') => {
            if !mac.eq_ignore_ascii_case("hmac") {
                return Err(unsupported("MAC"));
            }
            Hash::named(hash).ok_or_else(|| unsupported("hash"))
        }
        _ => Err(Problem::new(AUTH_FAILED).msg("Invalid signature")),
    }
}

/// The media type, lower-case and without parameters.
fn content_type(headers: &HeaderMap) -> Cow<'_, str> {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = text.split(';').next().unwrap_or_default().trim();
    if media_type.is_empty() {
        Cow::Borrowed("application/octet-stream")
    } else if media_type.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(media_type.to_ascii_lowercase())
    } else {
        Cow::Borrowed(media_type)
    }
}

/// Users may be confined to some networks.
fn check_address(control: &Control, parts: &Parts, credential: &Credential) -> Result<(), Problem> {
    let Some(allowed) = credential.allowed_client_ip.as_deref().filter(|networks| !networks.is_empty()) else {
        return Ok(());
    };
    match client::address(parts, &control.settings().trusted_proxies)? {
        None => Err(Problem::new(AUTH_FAILED).msg("Not allowed IP address")),
        Some(address) if client::is_in(allowed, address) => Ok(()),
        Some(address) => Err(Problem::new(AUTH_FAILED).msg(format!("'{address}' is not allowed IP address"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::HeaderValue;

    #[test]
    fn signing_methods() {
        assert_eq!(hash_of("hmac-sha3_256").unwrap(), Hash::Sha3_256);
        for (method, expected) in [
            ("SHA256", "(Invalid signature)"),
            ("HMAC-SHA3-256", "(Invalid signature)"),
            ("CMAC-SHA256", "(MAC type)"),
            ("HMAC-SHAKE_128", "(hash type)"),
        ] {
            let sentence = hash_of(method).unwrap_err().sentence();
            assert!(sentence.contains(expected), "{method}: {sentence}");
        }
    }

    #[test]
    fn media_types_are_signed_bare() {
        let mut headers = HeaderMap::new();
        assert_eq!(content_type(&headers), "application/octet-stream");
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("Application/JSON; charset=utf-8"));
        assert_eq!(content_type(&headers), "application/json");
    }

    #[test]
    fn dates_have_three_homes() {
        let mut headers = HeaderMap::new();
        assert!(read_date(&headers).is_none());
        headers.insert("date", HeaderValue::from_static(""));
        headers.insert("x-sorna-date", HeaderValue::from_static("20261124T002541Z"));
        assert_eq!(read_date(&headers).unwrap().0, "20261124T002541Z");
        headers.insert("date", HeaderValue::from_static("20261124T002542Z"));
        assert_eq!(read_date(&headers).unwrap().0, "20261124T002542Z");
    }
}
