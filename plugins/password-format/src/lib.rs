//! `password-format`: what a new password must be like.
//!
//! Asked when somebody signs up or changes their password. A refusal says what is missing, never what was given.

mod rules;

use quarterdeck_sdk::hook::{Event, Hook, Verdict, deny};
use quarterdeck_sdk::{ConfigProblem, Policy, config_problem};
use serde_json::Value;

use rules::Rules;

struct PasswordFormat;

impl Policy for PasswordFormat {
    const NAME: &'static str = "password-format";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Demands length and variety of new passwords, and that they don't name their user.";
    const CONFIG_SCHEMA: &'static str = r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "password-format",
        "type": "object",
        "properties": {
            "min_length": {"description": "Characters at least.", "type": "integer", "minimum": 1, "maximum": 1024, "default": 8},
            "max_length": {"description": "Characters at most.", "type": "integer", "minimum": 1, "maximum": 1024, "default": 256},
            "require": {
                "description": "Kinds of characters of which there must be one.",
                "type": "array",
                "items": {"enum": ["lower", "upper", "letter", "digit", "special"]},
                "uniqueItems": true,
                "default": ["letter", "digit"]
            },
            "min_kinds": {
                "description": "How many of lower, upper, digit and special characters must occur.",
                "type": "integer", "minimum": 0, "maximum": 4, "default": 0
            },
            "max_repeated": {
                "description": "How often a character may follow itself; 0 = as often as wanted.",
                "type": "integer", "minimum": 0, "maximum": 1024, "default": 0
            },
            "allow_user_name": {
                "description": "Whether the user's name or the name in their e-mail address may occur in it.",
                "type": "boolean", "default": false
            },
            "allow_old": {
                "description": "Whether the new password may be the old one.",
                "type": "boolean", "default": false
            },
            "forbidden": {
                "description": "Texts that must not occur, in whatever case.",
                "type": "array",
                "maxItems": 10000,
                "items": {"type": "string", "minLength": 1, "maxLength": 128},
                "default": []
            }
        },
        "additionalProperties": false
    }"#;
    const EVENTS: &'static [&'static str] = &["VERIFY_PASSWORD_FORMAT"];

    type Config = Rules;

    fn check_config(rules: &Rules) -> Vec<ConfigProblem> {
        if rules.min_length > rules.max_length {
            return vec![config_problem("/max_length", "is less than min_length: no password would do")];
        }
        Vec::new()
    }
}

impl Hook for PasswordFormat {
    fn handle(rules: &Rules, event: &Event, body: &Value) -> Result<Verdict, String> {
        if event.name != "VERIFY_PASSWORD_FORMAT" {
            return Ok(Verdict::Allow);
        }
        let params = &body["params"];
        let text = |key: &str| params[key].as_str();
        // A change names the new password so; a sign-up knows but one.
        let password = text("new_password").or_else(|| text("password")).ok_or("the event has no password")?;
        let old = text("old_password").or_else(|| text("current_password"));
        let names = [text("username"), text("email"), text("full_name"), body["user"]["email"].as_str()];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        match rules.fault(password, old, &names) {
            Some((rule, reason)) => Ok(deny(reason, &[("rule", rule.to_owned())])),
            None => Ok(Verdict::Allow),
        }
    }
}

quarterdeck_sdk::export_hook!(PasswordFormat);
