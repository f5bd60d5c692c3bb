//! Tokens for services that aren't public: JWTs signed by HS256 with a secret of the site.

use quarterdeck_model::Timestamp;
use quarterdeck_model::jwt::{self, Fault};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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

/// A token that says `claims`.
///
/// # Panics
/// Never: claims are plain numbers and ids.
pub fn issue(secret: &[u8], claims: &Claims) -> String {
    jwt::sign(secret, claims)
}

/// What a token for `endpoint` says, if it is genuine and its time isn't over.
///
/// # Errors
/// [`TokenError`].
pub fn check(secret: &[u8], token: &str, endpoint: Uuid) -> Result<Claims, TokenError> {
    let now = Timestamp::now().micros() / 1_000_000;
    let claims = jwt::read(secret, token, LONGEST, now).map_err(|fault| match fault {
        Fault::Expired => TokenError::Expired,
        _ => TokenError::Invalid,
    })?;
    let claims: Claims = serde_json::from_value(claims).map_err(|_| TokenError::Invalid)?;
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
        for bad in ["", ".", "..", "a.b.c"] {
            assert_eq!(check(b"secret", bad, Uuid::from_u128(1)), Err(TokenError::Invalid), "{bad}");
        }
    }
}
