//! The self test of a component that wants in: a small round, tick or event of each kind that it serves, twice, metered
//! by fuel. Both answers must be alike, and neither may break off.

use serde_json::{Value, json};
use thiserror::Error;

use crate::bindings::exports::quarterdeck::policy::{hooks, idling, scheduling};
use crate::describe::Objection;
use crate::limits::{Call, Meter};
use crate::plugin::Plugin;
use crate::types::{SessionKind, Slot, SlotKind};
use crate::{Failure, Judge, Kind};
use scheduling::{Accounts, Agents, ClusterMode, Kernels, Outcome, Proposal, Refusal, Sessions, Snapshot};

/// Units of fuel for one call of the test: a second or so of honest work, hundreds of times what a small input needs.
const FUEL: u64 = 1_000_000_000;

/// The instant at which the test takes place: it, too, is the same each time.
const NOW_MS: u64 = 1_750_000_000_000;

/// What a self test found, apart from that all is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelfTest {
    /// What was left out, or was odd, in words for people.
    pub notes: Vec<String>,
}

/// Why a component failed its self test.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unsound {
    /// A call broke off.
    #[error("{0}")]
    Failure(#[from] Failure),
    /// Two calls with the same input had different outcomes.
    #[error("`{export}` answered differently when it was asked the same again")]
    Differs {
        /// The exported function.
        export: &'static str,
    },
}

impl Plugin {
    /// Puts the component to the test. May block for as long as its fuel lasts, a few seconds at worst.
    ///
    /// # Errors
    /// [`Unsound`] says what it did. An error that the plugin reports is an answer like any other, and is noted.
    pub fn self_test(&self) -> Result<SelfTest, Unsound> {
        let mut test = SelfTest::default();
        let call = Call { meter: Meter::Fuel(FUEL), tag: "self-test".to_owned(), ..Call::default() };
        let objection = twice("check-config", || match self.check_config_with(&call) {
            Ok(()) => Ok(None),
            Err(Objection::Refused(problems)) => Ok(Some(Objection::Refused(problems).to_string())),
            Err(Objection::Failed(failure)) => Err(failure),
        })?;
        if let Some(objection) = objection {
            test.notes.push(format!("no call was made, since it needs a configuration: {objection}"));
            return Ok(test);
        }
        match self.kind {
            Kind::Scheduler => self.test_round(&call, &mut test)?,
            Kind::IdleChecker => self.test_tick(&call, &mut test)?,
            Kind::Hook => self.test_events(&call, &mut test)?,
        }
        Ok(test)
    }

    fn test_round(&self, call: &Call, test: &mut SelfTest) -> Result<(), Unsound> {
        let snapshot = snapshot();
        let round = twice("propose", || {
            answer(
                self.schedule(call, &snapshot, &mut Capacity::of(&snapshot))
                    .map(|trace| (trace.proposals, trace.journal)),
            )
        })?;
        test.note(round.err());
        Ok(())
    }

    fn test_tick(&self, call: &Call, test: &mut SelfTest) -> Result<(), Unsound> {
        let traits = twice("traits", || answer(self.traits(call)))?;
        let mut tick = tick();
        if let Ok(traits) = &traits {
            // One sample per session is enough to be a history.
            tick.metrics = (0..tick.count)
                .flat_map(|session| traits.metrics.iter().map(move |metric| (session, metric)))
                .map(|(session, metric)| idling::Series {
                    session,
                    metric: metric.clone(),
                    at_ms: vec![tick.now_ms - 60_000],
                    value: vec![1.0],
                })
                .collect();
        }
        test.note(traits.err());
        test.note(twice("check", || answer(self.check(call, &tick)))?.err());
        Ok(())
    }

    fn test_events(&self, call: &Call, test: &mut SelfTest) -> Result<(), Unsound> {
        for name in &self.info.events {
            let Some(body) = body(name) else {
                test.notes.push(format!("this host has no event {name}"));
                continue;
            };
            let actor = hooks::Actor {
                user: "user@example.com".to_owned(),
                access_key: "AKIAEXAMPLE000000001".to_owned(),
                role: "user".to_owned(),
                domain: "default".to_owned(),
            };
            let event = hooks::Event {
                name: name.clone(),
                at_ms: NOW_MS as i64,
                utc_offset_s: 0,
                actor: Some(actor),
                body: body.to_string(),
            };
            test.note(twice("handle", || answer(self.handle(call, &event)))?.err());
        }
        Ok(())
    }
}

impl SelfTest {
    fn note(&mut self, reported: Option<String>) {
        self.notes.extend(reported);
    }
}

/// An error that the plugin reports is an answer.
fn answer<T>(result: Result<T, Failure>) -> Result<Result<T, String>, Failure> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(failure @ Failure::Guest { .. }) => Ok(Err(failure.to_string())),
        Err(failure) => Err(failure),
    }
}

