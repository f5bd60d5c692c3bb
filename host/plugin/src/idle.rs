//! Ticks of idle checkers.

use std::time::Instant;

use crate::bindings::exports::quarterdeck::policy::idling as wit;
use crate::journal::presentable;
use crate::limits::Call;
use crate::plugin::{CallTrace, Plugin};
use crate::types::{Column, ColumnData};
use crate::{Failure, Kind};
use wit::{CheckerTraits, Finding, Series, Tick};

/// The longest remaining time that makes sense: a thousand years.
const MAX_REMAINING_MS: u64 = 1000 * 366 * 24 * 3_600_000;

/// The longest history that may be asked for: a week.
const MAX_HISTORY_MS: u64 = 7 * 24 * 3_600_000;

/// The answers on a batch that was taken apart where needed.
#[derive(Debug)]
pub struct Isolated {
    /// One per session; an error means that there is no judgement on it, and it counts as active.
    pub findings: Vec<Result<Finding, String>>,
    /// The failure of the whole batch, if it failed at first.
    pub failure: Option<Failure>,
}

impl Plugin {
    /// What the host needs to know to serve this checker with this configuration.
    pub fn traits(&self, call: &Call) -> Result<CheckerTraits, Failure> {
        self.must_be(Kind::IdleChecker)?;
        let (traits, _) = self.call(
            call,
            |limits| limits.describe,
            0,
            |visit| {
                let guest = visit.idling()?;
                let traits = visit.run("traits", |store| guest.call_traits(store))?;
                check_traits(&traits).map_err(|reason| Failure::Output { export: "traits", reason })?;
                Ok(traits)
            },
        )?;
        Ok(traits)
    }

    /// Judges a batch of sessions: one answer per session, in order.
    pub fn check(&self, call: &Call, tick: &Tick) -> Result<Vec<Result<Finding, String>>, Failure> {
        self.check_traced(call, tick).1
    }

    /// As [`Plugin::check`], with what the call cost, also where it failed.
    pub fn check_traced(&self, call: &Call, tick: &Tick) -> (CallTrace, Result<Vec<Result<Finding, String>>, Failure>) {
        if let Err(failure) = self.must_be(Kind::IdleChecker) {
            return (CallTrace::default(), Err(failure));
        }
        let called = self.call_traced(
            call,
            |limits| limits.tick,
            tick.now_ms,
            |visit| {
                let guest = visit.idling()?;
                let mut findings = visit
                    .run("check", |store| guest.call_check(store, tick))?
                    .map_err(|message| Failure::Guest { export: "check", message: presentable(&message, 1000) })?;
                check_findings(&findings, tick.count, visit.limits().text_bytes)
                    .map_err(|reason| Failure::Output { export: "check", reason })?;
                for error in findings.iter_mut().filter_map(|finding| finding.as_mut().err()) {
                    *error = presentable(error, 1000);
                }
                Ok(findings)
            },
        );
        match called {
            Ok((result, trace)) => (trace, result),
            Err(failure) => (CallTrace::default(), Err(failure)),
        }
    }

    /// [`Plugin::check`], and when that fails the batch is halved until the sessions that make it fail stand alone: one
    /// of them never keeps the others from being judged. Bounded by [`Limits::isolate`](crate::Limits::isolate), after which what is left goes
    /// without a judgement.
    pub fn check_isolated(&self, call: &Call, tick: &Tick) -> Isolated {
        let failure = match self.check(call, tick) {
            Ok(findings) => return Isolated { findings, failure: None },
            Err(failure) => failure,
        };
        let limits = call.limits.as_ref().unwrap_or(&self.shared.options.limits);
        let deadline = Instant::now() + limits.isolate;
        let mut findings = Vec::with_capacity(tick.count as usize);
        if tick.count == 1 {
            findings.push(Err(failure.to_string()));
        } else if tick.count > 1 {
            self.halve(call, tick, deadline, &mut findings);
        }
        Isolated { findings, failure: Some(failure) }
    }

