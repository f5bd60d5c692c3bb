//! Model services: how their routes stand, what a model definition says, and how many sessions they need.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::status::vocabulary;

vocabulary! {
    /// Where a route to a service's session stands (`spec/services.md` §1.2).
    RouteStatus {
        /// Its session hasn't started, or hasn't passed its health check.
        Provisioning = "provisioning",
        /// It gets requests.
        Healthy = "healthy",
        /// Its session runs, and fails its health check.
        Unhealthy = "unhealthy",
        /// Its session never came to be.
        FailedToStart = "failed_to_start",
        /// Its session gets nothing new and ends soon.
        Terminating = "terminating",
    }
}

impl RouteStatus {
    /// As the object graph shows it.
    pub fn shown(self) -> String {
        self.as_str().to_uppercase()
    }

    /// Whether it counts towards the wanted number of sessions.
    pub fn counts(self) -> bool {
        matches!(self, Self::Provisioning | Self::Healthy)
    }
}

/// Names of a model folder's definition, in the order in which they are looked for.
pub const DEFINITION_FILES: &[&str] = &["model-definition.yaml", "model-definition.yml"];
/// A definition is no longer than this, in bytes.
pub const LONGEST_DEFINITION: usize = 64 * 1024;

/// The file in which a model says how it is served.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Definition {
    /// The models; the first one that has a service is served.
    pub models: Vec<Model>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Model {
    /// What it is called.
    pub name: String,
    /// Where it lies within the session; told to the command by its environment.
    #[serde(default)]
    pub model_path: Option<String>,
    /// How it is served.
    #[serde(default)]
    pub service: Option<ServiceDefinition>,
}

/// How a model is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceDefinition {
    /// The program that serves it, with its arguments: a list, or a line for the shell.
    pub start_command: StartCommand,
    /// The port on which it listens.
    pub port: u16,
    /// Environment variables for it.
    #[serde(default)]
    pub environ: BTreeMap<String, String>,
    /// How to tell that it serves; without one, that it accepts connections.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
}

/// A command in either spelling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StartCommand {
    /// Program and arguments.
    List(Vec<String>),
    /// For the shell.
    Line(String),
}

/// How to tell that a service serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The path that is asked for.
    pub path: String,
    /// Seconds that an answer may take.
    #[serde(default = "ten")]
    pub max_wait_time: f64,
    /// Failures in a row before a session that has served is replaced.
    #[serde(default = "retries")]
    pub max_retries: u32,
    /// The status that means that all is well.
    #[serde(default = "two_hundred")]
    pub expected_status_code: u16,
    /// Seconds between two checks.
    #[serde(default = "ten")]
    pub interval: f64,
    /// Seconds that a session may take until it serves.
    #[serde(default = "start_time")]
    pub initial_delay: f64,
}

fn ten() -> f64 {
    10.0
}
fn retries() -> u32 {
    3
}
fn two_hundred() -> u16 {
    200
}
fn start_time() -> f64 {
    300.0
}

impl StartCommand {
    /// As a line for the shell.
    pub fn line(&self) -> String {
        match self {
            Self::Line(line) => line.clone(),
            Self::List(words) => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        }
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl Definition {
    /// The service of the first model that has one, checked; the fault names the member that is wrong.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn service(self) -> Result<ServiceDefinition, String> {
        let found = self
            .models
            .into_iter()
            .enumerate()
            .find_map(|(i, model)| Some((i, model.name, model.model_path, model.service?)));
        let (index, name, path, mut service) =
            found.ok_or_else(|| "models: none of them has a `service`".to_owned())?;
        let at = |member: &str| format!("models.{index}.service.{member}");
        if service.start_command.line().trim().is_empty() {
            return Err(format!("{}: must not be empty", at("start_command")));
        }
        if service.port == 0 {
            return Err(format!("{}: must be between 1 and 65535", at("port")));
        }
        if let Some(check) = &service.health_check {
            if !check.path.starts_with('/') || check.path.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(format!("{}: must begin with `/`, without blanks", at("health_check.path")));
            }
            for (member, seconds) in [
                ("max_wait_time", check.max_wait_time),
                ("interval", check.interval),
                ("initial_delay", check.initial_delay),
            ] {
                if !(0.1..=86_400.0).contains(&seconds) {
                    return Err(format!("{}: must be between 0.1 and 86400", at(&format!("health_check.{member}"))));
                }
            }
            if !(100..600).contains(&check.expected_status_code) {
                return Err(format!("{}: must be between 100 and 599", at("health_check.expected_status_code")));
            }
        }
        service.environ.entry("MODEL_NAME".to_owned()).or_insert(name);
        if let Some(path) = path {
            service.environ.entry("MODEL_PATH".to_owned()).or_insert(path);
        }
        Ok(service)
    }
}

