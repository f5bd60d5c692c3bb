//! What happens: clients, agents, time and accidents, as the seed has it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use quarterdeck_model::{ClusterMode, KernelStatus, SessionId, SessionStatus, SessionType};
use quarterdeck_rpc::pb::host_server::Host as _;
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_rpc::{metadata, pb};
use quarterdeck_store::{Stmt, agents as agent_rows, occupancy};
use serde_json::json;
use tonic::Request;

use super::agent::{Manner, SimAgent, Stage, State};
use super::dice::Dice;
use super::host::{self, Host};
use super::laws::{Kernel, Limits, Observer, Picture};
use crate::agents::{HostService, flush_seen, reconcile_due};
use crate::enqueue::{self, CreateSession, SessionConfig};
use crate::error::Error;
use crate::{idle, liveness, schedule, sessions, terminate};

const START: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;
/// Sessions of one world at most.
const SESSIONS: usize = 6;

/// A session that a client was promised.
#[derive(Clone, Debug)]
struct Promised {
    id: SessionId,
    name: String,
    /// Its end was promised.
    ends: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    Destroy,
    Restart,
    Schedule,
    Start,
    Terminate,
    Work,
    Beat,
    Time,
    Turn,
    KernelDies,
    KernelVanishes,
    CommandEnds,
    Reboot,
    Connection,
    Manner,
    Capacity,
    Schedulable,
    Liveness,
    Idle,
    Recalculate,
    HostDies,
}

const STEPS: &[(u64, Step)] = &[
    (16, Step::Create),
    (7, Step::Destroy),
    (1, Step::Restart),
    (9, Step::Schedule),
    (9, Step::Start),
    (6, Step::Terminate),
    (12, Step::Work),
    (5, Step::Beat),
    (5, Step::Time),
    (10, Step::Turn),
    (3, Step::KernelDies),
    (2, Step::KernelVanishes),
    (3, Step::CommandEnds),
    (2, Step::Reboot),
    (3, Step::Connection),
    (3, Step::Manner),
    (2, Step::Capacity),
    (1, Step::Schedulable),
    (2, Step::Liveness),
    (1, Step::Idle),
    (1, Step::Recalculate),
    (1, Step::HostDies),
];

pub(super) struct World {
    seed: u64,
    dice: Dice,
    tells: bool,
    /// Everything works from now on.
    mends: bool,
    trace: Vec<String>,
    clock: Arc<AtomicI64>,
    url: String,
    host: Option<Host>,
    agents: Vec<SimAgent>,
    observer: Observer,
    limits: Limits,
    passes_over: bool,
    promised: Vec<Promised>,
    /// Sessions to which something happened that may end them.
    excused: HashSet<SessionId>,
    // Last: it goes when nothing uses it any more.
    _dir: tempfile::TempDir,
}

impl World {
    pub(super) fn new(seed: u64, tells: bool) -> Self {
        let dir = host::directory();
        let path = dir.path().join("world.db");
        std::fs::write(&path, &host::template().0).unwrap();
        let url = format!("sqlite://{}", path.display());
        let mut dice = Dice::new(seed);
        let observer = Observer::new(&url);
        let limits = Limits { project_cpu: 1000 * (4 + dice.roll(8) as i64), sessions: 3 + dice.roll(5) as i64 };
        let scheduler = dice.weighted(&[(5, "fifo"), (2, "lifo"), (2, "drf"), (2, "mof")]);
        let passes_over = dice.one_in(2);
        let config = if passes_over { json!({"skip_blocked": true}) } else { json!({}) };
        let timeout = if dice.one_in(4) { 120.0 } else { 0.0 };
        let opts =
            json!({"allowed_session_types": ["interactive", "batch"], "pending_timeout": timeout, "config": config});
        let group = Stmt::new("UPDATE scaling_groups SET scheduler = $1, scheduler_opts = $2");
        observer.execute(group.bind(scheduler).bind(opts));
        let project = json!({"cpu": (limits.project_cpu / 1000).to_string()});
        observer.execute(Stmt::new("UPDATE projects SET total_resource_slots = $1").bind(project));
        let policy = Stmt::new("UPDATE keypair_resource_policies SET max_concurrent_sessions = $1");
        observer.execute(policy.bind(limits.sessions));
        let agents = (1..=2 + dice.roll(2) as usize).map(|n| SimAgent::new(n, 2 + dice.roll(5))).collect();
        let told = format!("{scheduler}, passes over: {passes_over}, {limits:?}");
        let mut world = Self {
            seed,
            dice,
            tells,
            mends: false,
            trace: Vec::new(),
            clock: Arc::new(AtomicI64::new(START)),
            url,
            host: None,
            agents,
            observer,
            limits,
            passes_over,
            promised: Vec::new(),
            excused: HashSet::new(),
            _dir: dir,
        };
        world.tell(told);
        world
    }

