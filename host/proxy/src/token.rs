//! Tokens for services that aren't public: JWTs signed by HS256 with a secret of the site.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use quarterdeck_model::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

/// The header of every token: what isn't written like this is none of ours, so no other algorithm can be talked into.
const HEADER: &[u8] = br#"{"alg":"HS256","typ":"JWT"}"#;
/// Nobody has a longer token.
const LONGEST: usize = 4096;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The service that it opens.
    pub endpoint_id: Uuid,
    /// Who owns the service.
    pub user_uuid: Uuid,
    /// Seconds since the Unix epoch after which it opens nothing.
    pub exp: i64,
}

/// A token that opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It isn't one of ours, or was changed.
    #[error("the token is not valid")]
    Invalid,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It opens another service.
    #[error("the token is for another service")]
    Foreign,
}

fn signature(secret: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac
}

/// A token that says `claims`.
///
/// # Panics
/// Never: claims are plain numbers and ids.
pub fn issue(secret: &[u8], claims: &Claims) -> String {
    let payload = serde_json::to_vec(claims).expect("claims are plain");
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(payload));
    let mac = signature(secret, &text).finalize().into_bytes();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac))
}

/// What a token for `endpoint` says, if it is genuine and its time isn't over.
///
/// # Errors
/// [`TokenError`].
pub fn check(secret: &[u8], token: &str, endpoint: Uuid) -> Result<Claims, TokenError> {
    if token.len() > LONGEST {
        return Err(TokenError::Invalid);
    }
    let (text, mac) = token.rsplit_once('.').ok_or(TokenError::Invalid)?;
    let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| TokenError::Invalid)?;
    // In constant time.
    signature(secret, text).verify_slice(&mac).map_err(|_| TokenError::Invalid)?;
    let (header, payload) = text.split_once('.').ok_or(TokenError::Invalid)?;
    if URL_SAFE_NO_PAD.decode(header).ok().as_deref() != Some(HEADER) {
        return Err(TokenError::Invalid);
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Invalid)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::Invalid)?;
    if claims.exp <= Timestamp::now().micros() / 1_000_000 {
        return Err(TokenError::Expired);
    }
    if claims.endpoint_id != endpoint {
        return Err(TokenError::Foreign);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_open_their_service_until_they_expire() {
        let claims = |exp| Claims { endpoint_id: Uuid::from_u128(1), user_uuid: Uuid::from_u128(2), exp };
        let good = issue(b"secret", &claims(i64::MAX));
        assert_eq!(check(b"secret", &good, Uuid::from_u128(1)).unwrap(), claims(i64::MAX));
        assert_eq!(check(b"secret", &good, Uuid::from_u128(3)), Err(TokenError::Foreign));
        assert_eq!(check(b"other", &good, Uuid::from_u128(1)), Err(TokenError::Invalid));
        assert_eq!(check(b"secret", &issue(b"secret", &claims(1)), Uuid::from_u128(1)), Err(TokenError::Expired));
        for (index, _) in good.char_indices().filter(|(_, c)| *c != '.') {
            let mut bad = good.clone().into_bytes();
            bad[index] = if bad[index] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bad).unwrap();
            // The last character of a part carries bits that don't count; strict decoders refuse those too.
            assert_eq!(check(b"secret", &bad, Uuid::from_u128(1)), Err(TokenError::Invalid), "{index}");
        }
        let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(br#"{"alg":"none"}"#), good.split('.').nth(1).unwrap());
        for bad in [none.as_str(), "", ".", "..", "a.b.c"] {
            assert_eq!(check(b"secret", bad, Uuid::from_u128(1)), Err(TokenError::Invalid), "{bad}");
        }
    }
}
