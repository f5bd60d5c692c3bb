//! When agents' kernels are compared with the rows, and what that costs.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use quarterdeck_model::{Clock, KernelId, SessionId};
use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};
use quarterdeck_store::testing::{self, TestDb};
use serde_json::{Value, json};

use super::*;
use crate::{Settings, seed};

const SECOND: i64 = 1_000_000;
const EVERY: Duration = Duration::from_secs(10);

async fn control(db: &TestDb, clock: &Arc<AtomicI64>) -> Control {
    let document: Value = serde_json::from_str(include_str!("../../../../tests/conformance/seed.json")).unwrap();
    seed::load(&db.store, &document).await.unwrap();
    let runtime = Runtime::new(RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() }).unwrap();
    let settings = Settings { reconcile_interval: EVERY, ..Settings::default() };
    Control::with_clock(db.store.clone(), runtime, settings, Clock::Manual(Arc::clone(clock))).await.unwrap()
}

/// An agent that has joined.
async fn join(control: &Control, id: &str, boot: &str) -> AgentId {
    let id = AgentId::from(id);
    let registration = rows::Registration {
        id: id.clone(),
        region: "local".to_owned(),
        scaling_group: "default".to_owned(),
        addr: "http://127.0.0.1:1".to_owned(),
        public_host: None,
        architecture: "x86_64".to_owned(),
        version: "1".to_owned(),
        runtime: "synthetic".to_owned(),
        runtime_types: Vec::new(),
        compute_plugins: json!({}),
        credential: String::new(),
        host_secret: String::new(),
        boot_id: boot.to_owned(),
    };
    let mut reader = control.store().reader();
    rows::register(&mut reader, &registration, control.clock().now()).await.unwrap();
    control.live().enter(&rows::get(&mut reader, &id).await.unwrap().unwrap());
    id
}

fn running(kernel: KernelId) -> pb::KernelState {
    pb::KernelState {
        kernel_id: kernel.to_string(),
        session_id: SessionId::new().to_string(),
        state: "running".to_owned(),
    }
}

#[tokio::test]
async fn many_agents_are_compared_at_the_price_of_one() {
    for db in testing::databases().await {
        let clock = Arc::new(AtomicI64::new(1_700_000_000 * SECOND));
        let control = control(&db, &clock).await;
        let mut agents = Vec::new();
        for i in 0..40 {
            agents.push(join(&control, &format!("i-many-{i}"), "boot").await);
        }
        let beat_all = async |agents: &[AgentId]| {
            let before = control.store().statements();
            for id in agents {
                heartbeat::receive(&control, id, pb::HeartbeatRequest::default()).await.unwrap();
            }
            control.store().statements() - before
        };
        let compare = async || {
            let before = control.store().statements();
            reconcile_due(&control).await.unwrap();
            control.store().statements() - before
        };
        // Agents that have just come are compared at once.
        assert!(beat_all(&agents).await >= 40);
        assert_eq!(compare().await, 0);
        for some in [&agents[..], &agents[..1]] {
            clock.fetch_add(3 * SECOND, Ordering::SeqCst);
            assert_eq!((beat_all(some).await, compare().await), (0, 0), "it isn't time yet");
            clock.fetch_add(8 * SECOND, Ordering::SeqCst);
            assert_eq!((beat_all(some).await, compare().await), (0, 1), "{} agents", some.len());
            assert_eq!(compare().await, 0, "that was all");
        }
    }
}

#[tokio::test]
async fn what_an_agent_had_is_compared_once_and_only_while_it_has_it() {
    let db = testing::sqlite().await;
    let control = control(&db, &Arc::new(AtomicI64::new(SECOND))).await;
    let id = join(&control, "i-1", "first").await;
    let live = control.live();
    let (one, other) = (running(KernelId::new()), running(KernelId::new()));
    let both = || vec![one.clone(), other.clone()];
    let at = Duration::from_secs;

    assert_eq!(live.due(&id, both(), EVERY, at(1)), Some(both()), "an agent that came is compared at once");
    assert_eq!(live.due(&id, both(), EVERY, at(5)), None);
    assert_eq!(live.take_due(), []);
    assert_eq!(live.due(&id, both(), EVERY, at(11)), None);
    // It may have the kernel no longer: its end was heard since.
    live.over(&[(Some(id.clone()), one.kernel_id.parse().unwrap())]);
    assert_eq!(live.take_due(), [(id.clone(), vec![other.clone()])]);
    assert_eq!(live.take_due(), []);

    assert_eq!(live.due(&id, both(), EVERY, at(21)), None);
    live.reconcile_soon(&id);
    assert_eq!(live.due(&id, both(), EVERY, at(22)), Some(both()), "somebody wanted it");
    assert_eq!(live.take_due(), [], "that will do");

    assert_eq!(live.due(&id, both(), EVERY, at(32)), None);
    join(&control, "i-1", "second").await;
    assert_eq!(live.take_due(), [], "what it had before it started anew says nothing");
}

#[tokio::test]
async fn who_was_heard_is_written_now_and_then_and_who_is_back_at_once() {
    for db in testing::databases().await {
        let clock = Arc::new(AtomicI64::new(1_700_000_000 * SECOND));
        let control = control(&db, &clock).await;
        let (here, away) = (join(&control, "i-here", "boot").await, join(&control, "i-away", "boot").await);
        note_seen(&control).await.unwrap();
        let row = async |id: &AgentId| rows::get(&mut control.store().reader(), id).await.unwrap().unwrap();
        let joined = row(&here).await.last_seen;
        let beat = async |id: &AgentId, after: i64| {
            clock.fetch_add(after * SECOND, Ordering::SeqCst);
            heartbeat::receive(&control, id, pb::HeartbeatRequest::default()).await.unwrap();
            note_seen(&control).await.unwrap();
        };
        beat(&here, 2).await;
        assert_eq!(row(&here).await.last_seen, joined, "it isn't time yet");
        beat(&here, 4).await;
        assert_eq!(row(&here).await.last_seen, joined.plus_millis(6_000));

        let (now, mut reader) = (control.clock().now(), control.store().reader());
        rows::set_status(&mut reader, std::slice::from_ref(&away), AgentStatus::Lost, now).await.unwrap();
        beat(&here, 1).await;
        assert_eq!(row(&here).await.last_seen, joined.plus_millis(6_000), "who is away was not heard");
        beat(&away, 1).await;
        let back = row(&away).await;
        assert_eq!((back.status, back.last_seen), (AgentStatus::Alive, joined.plus_millis(8_000)));
    }
}
