//! Time spans as the configuration writes them: `10m`, `1.5d`, `90`, `3mo`.

use std::str::FromStr as _;

use bigdecimal::{BigDecimal, ToPrimitive as _};
use serde_json::Value as Json;

/// A span: seconds, or an amount of calendar time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duration {
    /// Seconds.
    Seconds(f64),
    /// Calendar months.
    Months(u32),
    /// Calendar years.
    Years(u32),
}

/// A text or value that is no span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing at all.
    #[error("value must not be empty")]
    Empty,
    /// Neither number nor text.
    #[error("value must be a number or string")]
    Type,
    /// A number that can't be read.
    #[error("invalid numeric literal: {0}")]
    Literal(String),
    /// Months and years where a fixed span is needed.
    #[error("months and years have no fixed length here")]
    Calendar,
}

/// Longest span taken in, in seconds: about 3,000 years.
const LONGEST: f64 = 1e11;

impl Duration {
    /// Reads a JSON value: a number of seconds (negative ones are taken as they are), or a text.
    ///
    /// # Errors
    /// [`DurationError`].
    pub fn parse(value: &Json) -> Result<Self, DurationError> {
        match value {
            Json::String(text) => Self::parse_text(text),
            Json::Bool(b) => Ok(Self::Seconds(f64::from(u8::from(*b)))),
            Json::Number(number) => {
                let text = number.to_string();
                text.parse::<f64>()
                    .ok()
                    .filter(|s| s.is_finite() && s.abs() <= LONGEST)
                    .map(Self::Seconds)
                    .ok_or(DurationError::Literal(text))
            }
            _ => Err(DurationError::Type),
        }
    }

    /// Reads a text: a number (not negative) with an optional unit `s m h d w`, or a whole number of `mo` or `yr`.
    ///
    /// # Errors
    /// [`DurationError`].
    pub fn parse_text(text: &str) -> Result<Self, DurationError> {
        if text.is_empty() {
            return Err(DurationError::Empty);
        }
        for (ending, months) in [("mo", true), ("yr", false)] {
            if let Some(count) = text.strip_suffix(ending).and_then(|n| n.trim().parse::<u32>().ok()) {
                return Ok(if months { Self::Months(count) } else { Self::Years(count) });
            }
        }
        let last = text.chars().last().unwrap_or_default();
        if last.is_ascii_digit() {
            return Ok(Self::Seconds(number(text)?));
        }
        let rest = &text[..text.len() - last.len_utf8()];
        let value = number(rest)?;
        let factor = match last {
            's' => 1.0,
            'm' => 60.0,
            'h' => 3_600.0,
            'd' => 86_400.0,
            'w' => 604_800.0,
            _ => return Err(DurationError::Literal(rest.to_owned())),
        };
        Ok(Self::Seconds(value * factor))
    }

    /// The span in seconds; a month counts 30 days, a year 365.
    pub fn seconds(self) -> f64 {
        match self {
            Self::Seconds(seconds) => seconds,
            Self::Months(months) => f64::from(months) * 30.0 * 86_400.0,
            Self::Years(years) => f64::from(years) * 365.0 * 86_400.0,
        }
    }

    /// The span in milliseconds, rounded.
    pub fn millis(self) -> i64 {
        (self.seconds() * 1_000.0).round() as i64
    }
}

fn number(text: &str) -> Result<f64, DurationError> {
    let error = || DurationError::Literal(text.to_owned());
    let trimmed = text.trim();
    let plain = !trimmed.is_empty() && trimmed.len() <= 40 && trimmed.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !plain {
        return Err(error());
    }
    let exact = BigDecimal::from_str(trimmed).map_err(|_| error())?;
    exact.to_f64().filter(|s| *s <= LONGEST).ok_or_else(error)
}
