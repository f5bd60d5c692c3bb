//! `working-hours`: when sessions may be started.
//!
//! Hours are given by day of the week, in a time zone of one's own (a fixed offset, a name such as Asia/Seoul, or a POSIX
//! rule) or else in that of the site. Outside of them a request is refused, or let in with another priority or into
//! another scaling group. A batch session with a start time is judged by that time.

mod calendar;

use jiff::Timestamp;
use quarterdeck_sdk::hook::{Event, Hook, Reply, Verdict, deny};
use quarterdeck_sdk::{ConfigProblem, Policy, glob};
use serde::Deserialize;
use serde_json::{Value, json};

use calendar::{Calendar, Hours};

/// What becomes of requests outside of the hours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outside {
    /// They are refused.
    #[default]
    Deny,
    /// They get this priority.
    Priority(i64),
    /// They go to this scaling group.
    ScalingGroup(String),
}

/// Which sessions the hours are for; what is absent doesn't matter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Concerned {
    types: Option<Vec<String>>,
    domains: Option<Vec<String>>,
    projects: Option<Vec<String>>,
    roles: Option<Vec<String>>,
    scaling_groups: Option<Vec<String>>,
}

/// Options.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(flatten)]
    hours: Hours,
    concerned: Concerned,
    exempt_roles: Vec<String>,
    outside: Outside,
    message: String,
}

struct WorkingHours;

impl Policy for WorkingHours {
    const NAME: &'static str = "working-hours";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Lets sessions start at certain hours only, or differently outside of them.";
    const CONFIG_SCHEMA: &'static str = r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "working-hours",
        "type": "object",
        "properties": {
            "hours": {
                "description": "Open hours by day; a day that nothing names is closed. Absent: always open.",
                "type": "object",
                "properties": {
                    "monday": {"$ref": "#/$defs/spans"}, "tuesday": {"$ref": "#/$defs/spans"},
                    "wednesday": {"$ref": "#/$defs/spans"}, "thursday": {"$ref": "#/$defs/spans"},
                    "friday": {"$ref": "#/$defs/spans"}, "saturday": {"$ref": "#/$defs/spans"},
                    "sunday": {"$ref": "#/$defs/spans"}, "weekdays": {"$ref": "#/$defs/spans"},
                    "weekend": {"$ref": "#/$defs/spans"}, "daily": {"$ref": "#/$defs/spans"}
                },
                "additionalProperties": false,
                "examples": [{"weekdays": ["09:00-12:00", "13:00-18:00"], "saturday": ["22:00-06:00"]}]
            },
            "closed": {
                "description": "Days on which no hours begin: 2026-12-25, or 12-25 for every year.",
                "type": "array",
                "maxItems": 1000,
                "items": {"type": "string", "pattern": "^([0-9]{4}-)?[0-9]{2}-[0-9]{2}$"},
                "default": []
            },
            "utc_offset": {
                "description": "The hours' distance from UTC. Absent: that of the site.",
                "type": "string", "pattern": "^[+-][0-9]{2}:[0-9]{2}$", "examples": ["+09:00"]
            },
            "time_zone": {
                "description": "Instead: a time zone by its name, or a POSIX rule; with daylight saving time.",
                "type": "string", "minLength": 2, "maxLength": 100, "examples": ["Asia/Seoul", "CET-1CEST,M3.5.0,M10.5.0/3"]
            },
            "concerned": {
                "description": "Which sessions the hours are for; what is absent doesn't matter. * and ? stand for any text and character.",
                "type": "object",
                "properties": {
                    "types": {"type": "array", "items": {"enum": ["interactive", "batch", "inference"]}},
                    "domains": {"$ref": "#/$defs/patterns"},
                    "projects": {"$ref": "#/$defs/patterns"},
                    "roles": {"$ref": "#/$defs/patterns"},
                    "scaling_groups": {"$ref": "#/$defs/patterns"}
                },
                "additionalProperties": false,
                "default": {}
            },
            "exempt_roles": {"type": "array", "items": {"enum": ["user", "admin", "superadmin", "monitor"]}, "default": []},
            "outside": {
                "description": "What becomes of requests outside of the hours.",
                "oneOf": [
                    {"const": "deny"},
                    {
                        "type": "object",
                        "properties": {"priority": {"type": "integer", "minimum": -1000, "maximum": 1000}},
                        "required": ["priority"],
                        "additionalProperties": false
                    },
                    {
                        "type": "object",
                        "properties": {"scaling_group": {"type": "string", "minLength": 1, "maxLength": 64}},
                        "required": ["scaling_group"],
                        "additionalProperties": false
                    }
                ],
                "default": "deny"
            },
            "message": {"description": "What a refused user is told besides.", "type": "string", "maxLength": 1000, "default": ""}
        },
        "additionalProperties": false,
        "$defs": {
            "spans": {
                "type": "array",
                "maxItems": 24,
                "items": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$"}
            },
            "patterns": {"type": "array", "maxItems": 1000, "items": {"type": "string", "minLength": 1, "maxLength": 256}}
        }
    }"##;
    const EVENTS: &'static [&'static str] = &["PRE_ENQUEUE_SESSION"];

    type Config = Config;

    fn check_config(config: &Config) -> Vec<ConfigProblem> {
        Calendar::new(&config.hours, 0).err().unwrap_or_default()
    }
}

impl Concerned {
    fn covers(&self, session: &Value, owner: &Value) -> bool {
        let one_of = |patterns: &Option<Vec<String>>, value: &Value| {
            let text = value.as_str().unwrap_or_default();
            patterns.as_ref().is_none_or(|list| list.iter().any(|pattern| glob::matches(pattern, text)))
        };
        one_of(&self.types, &session["type"])
            && one_of(&self.scaling_groups, &session["scaling_group"])
            && one_of(&self.domains, &owner["domain"])
            && one_of(&self.projects, &owner["project"])
            && one_of(&self.roles, &owner["role"])
    }
}

impl Hook for WorkingHours {
    fn handle(config: &Config, event: &Event, body: &Value) -> Result<Verdict, String> {
        let (session, owner) = (&body["session"], &body["owner"]);
        let exempt = owner["role"].as_str().is_some_and(|role| config.exempt_roles.iter().any(|exempt| exempt == role));
        if event.name != "PRE_ENQUEUE_SESSION" || exempt || !config.concerned.covers(session, owner) {
            return Ok(Verdict::Allow);
        }
        let calendar = Calendar::new(&config.hours, event.utc_offset_s).map_err(|_| "the hours make no sense")?;
        let reserved = session["starts_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let at_ms = reserved.map_or(event.at_ms, |reserved| reserved.as_millisecond().max(event.at_ms));
        if calendar.is_open(at_ms) {
            return Ok(Verdict::Allow);
        }
        let patch = |patch: Value| Verdict::Reply(Reply { patch: Some(patch.to_string()), value: None });
        Ok(match &config.outside {
            Outside::Priority(priority) => patch(json!({"session": {"priority": priority}})),
            Outside::ScalingGroup(group) => patch(json!({"session": {"scaling_group": group}})),
            Outside::Deny => {
                let next = calendar.next_opening(at_ms);
                let mut reason = match &next {
                    Some(next) => format!("No sessions are started at this time; they are again from {next}."),
                    None => "No sessions are started at this time.".to_owned(),
                };
                if !config.message.is_empty() {
                    reason = format!("{reason} {}", config.message);
                }
                deny(reason, &[("rule", "hours".to_owned()), ("opens_at", next.unwrap_or_default())])
            }
        })
    }
}

quarterdeck_sdk::export_hook!(WorkingHours);
