//! What the host knew of a round beyond the columns of its snapshot, as far as its verdicts and their words depend on it.

use quarterdeck_model::{SessionResult, Timestamp};
use quarterdeck_plugin::scheduling::{Accounts, Snapshot};
use quarterdeck_plugin::types;
use serde::{Deserialize, Serialize};

use super::frame::{Account, Frame, Place};
use super::snapshot;

/// Names, limits and circumstances behind the rows of a [`Snapshot`]; each list is parallel to its table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Of `pending`.
    pub sessions: Vec<SessionFacts>,
    /// Of the pending sessions' `kernels`.
    pub kernels: Vec<KernelFacts>,
    /// Of `agents`.
    pub agents: Vec<AgentFacts>,
    /// Of `owners`: access keys.
    pub owners: Vec<AccountFacts>,
    /// Of `projects`: ids.
    pub projects: Vec<AccountFacts>,
    /// Of `domains`: names.
    pub domains: Vec<AccountFacts>,
    /// Every optional column that the host could have sent. A policy is sent those that it asks for.
    #[serde(default)]
    pub columns: Vec<TableColumn>,
    /// Pending sessions whose request made no sense: they are in no table.
    #[serde(default)]
    pub malformed: Vec<Malformed>,
}

/// What the snapshot doesn't say about a pending session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Not before, in microseconds since 1970-01-01 UTC. Counts for batch sessions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// Sessions that it depends on and that have not succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Waiting>,
}

/// A session that another one waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
}

/// What the snapshot doesn't say about a pending kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFacts {
    /// Its image, canonical.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The agent that it is pinned to and that isn't among the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_pin: Option<String>,
}

/// What the snapshot doesn't say about an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Its id.
    pub id: String,
    /// Whether it lives. One that doesn't is present because a kernel is tied to it.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub alive: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_true(flag: &bool) -> bool {
    *flag
}

/// What the snapshot doesn't say about an owner, project or domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountFacts {
    /// The access key, the id or the name.
    pub id: String,
    /// The most it may hold, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub limit: String,
    /// Why its limit makes no sense: then nothing gets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An optional column and its table (`pending`, `agents`, …).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableColumn {
    /// The table.
    pub table: String,
    /// The column.
    pub column: types::Column,
}

/// A pending session that could not be judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Malformed {
    /// Its id.
    pub id: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Facts {
    /// The facts of a live round.
    pub(crate) fn of(frame: &Frame) -> Self {
        let accounts = |list: &[Account]| -> Vec<AccountFacts> {
            let facts = |a: &Account| AccountFacts {
                id: a.holder.clone(),
                limit: a.limit_map.humanized(&frame.types),
                problem: a.limit.as_ref().err().cloned(),
            };
            list.iter().map(facts).collect()
        };
        Self {
            sessions: frame
                .pending
                .iter()
                .map(|s| SessionFacts {
                    id: s.row.id.to_string(),
                    name: s.row.name.clone(),
                    starts_at: s.row.starts_at,
                    waits_for: s
                        .row
                        .dependencies
                        .iter()
                        .filter(|d| d.result != SessionResult::Success)
                        .map(|d| Waiting { name: d.name.clone(), id: d.id.to_string() })
                        .collect(),
                })
                .collect(),
            kernels: frame
                .pending
                .iter()
                .flat_map(|s| &s.kernels)
                .map(|k| KernelFacts {
                    image: k.row.image.clone(),
                    missing_pin: match &k.agent {
                        Place::Missing(id) => Some(id.to_string()),
                        Place::Free | Place::At(_) => None,
                    },
                })
                .collect(),
            agents: frame.agents.iter().map(|a| AgentFacts { id: a.id.to_string(), alive: a.alive }).collect(),
            owners: accounts(&frame.owners),
            projects: accounts(&frame.projects),
            domains: accounts(&frame.domains),
            columns: snapshot::optional(frame),
            malformed: frame
                .broken
                .iter()
                .map(|(row, problem)| Malformed { id: row.id.to_string(), problem: problem.clone() })
                .collect(),
        }
    }

    /// Facts for a snapshot that somebody made up: rows get their numbers as names, all agents live, nothing waits for
    /// anything.
    pub fn plain(snapshot: &Snapshot) -> Self {
        let names = |what: &str, count: u32| -> Vec<String> { (0..count).map(|i| format!("{what}-{i}")).collect() };
        let accounts = |what: &str, table: &Accounts| {
            names(what, table.count).into_iter().map(|id| AccountFacts { id, ..AccountFacts::default() }).collect()
        };
        let pending = &snapshot.pending;
        let kernels = pending.first_kernel.last().copied().unwrap_or(0).min(snapshot.kernels.count);
        Self {
            sessions: names("session", pending.count)
                .into_iter()
                .map(|id| SessionFacts { id, ..SessionFacts::default() })
                .collect(),
            kernels: vec![KernelFacts::default(); kernels as usize],
            agents: names("agent", snapshot.agents.count)
                .into_iter()
                .map(|id| AgentFacts { id, alive: true })
                .collect(),
            owners: accounts("owner", &snapshot.owners),
            projects: accounts("project", &snapshot.projects),
            domains: accounts("domain", &snapshot.domains),
            columns: Vec::new(),
            malformed: Vec::new(),
        }
    }
}
