//! What this site says and later believes again: JSON Web Tokens (RFC 7519), HMAC with SHA-256 only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde_json::Value as Json;
use sha2::Sha256;

const HEADER: &[u8] = br#"{"alg":"HS256","typ":"JWT"}"#;

/// Why a token isn't believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is longer than any that was signed.
    #[error("Too long")]
    Length,
    /// It hasn't three parts.
    #[error("Not enough segments")]
    Segments,
    /// Its first part can't be read.
    #[error("Invalid header padding")]
    Header,
    /// It names another algorithm. `none`, or a public key taken for a secret, must never pass.
    #[error("The specified alg value is not allowed")]
    Algorithm,
    /// It wasn't signed with this secret, or was changed.
    #[error("Signature verification failed")]
    Signature,
    /// What it says can't be read.
    #[error("Invalid payload")]
    Payload,
    /// Its time is over, or it has none.
    #[error("Signature has expired")]
    Expired,
}

fn mac(secret: &[u8], signed: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    mac
}

/// A token that says `claims`, which should have `exp`: seconds since the Unix epoch.
///
/// # Panics
/// When `claims` can't be written as JSON, as maps whose keys are no texts.
pub fn sign(secret: &[u8], claims: &impl Serialize) -> String {
    let claims = serde_json::to_vec(claims).expect("claims are plain texts and numbers");
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(mac(secret, &signed).finalize().into_bytes());
    format!("{signed}.{signature}")
}

/// What a token says that was signed with `secret`, is at most `longest` bytes long, and hasn't expired at `now` (seconds
/// since the Unix epoch).
///
/// # Errors
/// [`Fault`].
pub fn read(secret: &[u8], token: &str, longest: usize, now: i64) -> Result<Json, Fault> {
    if token.len() > longest {
        return Err(Fault::Length);
    }
    let mut segments = token.split('.');
    let (Some(head), Some(claims), Some(signature), None) =
        (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(Fault::Segments);
    };
    let decode = |segment: &str| URL_SAFE_NO_PAD.decode(segment.trim_end_matches('=')).ok();
    let parse = |segment: &str| decode(segment).and_then(|bytes| serde_json::from_slice::<Json>(&bytes).ok());
    let header = parse(head).ok_or(Fault::Header)?;
    if header.get("alg").and_then(Json::as_str) != Some("HS256") {
        return Err(Fault::Algorithm);
    }
    let signature = decode(signature).ok_or(Fault::Signature)?;
    // In constant time.
    mac(secret, &token[..head.len() + 1 + claims.len()]).verify_slice(&signature).map_err(|_| Fault::Signature)?;
    let claims = parse(claims).ok_or(Fault::Payload)?;
    match claims.get("exp").and_then(Json::as_i64) {
        Some(exp) if exp > now => Ok(claims),
        _ => Err(Fault::Expired),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_signed_here_is_believed() {
        let claims = json!({"exp": 100, "of": "x"});
        let token = sign(b"secret", &claims);
        let read = |token: &str, now| read(b"secret", token, 1_000, now);
        assert_eq!(read(&token, 99), Ok(claims.clone()));
        assert_eq!(read(&token, 100), Err(Fault::Expired));
        assert_eq!(read(&sign(b"other", &claims), 1), Err(Fault::Signature));
        assert_eq!(read(&sign(b"secret", &json!({"of": "x"})), 1), Err(Fault::Expired));
        assert_eq!(read(&sign(b"secret", &json!({"exp": "100"})), 1), Err(Fault::Expired));
        let [head, body, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        for (header, fault) in [
            (r#"{"alg":"none"}"#, Fault::Algorithm),
            (r#"{"alg":"HS512"}"#, Fault::Algorithm),
            (r#"{"typ":"JWT"}"#, Fault::Algorithm),
            ("{", Fault::Header),
        ] {
            let header = URL_SAFE_NO_PAD.encode(header);
            for signature in [signature, ""] {
                assert_eq!(read(&format!("{header}.{body}.{signature}"), 1), Err(fault));
            }
        }
        assert_eq!(read(&format!("{head}.{body}."), 1), Err(Fault::Signature));
        assert_eq!(read(&format!("{head}.{body}"), 1), Err(Fault::Segments));
        assert_eq!(read(&format!("{token}.x"), 1), Err(Fault::Segments));
        assert_eq!(super::read(b"secret", &token, token.len() - 1, 1), Err(Fault::Length));
    }
}