/// Asks the same twice. What is no number is compared by how it is written, since it differs from itself.
fn twice<T: std::fmt::Debug>(export: &'static str, mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Unsound> {
    let (first, second) = (ask()?, ask()?);
    if format!("{first:?}") == format!("{second:?}") { Ok(first) } else { Err(Unsound::Differs { export }) }
}

/// Books that know capacity alone.
struct Capacity<'s> {
    snapshot: &'s Snapshot,
    occupied: Vec<u64>,
}

impl<'s> Capacity<'s> {
    fn of(snapshot: &'s Snapshot) -> Self {
        Self { snapshot, occupied: snapshot.agents.occupied.clone() }
    }

    fn place(&mut self, placement: &scheduling::Placement) -> Outcome {
        let slots = self.snapshot.slots.len();
        let first = self.snapshot.pending.first_kernel[placement.session as usize] as usize;
        let mut occupied = self.occupied.clone();
        for (kernel, agent) in placement.agents.iter().enumerate() {
            for slot in 0..slots {
                let at = *agent as usize * slots + slot;
                occupied[at] += self.snapshot.kernels.requested[(first + kernel) * slots + slot];
                if occupied[at] > self.snapshot.agents.capacity[at] {
                    return Outcome::Refused(Refusal::Capacity);
                }
            }
        }
        self.occupied = occupied;
        Outcome::Accepted
    }
}

impl Judge for Capacity<'_> {
    fn judge(&mut self, proposals: &[Proposal]) -> Vec<Outcome> {
        let verdict = |proposal: &Proposal| match proposal {
            Proposal::Place(placement) => self.place(placement),
            Proposal::Defer(_) => Outcome::Accepted,
        };
        proposals.iter().map(verdict).collect()
    }
}

const GIB: u64 = 1 << 30;

/// Three sessions wait (one of two kernels, one too large for anything), one runs; two agents of different size.
fn snapshot() -> Snapshot {
    let requested = vec![1000, GIB, 2000, 2 * GIB, 2000, 2 * GIB, 64_000, 512 * GIB];
    let held = vec![1000, GIB];
    Snapshot {
        round: 1,
        now_ms: NOW_MS,
        seed: 1,
        slots: slots(),
        architectures: vec!["x86_64".to_owned()],
        pending: Sessions {
            count: 3,
            owner: vec![0, 1, 0],
            project: vec![0; 3],
            domain: vec![0; 3],
            kind: vec![SessionKind::Interactive, SessionKind::Batch, SessionKind::Inference],
            mode: vec![ClusterMode::SingleNode, ClusterMode::MultiNode, ClusterMode::SingleNode],
            private: vec![false; 3],
            priority: vec![0, 10, 0],
            retries: vec![0, 0, 3],
            waiting_ms: vec![60_000, 30_000, 10_000],
            requested: vec![1000, GIB, 4000, 4 * GIB, 64_000, 512 * GIB],
            held: vec![0; 6],
            first_kernel: vec![0, 1, 3, 4],
            more: Vec::new(),
        },
        running: Sessions {
            count: 1,
            owner: vec![1],
            project: vec![0],
            domain: vec![0],
            kind: vec![SessionKind::Interactive],
            mode: vec![ClusterMode::SingleNode],
            private: vec![false],
            priority: vec![0],
            retries: vec![0],
            waiting_ms: vec![600_000],
            requested: held.clone(),
            held: held.clone(),
            first_kernel: vec![4, 5],
            more: Vec::new(),
        },
        kernels: Kernels {
            count: 5,
            architecture: vec![0; 5],
            requested: [requested, held.clone()].concat(),
            held: [vec![0; 8], held].concat(),
            agent: vec![None, None, None, None, Some(0)],
            more: Vec::new(),
        },
        agents: Agents {
            count: 2,
            architecture: vec![0; 2],
            schedulable: vec![true; 2],
            capacity: vec![16_000, 64 * GIB, 4000, 16 * GIB],
            occupied: vec![1000, GIB, 0, 0],
            containers: vec![1, 0],
            more: Vec::new(),
        },
        owners: accounts(2),
        projects: accounts(1),
        domains: accounts(1),
    }
}

fn slots() -> Vec<Slot> {
    [("cpu", SlotKind::Count), ("mem", SlotKind::Bytes)]
        .map(|(name, kind)| Slot { name: name.to_owned(), kind })
        .to_vec()
}

fn accounts(count: u32) -> Accounts {
    let rows = count as usize;
    // The last one holds what runs.
    let mut occupied = vec![0; rows * 2];
    occupied[rows * 2 - 2] = 1000;
    occupied[rows * 2 - 1] = GIB;
    let mut sessions = vec![0; rows];
    sessions[rows - 1] = 1;
    Accounts {
        count,
        occupied,
        limit: vec![u64::MAX; rows * 2],
        sessions,
        session_limit: vec![30; rows],
        private_sessions: vec![0; rows],
        private_session_limit: vec![1; rows],
        more: Vec::new(),
    }
}

