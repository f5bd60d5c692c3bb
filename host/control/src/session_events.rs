//! Who hears which events of sessions (`spec/events-streams.md` §1.1).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use quarterdeck_model::{AccessKey, ProjectId, SessionId, UserRole};
use quarterdeck_store::events::{self, SessionEvent};
use quarterdeck_store::{Dialect, projects};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// How far back events are read again: a transaction that took its number early may commit late.
pub(crate) const LOOK_BACK: i64 = 2_000;
/// Events read at a time.
const PAGE: i64 = 500;

/// What clients are told of. What else is logged is for the host itself.
const TOLD: &[&str] = &[
    "kernel_preparing",
    "kernel_pulling",
    "kernel_creating",
    "kernel_started",
    "kernel_terminating",
    "kernel_terminated",
    "kernel_cancelled",
    "session_enqueued",
    "session_scheduled",
    "session_preparing",
    "session_started",
    "session_cancelled",
    "session_terminating",
    "session_terminated",
    "session_success",
    "session_failure",
];

/// How far back events may still appear: with SQLite numbers are given and committed in one order.
pub(crate) fn look_back(control: &Control) -> i64 {
    if control.store().dialect() == Dialect::Postgres { LOOK_BACK } else { 0 }
}

/// Events of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventScope {
    /// Sessions and kernels.
    #[default]
    All,
    /// Sessions.
    Sessions,
    /// Kernels.
    Kernels,
}

impl EventScope {
    fn covers(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Sessions => name.starts_with("session_"),
            Self::Kernels => name.starts_with("kernel_"),
        }
    }
}

/// What somebody wants to hear.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Sessions of this name, of the key pair `owner_access_key`.
    pub name: Option<String>,
    /// Whose sessions of that name; without it, the caller's own.
    pub owner_access_key: Option<String>,
    /// This session; then its name doesn't matter.
    pub session: Option<SessionId>,
    /// Sessions of the projects of this name.
    pub project: Option<String>,
    /// Events of what.
    pub scope: EventScope,
}

/// Which events pass.
#[derive(Clone, Debug)]
struct Filter {
    caller: Principal,
    projects: Option<BTreeSet<ProjectId>>,
    scope: EventScope,
    session: Option<SessionId>,
    name: Option<(String, AccessKey)>,
}

impl Filter {
    fn passes(&self, event: &SessionEvent) -> bool {
        let visible = match self.caller.role {
            UserRole::Superadmin => true,
            UserRole::Admin => event.domain == self.caller.domain,
            UserRole::User | UserRole::Monitor => {
                event.user == self.caller.user_id && event.domain == self.caller.domain
            }
        };
        visible
            && TOLD.contains(&event.name.as_str())
            && self.projects.as_ref().is_none_or(|projects| projects.contains(&event.project))
            && self.scope.covers(&event.name)
            && match (self.session, &self.name) {
                (Some(session), _) => event.session == session,
                (None, Some((name, key))) => event.session_name == *name && event.access_key == *key,
                (None, None) => true,
            }
    }
}

/// Somebody listens.
#[derive(Debug)]
pub struct Subscription {
    control: Control,
    filter: Filter,
    live: Receiver<Arc<SessionEvent>>,
    /// What happened before, up to where this begins, or was told already: the ids that may yet appear below `newest`.
    known: BTreeSet<i64>,
    newest: i64,
    /// Read from the log, not yet told.
    waiting: VecDeque<Arc<SessionEvent>>,
    /// The log may have more than was read.
    behind: bool,
}

/// Listens from now on, or from the event after `after`, as far as it is still in the log.
///
/// # Errors
/// [`Error::Forbidden`] for somebody else's key pair; [`Error::NotFound`] for an unknown project.
pub async fn subscribe(
    control: &Control,
    caller: &Principal,
    wanted: Wanted,
    after: Option<i64>,
) -> Result<Subscription> {
    let key = wanted.owner_access_key.map_or_else(|| caller.access_key.clone(), AccessKey);
    if matches!(caller.role, UserRole::User | UserRole::Monitor) && key != caller.access_key {
        return Err(Error::Forbidden("Only admins can listen to the events of other users' key pairs.".to_owned()));
    }
    let mut reader = control.store().reader();
    let projects = match &wanted.project {
        None => None,
        Some(name) => {
            let ids: BTreeSet<_> = projects::ids_named(&mut reader, name).await?.into_iter().collect();
            if ids.is_empty() {
                return Err(Error::not_found("user group (or project)"));
            }
            Some(ids)
        }
    };
    // Listen first, then look where the log ends: what happens in between is heard, and known by its number.
    let live = control.signals().sessions.subscribe();
    let end = events::newest(&mut reader).await?;
    let (newest, behind) = match after {
        Some(after) => (after.clamp(0, end), after < end),
        None => (end, false),
    };
    let known = match look_back(control) {
        0 => BTreeSet::new(),
        back => events::ids_after(&mut reader, newest - back).await?.into_iter().filter(|id| *id <= newest).collect(),
    };
    let filter = Filter {
        caller: caller.clone(),
        projects,
        scope: wanted.scope,
        session: wanted.session,
        name: wanted.name.map(|name| (name, key)),
    };
    Ok(Subscription { control: control.clone(), filter, live, known, newest, waiting: VecDeque::new(), behind })
}

impl Subscription {
    /// The next event; `None` when this host stops. May be dropped and called again at any time.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn next(&mut self) -> Result<Option<Arc<SessionEvent>>> {
        let closing = self.control.closing().clone();
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            if self.behind {
                self.catch_up().await?;
                continue;
            }
            let heard = tokio::select! {
                heard = self.live.recv() => heard,
                () = closing.cancelled() => return Ok(None),
            };
            match heard {
                Ok(event) => {
                    if self.is_new(event.id) && self.filter.passes(&event) {
                        return Ok(Some(event));
                    }
                }
                // Too much happened at once for this listener: the log has it.
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }

    /// Reads a page of the log.
    async fn catch_up(&mut self) -> Result<()> {
        let from = self.newest - look_back(&self.control);
        let mut cursor = from;
        loop {
            let page = events::after(&mut self.control.store().reader(), cursor, PAGE).await?;
            let full = page.len() as i64 == PAGE;
            for event in page {
                cursor = event.id;
                if self.is_new(event.id) && self.filter.passes(&event) {
                    self.waiting.push_back(Arc::new(event));
                }
            }
            if !full {
                self.behind = false;
                return Ok(());
            }
            if !self.waiting.is_empty() {
                return Ok(());
            }
        }
    }

    /// Whether an event wasn't seen before; from here on it was.
    fn is_new(&mut self, id: i64) -> bool {
        let back = look_back(&self.control);
        if id <= self.newest - back || (back == 0 && id <= self.newest) || !self.known.insert(id) {
            return false;
        }
        self.newest = self.newest.max(id);
        // Only what may yet appear out of order needs to be remembered.
        while self.known.first().is_some_and(|first| *first <= self.newest - back) {
            self.known.pop_first();
        }
        true
    }
}
