//! Tokens for uploads and downloads: JSON Web Tokens, HMAC with SHA-256 only (`spec/storage-proxy.md` §4.1).
//!
//! Whoever has one may use it as often as it likes until it expires; it names one path of one folder and one deed.

use quarterdeck_model::jwt::{self, Fault};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

/// Tokens are at most so long; paths are shorter.
const MAX_LENGTH: usize = 16 << 10;

/// What a token for an upload says. The fields' order is that of the contract's vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadClaims {
    /// `upload`
    pub op: String,
    /// The volume's name.
    pub volume: String,
    /// The folder, `<scope>/<32 hex>`.
    pub vfid: String,
    /// The file.
    pub relpath: String,
    /// Its size in bytes.
    pub size: u64,
    /// The upload's name.
    pub session: String,
    /// Bytes that the folder may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder_limit: Option<u64>,
    /// Bytes that its quota scope may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_limit: Option<u64>,
    /// When it expires, seconds since the Unix epoch.
    pub exp: i64,
}

/// What a token for a download says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadClaims {
    /// `download`
    pub op: String,
    /// The volume's name.
    pub volume: String,
    /// The folder, `<scope>/<32 hex>`.
    pub vfid: String,
    /// The file or directory.
    pub relpath: String,
    /// When it expires, seconds since the Unix epoch.
    pub exp: i64,
}

/// What is wrong with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenError(pub Json);

impl From<Fault> for TokenError {
    fn from(fault: Fault) -> Self {
        Self(json!(format!("cannot decode the given value as JWT: {fault}")))
    }
}

/// Signs claims.
pub(crate) fn sign(secret: &str, claims: &impl Serialize) -> String {
    jwt::sign(secret.as_bytes(), claims)
}

/// Reads a token for the deed `op`.
pub(crate) fn verify<T: DeserializeOwned>(secret: &str, token: &str, op: &str, now: i64) -> Result<T, TokenError> {
    let claims = jwt::read(secret.as_bytes(), token, MAX_LENGTH, now)?;
    if claims.get("op").and_then(Json::as_str) != Some(op) {
        return Err(TokenError(json!({ "op": format!("value is not exactly '{op}'") })));
    }
    serde_json::from_value(claims).map_err(|_| Fault::Payload.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &str = "test-secret";
    const UPLOAD: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJvcCI6InVwbG9hZCIsInZvbHVtZSI6InZvbHVtZTEiLCJ2ZmlkIjoiOWIwMDAwMDAwMDAwNDAwMDgwMDAwMDAwMDAwMDAwMDQvMDQ4NmMwYzYwYTU4NDQwYzg0ODk5ZmVjZWFlMTdhNGQiLCJyZWxwYXRoIjoiZC9mLnR4dCIsInNpemUiOjEwLCJzZXNzaW9uIjoiNWQ0MTg3OGJhOWU5ZTAyOTk4ODMxZWJkYjA5NTIyNDIiLCJleHAiOjQxMDI0NDQ4MDB9.7OBi1D-zyriQdOBDE-UUGG-bgHWZE9-zNqJqeo8Xp34";
    const DOWNLOAD: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJvcCI6ImRvd25sb2FkIiwidm9sdW1lIjoidm9sdW1lMSIsInZmaWQiOiI5YjAwMDAwMDAwMDA0MDAwODAwMDAwMDAwMDAwMDAwNC8wNDg2YzBjNjBhNTg0NDBjODQ4OTlmZWNlYWUxN2E0ZCIsInJlbHBhdGgiOiJkL2YudHh0IiwiZXhwIjo0MTAyNDQ0ODAwfQ.CGsI4BR4xVTEjL2tqSrn5yxZccB_kIkt0YnKTtoSrRU";

    fn upload() -> UploadClaims {
        UploadClaims {
            op: "upload".to_owned(),
            volume: "volume1".to_owned(),
            vfid: "9b000000000040008000000000000004/0486c0c60a58440c84899feceae17a4d".to_owned(),
            relpath: "d/f.txt".to_owned(),
            size: 10,
            session: "5d41878ba9e9e02998831ebdb0952242".to_owned(),
            folder_limit: None,
            scope_limit: None,
            exp: 4_102_444_800,
        }
    }

    #[test]
    fn tokens_are_those_of_the_contract() {
        assert_eq!(sign(SECRET, &upload()), UPLOAD);
        assert_eq!(verify::<UploadClaims>(SECRET, UPLOAD, "upload", 1).unwrap(), upload());
        let download: DownloadClaims = verify(SECRET, DOWNLOAD, "download", 1).unwrap();
        assert_eq!(sign(SECRET, &download), DOWNLOAD);
    }

    #[test]
    fn bad_tokens_are_told_apart() {
        let why = |token: &str, op: &str, now: i64| verify::<Json>(SECRET, token, op, now).unwrap_err().0;
        assert_eq!(why("x", "upload", 1), "cannot decode the given value as JWT: Not enough segments");
        assert_eq!(why(UPLOAD, "upload", 4_102_444_800), "cannot decode the given value as JWT: Signature has expired");
        assert_eq!(why(UPLOAD, "download", 1), json!({"op": "value is not exactly 'download'"}));
        let forged = format!("{}A", &UPLOAD[..UPLOAD.len() - 1]);
        assert_eq!(why(&forged, "upload", 1), "cannot decode the given value as JWT: Signature verification failed");
        // {"alg":"none"}
        let none = format!("eyJhbGciOiJub25lIn0.{}.", UPLOAD.split('.').nth(1).unwrap());
        assert!(why(&none, "upload", 1).as_str().unwrap().ends_with("alg value is not allowed"));
        let longer = sign("another", &upload());
        assert!(why(&longer, "upload", 1).as_str().unwrap().ends_with("Signature verification failed"));
        let endless = sign(SECRET, &json!({"op": "upload"}));
        assert!(why(&endless, "upload", 1).as_str().unwrap().ends_with("expired"));
    }
}
