//! Quotas, and whether a request keeps to them.

use std::collections::BTreeMap;

use quarterdeck_sdk::amount::Amount;
use quarterdeck_sdk::{ConfigProblem, config_problem};
use serde::Deserialize;
use serde_json::Value;

/// What a project may have; what is absent is not limited.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    max_sessions: Option<u64>,
    max_pending: Option<u64>,
    max_sessions_per_owner: Option<u64>,
    max_pending_per_owner: Option<u64>,
    max_slots: BTreeMap<String, Value>,
}

/// Options.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    #[serde(rename = "default")]
    otherwise: Quota,
    projects: BTreeMap<String, Quota>,
    exempt_roles: Vec<String>,
}

/// Why a session may not be.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// For the user.
    pub reason: String,
    /// For programs.
    pub fields: Vec<(&'static str, String)>,
}

impl Config {
    /// Amounts that are none.
    pub fn problems(&self) -> Vec<ConfigProblem> {
        let quotas = self.projects.iter().map(|(name, quota)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            (format!("/projects/{name}"), quota)
        });
        let all = std::iter::once(("/default".to_owned(), &self.otherwise)).chain(quotas);
        all.flat_map(|(pointer, quota)| {
            quota.max_slots.iter().filter_map(move |(slot, amount)| {
                let error = Amount::from_json(amount).err()?;
                Some(config_problem(format!("{pointer}/max_slots/{}", slot.replace('/', "~1")), error))
            })
        })
        .collect()
    }

    fn quota(&self, domain: &str, project: &str) -> &Quota {
        let qualified = format!("{domain}/{project}");
        self.projects.get(&qualified).or_else(|| self.projects.get(project)).unwrap_or(&self.otherwise)
    }

    /// The first limit that a requested session breaks.
    ///
    /// # Errors
    /// What the event lacks.
    pub fn refusal(&self, body: &Value) -> Result<Option<Refusal>, String> {
        let owner = |key: &str| body["owner"][key].as_str().unwrap_or_default();
        if self.exempt_roles.iter().any(|role| role == owner("role")) {
            return Ok(None);
        }
        let project = owner("project");
        let quota = self.quota(owner("domain"), project);
        let count = |whose: &str, what: &str| {
            let count = body["usage"][whose][what].as_u64();
            count.ok_or_else(|| format!("the event has no `usage.{whose}.{what}`"))
        };
        let limits = [
            ("max_pending", "project", quota.max_pending, false),
            ("max_sessions", "project", quota.max_sessions, true),
            ("max_pending_per_owner", "owner_in_project", quota.max_pending_per_owner, false),
            ("max_sessions_per_owner", "owner_in_project", quota.max_sessions_per_owner, true),
        ];
        for (rule, whose, limit, all) in limits {
            let Some(limit) = limit else { continue };
            let mut held = count(whose, "pending")?;
            if all {
                held = held.saturating_add(count(whose, "sessions")?);
            }
            if held >= limit {
                let who = if whose == "project" { "The project" } else { "Everybody in the project" };
                let what = if all { "sessions" } else { "waiting sessions" };
                let may = if whose == "project" { "may have" } else { "may have for themselves" };
                return Ok(Some(Refusal {
                    reason: format!("{who} {project} {may} at most {limit} {what}; there are {held}."),
                    fields: fields(rule, limit.to_string(), held.to_string()),
                }));
            }
        }
        for (slot, limit) in &quota.max_slots {
            let limit = Amount::from_json(limit)?;
            let mut requested = Amount::ZERO;
            for kernel in body["session"]["kernels"].as_array().ok_or("the event has no `session.kernels`")? {
                if let Some(amount) = kernel["slots"].get(slot) {
                    requested = requested.plus(Amount::from_json(amount)?);
                }
            }
            if requested == Amount::ZERO {
                continue;
            }
            let held = match body["usage"]["project"]["slots"].get(slot) {
                Some(amount) => Amount::from_json(amount)?,
                None => Amount::ZERO,
            };
            if held.plus(requested) > limit {
                let mut fields = fields("max_slots", limit.to_string(), held.to_string());
                fields.push(("slot", slot.clone()));
                return Ok(Some(Refusal {
                    reason: format!(
                        "The project {project} may hold at most {limit} of {slot}; it holds {held}, and this session asks for {requested}."
                    ),
                    fields,
                }));
            }
        }
        Ok(None)
    }
}

fn fields(rule: &str, limit: String, held: String) -> Vec<(&'static str, String)> {
    vec![("rule", rule.to_owned()), ("limit", limit), ("held", held)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(role: &str, project: &str, running: u64, pending: u64, cpu: &str) -> Value {
        json!({
            "session": {"kernels": [{"slots": {"cpu": cpu}}, {"slots": {"cpu": cpu}}]},
            "owner": {"role": role, "domain": "uni", "project": project},
            "usage": {
                "project": {"sessions": running, "pending": pending, "slots": {"cpu": "6.5"}},
                "owner_in_project": {"sessions": running / 2, "pending": pending / 2},
            },
        })
    }

    fn rule(config: &Value, body: &Value) -> Option<String> {
        let config: Config = serde_json::from_value(config.clone()).unwrap();
        assert!(config.problems().is_empty());
        config.refusal(body).unwrap().map(|refusal| refusal.fields[0].1.clone())
    }

    #[test]
    fn waiting_sessions_count() {
        let config = json!({"default": {"max_sessions": 10, "max_pending": 4}});
        assert_eq!(rule(&config, &body("user", "p", 6, 3, "1")), None);
        assert_eq!(rule(&config, &body("user", "p", 7, 3, "1")).as_deref(), Some("max_sessions"));
        assert_eq!(rule(&config, &body("user", "p", 0, 4, "1")).as_deref(), Some("max_pending"));
        assert_eq!(rule(&json!({}), &body("user", "p", 700, 300, "100")), None);
    }

    #[test]
    fn owners_have_limits_within_the_project() {
        let config = json!({"default": {"max_sessions_per_owner": 4, "max_pending_per_owner": 2}});
        assert_eq!(rule(&config, &body("user", "p", 4, 2, "1")), None);
        assert_eq!(rule(&config, &body("user", "p", 6, 2, "1")).as_deref(), Some("max_sessions_per_owner"));
        assert_eq!(rule(&config, &body("user", "p", 0, 4, "1")).as_deref(), Some("max_pending_per_owner"));
    }

    #[test]
    fn a_quota_of_the_project_replaces_the_default() {
        let config = json!({
            "default": {"max_sessions": 1},
            "projects": {"lab": {"max_sessions": 5}, "uni/lab": {"max_slots": {"cpu": 8}}},
            "exempt_roles": ["superadmin"],
        });
        assert_eq!(rule(&config, &body("user", "p", 1, 0, "1")).as_deref(), Some("max_sessions"));
        assert_eq!(rule(&config, &body("superadmin", "p", 1, 0, "1")), None);
        // 6.5 are held: twice 0.75 fit into 8, twice 1 don't.
        assert_eq!(rule(&config, &body("user", "lab", 9, 9, "0.75")), None);
        assert_eq!(rule(&config, &body("user", "lab", 9, 9, "1")).as_deref(), Some("max_slots"));
    }

    #[test]
    fn an_event_without_counts_is_an_error_where_they_matter() {
        let config: Config = serde_json::from_value(json!({"default": {"max_pending": 1}})).unwrap();
        assert!(config.refusal(&json!({"owner": {"project": "p"}})).is_err());
    }
}
