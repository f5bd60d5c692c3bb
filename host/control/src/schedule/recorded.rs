//! The rules of a round, applied to a recording of it.

use quarterdeck_model::slots::SlotKind;
use quarterdeck_plugin::scheduling::{Accounts, ClusterMode, Outcome, Placement, Proposal, Snapshot};
use quarterdeck_plugin::{Judge, types};
use quarterdeck_store::occupancy::Scope;

use super::books::{Books, Verdict};
use super::facts::{AccountFacts, TableColumn};
use super::record::Recording;
use super::view::{Pin, Purse, Site, Subject, Task, View};

/// The host's books of a recorded round: the very rules of the live ones, with what the recording holds as their facts.
#[derive(Debug)]
pub struct RecordedBooks<'r>(Books<'r, Recording>);

/// What the host said about a session.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// Row of the pending sessions.
    pub session: u32,
    /// Names of the predicates that hold.
    pub passed: Vec<&'static str>,
    /// Name of each predicate that doesn't hold, and what the user is told of it.
    pub failed: Vec<(&'static str, String)>,
    /// What the user is told beside that; nothing about a session that was placed.
    pub message: Option<String>,
}

impl<'r> RecordedBooks<'r> {
    /// The books as the snapshot is.
    pub fn new(recording: &'r Recording) -> Self {
        Self(Books::new(recording))
    }

    /// What was decided so far, and what the users are told of it, in the order of the decisions.
    pub fn reasons(self) -> Vec<Reason> {
        let (decisions, _) = self.0.close();
        decisions
            .into_iter()
            .map(|decision| Reason {
                session: decision.session as u32,
                passed: decision.checks.passed,
                failed: decision.checks.failed.into_iter().map(|(name, msg, _)| (name, msg)).collect(),
                message: match decision.verdict {
                    Verdict::Placed(_) | Verdict::Ineligible => None,
                    Verdict::NoRoom { msg, .. } | Verdict::Refused { why: msg, .. } => Some(msg),
                },
            })
            .collect()
    }

    /// Whether all predicates of a pending session hold on the books as they are now.
    pub fn eligible(&self, session: u32) -> bool {
        self.0.predicates(session as usize).failed.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn into_inner(self) -> Books<'r, Recording> {
        self.0
    }
}

impl Judge for RecordedBooks<'_> {
    fn judge(&mut self, proposals: &[Proposal]) -> Vec<Outcome> {
        self.0.judge(proposals)
    }
}

impl Recording {
    fn table(&self, scope: Scope) -> (&Accounts, &[AccountFacts]) {
        let (snapshot, facts) = (&self.snapshot, &self.facts);
        match scope {
            Scope::Keypair => (&snapshot.owners, &facts.owners),
            Scope::Project => (&snapshot.projects, &facts.projects),
            Scope::Domain => (&snapshot.domains, &facts.domains),
        }
    }

    fn kernel(&self, session: usize, kernel: usize) -> usize {
        self.snapshot.pending.first_kernel[session] as usize + kernel
    }

    /// Row `row` of a matrix.
    fn amounts<'r>(&self, matrix: &'r [u64], row: usize) -> &'r [u64] {
        let slots = self.snapshot.slots.len();
        &matrix[row * slots..(row + 1) * slots]
    }
}

/// Tables and facts were compared when the recording was made or read: see [`check`].
impl View for Recording {
    fn group(&self) -> &str {
        &self.scaling_group
    }

    fn slot(&self, slot: usize) -> (&str, SlotKind) {
        let slot = &self.snapshot.slots[slot];
        let kind = match slot.kind {
            types::SlotKind::Count => SlotKind::Count,
            types::SlotKind::Bytes => SlotKind::Bytes,
            types::SlotKind::Unique => SlotKind::Unique,
        };
        (&slot.name, kind)
    }

    fn architecture(&self, index: u32) -> &str {
        &self.snapshot.architectures[index as usize]
    }

    fn pending(&self) -> usize {
        self.snapshot.pending.count as usize
    }

    fn agents(&self) -> usize {
        self.snapshot.agents.count as usize
    }

