//! A [`Frame`] as the columns that policies are given.

use quarterdeck_model::slots::SlotKind;
use quarterdeck_model::{ClusterMode, SessionType};
use quarterdeck_plugin::{description, scheduling, types};
use quarterdeck_store::schedule::Wanted;

use super::books::Books;
use super::facts::TableColumn;
use super::frame::{Account, Frame, Kernel, Place, Session};

/// An optional column: its table, its name, and how it is made.
struct OptionalColumn {
    table: &'static str,
    name: &'static str,
    make: fn(&Frame) -> types::ColumnData,
    /// Notes what has to be read for it.
    reads: fn(&mut Wanted),
}

/// What stands in every frame.
fn nothing(_: &mut Wanted) {}

/// The optional columns that this host knows. Others that a policy asks for are left out. They are explained in
/// `docs/src/columns.md`.
const CATALOGUE: &[OptionalColumn] = &[
    OptionalColumn { table: "pending", name: "eligible", make: eligible, reads: nothing },
    OptionalColumn { table: "pending", name: "expected-ms", make: |f| expected_ms(&f.pending), reads: nothing },
    OptionalColumn { table: "pending", name: "tag", make: |f| tags(f, &f.pending), reads: |w| w.tags = true },
    OptionalColumn { table: "running", name: "expected-ms", make: |f| expected_ms(&f.running), reads: nothing },
    OptionalColumn { table: "running", name: "ran-ms", make: ran_ms, reads: |w| w.started = true },
    OptionalColumn { table: "running", name: "tag", make: |f| tags(f, &f.running), reads: |w| w.tags = true },
    OptionalColumn { table: "agents", name: "name", make: agent_names, reads: nothing },
    OptionalColumn { table: "owners", name: "name", make: |f| names(&f.owners), reads: nothing },
    OptionalColumn { table: "owners", name: "usage", make: |f| usage(f, &f.owners), reads: |w| w.means = true },
    OptionalColumn { table: "projects", name: "name", make: project_names, reads: |w| w.project_names = true },
    OptionalColumn { table: "projects", name: "usage", make: |f| usage(f, &f.projects), reads: |w| w.means = true },
    OptionalColumn { table: "domains", name: "name", make: |f| names(&f.domains), reads: nothing },
];

/// Tables and names of the optional columns that this host knows.
#[cfg(test)]
pub(crate) fn catalogue() -> impl Iterator<Item = (&'static str, &'static str)> {
    CATALOGUE.iter().map(|column| (column.table, column.name))
}

fn is_wanted(column: &OptionalColumn, wanted: &[description::ColumnRequest]) -> bool {
    wanted.iter().any(|w| w.table == column.table && w.name == column.name)
}

/// What has to be read for the columns that a policy asks for.
pub(crate) fn extras_of(columns: &[description::ColumnRequest]) -> Wanted {
    let mut wanted = Wanted::default();
    CATALOGUE.iter().filter(|column| is_wanted(column, columns)).for_each(|column| (column.reads)(&mut wanted));
    wanted
}

fn eligible(frame: &Frame) -> types::ColumnData {
    let books = Books::new(frame);
    let flags = (0..frame.pending.len()).map(|i| u64::from(books.predicates(i).failed.is_empty()));
    types::ColumnData::Integers(flags.collect())
}

fn expected_ms(sessions: &[Session]) -> types::ColumnData {
    let expected = |s: &Session| s.row.expected_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
    types::ColumnData::Integers(sessions.iter().map(expected).collect())
}

fn ran_ms(frame: &Frame) -> types::ColumnData {
    let started = |s: &Session| frame.extras.started.get(&s.row.id).map_or(frame.now, |at| *at);
    let ran = frame.running.iter().map(|s| u64::try_from(frame.now.millis() - started(s).millis()).unwrap_or(0));
    types::ColumnData::Integers(ran.collect())
}

fn tags(frame: &Frame, sessions: &[Session]) -> types::ColumnData {
    let tag = |s: &Session| frame.extras.tags.get(&s.row.id).cloned().unwrap_or_default();
    types::ColumnData::Texts(sessions.iter().map(tag).collect())
}

fn agent_names(frame: &Frame) -> types::ColumnData {
    types::ColumnData::Texts(frame.agents.iter().map(|a| a.id.to_string()).collect())
}

fn names(accounts: &[Account]) -> types::ColumnData {
    types::ColumnData::Texts(accounts.iter().map(|a| a.holder.clone()).collect())
}

fn project_names(frame: &Frame) -> types::ColumnData {
    let name = |a: &Account| frame.extras.project_names.get(&a.holder).cloned().unwrap_or_default();
    types::ColumnData::Texts(frame.projects.iter().map(name).collect())
}

/// What accounts have held on average of late: row-major with one cell per slot.
fn usage(frame: &Frame, accounts: &[Account]) -> types::ColumnData {
    let slots = frame.slots.len();
    let mut cells = vec![0.0; accounts.len() * slots];
    for (row, account) in accounts.iter().enumerate() {
        let key = (account.scope.as_str().to_owned(), account.holder.clone());
        for (slot, mean) in frame.extras.means.get(&key).into_iter().flatten() {
            if let Some(column) = frame.slots.iter().position(|(name, _)| name == slot) {
                cells[row * slots + column] = *mean;
            }
        }
    }
    types::ColumnData::Decimals(cells)
}

/// All optional columns of `frame`, in the order in which policies are sent them.
pub(crate) fn optional(frame: &Frame) -> Vec<TableColumn> {
    let made = |c: &OptionalColumn| TableColumn {
        table: c.table.to_owned(),
        column: types::Column { name: c.name.to_owned(), data: (c.make)(frame) },
    };
    CATALOGUE.iter().map(made).collect()
}

