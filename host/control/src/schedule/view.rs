//! What the rules of a round look at, wherever it comes from: the live [`Frame`] or a recording of one.

use quarterdeck_model::slots::SlotKind;
use quarterdeck_model::{ClusterMode, SessionResult, SessionType};
use quarterdeck_store::occupancy::Scope;

use super::frame::{Account, Frame, Place};

/// A source of facts for [`Books`](super::books::Books). Rows refer to each other by index, as in a frame.
///
/// Texts that only messages need are asked for when a message is written, never before.
pub(crate) trait View {
    /// The scaling group's name.
    fn group(&self) -> &str;
    /// Name and kind of a slot.
    fn slot(&self, slot: usize) -> (&str, SlotKind);
    /// Name of an architecture.
    fn architecture(&self, index: u32) -> &str;
    /// Number of pending sessions.
    fn pending(&self) -> usize;
    /// Number of agents.
    fn agents(&self) -> usize;
    /// Number of owners, projects or domains.
    fn accounts(&self, scope: Scope) -> usize;

    /// A pending session.
    fn subject(&self, session: usize) -> Subject<'_>;
    /// A kernel of a pending session.
    fn task(&self, session: usize, kernel: usize) -> Task<'_>;
    /// An agent.
    fn site(&self, agent: u32) -> Site<'_>;
    /// An owner, project or domain.
    fn account(&self, scope: Scope, row: usize) -> Purse<'_>;

    /// A pending session's id.
    fn session_id(&self, session: usize) -> String;
    /// A kernel's image, canonical.
    fn image(&self, session: usize, kernel: usize) -> &str;
    /// Name and id of the sessions that a pending one waits for.
    fn waits_for(&self, session: usize) -> Vec<(String, String)>;
    /// The most that somebody may hold, for people.
    fn limit_text(&self, scope: Scope, row: usize) -> String;
}

/// What the rules need to know of a pending session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'v> {
    /// Rows of the owner, project and domain.
    pub owner: usize,
    pub project: usize,
    pub domain: usize,
    /// Exempt from quotas and counted apart.
    pub private: bool,
    /// Its kernels may run on different agents.
    pub multi_node: bool,
    /// Its reserved start time has not come.
    pub too_early: bool,
    /// The sum of its kernels' requests.
    pub requested: &'v [u64],
    /// How many kernels it has.
    pub kernels: usize,
}

/// What the rules need to know of a pending kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'v> {
    pub architecture: u32,
    pub requested: &'v [u64],
    pub pin: Pin<'v>,
}

/// The agent that a kernel is pinned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin<'v> {
    /// None.
    Free,
    /// That row.
    At(u32),
    /// One that doesn't exist.
    Missing(&'v str),
}

/// What the rules need to know of an agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'v> {
    pub id: &'v str,
    pub alive: bool,
    /// Takes sessions that are not pinned to it.
    pub schedulable: bool,
    pub architecture: u32,
    pub capacity: &'v [u64],
    pub occupied: &'v [u64],
}

/// What somebody holds and may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purse<'v> {
    pub occupied: &'v [u64],
    /// `u64::MAX`: no limit; an error when the limit makes no sense.
    pub limit: Result<&'v [u64], &'v str>,
    /// Sessions that hold resources: ordinary, private.
    pub sessions: (u64, u64),
    /// The most of those (`u64::MAX`: no limit).
    pub session_limit: (u64, u64),
}

impl Frame {
    fn list(&self, scope: Scope) -> &[Account] {
        match scope {
            Scope::Keypair => &self.owners,
            Scope::Project => &self.projects,
            Scope::Domain => &self.domains,
        }
    }
}

impl View for Frame {
    fn group(&self) -> &str {
        &self.group
    }

    fn slot(&self, slot: usize) -> (&str, SlotKind) {
        let (name, kind) = &self.slots[slot];
        (name, *kind)
    }

    fn architecture(&self, index: u32) -> &str {
        &self.architectures[index as usize]
    }

    fn pending(&self) -> usize {
        self.pending.len()
    }

    fn agents(&self) -> usize {
        self.agents.len()
    }

    fn accounts(&self, scope: Scope) -> usize {
        self.list(scope).len()
    }

    #[inline]
    fn subject(&self, session: usize) -> Subject<'_> {
        let s = &self.pending[session];
        Subject {
            owner: s.owner,
            project: s.project,
            domain: s.domain,
            private: s.row.is_private,
            multi_node: s.row.cluster_mode == ClusterMode::MultiNode,
            too_early: s.row.session_type == SessionType::Batch && s.row.starts_at.is_some_and(|at| at > self.now),
            requested: &s.requested,
            kernels: s.kernels.len(),
        }
    }

    #[inline]
    fn task(&self, session: usize, kernel: usize) -> Task<'_> {
        let k = &self.pending[session].kernels[kernel];
        Task {
            architecture: k.architecture,
            requested: &k.requested,
            pin: match &k.agent {
                Place::Free => Pin::Free,
                Place::At(row) => Pin::At(*row),
                Place::Missing(id) => Pin::Missing(id.as_str()),
            },
        }
    }

    #[inline]
    fn site(&self, agent: u32) -> Site<'_> {
        let a = &self.agents[agent as usize];
        Site {
            id: a.id.as_str(),
            alive: a.alive,
            schedulable: a.schedulable,
            architecture: a.architecture,
            capacity: &a.capacity,
            occupied: &a.occupied,
        }
    }

    #[inline]
    fn account(&self, scope: Scope, row: usize) -> Purse<'_> {
        let a = &self.list(scope)[row];
        Purse {
            occupied: &a.occupied,
            limit: a.limit.as_deref().map_err(String::as_str),
            sessions: a.sessions,
            session_limit: a.session_limit,
        }
    }

    fn session_id(&self, session: usize) -> String {
        self.pending[session].row.id.to_string()
    }

    fn image(&self, session: usize, kernel: usize) -> &str {
        &self.pending[session].kernels[kernel].row.image
    }

    fn waits_for(&self, session: usize) -> Vec<(String, String)> {
        let unfinished = self.pending[session].row.dependencies.iter().filter(|d| d.result != SessionResult::Success);
        unfinished.map(|d| (d.name.clone(), d.id.to_string())).collect()
    }

    fn limit_text(&self, scope: Scope, row: usize) -> String {
        self.list(scope)[row].limit_map.humanized(&self.types)
    }
}