    fn accounts(&self, scope: Scope) -> usize {
        self.table(scope).0.count as usize
    }

    fn subject(&self, session: usize) -> Subject<'_> {
        let table = &self.snapshot.pending;
        let batch = table.kind[session] == types::SessionKind::Batch;
        Subject {
            owner: table.owner[session] as usize,
            project: table.project[session] as usize,
            domain: table.domain[session] as usize,
            private: table.private[session],
            multi_node: table.mode[session] == ClusterMode::MultiNode,
            too_early: batch && self.facts.sessions[session].starts_at.is_some_and(|at| at > self.at),
            requested: self.amounts(&table.requested, session),
            kernels: (table.first_kernel[session + 1] - table.first_kernel[session]) as usize,
        }
    }

    fn task(&self, session: usize, kernel: usize) -> Task<'_> {
        let row = self.kernel(session, kernel);
        let table = &self.snapshot.kernels;
        Task {
            architecture: table.architecture[row],
            requested: self.amounts(&table.requested, row),
            pin: match (table.agent[row], &self.facts.kernels[row].missing_pin) {
                (Some(agent), _) => Pin::At(agent),
                (None, Some(id)) => Pin::Missing(id),
                (None, None) => Pin::Free,
            },
        }
    }

    fn site(&self, agent: u32) -> Site<'_> {
        let (table, row) = (&self.snapshot.agents, agent as usize);
        let facts = &self.facts.agents[row];
        Site {
            id: &facts.id,
            alive: facts.alive,
            schedulable: table.schedulable[row],
            architecture: table.architecture[row],
            capacity: self.amounts(&table.capacity, row),
            occupied: self.amounts(&table.occupied, row),
        }
    }

    fn account(&self, scope: Scope, row: usize) -> Purse<'_> {
        let (table, facts) = self.table(scope);
        let limit = |n: u32| if n == u32::MAX { u64::MAX } else { u64::from(n) };
        Purse {
            occupied: self.amounts(&table.occupied, row),
            limit: match &facts[row].problem {
                None => Ok(self.amounts(&table.limit, row)),
                Some(problem) => Err(problem),
            },
            sessions: (table.sessions[row].into(), table.private_sessions[row].into()),
            session_limit: (limit(table.session_limit[row]), limit(table.private_session_limit[row])),
        }
    }

    fn session_id(&self, session: usize) -> String {
        self.facts.sessions[session].id.clone()
    }

    fn image(&self, session: usize, kernel: usize) -> &str {
        &self.facts.kernels[self.kernel(session, kernel)].image
    }

    fn waits_for(&self, session: usize) -> Vec<(String, String)> {
        self.facts.sessions[session].waits_for.iter().map(|w| (w.name.clone(), w.id.clone())).collect()
    }

    fn limit_text(&self, scope: Scope, row: usize) -> String {
        self.table(scope).1[row].limit.clone()
    }
}

/// The column that tells which pending sessions pass all predicates at the snapshot.
pub(crate) fn eligible(recording: &Recording) -> TableColumn {
    let books = RecordedBooks::new(recording);
    let flags = (0..recording.snapshot.pending.count).map(|session| u64::from(books.eligible(session)));
    let data = types::ColumnData::Integers(flags.collect());
    TableColumn { table: "pending".to_owned(), column: types::Column { name: "eligible".to_owned(), data } }
}