/// What has to be done so that a service has the sessions that it should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan<R> {
    /// So many sessions are to be made.
    pub make: usize,
    /// These routes are to be ended, in this order.
    pub end: Vec<R>,
}

/// Compares the wanted number of sessions with the routes that there are, oldest first: broken ones go whatever is wanted;
/// of the others, those that don't serve yet go first, then the youngest.
pub fn plan<R: Copy>(wanted: usize, routes: &[(R, RouteStatus)]) -> Plan<R> {
    let with = |status| routes.iter().filter(move |(_, s)| *s == status).map(|(route, _)| *route);
    let mut end: Vec<R> = with(RouteStatus::Unhealthy).chain(with(RouteStatus::FailedToStart)).collect();
    let starting: Vec<R> = with(RouteStatus::Provisioning).collect();
    let healthy: Vec<R> = with(RouteStatus::Healthy).collect();
    let have = starting.len() + healthy.len();
    let surplus = have.saturating_sub(wanted);
    end.extend(starting.into_iter().rev().chain(healthy.into_iter().rev()).take(surplus));
    Plan { make: wanted.saturating_sub(have), end }
}

/// Seconds to wait before the next session is made, after so many failed in a row.
pub fn backoff(failures: i64) -> i64 {
    const LONGEST: i64 = 300;
    match failures {
        ..=0 => 0,
        n => 5_i64.checked_shl(u32::try_from(n - 1).unwrap_or(u32::MAX).min(20)).unwrap_or(LONGEST).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<ServiceDefinition, String> {
        serde_json::from_value::<Definition>(value).map_err(|e| e.to_string())?.service()
    }

    #[test]
    fn definitions_are_read_and_checked() {
        let service = read(json!({"models": [
            {"name": "nothing"},
            {"name": "m", "model_path": "/models", "service": {
                "start_command": ["python", "serve.py", "--title", "it's here"], "port": 8000,
                "health_check": {"path": "/health"}}},
        ]}))
        .unwrap();
        assert_eq!(service.start_command.line(), r"python serve.py --title 'it'\''s here'");
        assert_eq!((service.environ["MODEL_NAME"].as_str(), service.environ["MODEL_PATH"].as_str()), ("m", "/models"));
        let check = service.health_check.unwrap();
        assert_eq!((check.max_retries, check.expected_status_code, check.max_wait_time), (3, 200, 10.0));
        let with =
            |service: serde_json::Value| read(json!({"models": [{"name": "m", "service": service}]})).unwrap_err();
        assert!(with(json!({"start_command": " ", "port": 1})).starts_with("models.0.service.start_command"));
        assert!(with(json!({"start_command": "x", "port": 0})).starts_with("models.0.service.port"));
        assert!(!with(json!({"start_command": "x", "port": 70000})).is_empty());
        assert!(
            with(json!({"start_command": "x", "port": 1, "health_check": {"path": "a"}})).contains("health_check.path")
        );
        assert!(
            with(json!({"start_command": "x", "port": 1, "health_check": {"path": "/", "interval": 0}}))
                .contains("interval")
        );
        assert!(read(json!({"models": []})).unwrap_err().contains("none of them"));
    }

    #[test]
    fn broken_routes_go_first_and_the_youngest_next() {
        use RouteStatus::{Healthy, Provisioning, Terminating, Unhealthy};
        let routes = [(1, Healthy), (2, Unhealthy), (3, Healthy), (4, Provisioning), (5, Terminating)];
        assert_eq!(plan(3, &routes), Plan { make: 0, end: vec![2] });
        assert_eq!(plan(2, &routes), Plan { make: 0, end: vec![2, 4] });
        assert_eq!(plan(1, &routes), Plan { make: 0, end: vec![2, 4, 3] });
        assert_eq!(plan(5, &routes), Plan { make: 2, end: vec![2] });
    }

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        assert_eq!([0, 1, 2, 3, 4, 50, i64::MAX].map(backoff), [0, 5, 10, 20, 40, 300, 300]);
    }

    proptest! {
        /// Whatever there is, the plan leaves as many sessions as are wanted, and ends nothing twice.
        #[test]
        fn plans_come_out_even(wanted in 0_usize..20, statuses in proptest::collection::vec(0..RouteStatus::ALL.len(), 0..30)) {
            let routes: Vec<_> = statuses.iter().enumerate().map(|(i, s)| (i, RouteStatus::ALL[*s])).collect();
            let plan = plan(wanted, &routes);
            let mut ended = plan.end.clone();
            ended.sort_unstable();
            ended.dedup();
            prop_assert_eq!(ended.len(), plan.end.len());
            let left = routes.iter().filter(|(r, s)| s.counts() && !ended.contains(r)).count();
            prop_assert_eq!(left + plan.make, wanted);
            prop_assert!(routes.iter().all(|(r, s)| *s != RouteStatus::Terminating || !ended.contains(r)));
        }
    }
}
