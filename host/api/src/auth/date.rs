//! The dates that requests are signed with.
//!
//! Clients send ISO 8601 or RFC 1123 in many dresses; this reads what they send and nothing else.

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};

/// How far a request's date may be away from the server's clock, in microseconds (exclusive).
pub const WINDOW_MICROS: i64 = 15 * 60 * 1_000_000;

/// Longer texts are no dates.
const MAX_LENGTH: usize = 64;

/// A date as a request gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Microseconds since the Unix epoch.
    pub micros: i64,
    /// `YYYYMMDD` in the date's own offset: part of the signing key.
    pub day: [u8; 8],
}

impl Stamp {
    /// Whether it is close enough to `now`.
    pub fn is_near(&self, now_micros: i64) -> bool {
        self.micros.abs_diff(now_micros) < WINDOW_MICROS.unsigned_abs()
    }
}

/// Offsets, in minutes, of the zones that dates name. Ambiguous names mean what the reference takes them for.
const ZONES: &[(&str, i32)] = &[
    ("UTC", 0),
    ("GMT", 0),
    ("Z", 0),
    ("WET", 0),
    ("WT", 0),
    ("CET", 60),
    ("WEST", 60),
    ("WAT", 60),
    ("CEST", 120),
    ("EET", 120),
    ("CAT", 120),
    ("SAST", 120),
    ("EEST", 180),
    ("FET", 180),
    ("TRT", 180),
    ("EAT", 180),
    ("MSK", 240),
    ("GST", 240),
    ("ADT", 240),
    ("PKT", 300),
    ("UZT", 300),
    ("IST", 330),
    ("BST", 360),
    ("CCT", 390),
    ("MMT", 390),
    ("ICT", 420),
    ("WIB", 420),
    ("HKT", 480),
    ("SGT", 480),
    ("MYT", 480),
    ("PHT", 480),
    ("WITA", 480),
    ("AWST", 480),
    ("CAST", 480),
    ("JST", 540),
    ("KST", 540),
    ("WIT", 540),
    ("ACST", 570),
    ("AEST", 600),
    ("AEDT", 660),
    ("NZST", 720),
    ("NZDT", 780),
    ("AMT", -240),
    ("EDT", -240),
    ("EST", -300),
    ("ET", -300),
    ("CDT", -300),
    ("CST", -360),
    ("CT", -360),
    ("MDT", -360),
    ("MST", -420),
    ("MT", -420),
    ("PDT", -420),
    ("PST", -480),
    ("PT", -480),
    ("AST", -180),
    ("AKDT", -480),
    ("AKST", -540),
    ("HST", -600),
];

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Reads a date; `None` when it is none.
pub fn parse(text: &str) -> Option<Stamp> {
    let text = text.trim();
    if text.len() > MAX_LENGTH || !text.is_ascii() {
        return None;
    }
    let mut scan = Scan(text.as_bytes());
    let date =
        if scan.0.first()?.is_ascii_digit() && !scan.has_month_name() { scan.iso_date()? } else { scan.rfc_date()? };
    let time = scan.time()?;
    let offset_minutes = scan.zone()?;
    let local = NaiveDateTime::new(date, time);
    let micros = local.and_utc().timestamp_micros().checked_sub(i64::from(offset_minutes) * 60_000_000)?;
    Some(Stamp { micros, day: day_of(date)? })
}

fn day_of(date: NaiveDate) -> Option<[u8; 8]> {
    use chrono::Datelike;
    let mut number = u32::try_from(date.year()).ok()? * 10_000 + date.month() * 100 + date.day();
    let mut day = [b'0'; 8];
    for digit in day.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).ok()?;
        number /= 10;
    }
    Some(day)
}

