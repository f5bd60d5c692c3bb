//! Rounds: a cluster, a queue, and where each session is expected.

use anyhow::{Context as _, bail, ensure};
use indexmap::IndexMap;
use quarterdeck_control::schedule::{AccountFacts, Facts, Fate, Recording, Waiting};
use quarterdeck_plugin::scheduling::{Accounts, Agents, ClusterMode, Kernels, Sessions, Snapshot};
use quarterdeck_plugin::types::SessionKind;
use quarterdeck_plugin::{CallTrace, Meter, Plugin};
use serde::Deserialize;
use serde_json::Value as Json;

use super::Played;
use super::values::{Slots, Table, columns, span, time, word};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Document {
    #[expect(dead_code, reason = "read before")]
    name: String,
    #[serde(default = "super::values::no_options")]
    pub(super) config: Json,
    cluster: Cluster,
    /// Oldest first.
    queue: Vec<Job>,
    expect: IndexMap<String, Expectation>,
    /// The sessions in the order of their turns.
    order: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Cluster {
    agents: IndexMap<String, Agent>,
    #[serde(default)]
    running: Vec<Job>,
    #[serde(default)]
    owners: IndexMap<String, Account>,
    #[serde(default)]
    projects: IndexMap<String, Account>,
    #[serde(default)]
    domains: IndexMap<String, Account>,
    now: Option<Json>,
    #[serde(default)]
    seed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Agent {
    slots: Slots,
    #[serde(default = "x86_64")]
    architecture: String,
    #[serde(default = "yes")]
    schedulable: bool,
    #[serde(default)]
    columns: IndexMap<String, Json>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Account {
    #[serde(default)]
    limit: Slots,
    max_sessions: Option<u32>,
    /// Held elsewhere in the cluster.
    #[serde(default)]
    holds: Slots,
    #[serde(default)]
    columns: IndexMap<String, Json>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Job {
    name: String,
    requests: Requests,
    #[serde(default)]
    mode: Mode,
    #[serde(default = "x86_64")]
    architecture: String,
    #[serde(default = "somebody")]
    owner: String,
    #[serde(default = "default")]
    project: String,
    #[serde(default = "default")]
    domain: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    private: bool,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    retries: u32,
    waiting: Option<Json>,
    /// Where it runs, or is pinned.
    agent: Option<String>,
    /// Names of sessions that have not succeeded yet.
    #[serde(default)]
    waits_for: Vec<String>,
    #[serde(default)]
    columns: IndexMap<String, Json>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Requests {
    One(Slots),
    Kernels(Vec<Slots>),
}

impl Requests {
    fn kernels(&self) -> &[Slots] {
        match self {
            Requests::One(slots) => std::slice::from_ref(slots),
            Requests::Kernels(all) => all,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    #[default]
    SingleNode,
    MultiNode,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    #[default]
    Interactive,
    Batch,
    Inference,
}

impl From<Kind> for SessionKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Interactive => SessionKind::Interactive,
            Kind::Batch => SessionKind::Batch,
            Kind::Inference => SessionKind::Inference,
        }
    }
}

fn x86_64() -> String {
    "x86_64".to_owned()
}

fn somebody() -> String {
    "somebody".to_owned()
}

fn default() -> String {
    "default".to_owned()
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Expectation {
    /// An agent, or `untouched`.
    Agent(String),
    Agents(Vec<String>),
    Deferred {
        deferred: String,
    },
    Refused {
        refused: String,
    },
}

impl Expectation {
    fn words(&self, job: &Job) -> String {
        match self {
            Expectation::Agent(word) if word == "untouched" => word.clone(),
            // One name stands for all kernels.
            Expectation::Agent(agent) => placed(&vec![agent.as_str(); job.requests.kernels().len()]),
            Expectation::Agents(agents) => placed(&agents.iter().map(String::as_str).collect::<Vec<_>>()),
            Expectation::Deferred { deferred } => format!("deferred: {deferred}"),
            Expectation::Refused { refused } => format!("refused: {refused}"),
        }
    }
}

fn placed(agents: &[&str]) -> String {
    format!("placed on {}", agents.join(", "))
}

/// A round to be played.
#[derive(Debug)]
pub(super) struct Round {
    recording: Recording,
    jobs: Vec<String>,
    agents: Vec<String>,
    expect: Vec<(usize, String)>,
    order: Option<Vec<String>>,
}

impl Round {
    pub(super) fn new(document: Document) -> anyhow::Result<Self> {
        let Document { cluster, queue, expect, order, .. } = document;
        let jobs: Vec<String> = queue.iter().map(|job| job.name.clone()).collect();
        let mut expected = Vec::new();
        for (name, expectation) in &expect {
            let row =
                jobs.iter().position(|job| job == name).with_context(|| format!("no session {name} in the queue"))?;
            expected.push((row, expectation.words(&queue[row])));
        }
        for name in order.iter().flatten() {
            ensure!(jobs.contains(name), "no session {name} in the queue");
        }
        let mut building = Building::new(&cluster, &queue)?;
        let (snapshot, facts) = building.finish(&cluster, &queue)?;
        let agents = building.agents;
        let recording = Recording::from_scenario("default", snapshot, facts)?;
        Ok(Self { recording, jobs, agents, expect: expected, order })
    }

    pub(super) fn play(&self, plugin: &Plugin, config: &str, meter: Meter) -> Played {
        let replay = self.recording.replay(plugin, config, meter);
        let mut played = Played {
            trace: CallTrace {
                duration: std::time::Duration::from_micros(replay.duration_us),
                fuel_used: replay.fuel_used,
                peak_memory: replay.peak_memory,
                journal: replay.journal.clone(),
            },
            failure: (!replay.is_ok()).then(|| replay.outcome.clone()),
            ..Played::default()
        };
        if played.failure.is_some() {
            return played;
        }
        let decisions = replay.decisions();
        for (row, expected) in &self.expect {
            let got = match &decisions.fates[*row] {
                Fate::Untouched => "untouched".to_owned(),
                Fate::Placed(agents) => {
                    placed(&agents.iter().map(|agent| self.agents[*agent as usize].as_str()).collect::<Vec<_>>())
                }
                Fate::Deferred(lack) => format!("deferred: {}", word(lack)),
                Fate::Refused(refusal) => format!("refused: {}", word(refusal)),
            };
            played.expect(format!("session {}", self.jobs[*row]), expected, got);
        }
        if let Some(order) = &self.order {
            let got: Vec<&str> = decisions.order.iter().map(|row| self.jobs[*row as usize].as_str()).collect();
            played.expect("order of turns", order.join(", "), got.join(", "));
        }
        played
    }
}

/// Texts turned into columns.
struct Building {
    table: Table,
    agents: Vec<String>,
    architectures: Vec<String>,
    owners: Vec<String>,
    projects: Vec<String>,
    domains: Vec<String>,
    kernels: Kernels,
}

impl Building {
    fn new(cluster: &Cluster, queue: &[Job]) -> anyhow::Result<Self> {
        let jobs = || queue.iter().chain(&cluster.running);
        let mut table = Table::default();
        cluster.agents.values().for_each(|agent| table.note(&agent.slots));
        jobs().flat_map(|job| job.requests.kernels()).for_each(|slots| table.note(slots));
        for account in cluster.owners.values().chain(cluster.projects.values()).chain(cluster.domains.values()) {
            table.note(&account.limit);
            table.note(&account.holds);
        }
        let sorted = |names: &mut dyn Iterator<Item = &String>| -> Vec<String> {
            let names: std::collections::BTreeSet<&String> = names.collect();
            names.into_iter().cloned().collect()
        };
        let mut seen = std::collections::HashSet::new();
        for job in jobs() {
            ensure!(seen.insert(&job.name), "two sessions are called {}", job.name);
            ensure!(!job.requests.kernels().is_empty(), "{} has no kernel", job.name);
        }
        Ok(Self {
            table,
            agents: sorted(&mut cluster.agents.keys()),
            architectures: sorted(
                &mut cluster.agents.values().map(|a| &a.architecture).chain(jobs().map(|job| &job.architecture)),
            ),
            owners: sorted(&mut jobs().map(|job| &job.owner)),
            projects: sorted(&mut jobs().map(|job| &job.project)),
            domains: sorted(&mut jobs().map(|job| &job.domain)),
            kernels: Kernels {
                count: 0,
                architecture: Vec::new(),
                requested: Vec::new(),
                held: Vec::new(),
                agent: Vec::new(),
                more: Vec::new(),
            },
        })
    }

    fn finish(&mut self, cluster: &Cluster, queue: &[Job]) -> anyhow::Result<(Snapshot, Facts)> {
        let moment = time(cluster.now.as_ref())?;
        let pending = self.sessions(queue, false)?;
        let running = self.sessions(&cluster.running, true)?;
        let agents = self.agents_table(cluster, &running)?;
        let owners = self.accounts(&self.owners, &cluster.owners, &running.owner, &running)?;
        let projects = self.accounts(&self.projects, &cluster.projects, &running.project, &running)?;
        let domains = self.accounts(&self.domains, &cluster.domains, &running.domain, &running)?;
        let snapshot = Snapshot {
            round: 1,
            now_ms: u64::try_from(moment.ms).context("a time before 1970")?,
            seed: cluster.seed,
            slots: self.table.contract(),
            architectures: self.architectures.clone(),
            pending,
            running,
            kernels: self.kernels.clone(),
            agents,
            owners,
            projects,
            domains,
        };
        let mut facts = Facts::plain(&snapshot);
        for (facts, job) in facts.sessions.iter_mut().zip(queue) {
            facts.id.clone_from(&job.name);
            facts.name.clone_from(&job.name);
            facts.waits_for =
                job.waits_for.iter().map(|name| Waiting { name: name.clone(), id: name.clone() }).collect();
        }
        for (facts, name) in facts.agents.iter_mut().zip(&self.agents) {
            facts.id.clone_from(name);
        }
        let named = |facts: &mut Vec<AccountFacts>, names: &[String]| {
            facts.iter_mut().zip(names).for_each(|(facts, name)| facts.id.clone_from(name));
        };
        named(&mut facts.owners, &self.owners);
        named(&mut facts.projects, &self.projects);
        named(&mut facts.domains, &self.domains);
        Ok((snapshot, facts))
    }

    fn sessions(&mut self, jobs: &[Job], hold: bool) -> anyhow::Result<Sessions> {
        let width = self.table.len();
        let (mut requested_all, mut held_all) = (Vec::new(), Vec::new());
        let mut first_kernel = vec![self.kernels.count];
        let mut waiting_ms = Vec::new();
        for job in jobs {
            waiting_ms.push(job.waiting.as_ref().map_or(Ok(0), span).with_context(|| job.name.clone())?);
            let agent = match &job.agent {
                None if hold => bail!("{} runs nowhere: say on which agent", job.name),
                None => None,
                Some(name) => {
                    Some(self.agents.binary_search(name).ok().with_context(|| format!("no agent {name}"))? as u32)
                }
            };
            let mut sum = vec![0_u64; width];
            for slots in job.requests.kernels() {
                let amounts = self.table.units(slots, 0).with_context(|| job.name.clone())?;
                sum.iter_mut().zip(&amounts).for_each(|(sum, amount)| *sum = sum.saturating_add(*amount));
                self.kernels.count += 1;
                self.kernels.architecture.push(row(&self.architectures, &job.architecture));
                self.kernels.held.extend(if hold { amounts.clone() } else { vec![0; width] });
                self.kernels.requested.extend(amounts);
                self.kernels.agent.push(agent);
            }
            first_kernel.push(self.kernels.count);
            held_all.extend(if hold { sum.clone() } else { vec![0; width] });
            requested_all.extend(sum);
        }
        Ok(Sessions {
            count: jobs.len() as u32,
            owner: jobs.iter().map(|job| row(&self.owners, &job.owner)).collect(),
            project: jobs.iter().map(|job| row(&self.projects, &job.project)).collect(),
            domain: jobs.iter().map(|job| row(&self.domains, &job.domain)).collect(),
            kind: jobs.iter().map(|job| job.kind.into()).collect(),
            mode: jobs
                .iter()
                .map(|job| match job.mode {
                    Mode::SingleNode => ClusterMode::SingleNode,
                    Mode::MultiNode => ClusterMode::MultiNode,
                })
                .collect(),
            private: jobs.iter().map(|job| job.private).collect(),
            priority: jobs.iter().map(|job| job.priority).collect(),
            retries: jobs.iter().map(|job| job.retries).collect(),
            waiting_ms,
            requested: requested_all,
            held: held_all,
            first_kernel,
            more: columns(jobs.len(), jobs.iter().map(|job| &job.columns).enumerate())?,
        })
    }

    fn agents_table(&self, cluster: &Cluster, running: &Sessions) -> anyhow::Result<Agents> {
        let width = self.table.len();
        let rows: Vec<&Agent> = self.agents.iter().map(|name| &cluster.agents[name]).collect();
        let mut occupied = vec![0_u64; rows.len() * width];
        let mut containers = vec![0; rows.len()];
        let last = running.first_kernel.last().copied().unwrap_or_default();
        for kernel in running.first_kernel.first().copied().unwrap_or_default()..last {
            let Some(agent) = self.kernels.agent[kernel as usize] else { continue };
            containers[agent as usize] += 1;
            let held = &self.kernels.held[kernel as usize * width..][..width];
            for (sum, amount) in occupied[agent as usize * width..][..width].iter_mut().zip(held) {
                *sum = sum.saturating_add(*amount);
            }
        }
        let mut capacity = Vec::with_capacity(rows.len() * width);
        for (name, agent) in self.agents.iter().zip(&rows) {
            capacity.extend(self.table.units(&agent.slots, 0).with_context(|| name.clone())?);
        }
        Ok(Agents {
            count: rows.len() as u32,
            architecture: rows.iter().map(|agent| row(&self.architectures, &agent.architecture)).collect(),
            schedulable: rows.iter().map(|agent| agent.schedulable).collect(),
            capacity,
            occupied,
            containers,
            more: columns(rows.len(), rows.iter().map(|agent| &agent.columns).enumerate())?,
        })
    }

    fn accounts(
        &self,
        names: &[String],
        given: &IndexMap<String, Account>,
        rows: &[u32],
        running: &Sessions,
    ) -> anyhow::Result<Accounts> {
        if let Some(name) = given.keys().find(|name| !names.contains(name)) {
            bail!("no session belongs to {name}");
        }
        let width = self.table.len();
        let nothing = Account::default();
        let accounts: Vec<&Account> = names.iter().map(|name| given.get(name).unwrap_or(&nothing)).collect();
        let (mut occupied, mut limit) = (Vec::new(), Vec::new());
        for account in &accounts {
            occupied.extend(self.table.units(&account.holds, 0)?);
            limit.extend(self.table.units(&account.limit, u64::MAX)?);
        }
        let (mut sessions, mut private) = (vec![0; names.len()], vec![0; names.len()]);
        for (session, account) in rows.iter().map(|row| *row as usize).enumerate() {
            if running.private[session] {
                private[account] += 1;
                continue;
            }
            sessions[account] += 1;
            let held = &running.held[session * width..][..width];
            for (sum, amount) in occupied[account * width..][..width].iter_mut().zip(held) {
                *sum = u64::saturating_add(*sum, *amount);
            }
        }
        Ok(Accounts {
            count: names.len() as u32,
            occupied,
            limit,
            sessions,
            session_limit: accounts.iter().map(|account| account.max_sessions.unwrap_or(u32::MAX)).collect(),
            private_sessions: private,
            private_session_limit: vec![u32::MAX; names.len()],
            more: columns(names.len(), accounts.iter().map(|account| &account.columns).enumerate())?,
        })
    }
}

fn row(names: &[String], name: &String) -> u32 {
    names.binary_search(name).map_or(u32::MAX, |row| row as u32)
}
