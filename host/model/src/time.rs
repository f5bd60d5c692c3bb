//! Instants and the clock they come from.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// An instant: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The current instant of the system's clock. Use a [`Clock`] where tests need control.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_micros())
    }

    /// Microseconds since the Unix epoch.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Seconds since the Unix epoch.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The calendar view. Instants beyond chrono's range are clamped to it.
    pub fn datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }

    /// `2026-11-24T00:18:53.967881+00:00`
    pub fn iso(self) -> String {
        self.datetime().to_rfc3339_opts(SecondsFormat::Micros, false)
    }

    /// `2026-11-24 00:18:53.967881+00:00`: how the reference's REST answers print instants.
    pub fn spaced(self) -> String {
        self.datetime().format("%Y-%m-%d %H:%M:%S%.6f+00:00").to_string()
    }

    /// This instant plus `micros` (which may be negative).
    #[must_use]
    pub fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// This instant plus `millis` (which may be negative).
    #[must_use]
    pub fn plus_millis(self, millis: i64) -> Self {
        self.plus_micros(millis.saturating_mul(1000))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.timestamp_micros())
    }
}

/// Where "now" comes from: the system, or a test.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that a test moves.
    Manual(std::sync::Arc<std::sync::atomic::AtomicI64>),
}

impl Clock {
    /// The current instant.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => Timestamp::now(),
            Clock::Manual(micros) => Timestamp(micros.load(std::sync::atomic::Ordering::SeqCst)),
        }
    }

    /// The time since some instant, which is the same for all calls within a process. It never goes back, whatever is done
    /// to the system's clock: what to measure patience with.
    pub fn elapsed(&self) -> std::time::Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        match self {
            Clock::System => START.get_or_init(std::time::Instant::now).elapsed(),
            Clock::Manual(micros) => {
                let micros = micros.load(std::sync::atomic::Ordering::SeqCst);
                std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0))
            }
        }
    }
}
