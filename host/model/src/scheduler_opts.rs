//! `scheduler_opts` of a scaling group (`spec/scheduler.md` §2.1).

use serde_json::{Map, Value as Json, json};

use crate::duration::Duration;
use crate::status::SessionType;

/// The options, with their defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerOpts {
    /// Session types that the group takes; never empty.
    pub allowed_session_types: Vec<SessionType>,
    /// Seconds after which a pending session is cancelled; 0 or less = never.
    pub pending_timeout_s: f64,
    /// The scheduler plugin's configuration.
    pub config: Map<String, Json>,
}

/// A wrong option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct OptsError {
    /// The option.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Default for SchedulerOpts {
    fn default() -> Self {
        Self {
            allowed_session_types: vec![SessionType::Interactive, SessionType::Batch],
            pending_timeout_s: 0.0,
            config: Map::new(),
        }
    }
}

fn wrong<T>(field: &str, message: impl Into<String>) -> Result<T, OptsError> {
    Err(OptsError { field: field.to_owned(), message: message.into() })
}

impl SchedulerOpts {
    /// Reads the options; missing ones get their defaults, unknown ones are refused.
    ///
    /// # Errors
    /// [`OptsError`] for the first wrong option.
    pub fn parse(json: &Json) -> Result<Self, OptsError> {
        let Json::Object(map) = json else { return wrong("scheduler_opts", "value is not a dict") };
        let mut out = Self::default();
        for (key, value) in map {
            match key.as_str() {
                "allowed_session_types" => out.allowed_session_types = session_types(value)?,
                "pending_timeout" => {
                    out.pending_timeout_s = match Duration::parse(value) {
                        Ok(Duration::Seconds(seconds)) => seconds,
                        Ok(_) => return wrong(key, "months and years have no fixed length; use days or weeks"),
                        Err(e) => return wrong(key, e.to_string()),
                    };
                }
                "config" => match value {
                    Json::Object(config) => out.config.clone_from(config),
                    _ => return wrong(key, "value is not a dict"),
                },
                _ => return wrong(key, format!("{key} is not allowed key")),
            }
        }
        Ok(out)
    }

    /// The form in which they are stored and shown: all three keys.
    pub fn to_json(&self) -> Json {
        let types: Vec<String> = self.allowed_session_types.iter().map(|t| t.as_str().to_ascii_lowercase()).collect();
        json!({"allowed_session_types": types, "pending_timeout": self.pending_timeout_s, "config": self.config})
    }
}

fn session_types(value: &Json) -> Result<Vec<SessionType>, OptsError> {
    const FIELD: &str = "allowed_session_types";
    let Json::Array(list) = value else { return wrong(FIELD, "value is not a list") };
    if list.is_empty() {
        return wrong(FIELD, "list length is less than 1");
    }
    list.iter()
        .map(|item| match item.as_str() {
            Some("interactive") => Ok(SessionType::Interactive),
            Some("batch") => Ok(SessionType::Batch),
            Some("inference") => Ok(SessionType::Inference),
            _ => wrong(FIELD, "value is not a valid member of SessionTypes"),
        })
        .collect()
}
