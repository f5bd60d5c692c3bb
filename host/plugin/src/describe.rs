//! What a plugin says about itself, and what configurations it takes.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use crate::journal::presentable;
use crate::limits::{Call, Limits};
use crate::plugin::{Plugin, Ready, Visit};
use crate::runtime::Shared;
use crate::schema::{MAX_DOCUMENT, MAX_PROBLEMS, Schema};
use crate::verify::Outline;
use crate::{ConfigProblem, Failure, Info, Kind, LoadError};

/// Tables that may have optional columns.
const TABLES: &[&str] = &["pending", "running", "kernels", "agents", "owners", "projects", "domains", "sessions"];

/// Lets a linked component describe itself and checks what it says.
pub(crate) fn introduce(
    shared: Arc<Shared>,
    digest: String,
    outline: Outline,
    size: usize,
    epoch: Ready,
) -> Result<Plugin, LoadError> {
    let limits = shared.options.limits.clone();
    let wall = limits.describe;
    let mut visit = Visit::new(&epoch, &Call::default(), limits, wall, 0).map_err(LoadError::SelfTest)?;
    let info = visit
        .plugin()
        .and_then(|guest| visit.run("describe", |store| guest.call_describe(store)))
        .map_err(LoadError::SelfTest)?;
    // The interface of its kind is typed only now; a mismatch should be known before the first round.
    match outline.kind {
        Kind::Scheduler => visit.scheduling().map(drop),
        Kind::IdleChecker => visit.idling().map(drop),
        Kind::Hook => visit.hooks().map(drop),
    }
    .map_err(LoadError::SelfTest)?;
    drop(visit);
    let schema = check(&info, outline.kind).map_err(LoadError::Description)?;
    let kind = outline.kind;
    Ok(Plugin { digest, kind, info, outline, size, schema, shared, epoch, fuel: parking_lot::Mutex::default() })
}

fn check(info: &Info, kind: Kind) -> Result<Option<Schema>, String> {
    let name_is_fine = (1..=64).contains(&info.name.len())
        && info.name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if !name_is_fine {
        return Err(format!("its name `{}` is not 1 to 64 of `[a-z0-9_-]`", presentable(&info.name, 80)));
    }
    if let Err(error) = semver::Version::parse(&info.version) {
        return Err(format!("its version `{}` is not a semantic one: {error}", presentable(&info.version, 80)));
    }
    if info.summary.chars().count() > 1000 || info.summary.chars().any(char::is_control) {
        return Err("its summary is longer than 1000 characters or contains control characters".to_owned());
    }
    if info.columns.len() > 64 || info.events.len() > 64 {
        return Err("it asks for more than 64 columns or events".to_owned());
    }
    for column in &info.columns {
        if !TABLES.contains(&column.table.as_str()) || column.name.is_empty() || column.name.len() > 64 {
            return Err(format!(
                "it asks for the column `{}` of `{}`, which can't exist",
                presentable(&column.name, 80),
                presentable(&column.table, 80)
            ));
        }
    }
    match kind {
        Kind::Hook if info.events.is_empty() => return Err("it is a hook and names no event to receive".to_owned()),
        Kind::Hook => {}
        _ if info.events.is_empty() => {}
        _ => return Err("it names events, which only hooks receive".to_owned()),
    }
    let mut seen = HashSet::new();
    for event in &info.events {
        let fine = (1..=64).contains(&event.len())
            && event.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
        if !fine || !seen.insert(event) {
            return Err(format!("its event `{}` is not a name of `[A-Z0-9_]`, or named twice", presentable(event, 80)));
        }
    }
    Schema::compile(&info.config_schema)
}

/// Why a configuration can't be used.
#[derive(Debug, Clone, PartialEq)]
pub enum Objection {
    /// There is something wrong with it: the schema, or the plugin, says what. Never empty.
    Refused(Vec<ConfigProblem>),
    /// The plugin broke while it looked at it, which says nothing about the configuration.
    Failed(Failure),
}

impl Objection {
    /// What is wrong with it; nothing when the plugin broke.
    pub fn problems(&self) -> &[ConfigProblem] {
        match self {
            Objection::Refused(problems) => problems,
            Objection::Failed(_) => &[],
        }
    }
}

impl std::fmt::Display for Objection {
    /// In one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Objection::Failed(failure) => failure.fmt(f),
            Objection::Refused(problems) => {
                for (position, problem) in problems.iter().enumerate() {
                    if position > 0 {
                        f.write_str("; ")?;
                    }
                    if !problem.pointer.is_empty() {
                        write!(f, "{}: ", problem.pointer)?;
                    }
                    f.write_str(&problem.message)?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Objection {}

impl Plugin {
    /// Whether a configuration may be bound: it must be a JSON object that is valid under the plugin's schema, and
    /// the plugin must find no fault with it.
    pub fn check_config(&self, config: &str) -> Result<(), Objection> {
        self.check_config_with(&Call { tag: "check-config".to_owned(), ..Call::new(config) })
    }

    /// As [`Plugin::check_config`], of the configuration of `call` and under its circumstances.
    pub fn check_config_with(&self, call: &Call) -> Result<(), Objection> {
        let config = call.config.as_str();
        let whole = |message: String| Objection::Refused(vec![ConfigProblem { pointer: String::new(), message }]);
        if config.len() > MAX_DOCUMENT {
            return Err(whole(format!("it has {} bytes; {MAX_DOCUMENT} are allowed", config.len())));
        }
        let value: Value = serde_json::from_str(config).map_err(|error| whole(format!("it is not JSON: {error}")))?;
        let Some(object) = value.as_object() else {
            return Err(whole("it is not a JSON object".to_owned()));
        };
        match &self.schema {
            Some(schema) => {
                let problems = schema.problems(&value);
                if !problems.is_empty() {
                    return Err(Objection::Refused(problems));
                }
            }
            None if !object.is_empty() => return Err(whole("the plugin takes no options".to_owned())),
            None => {}
        }
        let wall = |limits: &Limits| limits.describe;
        let (verdict, _) = self
            .call(call, wall, 0, |visit| {
                let guest = visit.plugin()?;
                visit.run("check-config", |store| guest.call_check_config(store, config))
            })
            .map_err(Objection::Failed)?;
        verdict.map_err(|mut problems| {
            problems.truncate(MAX_PROBLEMS);
            for problem in &mut problems {
                problem.pointer = presentable(&problem.pointer, 500);
                problem.message = presentable(&problem.message, 500);
            }
            match problems.is_empty() {
                true => whole("the plugin refuses it without a reason".to_owned()),
                false => Objection::Refused(problems),
            }
        })
    }
}