    fn tell(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.tells {
            eprintln!("{what}");
        }
        self.trace.push(what);
    }

    fn fail(&self, what: &str) -> ! {
        let from = self.trace.len().saturating_sub(60);
        let steps = self.trace[from..].join("\n  ");
        panic!(
            "seed {}: {what}\nafter the steps:\n  {steps}\nplay it again with {}={}",
            self.seed,
            super::SEED,
            self.seed
        )
    }

    /// Plays the seed.
    pub(super) fn play(mut self) {
        self.beat_all();
        for _ in 0..12 + self.dice.roll(24) {
            let step = self.dice.weighted(STEPS);
            self.tell(format!("{step:?}"));
            self.pass_time(self.dice.clone().roll(200) as i64 * 1000 + 1000);
            self.step(step);
            self.check();
        }
        self.mend();
        self.check_promises();
    }

    fn check(&mut self) {
        let law = self.observer.check(&self.agents, self.limits, &self.excused);
        if let Err(breach) = law {
            self.fail(&breach);
        }
    }

    fn pass_time(&self, micros: i64) {
        self.clock.fetch_add(micros, Ordering::SeqCst);
    }

    /// Does something on the host, after starting it if it is down. It may die on the way: `None`, unless its answer was
    /// given before.
    fn on_host<T>(&mut self, work: impl AsyncFnOnce(&Host) -> T) -> Option<T> {
        let host = match self.host.take() {
            Some(host) => host,
            None => {
                self.trace.push("  (a host starts)".to_owned());
                Host::start(&self.url, Arc::clone(&self.clock), &self.agents)
            }
        };
        if !self.mends && self.dice.one_in(20) {
            host.fuse.light(1 + self.dice.roll(30) as u32);
        }
        let (answer, lives) = host.run(work);
        host.fuse.put_out();
        if lives {
            self.host = Some(host);
        } else {
            self.tell("  (the host dies)");
        }
        answer
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Create => self.create(),
            Step::Destroy => self.destroy(),
            Step::Restart => self.restart(),
            Step::Schedule => self.schedule(),
            Step::Start => self.start(),
            Step::Terminate => self.terminate(),
            Step::Work => {
                if let Some(agent) = self.dice.index(self.agents.len()) {
                    self.work(agent, false);
                    self.deliver(agent, false);
                }
            }
            Step::Beat => {
                if let Some(agent) = self.dice.index(self.agents.len()) {
                    self.beat(agent, true);
                }
            }
            Step::Time => {
                let seconds = self.dice.weighted(&[(4, 2), (3, 8), (2, 20), (1, 35)]);
                self.tell(format!("  {seconds} s"));
                self.pass_time(seconds * SECOND);
                if !self.dice.one_in(4) {
                    self.beat_all();
                }
            }
            Step::Turn => {
                self.schedule();
                self.start();
                for agent in 0..self.agents.len() {
                    self.work(agent, false);
                    self.deliver(agent, false);
                }
                self.terminate();
            }
            Step::KernelDies => self.lose_kernel(true),
            Step::KernelVanishes => self.lose_kernel(false),
            Step::CommandEnds => self.command_ends(),
            Step::Reboot => self.reboot(),
            Step::Connection => self.toggle_connection(),
            Step::Manner => {
                if let Some(agent) = self.dice.index(self.agents.len()) {
                    let manner = self.dice.weighted(&[
                        (6, Manner::Works),
                        (1, Manner::Fails),
                        (1, Manner::Refuses),
                        (1, Manner::Forgets),
                        (1, Manner::AnswersNobody),
                        (1, Manner::HearsNothing),
                    ]);
                    self.agents[agent].state().manner = manner;
                    self.tell(format!("  i-{} {manner:?}", agent + 1));
                }
            }
            Step::Capacity => {
                if let Some(agent) = self.dice.index(self.agents.len()) {
                    let cpus = 1 + self.dice.roll(8);
                    self.agents[agent].state().cpus = cpus;
                    self.tell(format!("  i-{} has {cpus} cpus", agent + 1));
                    self.beat(agent, false);
                }
            }
            Step::Schedulable => {
                if let Some(agent) = self.dice.index(self.agents.len()) {
                    let (id, on) = (format!("i-{}", agent + 1), self.dice.one_in(2));
                    self.on_host(async |host| {
                        let _ = crate::maintenance::set_schedulable(&host.control, &[id.into()], on).await;
                    });
                }
            }
            Step::Liveness => self.liveness(),
            Step::Idle => {
                self.on_host(async |host| idle::tick(&host.control).await.map(drop).unwrap());
            }
            Step::Recalculate => {
                self.on_host(async |host| {
                    let mut tx = host.control.store().begin().await.unwrap();
                    occupancy::recalculate(&mut tx).await.unwrap();
                    tx.commit().await.unwrap();
                });
            }
            Step::HostDies => {
                self.tell("  (the host is killed)");
                self.host = None;
            }
        }
    }

    fn create(&mut self) {
        if self.promised.len() >= SESSIONS {
            return;
        }
        let name = format!("sim-{:03}", self.trace.len());
        let batch = self.dice.one_in(3);
        let dependency = self.dice.index(self.promised.len() * 4).and_then(|at| self.promised.get(at));
        let cluster_size = self.dice.weighted(&[(5, 1), (2, 2), (1, 3)]);
        let cpus = 1 + self.dice.roll(3);
        let request = CreateSession {
            name: name.clone(),
            image: "python".to_owned(),
            architecture: Some("x86_64".to_owned()),
            kind: if batch { SessionType::Batch } else { SessionType::Interactive },
            project: "default".to_owned(),
            domain: "default".to_owned(),
            cluster_size,
            cluster_mode: if self.dice.one_in(2) { ClusterMode::MultiNode } else { ClusterMode::SingleNode },
            config: SessionConfig { resources: Some(json!({"cpu": cpus, "mem": "512m"})), ..SessionConfig::default() },
            tag: None,
            enqueue_only: true,
            max_wait_s: 0,
            starts_at: (batch && self.dice.one_in(4)).then(|| "30s".to_owned()),
            reuse: true,
            startup_command: batch.then(|| "true".to_owned()),
            bootstrap_script: None,
            dependencies: dependency.into_iter().map(|d| d.id.to_string()).collect(),
            callback_url: None,
            owner_access_key: None,
            priority: self.dice.one_in(3).then(|| self.dice.roll(5) as i64 - 2),
            expected_duration_s: None,
            timeout_s: None,
            builds_images: false,
            endpoint: None,
            nodes: Vec::new(),
        };
        self.tell(format!("  {name}: {cluster_size} × {cpus} cpus, batch {batch}"));
        match self.on_host(async |host| enqueue::create(&host.control, &host.user, request).await) {
            Some(Ok(made)) => self.promised.push(Promised { id: made.session_id, name, ends: false }),
            // A dependency that is over isn't found.
            Some(Err(Error::InvalidParams { .. })) | None => {}
            Some(Err(error)) => self.fail(&format!("a session is refused: {error:?}")),
        }
    }

    fn destroy(&mut self) {
        let Some(at) = self.dice.index(self.promised.len()) else { return };
        let (id, forced) = (self.promised[at].id, self.dice.one_in(4));
        self.tell(format!("  {} forced {forced}", self.promised[at].name));
        self.excused.insert(id);
        let reason = if forced { "force-terminated" } else { "user-requested" };
        let answer = self.on_host(async |host| terminate::request(&host.control, &[id], reason, forced).await);
        match answer.map(|outcomes| outcomes.map(|mut all| all.pop())) {
            Some(Ok(Some(Ok(_)))) => self.promised[at].ends = true,
            Some(Ok(Some(Err(Error::Forbidden(_) | Error::NotFound { .. })))) | None => {}
            Some(other) => self.fail(&format!("an end is refused: {other:?}")),
        }
    }

    fn restart(&mut self) {
        let Some(at) = self.dice.index(self.promised.len()) else { return };
        let Promised { id, name, .. } = self.promised[at].clone();
        self.excused.insert(id);
        self.on_host(async |host| {
            let (control, user) = (host.control.clone(), Arc::clone(&host.user));
            let waits = tokio::spawn(async move { drop(sessions::restart(&control, &user, &name).await) });
            // It waits for the end of the restart, which takes more steps than this one.
            for _ in 0..200 {
                tokio::task::yield_now().await;
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
            waits.abort();
        });
    }

    fn schedule(&mut self) {
        self.on_host(async |host| schedule::tick(&host.control).await.map(drop).unwrap());
    }

    fn start(&mut self) {
        self.on_host(async |host| host.starter.pass().await.unwrap());
    }

    fn terminate(&mut self) {
        self.on_host(async |host| host.terminator.pass().await.unwrap());
    }

    fn liveness(&mut self) {
        self.on_host(async |host| {
            flush_seen(&host.control).await.unwrap();
            liveness::pass(&host.control, host.since).await.unwrap();
        });
    }

    /// What an agent is at goes on: kernels come up and go down.
    fn work(&mut self, agent: usize, all: bool) {
        let agent = self.agents[agent].clone();
        let mut state = agent.state();
        let kernels: Vec<(String, Stage)> = state.kernels.iter().map(|(id, k)| (id.clone(), k.stage)).collect();
        for (id, stage) in kernels {
            if !all && self.dice.one_in(3) {
                continue;
            }
            let kernel = state.kernels[&id].clone();
            match stage {
                Stage::Preparing if state.manner == Manner::Fails => {
                    state.kernels.remove(&id);
                    let failed = pb::StartFailed { name: "NoInterpreter".to_owned(), message: "none".to_owned() };
                    state.report(&id, &kernel.session, Event::StartFailed(failed));
                }
                Stage::Preparing => {
                    if self.dice.one_in(3) {
                        let pulling = pb::Pulling { image: "python".to_owned() };
                        state.report(&id, &kernel.session, Event::Pulling(pulling));
                        state.report(&id, &kernel.session, Event::Creating(pb::Creating {}));
                    }
                    if let Some(kernel) = state.kernels.get_mut(&id) {
                        kernel.stage = Stage::Running;
                    }
                    let started = pb::Started {
                        container_id: "c".to_owned(),
                        service_ports: "[]".to_owned(),
                        ..pb::Started::default()
                    };
                    state.report(&id, &kernel.session, Event::Started(started));
                }
                Stage::Running => {}
                Stage::Ending => state.end(&id, &kernel.reason),
            }
        }
    }

    fn authorized<T>(state: &State, message: T) -> Request<T> {
        metadata::request(message, &state.id, &state.credential).unwrap()
    }

    /// An agent that is connected registers, if it has to; whether it is known to the host then.
    fn register(&mut self, agent: usize) -> bool {
        let agent = self.agents[agent].clone();
        if !agent.state().connected {
            return false;
        }
        if agent.state().registered {
            return true;
        }
        let request = {
            let state = agent.state();
            Self::authorized(&state, state.registration(&host::template().1))
        };
        let answer = self.on_host(async |host| HostService::new(host.control.clone()).register(request).await);
        match answer {
            Some(Ok(answer)) => {
                let mut state = agent.state();
                state.credential = answer.into_inner().credential;
                state.registered = true;
                true
            }
            // Whether it counts is unknown: it tries again.
            None => false,
            Some(Err(status)) => {
                self.tell(format!("  an agent may not register: {status}"));
                false
            }
        }
    }

    /// Reports go to the host: some of them, or all.
    fn deliver(&mut self, at: usize, all: bool) {
        if !self.register(at) {
            return;
        }
        let agent = self.agents[at].clone();
        let waiting = agent.state().outbox.len();
        if waiting == 0 {
            return;
        }
        let most = if all { waiting } else { 1 + self.dice.roll(waiting as u64) as usize };
        let request = {
            let state = agent.state();
            let reports = state.outbox.iter().take(most).cloned().collect();
            Self::authorized(&state, pb::ReportRequest { boot_id: state.boot.clone(), reports })
        };
        let answer = self.on_host(async |host| HostService::new(host.control.clone()).report(request).await);
        // Sometimes it isn't heard, and everything is said once more.
        let heard = all || !self.dice.one_in(6);
        match answer {
            Some(Ok(answer)) if heard => {
                let answer = answer.into_inner();
                let mut state = agent.state();
                if answer.register_again {
                    state.registered = false;
                } else {
                    state.outbox.retain(|report| report.seq > answer.acknowledged);
                }
            }
            Some(Ok(_)) | None => {}
            Some(Err(status)) => self.fail(&format!("reports are refused: {status}")),
        }
    }

    /// A heartbeat, which may be a little late.
    fn beat(&mut self, at: usize, may_be_late: bool) {
        if !self.register(at) {
            return;
        }
        let agent = self.agents[at].clone();
        let request = {
            let state = agent.state();
            Self::authorized(&state, state.beat())
        };
        if may_be_late && self.dice.one_in(3) {
            self.pass_time(2 * SECOND);
            self.work(at, false);
            self.deliver(at, false);
        }
        let answer = self.on_host(async |host| {
            let answer = HostService::new(host.control.clone()).heartbeat(request).await;
            reconcile_due(&host.control).await.unwrap();
            flush_seen(&host.control).await.unwrap();
            answer
        });
        match answer {
            Some(Ok(answer)) => agent.state().registered &= !answer.into_inner().register_again,
            None => {}
            Some(Err(status)) => self.fail(&format!("a heartbeat is refused: {status}")),
        }
    }

    fn beat_all(&mut self) {
        let known: Vec<usize> = (0..self.agents.len()).filter(|at| self.register(*at)).collect();
        let agents: Vec<SimAgent> = known.iter().map(|at| self.agents[*at].clone()).collect();
        let answers = self.on_host(async |host| {
            let service = HostService::new(host.control.clone());
            let mut answers = Vec::new();
            for agent in &agents {
                let request = {
                    let state = agent.state();
                    Self::authorized(&state, state.beat())
                };
                answers.push(service.heartbeat(request).await);
            }
            reconcile_due(&host.control).await.unwrap();
            flush_seen(&host.control).await.unwrap();
            answers
        });
        for (agent, answer) in agents.iter().zip(answers.into_iter().flatten()) {
            match answer {
                Ok(answer) => agent.state().registered &= !answer.into_inner().register_again,
                Err(status) => self.fail(&format!("a heartbeat is refused: {status}")),
            }
        }
    }

    /// Marks that something happened to the sessions of an agent's kernels that may end them.
    fn excuse(&mut self, agent: usize, only: Option<&str>) {
        let state = self.agents[agent].state();
        let concerned = state.kernels.iter().filter(|(id, _)| only.is_none_or(|only| only == id.as_str()));
        self.excused.extend(concerned.filter_map(|(_, kernel)| kernel.session.parse::<SessionId>().ok()));
    }

    fn lose_kernel(&mut self, and_tells: bool) {
        let Some(at) = self.dice.index(self.agents.len()) else { return };
        let kernels: Vec<String> = self.agents[at].state().kernels.keys().cloned().collect();
        let Some(kernel) = self.dice.index(kernels.len()).map(|n| kernels[n].clone()) else { return };
        self.tell(format!("  {kernel} on i-{}", at + 1));
        self.excuse(at, Some(&kernel));
        let mut state = self.agents[at].state();
        if and_tells {
            state.end(&kernel, "self-terminated");
        } else {
            state.kernels.remove(&kernel);
        }
    }

    fn command_ends(&mut self) {
        let Some(at) = self.dice.index(self.agents.len()) else { return };
        let running = |state: &State| {
            let batches = state.kernels.iter().filter(|(_, k)| k.batch && k.stage == Stage::Running);
            batches.map(|(id, k)| (id.clone(), k.session.clone())).collect::<Vec<_>>()
        };
        let batches = running(&self.agents[at].state());
        let Some((kernel, session)) = self.dice.index(batches.len()).map(|n| batches[n].clone()) else { return };
        self.excuse(at, Some(&kernel));
        let exit_code = i32::from(self.dice.one_in(3));
        let reason = if exit_code == 0 { "task-done" } else { "task-failed" }.to_owned();
        let mut state = self.agents[at].state();
        state.report(&kernel, &session, Event::BatchFinished(pb::BatchFinished { reason, exit_code }));
        if let Some(kernel) = state.kernels.get_mut(&kernel) {
            kernel.batch = false;
        }
    }

    fn reboot(&mut self) {
        let Some(at) = self.dice.index(self.agents.len()) else { return };
        let remembers = self.dice.one_in(2);
        self.tell(format!("  i-{} remembers {remembers}", at + 1));
        self.excuse(at, None);
        self.agents[at].state().reboot(remembers);
    }

    fn toggle_connection(&mut self) {
        let Some(at) = self.dice.index(self.agents.len()) else { return };
        let connected = {
            let mut state = self.agents[at].state();
            state.connected = !state.connected;
            state.connected
        };
        self.tell(format!("  i-{} connected {connected}", at + 1));
        if let Some(host) = &self.host {
            host::connect(&host.control, &self.agents[at]);
        }
    }

    /// Everything works from now on, for long enough.
    fn mend(&mut self) {
        self.tell("everything is mended");
        self.mends = true;
        for agent in self.agents.clone() {
            let mut state = agent.state();
            (state.connected, state.manner) = (true, Manner::Works);
            drop(state);
            if let Some(host) = &self.host {
                host::connect(&host.control, &agent);
            }
        }
        let ids: Vec<_> = self.agents.iter().map(|agent| agent.state().id.clone().into()).collect();
        let mut quiet = 0;
        for _ in 0..60 {
            self.pass_time(16 * SECOND);
            self.beat_all();
            self.liveness();
            self.on_host(async |host| {
                for id in &ids {
                    agent_rows::modify(&mut host.control.store().reader(), id, Some(true), None).await.unwrap();
                }
                schedule::tick(&host.control).await.unwrap();
                host.starter.pass().await.unwrap();
                host.terminator.pass().await.unwrap();
            });
            for agent in 0..self.agents.len() {
                self.work(agent, true);
                self.deliver(agent, true);
            }
            self.check();
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
            if quiet == 2 {
                return;
            }
        }
        self.fail("things are mended, and don't come to rest");
    }

    fn is_quiet(&self) -> bool {
        use SessionStatus as S;
        let picture = self.observer.picture();
        let settled =
            |status| matches!(status, S::Pending | S::Running | S::RunningDegraded | S::Error) || status.is_dead();
        let counted: HashSet<&str> =
            picture.kernels.iter().filter(|k| k.status.occupies_agent()).map(|kernel| kernel.id.as_str()).collect();
        let wanted = |agent: &SimAgent| {
            let state = agent.state();
            state.outbox.is_empty() && state.kernels.keys().all(|id| counted.contains(id.as_str()))
        };
        picture.sessions.values().all(|s| settled(s.status))
            && self.agents.iter().all(wanted)
            && self.missing(&picture).is_none()
    }

    /// A kernel that counts as running, and isn't where it should be.
    fn missing<'p>(&self, picture: &'p Picture) -> Option<&'p Kernel> {
        let is_there = |kernel: &Kernel| {
            let agent = self.agents.iter().find(|agent| kernel.agent.as_ref() == Some(&agent.state().id));
            agent.is_some_and(|agent| agent.state().kernels.contains_key(&kernel.id))
        };
        picture.kernels.iter().find(|k| k.status == KernelStatus::Running && !is_there(k))
    }

    /// What clients were promised has come true.
    fn check_promises(&self) {
        let picture = self.observer.picture();
        for promised in &self.promised {
            let Some(session) = picture.sessions.get(&promised.id) else {
                self.fail(&format!("{promised:?} is lost"));
            };
            if promised.ends && !session.status.is_dead() {
                self.fail(&format!("{promised:?} should have ended: {session:?}"));
            }
            if session.status == SessionStatus::Pending && self.passes_over && session.info.is_none() {
                self.fail(&format!("{session:?} waits, and nobody is told why"));
            }
        }
        if let Some(kernel) = self.missing(&picture) {
            self.fail(&format!("{kernel:?} counts as running, and isn't there"));
        }
    }
}