/// The columns of `frame`, with those optional ones of `wanted` that exist.
pub(crate) fn columns(
    frame: &Frame,
    round: u64,
    seed: u64,
    wanted: &[description::ColumnRequest],
) -> scheduling::Snapshot {
    let more = |table: &str| -> Vec<types::Column> {
        CATALOGUE
            .iter()
            .filter(|c| c.table == table && is_wanted(c, wanted))
            .map(|c| types::Column { name: c.name.to_owned(), data: (c.make)(frame) })
            .collect()
    };
    let slots = frame.slots.len();
    let kernels: Vec<&Kernel> = frame.pending.iter().chain(&frame.running).flat_map(|s| &s.kernels).collect();
    let pending_kernels = frame.pending.iter().map(|s| s.kernels.len()).sum();
    scheduling::Snapshot {
        round,
        now_ms: u64::try_from(frame.now.millis()).unwrap_or(0),
        seed,
        slots: frame
            .slots
            .iter()
            .map(|(name, kind)| types::Slot { name: name.clone(), kind: slot_kind(*kind) })
            .collect(),
        architectures: frame.architectures.clone(),
        pending: sessions(frame, &frame.pending, 0, slots, more("pending")),
        running: sessions(frame, &frame.running, pending_kernels, slots, more("running")),
        kernels: scheduling::Kernels {
            count: kernels.len() as u32,
            architecture: kernels.iter().map(|k| k.architecture).collect(),
            requested: kernels.iter().flat_map(|k| k.requested.iter().copied()).collect(),
            held: kernels.iter().flat_map(|k| k.held.iter().copied()).collect(),
            agent: kernels
                .iter()
                .map(|k| match k.agent {
                    Place::At(i) => Some(i),
                    Place::Free | Place::Missing(_) => None,
                })
                .collect(),
            more: more("kernels"),
        },
        agents: scheduling::Agents {
            count: frame.agents.len() as u32,
            architecture: frame.agents.iter().map(|a| a.architecture).collect(),
            schedulable: frame.agents.iter().map(|a| a.schedulable).collect(),
            capacity: frame.agents.iter().flat_map(|a| a.capacity.iter().copied()).collect(),
            occupied: frame.agents.iter().flat_map(|a| a.occupied.iter().copied()).collect(),
            containers: frame.agents.iter().map(|a| a.containers).collect(),
            more: more("agents"),
        },
        owners: accounts(&frame.owners, slots, more("owners")),
        projects: accounts(&frame.projects, slots, more("projects")),
        domains: accounts(&frame.domains, slots, more("domains")),
    }
}

fn sessions(
    frame: &Frame,
    rows: &[Session],
    first_kernel: usize,
    slots: usize,
    more: Vec<types::Column>,
) -> scheduling::Sessions {
    let mut offsets = Vec::with_capacity(rows.len() + 1);
    let mut next = first_kernel as u32;
    offsets.push(next);
    let mut held = Vec::with_capacity(rows.len() * slots);
    for session in rows {
        next += session.kernels.len() as u32;
        offsets.push(next);
        for slot in 0..slots {
            held.push(session.kernels.iter().fold(0_u64, |sum, k| sum.saturating_add(k.held[slot])));
        }
    }
    scheduling::Sessions {
        count: rows.len() as u32,
        owner: rows.iter().map(|s| s.owner as u32).collect(),
        project: rows.iter().map(|s| s.project as u32).collect(),
        domain: rows.iter().map(|s| s.domain as u32).collect(),
        kind: rows.iter().map(|s| session_kind(s.row.session_type)).collect(),
        mode: rows
            .iter()
            .map(|s| match s.row.cluster_mode {
                ClusterMode::SingleNode => scheduling::ClusterMode::SingleNode,
                ClusterMode::MultiNode => scheduling::ClusterMode::MultiNode,
            })
            .collect(),
        private: rows.iter().map(|s| s.row.is_private).collect(),
        priority: rows.iter().map(|s| s.row.priority.clamp(i32::MIN.into(), i32::MAX.into()) as i32).collect(),
        retries: rows.iter().map(|s| s.retries).collect(),
        waiting_ms: rows.iter().map(|s| frame.waiting_ms(s)).collect(),
        requested: rows.iter().flat_map(|s| s.requested.iter().copied()).collect(),
        held,
        first_kernel: offsets,
        more,
    }
}

/// A session type in the words of the contract.
pub(crate) fn session_kind(kind: SessionType) -> types::SessionKind {
    match kind {
        SessionType::Interactive => types::SessionKind::Interactive,
        SessionType::Batch => types::SessionKind::Batch,
        SessionType::Inference => types::SessionKind::Inference,
    }
}

/// A slot's kind in the words of the contract.
pub(crate) fn slot_kind(kind: SlotKind) -> types::SlotKind {
    match kind {
        SlotKind::Count => types::SlotKind::Count,
        SlotKind::Bytes => types::SlotKind::Bytes,
        SlotKind::Unique => types::SlotKind::Unique,
    }
}

fn accounts(rows: &[Account], slots: usize, more: Vec<types::Column>) -> scheduling::Accounts {
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    scheduling::Accounts {
        count: rows.len() as u32,
        occupied: rows.iter().flat_map(|a| a.occupied.iter().copied()).collect(),
        // A limit that makes no sense lets nothing through.
        limit: rows.iter().flat_map(|a| a.limit.clone().unwrap_or_else(|_| vec![0; slots])).collect(),
        sessions: rows.iter().map(|a| count(a.sessions.0)).collect(),
        session_limit: rows.iter().map(|a| count(a.session_limit.0)).collect(),
        private_sessions: rows.iter().map(|a| count(a.sessions.1)).collect(),
        private_session_limit: rows.iter().map(|a| count(a.session_limit.1)).collect(),
        more,
    }
}
