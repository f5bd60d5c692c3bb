//! `project-quotas`: how many sessions, and how much of each slot, a project may have at a time, and each of its members.
//!
//! Asked when a session is requested, on the counts of that moment: it keeps queues short and tells users at once. What
//! must hold whatever happens belongs into the limits of project and resource policy, which the host guards itself.

mod rules;

use quarterdeck_sdk::hook::{Event, Hook, Verdict, deny};
use quarterdeck_sdk::{ConfigProblem, Policy};
use serde_json::Value;

use rules::Config;

struct ProjectQuotas;

impl Policy for ProjectQuotas {
    const NAME: &'static str = "project-quotas";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Limits the sessions and resources of projects, and of each member in them.";
    const CONFIG_SCHEMA: &'static str = r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "project-quotas",
        "type": "object",
        "properties": {
            "default": {"description": "For projects that `projects` doesn't name.", "$ref": "#/$defs/quota"},
            "projects": {
                "description": "By project name or `domain/project`, which comes first.",
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/quota"},
                "default": {}
            },
            "exempt_roles": {
                "description": "Owners of these roles are not limited.",
                "type": "array",
                "items": {"enum": ["user", "admin", "superadmin", "monitor"]},
                "default": []
            }
        },
        "additionalProperties": false,
        "$defs": {
            "count": {"type": "integer", "minimum": 0, "maximum": 4294967295},
            "quota": {
                "description": "What is absent is not limited.",
                "type": "object",
                "properties": {
                    "max_sessions": {"description": "Sessions of the project, waiting ones too.", "$ref": "#/$defs/count"},
                    "max_pending": {"description": "Waiting sessions of the project.", "$ref": "#/$defs/count"},
                    "max_sessions_per_owner": {"description": "Sessions of one key pair in the project, waiting ones too.", "$ref": "#/$defs/count"},
                    "max_pending_per_owner": {"description": "Waiting sessions of one key pair in the project.", "$ref": "#/$defs/count"},
                    "max_slots": {
                        "description": "Per slot, the most that the project's sessions may hold together with the new one.",
                        "type": "object",
                        "additionalProperties": {"type": ["string", "number"]},
                        "examples": [{"cpu": 64, "mem": "256g"}]
                    }
                },
                "additionalProperties": false
            }
        }
    }"##;
    const EVENTS: &'static [&'static str] = &["PRE_ENQUEUE_SESSION"];

    type Config = Config;

    fn check_config(config: &Config) -> Vec<ConfigProblem> {
        config.problems()
    }
}

impl Hook for ProjectQuotas {
    fn handle(config: &Config, event: &Event, body: &Value) -> Result<Verdict, String> {
        if event.name != "PRE_ENQUEUE_SESSION" {
            return Ok(Verdict::Allow);
        }
        Ok(match config.refusal(body)? {
            Some(refusal) => deny(refusal.reason, &refusal.fields),
            None => Verdict::Allow,
        })
    }
}

quarterdeck_sdk::export_hook!(ProjectQuotas);
