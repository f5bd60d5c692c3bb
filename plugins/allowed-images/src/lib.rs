//! `allowed-images`: which images may run, by domain, project, role and user.
//!
//! Rules are read from the top; the first that speaks about the session and the image decides. What no rule names is
//! allowed, unless some rule allows anything: then the rules are a list of what may run, and nothing else may.

mod rules;

use quarterdeck_sdk::Policy;
use quarterdeck_sdk::hook::{Event, Hook, Verdict, deny};
use serde_json::Value;

use rules::{Config, Owner};

struct AllowedImages;

impl Policy for AllowedImages {
    const NAME: &'static str = "allowed-images";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Decides which images may run, by domain, project, role and user.";
    const CONFIG_SCHEMA: &'static str = r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "allowed-images",
        "type": "object",
        "properties": {
            "rules": {
                "description": "The first rule that fits a session and its image decides. * stands for any text, ? for any character.",
                "type": "array",
                "maxItems": 1000,
                "items": {
                    "type": "object",
                    "properties": {
                        "effect": {"enum": ["allow", "deny"]},
                        "images": {"description": "Canonical names such as registry/name:tag.", "$ref": "#/$defs/patterns", "minItems": 1},
                        "domains": {"description": "Absent: any.", "$ref": "#/$defs/patterns"},
                        "projects": {"description": "`project` or `domain/project`; absent: any.", "$ref": "#/$defs/patterns"},
                        "roles": {"description": "user, admin, superadmin, monitor; absent: any.", "$ref": "#/$defs/patterns"},
                        "users": {"description": "E-mail addresses; absent: any.", "$ref": "#/$defs/patterns"},
                        "reason": {"description": "What a refused user is told besides.", "type": "string", "maxLength": 1000}
                    },
                    "required": ["effect", "images"],
                    "additionalProperties": false
                },
                "default": []
            },
            "otherwise": {
                "description": "What becomes of images that no rule names. Absent: deny when any rule allows something, else allow.",
                "enum": ["allow", "deny"]
            }
        },
        "additionalProperties": false,
        "$defs": {
            "patterns": {"type": "array", "maxItems": 1000, "items": {"type": "string", "minLength": 1, "maxLength": 512}}
        }
    }"##;
    const EVENTS: &'static [&'static str] = &["PRE_ENQUEUE_SESSION"];

    type Config = Config;
}

impl Hook for AllowedImages {
    fn handle(config: &Config, event: &Event, body: &Value) -> Result<Verdict, String> {
        if event.name != "PRE_ENQUEUE_SESSION" {
            return Ok(Verdict::Allow);
        }
        let text = |key: &str| body["owner"][key].as_str().unwrap_or_default();
        let owner =
            Owner { domain: text("domain"), project: text("project"), role: text("role"), email: text("email") };
        let kernels = body["session"]["kernels"].as_array().ok_or("the event has no `session.kernels`")?;
        for kernel in kernels {
            let image = kernel["image"].as_str().ok_or("a kernel has no `image`")?;
            if let Some((rule, why)) = config.refusal(&owner, image) {
                let mut reason = format!("The image {image} may not be used here.");
                if !why.is_empty() {
                    reason = format!("{reason} {why}");
                }
                return Ok(deny(reason, &[("image", image.to_owned()), ("rule", rule)]));
            }
        }
        Ok(Verdict::Allow)
    }
}

quarterdeck_sdk::export_hook!(AllowedImages);
