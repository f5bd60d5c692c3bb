//! Ticks: running sessions, and which of them are expected to be idle.

use anyhow::Context as _;
use indexmap::IndexMap;
use quarterdeck_plugin::idling::{Access, Finding, Series};
use quarterdeck_plugin::{Call, Meter, Plugin, idling};
use serde::Deserialize;
use serde_json::Value as Json;

use super::Played;
use super::scheduler::Kind;
use super::values::{Slots, Table, columns, millis, span, time, word};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Document {
    #[expect(dead_code, reason = "read before")]
    name: String,
    #[serde(default = "super::values::no_options")]
    pub(super) config: Json,
    now: Option<Json>,
    sessions: Vec<Session>,
    expect: IndexMap<String, Expectation>,
}

/// Times are durations before the tick.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Session {
    name: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    private: bool,
    started: Json,
    created: Option<Json>,
    /// How much of the owner's grace as a new user is left.
    grace_left: Option<Json>,
    /// When it was last used: a duration, or `now`.
    used: Option<Json>,
    #[serde(default)]
    connections: u32,
    idle_limit: Option<Json>,
    lifetime_limit: Option<Json>,
    #[serde(default)]
    holds: Slots,
    /// Samples: how long ago, and value.
    #[serde(default)]
    metrics: IndexMap<String, Vec<(Json, f64)>>,
    #[serde(default)]
    columns: IndexMap<String, Json>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Expectation {
    State(String),
    Full(Full),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    state: Option<String>,
    remaining: Option<Json>,
    report: Option<Json>,
    error: Option<String>,
}

/// A tick to be judged.
#[derive(Debug)]
pub(super) struct Tick {
    tick: idling::Tick,
    names: Vec<String>,
    expect: Vec<(usize, Expectation)>,
}

impl Tick {
    pub(super) fn new(document: Document) -> anyhow::Result<Self> {
        let Document { now, sessions, expect, .. } = document;
        let now_ms = time(now.as_ref())?.ms;
        let names: Vec<String> = sessions.iter().map(|session| session.name.clone()).collect();
        let mut expected = Vec::new();
        for (name, expectation) in expect {
            let row = names.iter().position(|known| *known == name).with_context(|| format!("no session {name}"))?;
            expected.push((row, expectation));
        }
        let mut table = Table::default();
        sessions.iter().for_each(|session| table.note(&session.holds));
        let mut tick = idling::Tick {
            now_ms,
            count: sessions.len() as u32,
            kind: Vec::new(),
            private: Vec::new(),
            created_ms: Vec::new(),
            started_ms: Vec::new(),
            grace_until_ms: Vec::new(),
            access: Vec::new(),
            connections: Vec::new(),
            idle_limit_ms: Vec::new(),
            lifetime_limit_ms: Vec::new(),
            slots: table.contract(),
            held: Vec::new(),
            metrics: Vec::new(),
            more: columns(sessions.len(), sessions.iter().map(|session| &session.columns).enumerate())?,
        };
        for (row, session) in sessions.into_iter().enumerate() {
            let name = session.name.clone();
            add(&mut tick, row as u32, session, &table, now_ms).with_context(|| name)?;
        }
        Ok(Self { tick, names, expect: expected })
    }

    pub(super) fn play(&self, plugin: &Plugin, config: &str, meter: Meter) -> Played {
        let call = Call { meter, ..Call::new(config) };
        // What the host asks when it binds a checker must be answered, too.
        if let Err(failure) = plugin.traits(&call) {
            return Played::failed(&failure);
        }
        let (trace, result) = plugin.check_traced(&call, &self.tick);
        let mut played = Played { trace, ..Played::default() };
        let findings = match result {
            Ok(findings) => findings,
            Err(failure) => {
                played.failure = Some(failure.to_string());
                return played;
            }
        };
        for (row, expectation) in &self.expect {
            compare(&mut played, &self.names[*row], expectation, &findings[*row]);
        }
        played
    }
}

fn add(tick: &mut idling::Tick, row: u32, session: Session, table: &Table, now_ms: i64) -> anyhow::Result<()> {
    let started_ms = now_ms - millis(&session.started)?;
    tick.kind.push(session.kind.into());
    tick.private.push(session.private);
    tick.started_ms.push(started_ms);
    tick.created_ms.push(session.created.as_ref().map_or(Ok(started_ms), |ago| millis(ago).map(|ago| now_ms - ago))?);
    tick.grace_until_ms
        .push(session.grace_left.as_ref().map(|left| millis(left).map(|left| now_ms + left)).transpose()?);
    tick.access.push(match &session.used {
        None => Access::Unknown,
        Some(Json::String(word)) if word == "now" => Access::Busy,
        Some(ago) => Access::AtMs(now_ms - millis(ago)?),
    });
    tick.connections.push(session.connections);
    tick.idle_limit_ms.push(session.idle_limit.as_ref().map(span).transpose()?);
    tick.lifetime_limit_ms.push(session.lifetime_limit.as_ref().map(span).transpose()?);
    tick.held.extend(table.units(&session.holds, 0)?);
    for (metric, samples) in session.metrics {
        let mut series = Series { session: row, metric, at_ms: Vec::new(), value: Vec::new() };
        for (ago, value) in samples {
            series.at_ms.push(now_ms - millis(&ago)?);
            series.value.push(value);
        }
        tick.metrics.push(series);
    }
    Ok(())
}

fn compare(played: &mut Played, name: &str, expectation: &Expectation, finding: &Result<Finding, String>) {
    let what = format!("session {name}");
    let state = |finding: &Result<Finding, String>| match finding {
        Ok(finding) => word(finding.state),
        Err(message) => format!("an error: {message}"),
    };
    match expectation {
        Expectation::State(expected) => played.expect(what, expected, state(finding)),
        Expectation::Full(full) => {
            if let Some(expected) = &full.error {
                let fits = finding.as_ref().is_err_and(|message| message.contains(expected.as_str()));
                let wanted = format!("an error: …{expected}…");
                played.expect(&what, &wanted, if fits { wanted.clone() } else { state(finding) });
            }
            if let Some(expected) = &full.state {
                played.expect(&what, expected, state(finding));
            }
            let found = finding.as_ref().ok();
            if let Some(expected) = &full.remaining {
                let wanted = millis(expected).map_or_else(|error| error.to_string(), |ms| format!("{ms} ms left"));
                let got = found.and_then(|finding| finding.remaining_ms);
                let got = got.map_or_else(|| "no time".to_owned(), |ms| format!("{ms} ms left"));
                played.expect(&what, wanted, got);
            }
            if let Some(expected) = &full.report {
                let got = found.and_then(|finding| serde_json::from_str(&finding.report).ok()).unwrap_or(Json::Null);
                played.expect(format!("report on {name}"), expected.to_string(), got.to_string());
            }
        }
    }
}
