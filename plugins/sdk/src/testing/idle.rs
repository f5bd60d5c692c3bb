//! Ticks for idle checkers.

use super::amounts;
use crate::idle::{Access, Finding, IdleChecker, Series, SessionKind, Slot, Tick};

/// A running session in a tick. Times are seconds before the tick.
#[derive(Debug, Clone)]
pub struct Watched {
    kind: SessionKind,
    private: bool,
    created_ago_s: i64,
    started_ago_s: i64,
    grace_left_s: Option<i64>,
    access: Option<i64>,
    busy: bool,
    connections: u32,
    idle_limit_s: Option<u64>,
    lifetime_limit_s: Option<u64>,
    held: String,
    metrics: Vec<(String, Vec<(i64, f64)>)>,
}

impl Watched {
    /// An interactive session that started so many seconds ago, and of whose use nothing is known.
    pub fn started_ago_s(seconds: i64) -> Self {
        Watched {
            kind: SessionKind::Interactive,
            private: false,
            created_ago_s: seconds,
            started_ago_s: seconds,
            grace_left_s: None,
            access: None,
            busy: false,
            connections: 0,
            idle_limit_s: None,
            lifetime_limit_s: None,
            held: String::new(),
            metrics: Vec::new(),
        }
    }

    /// What it is for.
    pub fn kind(mut self, kind: SessionKind) -> Self {
        self.kind = kind;
        self
    }

    /// A session of the system.
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// When it was enqueued, if that was before it started.
    pub fn created_ago_s(mut self, seconds: i64) -> Self {
        self.created_ago_s = seconds;
        self
    }

    /// Its owner is new and has so many seconds of grace left.
    pub fn grace_left_s(mut self, seconds: i64) -> Self {
        self.grace_left_s = Some(seconds);
        self
    }

    /// When somebody last used it.
    pub fn used_ago_s(mut self, seconds: i64) -> Self {
        self.access = Some(seconds);
        self
    }

    /// Somebody uses it now, over one connection.
    pub fn busy(mut self) -> Self {
        self.busy = true;
        self.connections = 1;
        self
    }

    /// How long it may be idle; 0 = for ever.
    pub fn idle_limit_s(mut self, seconds: u64) -> Self {
        self.idle_limit_s = Some(seconds);
        self
    }

    /// How long it may live; 0 = for ever.
    pub fn lifetime_limit_s(mut self, seconds: u64) -> Self {
        self.lifetime_limit_s = Some(seconds);
        self
    }

    /// What its main kernel holds: `cpu=2 mem=8g`.
    pub fn held(mut self, amounts: &str) -> Self {
        amounts.clone_into(&mut self.held);
        self
    }

    /// Samples of a metric, oldest first: seconds before the tick, and value.
    pub fn metric(mut self, name: &str, samples: &[(i64, f64)]) -> Self {
        self.metrics.push((name.to_owned(), samples.to_vec()));
        self
    }
}

/// The sessions of a tick.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Vec<Watched>);

impl Sessions {
    /// None yet.
    pub fn new() -> Self {
        Sessions::default()
    }

    /// Adds one.
    pub fn with(mut self, session: Watched) -> Self {
        self.0.push(session);
        self
    }

    /// The tick as a checker sees it.
    pub fn tick(&self) -> Tick {
        const NOW_MS: i64 = 1_700_000_000_000;
        let ago = |seconds: i64| NOW_MS - seconds * 1000;
        let rows = &self.0;
        let held: Vec<Vec<(String, u64)>> =
            rows.iter().map(|session| amounts::parse(&session.held, amounts::usual_kind)).collect();
        let mut slots: Vec<Slot> = Vec::new();
        for (name, _) in held.iter().flatten() {
            if !slots.iter().any(|slot| slot.name == *name) {
                slots.push(Slot { name: name.clone(), kind: amounts::usual_kind(name) });
            }
        }
        let amount = |held: &[(String, u64)], slot: &Slot| -> u64 {
            held.iter().find(|(name, _)| *name == slot.name).map_or(0, |(_, amount)| *amount)
        };
        Tick {
            now_ms: NOW_MS,
            count: rows.len() as u32,
            kind: rows.iter().map(|session| session.kind).collect(),
            private: rows.iter().map(|session| session.private).collect(),
            created_ms: rows.iter().map(|session| ago(session.created_ago_s)).collect(),
            started_ms: rows.iter().map(|session| ago(session.started_ago_s)).collect(),
            grace_until_ms: rows.iter().map(|session| session.grace_left_s.map(|left| ago(-left))).collect(),
            access: rows
                .iter()
                .map(|session| match (session.busy, session.access) {
                    (true, _) => Access::Busy,
                    (false, Some(seconds)) => Access::AtMs(ago(seconds)),
                    (false, None) => Access::Unknown,
                })
                .collect(),
            connections: rows.iter().map(|session| session.connections).collect(),
            idle_limit_ms: rows.iter().map(|session| session.idle_limit_s.map(|limit| limit * 1000)).collect(),
            lifetime_limit_ms: rows.iter().map(|session| session.lifetime_limit_s.map(|limit| limit * 1000)).collect(),
            held: held.iter().flat_map(|held| slots.iter().map(move |slot| amount(held, slot))).collect(),
            slots,
            metrics: rows
                .iter()
                .enumerate()
                .flat_map(|(row, session)| {
                    session.metrics.iter().map(move |(metric, samples)| Series {
                        session: row as u32,
                        metric: metric.clone(),
                        at_ms: samples.iter().map(|(seconds, _)| ago(*seconds)).collect(),
                        value: samples.iter().map(|(_, value)| *value).collect(),
                    })
                })
                .collect(),
            more: Vec::new(),
        }
    }

    /// Has the sessions judged.
    ///
    /// # Errors
    /// What the checker reports, or that it didn't answer once per session.
    pub fn check<P: IdleChecker>(&self, config: &str) -> Result<Vec<Result<Finding, String>>, String> {
        let findings = P::check(&super::config::<P>(config)?, &self.tick())?;
        match findings.len() {
            count if count == self.0.len() => Ok(findings),
            count => Err(format!("{count} answers for {} sessions", self.0.len())),
        }
    }
}
