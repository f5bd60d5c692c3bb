//! Scenarios: what a policy is shown, and what is expected of it, in YAML. They are played in the server's own engine,
//! within its limits and on its books, metered by fuel, so that they end the same everywhere.

mod hook;
mod idle;
mod scheduler;
mod values;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use quarterdeck_plugin::{CallTrace, Failure, Kind, Plugin};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;

/// A scenario of a file.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// Where it stands.
    pub file: PathBuf,
    /// What it is about.
    pub name: String,
    /// The policy's configuration, JSON.
    pub config: String,
    case: Case,
}

#[derive(Debug)]
enum Case {
    Round(Box<scheduler::Round>),
    Tick(Box<idle::Tick>),
    Event(Box<hook::Event>),
}

/// Something that is not as it was expected.
#[derive(Debug, PartialEq, serde::Serialize)]
pub(crate) struct Mismatch {
    /// What: a session, the order, the verdict.
    pub what: String,
    /// What the scenario says.
    pub expected: String,
    /// What the policy did.
    pub got: String,
}

/// How a scenario went.
#[derive(Debug, Default)]
pub(crate) struct Played {
    /// Nothing, when all is as expected.
    pub mismatches: Vec<Mismatch>,
    /// How the call failed, where no failure was expected.
    pub failure: Option<String>,
    /// What it cost.
    pub trace: CallTrace,
}

impl Played {
    pub(crate) fn passed(&self) -> bool {
        self.mismatches.is_empty() && self.failure.is_none()
    }

    fn failed(failure: &Failure) -> Self {
        Self { failure: Some(failure.to_string()), ..Self::default() }
    }

    fn expect(&mut self, what: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) {
        let (expected, got) = (expected.into(), got.into());
        if expected != got {
            self.mismatches.push(Mismatch { what: what.into(), expected, got });
        }
    }
}

/// The scenarios of a file, or of all `.yaml` files of a folder in the order of their names.
///
/// # Errors
/// Which file, and what is wrong with it.
pub(crate) fn load(path: &Path, kind: Kind) -> anyhow::Result<Vec<Scenario>> {
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                files.push(file);
            }
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let mut scenarios = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        read(&file, &text, kind, &mut scenarios).with_context(|| file.display().to_string())?;
    }
    if scenarios.is_empty() {
        bail!("{} has no scenario", path.display());
    }
    Ok(scenarios)
}

fn read(file: &Path, text: &str, kind: Kind, out: &mut Vec<Scenario>) -> anyhow::Result<()> {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = serde_yaml_ng::Value::deserialize(document)?;
        if value.is_null() {
            continue;
        }
        let name =
            value.get("name").and_then(serde_yaml_ng::Value::as_str).unwrap_or("a scenario without name").to_owned();
        let scenario = || -> anyhow::Result<(String, Case)> {
            Ok(match kind {
                Kind::Scheduler => {
                    let document: scheduler::Document = typed(value)?;
                    (document.config.to_string(), Case::Round(Box::new(scheduler::Round::new(document)?)))
                }
                Kind::IdleChecker => {
                    let document: idle::Document = typed(value)?;
                    (document.config.to_string(), Case::Tick(Box::new(idle::Tick::new(document)?)))
                }
                Kind::Hook => {
                    let document: hook::Document = typed(value)?;
                    (document.config.to_string(), Case::Event(Box::new(hook::Event::new(document)?)))
                }
            })
        };
        let (config, case) = scenario().with_context(|| name.clone())?;
        out.push(Scenario { file: file.to_owned(), name, config, case });
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(value: serde_yaml_ng::Value) -> anyhow::Result<T> {
    Ok(serde_yaml_ng::from_value(value)?)
}

impl Scenario {
    /// Plays it.
    ///
    /// # Errors
    /// When the configuration can't be bound: the scenario is at fault.
    pub(crate) fn play(&self, plugin: &Plugin, meter: quarterdeck_plugin::Meter) -> anyhow::Result<Played> {
        if let Err(objection) = plugin.check_config(&self.config) {
            bail!("the configuration is refused: {objection}");
        }
        Ok(match &self.case {
            Case::Round(round) => round.play(plugin, &self.config, meter),
            Case::Tick(tick) => tick.play(plugin, &self.config, meter),
            Case::Event(event) => event.play(plugin, &self.config, meter),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wrong(kind: Kind, text: &str) -> String {
        format!("{:#}", read(Path::new("x.yaml"), text, kind, &mut Vec::new()).unwrap_err())
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let unknown =
            wrong(Kind::Scheduler, "name: one\ncluster: {agents: {a: {slots: {cpu: 1}}}}\nqeue: []\nexpect: {}");
        assert!(unknown.contains("qeue"), "{unknown}");
        let nobody = wrong(
            Kind::Scheduler,
            "name: two\ncluster: {agents: {a: {slots: {cpu: 1}}}}\nqueue: [{name: s, requests: {cpu: 1}}]\nexpect: {t: a}",
        );
        assert!(nobody.contains("two") && nobody.contains('t'), "{nobody}");
        let duration = wrong(Kind::IdleChecker, "name: three\nsessions: [{name: s, started: soon}]\nexpect: {s: idle}");
        assert!(duration.contains("soon"), "{duration}");
    }

    #[test]
    fn a_file_may_hold_several() {
        let text = "name: a\nevent: X\nbody: {}\nexpect: allow\n---\nname: b\nevent: X\nbody: {}\nexpect: {deny: no}\n";
        let mut out = Vec::new();
        read(Path::new("x.yaml"), text, Kind::Hook, &mut out).unwrap();
        assert_eq!(out.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_is_not_as_expected_is_told() {
        let runtime = quarterdeck_plugin::Runtime::new(quarterdeck_plugin::RuntimeOptions::default()).unwrap();
        let fifo = runtime.load_blocking(quarterdeck_plugin::builtin::get("fifo").unwrap().wasm).unwrap();
        let text = "
name: fifo
cluster:
  agents:
    large: {slots: {cpu: 8, mem: 8g}}
    small: {slots: {cpu: 2, mem: 2g}}
  owners:
    poor: {limit: {cpu: 1}}
queue:
  - {name: first, requests: {cpu: 2, mem: 1g}, waiting: 2m}
  - {name: second, requests: {cpu: 2, mem: 1g}, owner: poor, waiting: 1m}
  - {name: third, requests: {cpu: 2, mem: 1g}, waits-for: [other]}
expect:
  first: small
  second: {refused: owner-quota}
  third: untouched
order: [first, second, third]
";
        let mut scenarios = Vec::new();
        read(Path::new("x.yaml"), text, Kind::Scheduler, &mut scenarios).unwrap();
        let played = scenarios[0].play(&fifo, quarterdeck_plugin::Meter::Fuel(1_000_000_000)).unwrap();
        assert_eq!(played.failure, None);
        let told = |what: &str, expected: &str, got: &str| Mismatch {
            what: what.to_owned(),
            expected: expected.to_owned(),
            got: got.to_owned(),
        };
        assert_eq!(
            played.mismatches,
            [
                told("session first", "placed on small", "placed on large"),
                told("session third", "untouched", "refused: dependency"),
            ]
        );
        assert!(played.trace.fuel_used.is_some_and(|fuel| fuel > 0));
    }
}