/// Three sessions: in use, used a while ago, and never.
fn tick() -> idling::Tick {
    let now_ms = NOW_MS as i64;
    idling::Tick {
        now_ms,
        count: 3,
        kind: vec![SessionKind::Interactive, SessionKind::Batch, SessionKind::Inference],
        private: vec![false; 3],
        created_ms: vec![now_ms - 7_200_000, now_ms - 3_600_000, now_ms - 60_000],
        started_ms: vec![now_ms - 7_100_000, now_ms - 3_500_000, now_ms - 30_000],
        grace_until_ms: vec![None, Some(now_ms - 1), Some(now_ms + 60_000)],
        access: vec![idling::Access::Busy, idling::Access::AtMs(now_ms - 1_800_000), idling::Access::Unknown],
        connections: vec![2, 0, 0],
        idle_limit_ms: vec![None, Some(600_000), Some(0)],
        lifetime_limit_ms: vec![Some(0), Some(3_600_000), None],
        slots: slots(),
        held: [1000, GIB].repeat(3),
        metrics: Vec::new(),
        more: Vec::new(),
    }
}

/// The body of an event; none where there is no such event.
fn body(event: &str) -> Option<Value> {
    let session = || {
        json!({
            "id": "7d9f3f6e-0000-4000-8000-000000000001", "name": "self-test", "type": "interactive",
            "cluster_mode": "SINGLE_NODE", "cluster_size": 1, "scaling_group": "default", "tag": null, "priority": 0,
            "starts_at": null, "environ": {}, "startup_command": null,
            "kernels": [{
                "role": "main", "image": "registry.example.com/stable/python:3.12", "architecture": "x86_64",
                "slots": {"cpu": "1", "mem": "1073741824"},
            }],
            "mounts": [],
        })
    };
    let owner = || {
        json!({
            "access_key": "AKIAEXAMPLE000000001", "uuid": "7d9f3f6e-0000-4000-8000-000000000002",
            "email": "user@example.com", "role": "user", "domain": "default", "project": "default",
        })
    };
    let usage = || {
        let of = |sessions: u32| json!({"sessions": sessions, "slots": {"cpu": "1"}, "limit": {"cpu": "16"}});
        json!({"owner": of(1), "project": of(2), "domain": of(3)})
    };
    let user = || {
        json!({
            "uuid": "7d9f3f6e-0000-4000-8000-000000000002", "email": "user@example.com", "role": "user",
            "domain": "default", "status": "active",
        })
    };
    let enqueued = || json!({"session": session(), "owner": owner(), "usage": usage()});
    let started = || {
        let mut body = enqueued();
        body["session"]["kernels"][0]["agent"] = json!("i-self-test");
        body
    };
    let ended = || {
        json!({
            "session": {
                "id": "7d9f3f6e-0000-4000-8000-000000000001", "name": "self-test", "type": "interactive",
                "status": "RUNNING",
            },
            "owner": owner(), "reason": "user-requested", "forced": false,
        })
    };
    Some(match event {
        "ACTIVATE_MANAGER" => json!({"host": "self-test", "version": env!("CARGO_PKG_VERSION")}),
        "PRE_AUTH_MIDDLEWARE" => json!({
            "method": "GET", "path": "/session", "query": "", "headers": {"host": "127.0.0.1"},
            "client_address": "127.0.0.1",
        }),
        "AUTHORIZE" => json!({
            "params": {
                "type": "keypair", "domain": "default", "username": "user@example.com", "password": "C0rrect-horse",
            },
            "client_address": "127.0.0.1",
        }),
        "POST_AUTHORIZE" => json!({
            "params": {"type": "keypair", "domain": "default", "username": "user@example.com"},
            "user": user(), "access_key": "AKIAEXAMPLE000000001",
        }),
        "PRE_SIGNUP" => json!({
            "params": {
                "domain": "default", "email": "new@example.com", "password": "C0rrect-horse", "username": "new",
                "full_name": "New User", "description": "",
            },
        }),
        "VERIFY_PASSWORD_FORMAT" => json!({
            "params": {"old_password": "C0rrect-horse", "new_password": "B4ttery-staple", "new_password2": "B4ttery-staple"},
            "user": user(),
        }),
        "POST_SIGNUP" => json!({
            "email": "new@example.com", "uuid": "7d9f3f6e-0000-4000-8000-000000000003", "lang": "en-us",
        }),
        "PRE_ENQUEUE_SESSION" | "POST_ENQUEUE_SESSION" => enqueued(),
        "PRE_START_SESSION" | "POST_START_SESSION" => started(),
        "PRE_DESTROY_SESSION" | "POST_DESTROY_SESSION" => ended(),
        "POST_AGENT_HEARTBEAT" => json!({
            "agent": "i-self-test", "scaling_group": "default", "available_slots": {"cpu": "16", "mem": "68719476736"},
        }),
        _ => return None,
    })
}
