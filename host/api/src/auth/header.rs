//! The `Authorization` header.

use crate::wire::{INVALID_AUTH_PARAMS, Problem};

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorization<'a> {
    /// How the request was signed, e.g. `HMAC-SHA256`.
    pub sign_method: &'a str,
    /// Whose secret signed it.
    pub access_key: &'a str,
    /// The signature, in hexadecimal digits.
    pub signature: &'a str,
}

impl<'a> Authorization<'a> {
    /// Reads `BackendAI signMethod=…, credential=<access key>:<signature>`.
    ///
    /// # Errors
    /// A problem that says which part is wrong.
    pub fn parse(text: &'a str) -> Result<Self, Problem> {
        let problem = |msg: &'static str| Problem::new(INVALID_AUTH_PARAMS).msg(msg);
        let malformed = || problem("Missing or malformed authorization parameters");
        let (scheme, params) = text.split_once(' ').ok_or_else(|| problem("Malformed authorization header"))?;
        if scheme != "BackendAI" && scheme != "Sorna" {
            return Err(problem("Invalid authorization type name"));
        }
        let (mut sign_method, mut credential) = (None, None);
        for param in params.split(',') {
            let (key, value) = param.split_once('=').ok_or_else(malformed)?;
            match key.trim() {
                "signMethod" => sign_method = Some(value.trim()),
                "credential" => credential = Some(value.trim()),
                _ => {}
            }
        }
        let sign_method = sign_method.ok_or_else(malformed)?;
        let (access_key, signature) = credential.and_then(|c| c.split_once(':')).ok_or_else(malformed)?;
        Ok(Self { sign_method, access_key, signature })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn order_and_spaces_do_not_matter() {
        let expected = Authorization { sign_method: "HMAC-SHA256", access_key: "AKIA", signature: "ab:cd" };
        for text in [
            "BackendAI signMethod=HMAC-SHA256, credential=AKIA:ab:cd",
            "Sorna credential=AKIA:ab:cd,signMethod=HMAC-SHA256",
            "BackendAI   x=y , signMethod = HMAC-SHA256 ,credential=AKIA:ab:cd ",
        ] {
            assert_eq!(Authorization::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn each_fault_has_its_message() {
        for (text, expected) in [
            ("BackendAI", "Malformed authorization header"),
            ("Basic signMethod=HMAC-SHA256, credential=a:b", "Invalid authorization type name"),
            ("backendai signMethod=HMAC-SHA256, credential=a:b", "Invalid authorization type name"),
            ("BackendAI signMethod=HMAC-SHA256", "Missing or malformed authorization parameters"),
            ("BackendAI credential=a:b", "Missing or malformed authorization parameters"),
            ("BackendAI signMethod=HMAC-SHA256, credential=nocolon", "Missing or malformed authorization parameters"),
            ("BackendAI abc", "Missing or malformed authorization parameters"),
        ] {
            let sentence = Authorization::parse(text).unwrap_err().sentence();
            assert!(sentence.contains(expected), "{text}: {sentence}");
        }
    }
}
