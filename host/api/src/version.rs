//! API versions, and what the product calls itself.

use http::HeaderMap;

use crate::wire::{BAD_REQUEST, Problem};

/// The newest API version, as `GET /` tells it.
pub const LATEST: &str = "v6.20230315";
/// The manager release whose behaviour this server follows.
pub const MANAGER: &str = "23.03.5";

/// Every version that clients may ask for.
const KNOWN: &[(&str, u32, &str)] = &[
    ("v6.20230315", 6, "20230315"),
    ("v6.20220615", 6, "20220615"),
    ("v6.20220315", 6, "20220315"),
    ("v6.20210815", 6, "20210815"),
    ("v6.20200815", 6, "20200815"),
    ("v5.20191215", 5, "20191215"),
    ("v4.20190615", 4, "20190615"),
    ("v4.20190315", 4, "20190315"),
    ("v4.20190115", 4, "20190115"),
    ("v4.20181215", 4, "20181215"),
];

/// The version that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The major number.
    pub major: u32,
    /// The revision, a date without dashes.
    pub revision: &'static str,
    /// The header's name as it is signed and the version's text; absent when the request names none.
    pub named: Option<(&'static str, &'static str)>,
}

impl Version {
    /// The newest, for what the server itself writes down.
    pub const NEWEST: Self = Self { major: 6, revision: "20230315", named: None };

    /// Reads the version headers.
    ///
    /// # Errors
    /// A problem when the header names a version that doesn't exist.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        for name in ["x-backendai-version", "x-sorna-version"] {
            let Some(value) = headers.get(name).filter(|v| !v.is_empty()) else { continue };
            return KNOWN
                .iter()
                .find(|(text, _, _)| text.as_bytes() == value.as_bytes())
                .map(|&(text, major, revision)| Self { major, revision, named: Some((name, text)) })
                .ok_or_else(|| Problem::new(BAD_REQUEST).msg("Unsupported API version."));
        }
        Ok(Self { major: 5, revision: "20191215", named: None })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::HeaderValue;

    fn with(name: &'static str, value: &'static str) -> Result<Version, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        Version::of(&headers)
    }

    #[test]
    fn versions_are_literal() {
        assert_eq!(with("x-backendai-version", "v6.20230315").unwrap().major, 6);
        let old = with("x-sorna-version", "v4.20190115").unwrap();
        assert_eq!((old.major, old.named), (4, Some(("x-sorna-version", "v4.20190115"))));
        for bad in ["v3.20170615", "v6.20221111", "garbage", "V6.20230315", "v6.20230315 x"] {
            assert!(with("x-backendai-version", bad).is_err(), "{bad}");
        }
        assert_eq!(with("x-backendai-version", "").unwrap().named, None);
        assert_eq!(Version::of(&HeaderMap::new()).unwrap().major, 5);
    }
}