/// Whether the tables of a recording fit together, so that everybody may follow its indices.
///
/// # Errors
/// What doesn't fit.
pub(crate) fn check(recording: &Recording) -> Result<(), String> {
    let Snapshot { slots, architectures, pending, running, kernels, agents, owners, projects, domains, .. } =
        &recording.snapshot;
    let facts = &recording.facts;
    let width = slots.len();
    let length = |what: &str, got: usize, rows: u32| {
        if got == rows as usize { Ok(()) } else { Err(format!("{what} has {got} entries for {rows} rows")) }
    };
    let matrix = |what: &str, got: usize, rows: u32| {
        let fits = (rows as usize).checked_mul(width) == Some(got);
        if fits { Ok(()) } else { Err(format!("{what} has {got} amounts for {rows} rows of {width} slots")) }
    };
    let below = |what: &str, rows: &mut dyn Iterator<Item = u32>, limit: u32| match rows.max() {
        Some(row) if row >= limit => Err(format!("{what} names row {row} of {limit}")),
        _ => Ok(()),
    };
    for (name, table, least) in [("pending", pending, 1), ("running", running, 0)] {
        let n = table.count;
        length(name, table.owner.len(), n)?;
        length(name, table.project.len(), n)?;
        length(name, table.domain.len(), n)?;
        length(name, table.kind.len(), n)?;
        length(name, table.mode.len(), n)?;
        length(name, table.private.len(), n)?;
        length(name, table.priority.len(), n)?;
        length(name, table.retries.len(), n)?;
        length(name, table.waiting_ms.len(), n)?;
        length(name, table.first_kernel.len(), n.checked_add(1).ok_or("too many sessions")?)?;
        matrix(name, table.requested.len(), n)?;
        matrix(name, table.held.len(), n)?;
        below(name, &mut table.owner.iter().copied(), owners.count)?;
        below(name, &mut table.project.iter().copied(), projects.count)?;
        below(name, &mut table.domain.iter().copied(), domains.count)?;
        if !table.first_kernel.is_sorted_by(|a, b| b.checked_sub(*a).is_some_and(|kernels| kernels >= least)) {
            return Err(format!("a session of {name} has less than {least} kernels"));
        }
        below(name, &mut table.first_kernel.iter().map(|offset| offset.saturating_sub(1)), kernels.count.max(1))?;
    }
    if pending.first_kernel.first() != Some(&0) {
        return Err("the kernels don't begin with those of the pending sessions".to_owned());
    }
    length("kernels", kernels.architecture.len(), kernels.count)?;
    length("kernels", kernels.agent.len(), kernels.count)?;
    matrix("kernels", kernels.requested.len(), kernels.count)?;
    matrix("kernels", kernels.held.len(), kernels.count)?;
    below("kernels", &mut kernels.architecture.iter().copied(), architectures.len() as u32)?;
    below("kernels", &mut kernels.agent.iter().flatten().copied(), agents.count)?;
    length("agents", agents.architecture.len(), agents.count)?;
    length("agents", agents.schedulable.len(), agents.count)?;
    length("agents", agents.containers.len(), agents.count)?;
    matrix("agents", agents.capacity.len(), agents.count)?;
    matrix("agents", agents.occupied.len(), agents.count)?;
    below("agents", &mut agents.architecture.iter().copied(), architectures.len() as u32)?;
    let accounts = [
        ("owners", owners, &facts.owners),
        ("projects", projects, &facts.projects),
        ("domains", domains, &facts.domains),
    ];
    for (name, table, facts) in accounts {
        matrix(name, table.occupied.len(), table.count)?;
        matrix(name, table.limit.len(), table.count)?;
        for list in [&table.sessions, &table.session_limit, &table.private_sessions, &table.private_session_limit] {
            length(name, list.len(), table.count)?;
        }
        length(&format!("the facts of {name}"), facts.len(), table.count)?;
    }
    length("the facts of the pending sessions", facts.sessions.len(), pending.count)?;
    length("the facts of the agents", facts.agents.len(), agents.count)?;
    let pending_kernels = pending.first_kernel.last().copied().unwrap_or(0);
    length("the facts of the pending kernels", facts.kernels.len(), pending_kernels)?;
    below("stale", &mut recording.stale.iter().copied(), pending.count)?;
    let fallback = recording.fallback.iter().flat_map(|fallback| &fallback.steps);
    for step in recording.steps.iter().chain(fallback) {
        length("a step's outcomes", step.outcomes.len(), step.proposals.len() as u32)?;
        below("a proposal", &mut step.proposals.iter().map(quarterdeck_plugin::subject), pending.count)?;
        for proposal in &step.proposals {
            let Proposal::Place(Placement { session, agents: places }) = proposal else { continue };
            let row = *session as usize;
            length("a placement", places.len(), pending.first_kernel[row + 1] - pending.first_kernel[row])?;
            below("a placement", &mut places.iter().copied(), agents.count)?;
        }
    }
    Ok(())
}