/// What is left to read.
struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn spaces(&mut self) {
        while self.eat(b' ') {}
    }

    /// Exactly `count` digits.
    fn digits(&mut self, count: usize) -> Option<u32> {
        let (head, rest) = self.0.split_at_checked(count)?;
        let number = head.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))?;
        self.0 = rest;
        Some(number)
    }

    /// A run of letters.
    fn word(&mut self) -> &'a str {
        let length = self.0.iter().take_while(|b| b.is_ascii_alphabetic()).count();
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        std::str::from_utf8(head).unwrap_or_default()
    }

    /// `24 Nov 2026` starts with a digit too.
    fn has_month_name(&self) -> bool {
        self.0.iter().take(5).any(|b| b.is_ascii_alphabetic() && *b != b'T')
    }

    /// `2026-11-24T`, `2026-11-24 ` or `20261124T`
    fn iso_date(&mut self) -> Option<NaiveDate> {
        let year = self.digits(4)?;
        let dashed = self.eat(b'-');
        let month = self.digits(2)?;
        if dashed && !self.eat(b'-') {
            return None;
        }
        let day = self.digits(2)?;
        if !self.eat(b'T') && !self.eat(b't') && !self.eat(b' ') {
            return None;
        }
        NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)
    }

    /// `Tue, 24 Nov 2026 `, the name of the day being optional and not believed.
    fn rfc_date(&mut self) -> Option<NaiveDate> {
        if !self.word().is_empty() {
            self.eat(b',');
            self.spaces();
        }
        let day = self.digits(2).or_else(|| self.digits(1))?;
        self.spaces();
        let month = self.word().get(..3)?.to_ascii_lowercase();
        let month = MONTHS.iter().position(|m| *m == month)?;
        self.spaces();
        let year = self.digits(4)?;
        self.spaces();
        NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, u32::try_from(month).ok()? + 1, day)
    }

    /// `09:30`, `09:30:00`, `09:30:00.123456`, `093000`
    fn time(&mut self) -> Option<NaiveTime> {
        let hour = self.digits(2)?;
        let colons = self.eat(b':');
        let minute = self.digits(2)?;
        let more = if colons { self.eat(b':') } else { self.0.first().is_some_and(u8::is_ascii_digit) };
        let second = if more { self.digits(2)? } else { 0 };
        let mut micros = 0;
        if more && (self.eat(b'.') || self.eat(b',')) {
            let length = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
            if length == 0 {
                return None;
            }
            let (fraction, rest) = self.0.split_at(length);
            self.0 = rest;
            for place in 0..6 {
                micros = micros * 10 + fraction.get(place).map_or(0, |b| u32::from(b - b'0'));
            }
        }
        NaiveTime::from_hms_micro_opt(hour, minute, second, micros)
    }

    /// Nothing (UTC), `Z`, a name, `+09:00`, `+0900` or `+09`; then the text must end.
    fn zone(&mut self) -> Option<i32> {
        self.spaces();
        let sign = if self.eat(b'+') {
            1
        } else if self.eat(b'-') {
            -1
        } else {
            let name = self.word();
            // Names that nobody knows are UTC, as no name is.
            let offset =
                ZONES.iter().find(|(zone, _)| name.eq_ignore_ascii_case(zone)).map_or(0, |(_, minutes)| *minutes);
            return self.0.is_empty().then_some(offset);
        };
        let hours = i32::try_from(self.digits(2)?).ok()?;
        self.eat(b':');
        let minutes = if self.0.is_empty() { 0 } else { i32::try_from(self.digits(2)?).ok()? };
        (self.0.is_empty() && hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn micros(text: &str) -> i64 {
        parse(text).unwrap_or_else(|| panic!("{text} is a date")).micros
    }

    #[test]
    fn every_dress_of_one_instant() {
        let at = micros("2026-11-24T00:25:41+00:00");
        for text in [
            "2026-11-24T00:25:41Z",
            "2026-11-24 00:25:41",
            "2026-11-24T00:25:41",
            "2026-11-24T00:25:41.0",
            "2026-11-24T09:25:41+0900",
            "2026-11-23T14:25:41-10:00",
            "2026-11-24 09:25:41 KST",
            "20261124T002541Z",
            "20261124T092541+0900",
            "Tue, 24 Nov 2026 00:25:41 GMT",
            "Tue, 24 Nov 2026 09:25:41 +0900",
            "24 Nov 2026 09:25:41 JST",
            "Mon, 23 Nov 2026 19:25:41 EST",
            "Tue, 24 Nov 2026 05:55:41 IST",
            "Tue, 24 Nov 2026 00:25:41 XYZ",
        ] {
            assert_eq!(micros(text), at, "{text}");
        }
        assert_eq!(micros("2026-11-24T00:25:41.123456Z") - at, 123_456);
        assert_eq!(micros("2026-11-24T00:25:41.5Z") - at, 500_000);
        assert_eq!(micros("2026-11-24T00:25:41.123456789Z") - at, 123_456);
    }

    #[test]
    fn the_day_is_the_one_that_was_written() {
        assert_eq!(&parse("2026-03-01T00:15:00+09:00").unwrap().day, b"20260301");
        assert_eq!(&parse("2026-02-28T23:15:00-10:00").unwrap().day, b"20260228");
    }

    #[test]
    fn what_is_no_date() {
        for text in [
            "",
            "junk",
            "the day before yesterday-ish",
            "1764000000",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-24T25:00:00Z",
            "2026-11-24T00:25:61Z",
            "2026-11-24T00:25:41+99:00",
            "2026-11-24T00:25:41+00:00 tail",
            "99999999999999999999999999999999T000000Z",
            "2026-11-24T00:25:41.Z",
            "2026-11-24",
            "２０２６-11-24T00:25:41Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_window_is_open_at_both_ends() {
        let stamp = parse("2026-11-24T00:00:00Z").unwrap();
        assert!(stamp.is_near(stamp.micros + WINDOW_MICROS - 1));
        assert!(!stamp.is_near(stamp.micros + WINDOW_MICROS));
        assert!(!stamp.is_near(stamp.micros - WINDOW_MICROS));
        assert!(!stamp.is_near(i64::MIN));
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in ".{0,70}") {
            let _ = parse(&text);
        }
    }
}
