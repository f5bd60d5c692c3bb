//! What clients that can't say it in the request say by environment variables. The host takes them out: they are for it.

use indexmap::IndexMap;
use quarterdeck_model::duration::Duration;

use crate::error::{Error, Result};

/// −1000…1000
const PRIORITY: &str = "QUARTERDECK_PRIORITY";
/// Seconds, or a number with a unit.
const EXPECTED_DURATION: &str = "QUARTERDECK_EXPECTED_DURATION";
/// Seconds, or a number with a unit.
const TIMEOUT: &str = "QUARTERDECK_TIMEOUT";

/// What the variables said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Extras {
    pub(super) priority: Option<i64>,
    pub(super) expected_ms: Option<i64>,
    pub(super) timeout_ms: Option<i64>,
}

/// Splits the host's variables from the session's own.
pub(super) fn take(environ: &IndexMap<String, String>) -> Result<(IndexMap<String, String>, Extras)> {
    let mut own = environ.clone();
    let mut take =
        |name: &str| own.shift_remove(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let priority = take(PRIORITY).map(|text| {
        let priority = text.parse::<i64>().ok().filter(|p| (-1000..=1000).contains(p));
        priority.ok_or_else(|| Error::invalid(format!("{PRIORITY} must be a whole number between -1000 and 1000")))
    });
    let expected_ms = take(EXPECTED_DURATION).map(|text| millis(EXPECTED_DURATION, &text));
    let timeout_ms = take(TIMEOUT).map(|text| millis(TIMEOUT, &text));
    let extras = Extras {
        priority: priority.transpose()?,
        expected_ms: expected_ms.transpose()?,
        timeout_ms: timeout_ms.transpose()?,
    };
    Ok((own, extras))
}

fn millis(name: &str, text: &str) -> Result<i64> {
    let duration = Duration::parse_text(text);
    Ok(duration.map_err(|e| Error::invalid(format!("{name} is no duration: {e}")))?.millis())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn environ(pairs: &[(&str, &str)]) -> IndexMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_hosts_variables_are_taken_out() {
        let given = environ(&[("A", "1"), (PRIORITY, "-5"), (EXPECTED_DURATION, "1.5m"), (TIMEOUT, "90")]);
        let (own, extras) = take(&given).unwrap();
        assert_eq!(own, environ(&[("A", "1")]));
        assert_eq!(extras, Extras { priority: Some(-5), expected_ms: Some(90_000), timeout_ms: Some(90_000) });
        assert_eq!(take(&environ(&[(PRIORITY, "")])).unwrap().1, Extras::default());
        for bad in [(PRIORITY, "2000"), (PRIORITY, "x"), (TIMEOUT, "soon"), (TIMEOUT, "3y")] {
            assert!(take(&environ(&[bad])).is_err(), "{bad:?}");
        }
    }
}
