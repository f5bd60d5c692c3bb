//! `admission-limits`: which images may run, how many kernels a session may have, and how much of each slot, for all
//! or for single projects.

use std::collections::BTreeMap;

use quarterdeck_sdk::amount::Amount;
use quarterdeck_sdk::hook::{Event, Hook, Verdict, deny};
use quarterdeck_sdk::{ConfigProblem, Policy, config_problem, glob};
use serde::Deserialize;
use serde_json::Value;

/// One set of rules; what is absent is not limited.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rules {
    allowed_images: Option<Vec<String>>,
    denied_images: Option<Vec<String>>,
    max_cluster_size: Option<u32>,
    max_per_session: Option<BTreeMap<String, Value>>,
}

/// Options: rules for all, and per project (`name` or `domain/name`) what replaces them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(flatten)]
    general: General,
    projects: BTreeMap<String, Rules>,
}

/// [`Rules`] at the top level, where other keys stand beside them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct General {
    allowed_images: Option<Vec<String>>,
    denied_images: Option<Vec<String>>,
    max_cluster_size: Option<u32>,
    max_per_session: Option<BTreeMap<String, Value>>,
}

struct AdmissionLimits;

impl Policy for AdmissionLimits {
    const NAME: &'static str = "admission-limits";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Limits images, cluster size and resources of new sessions, per project if need be.";
    const CONFIG_SCHEMA: &'static str = r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "admission-limits",
        "type": "object",
        "$ref": "#/$defs/rules",
        "properties": {
            "projects": {
                "description": "Rules that replace the general ones, by project name or `domain/project`.",
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/rules", "unevaluatedProperties": false}
            }
        },
        "unevaluatedProperties": false,
        "$defs": {
            "images": {"type": "array", "maxItems": 1000, "items": {"type": "string", "minLength": 1, "maxLength": 512}},
            "rules": {
                "type": "object",
                "properties": {
                    "allowed_images": {
                        "description": "Patterns (* and ?) of the images that may run; absent = all.",
                        "$ref": "#/$defs/images"
                    },
                    "denied_images": {
                        "description": "Patterns of images that may not run, even if allowed.",
                        "$ref": "#/$defs/images"
                    },
                    "max_cluster_size": {"description": "Kernels of a session.", "type": "integer", "minimum": 1},
                    "max_per_session": {
                        "description": "Per slot, the most that all kernels of a session may ask for together.",
                        "type": "object",
                        "additionalProperties": {"type": ["string", "number"]},
                        "examples": [{"cpu": 8, "mem": "32g"}]
                    }
                }
            }
        }
    }"##;

    const EVENTS: &'static [&'static str] = &["PRE_ENQUEUE_SESSION"];

    type Config = Config;

    fn check_config(config: &Config) -> Vec<ConfigProblem> {
        let mut problems = check_amounts("", config.general.max_per_session.as_ref());
        for (project, rules) in &config.projects {
            let project = project.replace('~', "~0").replace('/', "~1");
            problems.extend(check_amounts(&format!("/projects/{project}"), rules.max_per_session.as_ref()));
        }
        problems
    }
}

fn check_amounts(pointer: &str, limits: Option<&BTreeMap<String, Value>>) -> Vec<ConfigProblem> {
    limits
        .into_iter()
        .flatten()
        .filter_map(|(slot, limit)| {
            let error = Amount::from_json(limit).err()?;
            Some(config_problem(format!("{pointer}/max_per_session/{}", slot.replace('/', "~1")), error))
        })
        .collect()
}

impl Hook for AdmissionLimits {
    fn handle(config: &Config, event: &Event, body: &Value) -> Result<Verdict, String> {
        if event.name != "PRE_ENQUEUE_SESSION" {
            return Ok(Verdict::Allow);
        }
        let rules = rules_for(config, &body["owner"]);
        let session = &body["session"];
        let kernels = session["kernels"].as_array().ok_or("the event has no `session.kernels`")?;
        for kernel in kernels {
            let image = kernel["image"].as_str().ok_or("a kernel has no `image`")?;
            if let Some(verdict) = judge_image(&rules, image) {
                return Ok(verdict);
            }
        }
        if let Some(limit) = rules.max_cluster_size {
            let size = session["cluster_size"].as_u64().unwrap_or(kernels.len() as u64).max(kernels.len() as u64);
            if size > u64::from(limit) {
                return Ok(deny(
                    format!("A session may have at most {limit} containers here; {size} were asked for."),
                    &[
                        ("rule", "max_cluster_size".to_owned()),
                        ("limit", limit.to_string()),
                        ("requested", size.to_string()),
                    ],
                ));
            }
        }
        for (slot, limit) in rules.max_per_session.iter().flatten() {
            let most = Amount::from_json(limit)?;
            let mut requested = Amount::ZERO;
            for kernel in kernels {
                if let Some(amount) = kernel["slots"].get(slot) {
                    requested = requested.plus(Amount::from_json(amount)?);
                }
            }
            if requested > most {
                return Ok(deny(
                    format!("A session may ask for at most {most} of {slot} here; this one asks for {requested}."),
                    &[
                        ("rule", "max_per_session".to_owned()),
                        ("slot", slot.clone()),
                        ("limit", most.to_string()),
                        ("requested", requested.to_string()),
                    ],
                ));
            }
        }
        Ok(Verdict::Allow)
    }
}

/// The general rules with what the owner's project replaces.
fn rules_for(config: &Config, owner: &Value) -> Rules {
    let general = config.general.clone();
    let project = owner["project"].as_str().unwrap_or_default();
    let qualified = format!("{}/{project}", owner["domain"].as_str().unwrap_or_default());
    let own = config.projects.get(&qualified).or_else(|| config.projects.get(project)).cloned().unwrap_or_default();
    Rules {
        allowed_images: own.allowed_images.or(general.allowed_images),
        denied_images: own.denied_images.or(general.denied_images),
        max_cluster_size: own.max_cluster_size.or(general.max_cluster_size),
        max_per_session: own.max_per_session.or(general.max_per_session),
    }
}

fn judge_image(rules: &Rules, image: &str) -> Option<Verdict> {
    let fields = |rule: &str| [("rule", rule.to_owned()), ("image", image.to_owned())];
    if let Some(pattern) = rules.denied_images.iter().flatten().find(|pattern| glob::matches(pattern, image)) {
        let reason = format!("The image {image} may not be used here (it matches `{pattern}`).");
        return Some(deny(reason, &fields("denied_images")));
    }
    match &rules.allowed_images {
        Some(patterns) if !patterns.iter().any(|pattern| glob::matches(pattern, image)) => {
            let reason = format!("The image {image} is not among those that may be used here.");
            Some(deny(reason, &fields("allowed_images")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

quarterdeck_sdk::export_hook!(AdmissionLimits);
