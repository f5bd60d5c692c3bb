//! Rules about a session's request: names, start times, mount maps, types.

use std::str::FromStr as _;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use indexmap::IndexMap;

use crate::status::SessionType;
use crate::time::Timestamp;

/// A name that can't be taken.
pub const RESERVED_NAME: &str = "from-template";

/// Longest session name, in characters.
pub const MAX_NAME: usize = 64;

/// Whether a session may be called this: 4–64 ASCII characters, letters, digits and `_`, inside also `.` and `-`.
pub fn is_valid_name(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = name.as_bytes();
    (4..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().all(|b| edge(*b) || matches!(b, b'.' | b'-'))
        && bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
}

impl SessionType {
    /// How REST spells it.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
            Self::Inference => "inference",
        }
    }

    /// Reads REST's spelling.
    pub fn from_lower(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.lower() == text)
    }
}

/// Reads a start time: ISO 8601 (without offset it is UTC; a date or a year alone will do), else a span from now
/// such as `30min`, `1d1hr`, `2hours 15min` or `300` (seconds).
pub fn parse_starts_at(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.with_timezone(&Utc).into());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%dT%H:%M%z"] {
        if let Ok(at) = DateTime::parse_from_str(text, format) {
            return Some(at.with_timezone(&Utc).into());
        }
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y%m%dT%H%M%S"]
    {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, format) {
            return Some(at.and_utc().into());
        }
    }
    let midnight = |date: NaiveDate| date.and_hms_opt(0, 0, 0).map(|at| at.and_utc().into());
    for format in ["%Y-%m-%d", "%Y%m%d"] {
        if let Ok(date) = NaiveDate::parse_from_str(text, format) {
            return midnight(date);
        }
    }
    if text.len() == 7
        && let Ok(date) = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d")
    {
        return midnight(date);
    }
    if text.len() == 4
        && let Ok(year) = text.parse::<i32>()
        && year >= 1900
    {
        return NaiveDate::from_ymd_opt(year, 1, 1).and_then(midnight);
    }
    span_micros(text).map(|micros| now.plus_micros(micros))
}

/// `[+-]` then days, hours, minutes, seconds in this order, each optional; or bare seconds.
fn span_micros(text: &str) -> Option<i64> {
    const UNITS: [(&[&str], f64); 4] = [
        (&["days", "day", "d"], 86_400.0),
        (&["hours", "hour", "hrs", "hr", "h"], 3_600.0),
        (&["minutes", "minute", "mins", "min", "m"], 60.0),
        (&["seconds", "second", "secs", "sec", "s"], 1.0),
    ];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    rest = rest.trim();
    let number_end = |s: &str| s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    if number_end(rest) == rest.len() {
        seconds = f64::from_str(rest).ok()?;
    } else {
        let mut next_unit = 0;
        while !rest.is_empty() {
            let end = number_end(rest);
            let value = f64::from_str(&rest[..end]).ok()?;
            let word_start = rest[end..].trim_start();
            let word_end = word_start.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word_start.len());
            let word = word_start[..word_end].to_ascii_lowercase();
            let unit = UNITS.iter().position(|(words, _)| words.contains(&word.as_str()))?;
            if unit < next_unit {
                return None;
            }
            next_unit = unit + 1;
            seconds += value * UNITS[unit].1;
            rest = word_start[word_end..].trim_start();
        }
    }
    // Ten thousand years are enough for any reservation.
    (seconds.is_finite() && seconds <= 3e11).then_some((sign * seconds * 1e6) as i64)
}

/// Where folders without a place of their own are mounted.
pub const HOME: &str = "/home/work";

const RESERVED_PATHS: [&str; 22] = [
    ".terminfo",
    ".jupyter",
    ".tmux.conf",
    ".ssh",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
];

/// Whether a path in the container belongs to the system.
pub fn is_reserved_path(path: &str) -> bool {
    let dotted = path.strip_prefix('.').is_some_and(|rest| {
        let stem = rest.strip_suffix("rc").or_else(|| rest.strip_suffix("_profile"));
        stem.is_some_and(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
    });
    dotted || path == "/home" || RESERVED_PATHS.contains(&path)
}

/// Looks at a map of folder → place in the container before anything else is done.
///
/// # Errors
/// A sentence for the user.
pub fn check_mount_map(map: &IndexMap<String, String>) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::new();
    for alias in map.values() {
        if seen.contains(&alias.as_str()) {
            return Err("Duplicate alias folder name exists.".to_owned());
        }
        seen.push(alias);
    }
    let home = format!("{HOME}/");
    for alias in map.values() {
        let short = alias.strip_prefix(&home).unwrap_or(alias);
        if short.is_empty() {
            return Err("Alias name cannot be empty.".to_owned());
        }
        if is_reserved_path(short) {
            return Err(format!("{short} is reserved for internal path."));
        }
        if map.contains_key(short) {
            return Err(format!("Alias name cannot be set to an existing folder name: {short}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names() {
        for good in ["abcd", "a-.b", "_abc_", "A234"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["abc", "-abc", "abc.", "ab cd", "äbcd", &"x".repeat(65)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }

    #[test]
    fn start_times() {
        let now = Timestamp(1_000_000_000_000_000);
        let after = |seconds: i64| Some(now.plus_micros(seconds * 1_000_000));
        assert_eq!(parse_starts_at("2h", now), after(7_200));
        assert_eq!(parse_starts_at("1d1hr", now), after(90_000));
        assert_eq!(parse_starts_at("2hours 15min", now), after(8_100));
        assert_eq!(parse_starts_at("300", now), after(300));
        assert_eq!(parse_starts_at("-1m", now), after(-60));
        assert_eq!(parse_starts_at("1.5min", now), after(90));
        assert_eq!(
            parse_starts_at("2026-11-24T00:00:00+09:00", now).unwrap().iso(),
            "2026-11-23T15:00:00.000000+00:00"
        );
        assert_eq!(parse_starts_at("2026-11-24", now).unwrap().iso(), "2026-11-24T00:00:00.000000+00:00");
        assert_eq!(parse_starts_at("2026-11", now).unwrap().iso(), "2026-11-01T00:00:00.000000+00:00");
        assert_eq!(parse_starts_at("2027", now).unwrap().iso(), "2027-01-01T00:00:00.000000+00:00");
        for bad in ["", "soon", "-", "1h 2", "1.2.3h", "9999999999999d", "1h1d", "5 weeks", "1x"] {
            assert_eq!(parse_starts_at(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn mount_maps() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert!(check_mount_map(&map(&[("a", "/home/work/x"), ("b", "y")])).is_ok());
        for (bad, part) in [
            (map(&[("a", "/home/work/x"), ("b", "/home/work/x")]), "Duplicate"),
            (map(&[("a", ".ssh")]), "reserved"),
            (map(&[("a", ".bashrc")]), "reserved"),
            (map(&[("a", "a")]), "existing folder name"),
            (map(&[("a", "")]), "empty"),
        ] {
            assert!(check_mount_map(&bad).unwrap_err().contains(part), "{part}");
        }
    }
}
