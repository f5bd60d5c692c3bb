//! `{{name}}`: a session may ask for at most `max_accelerators` devices of all kinds together, unless its project is
//! exempt. What has no tag gets the project's name as its tag.

use quarterdeck_sdk::hook::{Event, Hook, Reply, Verdict, deny};
use quarterdeck_sdk::schemars::{self, JsonSchema};
use quarterdeck_sdk::{Policy, host, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[cfg(test)]
mod tests;

/// Options.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The most devices that a session may ask for.
    max_accelerators: u32,
    /// Projects whose sessions may ask for more.
    exempt_projects: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config { max_accelerators: 2, exempt_projects: Vec::new() }
    }
}

struct {{type}};

impl Policy for {{type}} {
    const NAME: &'static str = "{{name}}";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Limits the accelerators of a session, and tags sessions with their project.";
    const EVENTS: &'static [&'static str] = &["PRE_ENQUEUE_SESSION"];

    type Config = Config;

    fn config_schema() -> String {
        schema_of::<Config>()
    }
}

impl Hook for {{type}} {
    fn handle(config: &Config, _event: &Event, body: &Value) -> Result<Verdict, String> {
        let session = &body["session"];
        let project = body["owner"]["project"].as_str().unwrap_or_default();
        let wanted = accelerators(session)?;
        let limit = config.max_accelerators;
        if wanted > f64::from(limit) && !config.exempt_projects.iter().any(|exempt| exempt == project) {
            host::count("denied_total", 1);
            return Ok(deny(
                format!("A session may ask for at most {limit} accelerators here; this one asks for {wanted}."),
                &[("rule", "max_accelerators".to_owned()), ("requested", wanted.to_string())],
            ));
        }
        let tagged = session["tag"].as_str().is_some_and(|tag| !tag.is_empty());
        if tagged || project.is_empty() {
            return Ok(Verdict::Allow);
        }
        let patch = json!({"session": {"tag": project}});
        Ok(Verdict::Reply(Reply { patch: Some(patch.to_string()), value: None }))
    }
}

/// How many devices the kernels of a session ask for together.
fn accelerators(session: &Value) -> Result<f64, String> {
    let kernels = session["kernels"].as_array().ok_or("the event has no `session.kernels`")?;
    let slots = kernels.iter().filter_map(|kernel| kernel["slots"].as_object()).flatten();
    let mut sum = 0.0;
    for (_, amount) in slots.filter(|(slot, _)| slot.ends_with(".device")) {
        let amount = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
        sum += amount.parse::<f64>().map_err(|error| format!("`{amount}` is no amount: {error}"))?;
    }
    Ok(sum)
}

quarterdeck_sdk::export_hook!({{type}});
