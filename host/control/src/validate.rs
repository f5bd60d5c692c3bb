//! Rules about values that several use cases write: lengths, names, folder hosts, slot maps.

use quarterdeck_model::slots::SlotMap;
use quarterdeck_model::vfolder::HostPermission;
use quarterdeck_store::Violation;
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};

/// A text no longer than its column allows.
pub(crate) fn length(text: &str, max: usize) -> Result<()> {
    if text.chars().count() > max {
        return Err(Error::Integrity(format!("value too long for type character varying({max})")));
    }
    if text.contains('\0') {
        return Err(Error::Integrity("a text must not contain a NUL character".to_owned()));
    }
    Ok(())
}

/// As [`length`], for a text that may be missing.
pub(crate) fn length_opt(text: Option<&str>, max: usize) -> Result<()> {
    text.map_or(Ok(()), |text| length(text, max))
}

/// Letters, digits, and in between dots, underscores and hyphens.
pub(crate) fn is_slug(name: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let bytes = name.as_bytes();
    edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
}

/// What a name that is no slug is refused with.
pub(crate) const NOT_A_SLUG: &str = "invalid name format. slug format required.";

/// Folder host → permissions, checked.
pub(crate) fn folder_hosts(value: Json) -> Result<Json> {
    let refuse = |what: String| {
        Error::BadRequest(format!(
            "Missing or invalid API parameters. (Invalid value for binding to allowed_vfolder_hosts: {what})"
        ))
    };
    let Json::Object(hosts) = value else { return Err(refuse("not an object".to_owned())) };
    for (host, permissions) in &hosts {
        let Json::Array(permissions) = permissions else { return Err(refuse(format!("{host} needs a list"))) };
        for permission in permissions {
            if permission.as_str().is_none_or(|p| p.parse::<HostPermission>().is_err()) {
                return Err(refuse(format!("{permission} is no permission")));
            }
        }
    }
    Ok(Json::Object(hosts))
}

/// A slot map from user input, as it is stored: decimal texts.
pub(crate) fn slots(value: &Json) -> Result<Json> {
    match SlotMap::from_user_input(value, None) {
        Ok(map) => Ok(map.to_json()),
        Err(e) => Err(Error::invalid(e.to_string())),
    }
}

/// As [`slots`], for a map that may be missing.
pub(crate) fn slots_opt(value: Option<&Json>) -> Result<Option<Json>> {
    value.map(slots).transpose()
}

/// An empty JSON object.
pub(crate) fn empty() -> Json {
    Json::Object(Map::new())
}

/// A broken rule of the schema is the caller's mistake; everything else is ours.
pub(crate) fn integrity(error: quarterdeck_store::Error) -> Error {
    match error.violation() {
        Some((kind, name)) => {
            let what = match kind {
                Violation::Unique => "duplicate key value violates unique constraint",
                Violation::ForeignKey => "violates foreign key constraint",
                Violation::NotNull => "violates not-null constraint",
                Violation::Check => "violates check constraint",
            };
            Error::Integrity(format!("{what} ({name})"))
        }
        None => error.into(),
    }
}

/// What an update of nothing is refused with.
pub(crate) fn nothing_to_update() -> Error {
    Error::BadRequest("nothing to update".to_owned())
}

/// What a change of a row that isn't there is refused with.
pub(crate) fn no_matching(object: &'static str) -> Error {
    Error::not_found(object)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn slugs() {
        for good in ["a", "default", "a.b_c-d", "0x", "A9"] {
            assert!(is_slug(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".a", "a b", "ä", "a/b", "_"] {
            assert!(!is_slug(bad), "{bad}");
        }
    }

    #[test]
    fn lengths_count_characters() {
        assert!(length(&"ä".repeat(64), 64).is_ok());
        let error = length(&"a".repeat(65), 64).unwrap_err();
        assert_eq!(error.to_string(), "integrity error: value too long for type character varying(64)");
        assert!(length("a\0", 64).is_err());
    }

    #[test]
    fn folder_hosts_need_known_permissions() {
        assert!(folder_hosts(json!({"local:volume1": ["upload-file"], "x": []})).is_ok());
        for bad in [json!([]), json!({"x": "upload-file"}), json!({"x": ["fly"]}), json!({"x": [1]}), json!(null)] {
            assert!(matches!(folder_hosts(bad.clone()), Err(Error::BadRequest(_))), "{bad}");
        }
    }

    #[test]
    fn slots_are_stored_as_decimal_texts() {
        assert_eq!(
            slots(&json!({"cpu": 4, "mem": "1g", "x": null})).unwrap(),
            json!({"cpu": "4", "mem": "1073741824"})
        );
        assert!(matches!(slots(&json!({"cpu": "4g"})), Err(Error::InvalidParams { .. })));
    }
}