    /// For a batch of at least two that failed.
    fn halve(&self, call: &Call, tick: &Tick, deadline: Instant, findings: &mut Vec<Result<Finding, String>>) {
        let middle = tick.count / 2;
        for (from, to) in [(0, middle), (middle, tick.count)] {
            if Instant::now() >= deadline {
                let reason = "not judged: looking for the sessions that make the checker fail took too long";
                findings.extend((from..to).map(|_| Err(reason.to_owned())));
                continue;
            }
            let half = rows(tick, from as usize, to as usize);
            match self.check(call, &half) {
                Ok(answers) => findings.extend(answers),
                Err(failure) if half.count == 1 => findings.push(Err(failure.to_string())),
                Err(_) => self.halve(call, &half, deadline, findings),
            }
        }
    }
}

fn check_traits(traits: &CheckerTraits) -> Result<(), String> {
    let reason_is_fine = (1..=64).contains(&traits.reason.len())
        && traits.reason.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if !reason_is_fine {
        return Err(format!("the reason `{}` is not 1 to 64 of `[a-z0-9_-]`", presentable(&traits.reason, 80)));
    }
    if traits.metrics.len() > 64 || traits.metrics.iter().any(|metric| metric.is_empty() || metric.len() > 64) {
        return Err("more than 64 metrics, or one without a proper name".to_owned());
    }
    if traits.history_ms > MAX_HISTORY_MS {
        return Err(format!("a history of {} ms; a week is allowed", traits.history_ms));
    }
    Ok(())
}

fn check_findings(findings: &[Result<Finding, String>], count: u32, text_bytes: usize) -> Result<(), String> {
    if findings.len() != count as usize {
        return Err(format!("{} answers for {count} sessions", findings.len()));
    }
    for (row, finding) in findings.iter().enumerate() {
        let Ok(finding) = finding else { continue };
        if let Some(remaining) = finding.remaining_ms
            && remaining.unsigned_abs() > MAX_REMAINING_MS
        {
            return Err(format!("session {row} has {remaining} ms left"));
        }
        if finding.report.len() > text_bytes {
            return Err(format!("the report on session {row} has {} bytes", finding.report.len()));
        }
        if !finding.report.is_empty() {
            is_object(&finding.report).map_err(|error| format!("the report on session {row} {error}"))?;
        }
    }
    Ok(())
}

/// Whether a text is a JSON object.
pub(crate) fn is_object(text: &str) -> Result<serde_json::Value, String> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err("is not a JSON object".to_owned()),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}

/// Some rows of a tick, with their indices counted anew.
fn rows(tick: &Tick, from: usize, to: usize) -> Tick {
    let slots = tick.slots.len();
    let (first, last) = (from as u32, to as u32);
    let range = |list_len: usize| from.min(list_len)..to.min(list_len);
    macro_rules! cut {
        ($field:ident) => {
            tick.$field[range(tick.$field.len())].to_vec()
        };
    }
    Tick {
        now_ms: tick.now_ms,
        count: last - first,
        kind: cut!(kind),
        private: cut!(private),
        created_ms: cut!(created_ms),
        started_ms: cut!(started_ms),
        grace_until_ms: cut!(grace_until_ms),
        access: cut!(access),
        connections: cut!(connections),
        idle_limit_ms: cut!(idle_limit_ms),
        lifetime_limit_ms: cut!(lifetime_limit_ms),
        slots: tick.slots.clone(),
        held: tick.held[(from * slots).min(tick.held.len())..(to * slots).min(tick.held.len())].to_vec(),
        metrics: tick
            .metrics
            .iter()
            .filter(|series| (first..last).contains(&series.session))
            .map(|series| Series { session: series.session - first, ..series.clone() })
            .collect(),
        more: tick
            .more
            .iter()
            .map(|column| Column {
                name: column.name.clone(),
                data: match &column.data {
                    ColumnData::Integers(values) => ColumnData::Integers(values[range(values.len())].to_vec()),
                    ColumnData::Decimals(values) => ColumnData::Decimals(values[range(values.len())].to_vec()),
                    ColumnData::Texts(values) => ColumnData::Texts(values[range(values.len())].to_vec()),
                },
            })
            .collect(),
    }
}
