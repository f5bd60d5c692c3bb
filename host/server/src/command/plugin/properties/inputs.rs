//! Made-up inputs. A seed gives the same ones everywhere.

use quarterdeck_control::schedule::Facts;
pub(in crate::command::plugin) use quarterdeck_control::schedule::Recording;
use quarterdeck_plugin::hooks;
use quarterdeck_plugin::idling::{Access, Tick};
use quarterdeck_plugin::scheduling::{Accounts, Agents, ClusterMode, Kernels, Sessions, Snapshot};
use quarterdeck_plugin::types::{SessionKind, Slot, SlotKind};
use serde_json::json;

/// A simple generator (xorshift), so that what it gives never depends on a library's version.
pub(in crate::command::plugin) struct Dice(u64);

impl Dice {
    pub(in crate::command::plugin) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// How large a round is.
#[derive(Clone, Copy)]
pub(in crate::command::plugin) struct Size {
    pub sessions: u32,
    pub agents: u32,
}

const GIB: u64 = 1 << 30;
const OWNERS: u32 = 5;

fn slots() -> Vec<Slot> {
    [("cpu", SlotKind::Count), ("mem", SlotKind::Bytes), ("cuda.device", SlotKind::Unique)]
        .map(|(name, kind)| Slot { name: name.to_owned(), kind })
        .into()
}

/// A round with sessions of all sorts: several kernels, pins, two architectures, quotas, busy and shrunken agents.
pub(in crate::command::plugin) fn round(dice: &mut Dice, size: Size) -> Recording {
    let slots = slots();
    let width = slots.len();
    let agents = agents(dice, size.agents);
    let mut kernels = Kernels {
        count: 0,
        architecture: Vec::new(),
        requested: Vec::new(),
        held: Vec::new(),
        agent: Vec::new(),
        more: Vec::new(),
    };
    let mut pending = Sessions {
        count: size.sessions,
        owner: Vec::new(),
        project: Vec::new(),
        domain: vec![0; size.sessions as usize],
        kind: Vec::new(),
        mode: Vec::new(),
        private: Vec::new(),
        priority: Vec::new(),
        retries: Vec::new(),
        waiting_ms: Vec::new(),
        requested: Vec::new(),
        held: vec![0; size.sessions as usize * width],
        first_kernel: vec![0],
        more: Vec::new(),
    };
    for session in 0..size.sessions {
        pending.owner.push(dice.below(OWNERS.into()) as u32);
        pending.project.push(dice.below(2) as u32);
        pending
            .kind
            .push([SessionKind::Interactive, SessionKind::Batch, SessionKind::Inference][dice.below(3) as usize]);
        let multi = dice.one_in(4);
        pending.mode.push(if multi { ClusterMode::MultiNode } else { ClusterMode::SingleNode });
        pending.private.push(dice.one_in(20));
        pending.priority.push(dice.below(5) as i32 - 2);
        pending.retries.push(dice.below(4) as u32);
        pending.waiting_ms.push(u64::from(size.sessions - session) * 1000);
        let architecture = u32::from(dice.one_in(6));
        let pin = (dice.one_in(10) && size.agents > 0)
            .then(|| dice.below(size.agents.into()) as u32)
            // A pin to an agent of another architecture can't be kept by anybody.
            .filter(|agent| agents.architecture[*agent as usize] == architecture);
        let mut sum = vec![0_u64; width];
        for _ in 0..=(if dice.one_in(3) { dice.below(3) } else { 0 }) {
            let gpus = if dice.one_in(4) { dice.below(3) * 1000 } else { 0 };
            let requested = [(1 + dice.below(8)) * 1000, (1 + dice.below(16)) * GIB, gpus];
            sum.iter_mut().zip(&requested).for_each(|(sum, amount)| *sum += amount);
            kernels.count += 1;
            kernels.architecture.push(architecture);
            kernels.requested.extend(requested);
            kernels.held.extend([0; 3]);
            kernels.agent.push(pin);
        }
        pending.requested.extend(sum);
        pending.first_kernel.push(kernels.count);
    }
    let running = Sessions {
        count: 0,
        owner: Vec::new(),
        project: Vec::new(),
        domain: Vec::new(),
        kind: Vec::new(),
        mode: Vec::new(),
        private: Vec::new(),
        priority: Vec::new(),
        retries: Vec::new(),
        waiting_ms: Vec::new(),
        requested: Vec::new(),
        held: Vec::new(),
        first_kernel: vec![kernels.count],
        more: Vec::new(),
    };
    let snapshot = Snapshot {
        round: 1,
        now_ms: 1_767_225_600_000,
        seed: dice.below(u64::MAX),
        slots,
        architectures: vec!["x86_64".to_owned(), "aarch64".to_owned()],
        pending,
        running,
        kernels,
        agents,
        owners: accounts(dice, OWNERS, width),
        projects: accounts(dice, 2, width),
        domains: accounts(dice, 1, width),
    };
    let facts = Facts::plain(&snapshot);
    Recording::from_scenario("default", snapshot, facts).expect("what is made up here fits together")
}

fn agents(dice: &mut Dice, count: u32) -> Agents {
    let mut agents = Agents {
        count,
        architecture: Vec::new(),
        schedulable: Vec::new(),
        capacity: Vec::new(),
        occupied: Vec::new(),
        containers: vec![0; count as usize],
        more: Vec::new(),
    };
    for _ in 0..count {
        agents.architecture.push(u32::from(dice.one_in(5)));
        agents.schedulable.push(!dice.one_in(8));
        let gpus = if dice.one_in(2) { 8000 } else { 0 };
        let capacity = [(8 + dice.below(120)) * 1000, (16 + dice.below(500)) * GIB, gpus];
        for amount in capacity {
            // One that has shrunk holds more than it has.
            let occupied = if dice.one_in(12) { amount + 1000 } else { dice.below(amount / 2 + 1) };
            agents.occupied.push(occupied);
        }
        agents.capacity.extend(capacity);
    }
    agents
}

fn accounts(dice: &mut Dice, count: u32, width: usize) -> Accounts {
    let rows = count as usize;
    Accounts {
        count,
        occupied: vec![0; rows * width],
        limit: (0..rows).flat_map(|_| if dice.one_in(3) { [40_000, 80 * GIB, 4000] } else { [u64::MAX; 3] }).collect(),
        sessions: vec![0; rows],
        session_limit: (0..rows).map(|_| if dice.one_in(3) { 5 } else { u32::MAX }).collect(),
        private_sessions: vec![0; rows],
        private_session_limit: vec![u32::MAX; rows],
        more: Vec::new(),
    }
}

/// A tick with sessions of all sorts.
pub(in crate::command::plugin) fn tick(dice: &mut Dice, count: u32) -> Tick {
    const NOW_MS: i64 = 1_767_225_600_000;
    let rows = count as usize;
    let mut tick = Tick {
        now_ms: NOW_MS,
        count,
        kind: Vec::with_capacity(rows),
        private: Vec::new(),
        created_ms: Vec::new(),
        started_ms: Vec::new(),
        grace_until_ms: Vec::new(),
        access: Vec::new(),
        connections: Vec::new(),
        idle_limit_ms: Vec::new(),
        lifetime_limit_ms: Vec::new(),
        slots: slots(),
        held: Vec::new(),
        metrics: Vec::new(),
        more: Vec::new(),
    };
    for _ in 0..count {
        let started = NOW_MS - dice.below(90_000_000) as i64;
        tick.kind.push([SessionKind::Interactive, SessionKind::Batch, SessionKind::Inference][dice.below(3) as usize]);
        tick.private.push(dice.one_in(10));
        tick.created_ms.push(started - dice.below(600_000) as i64);
        tick.started_ms.push(started);
        tick.grace_until_ms.push(dice.one_in(5).then(|| NOW_MS + dice.below(7_200_000) as i64 - 3_600_000));
        tick.access.push(match dice.below(3) {
            0 => Access::Unknown,
            1 => Access::Busy,
            _ => Access::AtMs(NOW_MS - dice.below(9_000_000) as i64),
        });
        tick.connections.push(if dice.one_in(4) { 1 } else { 0 });
        let limit = |dice: &mut Dice| match dice.below(3) {
            0 => None,
            1 => Some(0),
            _ => Some(dice.below(90_000_000)),
        };
        tick.idle_limit_ms.push(limit(dice));
        tick.lifetime_limit_ms.push(limit(dice));
        tick.held.extend([1000, GIB, if dice.one_in(3) { 1000 } else { 0 }]);
    }
    tick
}

/// An event with a body as the server sends it for sessions; other events get what they have in common.
pub(in crate::command::plugin) fn event(dice: &mut Dice, name: &str) -> hooks::Event {
    let kernels: Vec<_> = (0..=dice.below(3))
        .map(|index| {
            let mut slots = serde_json::Map::new();
            slots.insert("cpu".to_owned(), json!(dice.below(64).to_string()));
            slots.insert("mem".to_owned(), json!((dice.below(512) * GIB).to_string()));
            if dice.one_in(2) {
                slots.insert("cuda.device".to_owned(), json!(dice.below(9).to_string()));
            }
            let role = if index == 0 { "main" } else { "sub" };
            json!({"role": role, "image": "cr.example/stable/python:3.11", "architecture": "x86_64", "slots": slots})
        })
        .collect();
    let account = json!({"sessions": dice.below(9), "slots": {"cpu": "4"}, "limit": {"cpu": "100"}});
    let body = json!({
        "session": {
            "id": "22222222-2222-2222-2222-222222222222", "name": "work", "type": "interactive",
            "cluster_mode": "single-node", "cluster_size": kernels.len(), "scaling_group": "default",
            "tag": if dice.one_in(2) { json!("tagged") } else { json!(null) }, "priority": 0, "starts_at": null,
            "environ": {}, "startup_command": null, "kernels": kernels, "mounts": [],
        },
        "owner": {
            "access_key": "AKIAUSER", "uuid": "11111111-1111-1111-1111-111111111111", "email": "user@example.org",
            "role": "user", "domain": "default", "project": if dice.one_in(2) { "default" } else { "vision" },
        },
        "usage": {"owner": account, "project": account, "domain": account},
        "params": {"domain": "default", "username": "user", "email": "user@example.org", "password": "Secret-123", "new_password": "Secret-123"},
        "reason": "user-requested", "forced": false,
    });
    hooks::Event {
        name: name.to_owned(),
        at_ms: 1_767_225_600_000 + dice.below(604_800_000) as i64,
        utc_offset_s: 0,
        actor: None,
        body: body.to_string(),
    }
}
