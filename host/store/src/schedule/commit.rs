//! The end of a scheduling round: everything it decided, in one transaction.
//!
//! The round was decided on a snapshot. Here the rows are locked and looked at once more, in the
//! order of the decisions: what no longer holds is left out as *stale* and waits for the next
//! round, the rest is written. The writing statements carry the guards again, so that no mistake
//! before them can oversubscribe an agent or an account.

mod check;
mod write;

use std::collections::{HashMap, HashSet};

use quarterdeck_model::{AccessKey, AgentId, KernelId, SessionId, Timestamp};
use serde_json::Value as Json;

use crate::error::Result;
use crate::occupancy::{self, Scope};
use crate::sql::{Sql, Stmt, Tx};

/// The condition that rows of `sessions` which are looked up by id are still pending, said so that no index on it comes
/// into question: PostgreSQL takes the pending sessions of a new table for few, and would rather go through all of them and
/// compare each with each id.
const STILL_PENDING: &str = "COALESCE(sessions.status, '') = 'PENDING'";

/// What a round decided. Amounts are in the order of `slots`.
#[derive(Clone, Debug)]
pub struct Commit {
    /// When.
    pub at: Timestamp,
    /// Names of the slots.
    pub slots: Vec<String>,
    /// Sessions to reserve agents for, in the order of the decisions.
    pub placed: Vec<Placed>,
    /// What to note at sessions that stay pending.
    pub records: Vec<Record>,
    /// Sessions that end before they ran.
    pub cancelled: Vec<Cancelled>,
    /// The accounts of the placed sessions.
    pub accounts: Vec<Account>,
    /// Key pairs whose concurrency counters are to be counted anew.
    pub recount: Vec<AccessKey>,
}

/// Agents for a session.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Position among the decisions: the order of the events.
    pub order: u32,
    /// The session.
    pub id: SessionId,
    /// Its owner.
    pub access_key: AccessKey,
    /// Its project.
    pub project: String,
    /// Its domain.
    pub domain: String,
    /// Exempt from quotas and counted apart.
    pub is_private: bool,
    /// Its kernels, the main one first.
    pub kernels: Vec<PlacedKernel>,
}

/// An agent for a kernel.
#[derive(Clone, Debug)]
pub struct PlacedKernel {
    /// The kernel.
    pub id: KernelId,
    /// Its agent.
    pub agent: AgentId,
    /// What it takes there.
    pub held: Vec<i64>,
}

/// Notes at a session that stays pending.
#[derive(Clone, Debug)]
pub struct Record {
    /// The session.
    pub id: SessionId,
    /// Why it waits.
    pub status_info: String,
    /// Its new status data.
    pub status_data: Json,
    /// Notes at its kernels.
    pub kernels: Vec<KernelRecord>,
}

/// Notes at a kernel.
#[derive(Clone, Debug)]
pub struct KernelRecord {
    /// The kernel.
    pub id: KernelId,
    /// `None`: as it was.
    pub status_info: Option<String>,
    /// Its new status data.
    pub status_data: Json,
}

/// A session that ends before it ran.
#[derive(Clone, Debug)]
pub struct Cancelled {
    /// Position among the decisions: the order of the events.
    pub order: u32,
    /// The session.
    pub id: SessionId,
    /// Its main kernel, for the event.
    pub main_kernel: Option<KernelId>,
    /// Why.
    pub reason: &'static str,
    /// Its new status data; `None`: as it was.
    pub status_data: Option<Json>,
}

/// What somebody may hold, as the round understood it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whose.
    pub scope: Scope,
    /// The access key, project id or domain name.
    pub holder: String,
    /// What `limit` was made of: a change since then makes the account's sessions stale.
    pub fingerprint: String,
    /// Per slot; `i64::MAX`: no limit.
    pub limit: Vec<i64>,
    /// Sessions and private sessions at most (owners only); `i64::MAX`: no limit.
    pub sessions: (i64, i64),
}

/// Why a decision could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The session is no longer pending.
    Session,
    /// An agent has less room than it had, or is gone.
    Agent,
    /// The owner, project or domain holds more, or may hold less, than it did.
    Account,
}

/// What became of a round.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Sessions with agents now.
    pub placed: Vec<SessionId>,
    /// Sessions that were noted at.
    pub recorded: Vec<SessionId>,
    /// Sessions that ended.
    pub cancelled: Vec<SessionId>,
    /// Decisions that no longer held.
    pub stale: Vec<(SessionId, StaleReason)>,
}

impl super::OwnerRow {
    /// Equal texts mean equal limits.
    pub fn fingerprint(&self) -> String {
        format!(
            "{}\n{}\n{}\n{}",
            self.total_resource_slots,
            self.default_for_unspecified,
            self.max_concurrent_sessions,
            self.max_concurrent_sftp_sessions
        )
    }
}

impl super::HolderRow {
    /// Equal texts mean equal limits.
    pub fn fingerprint(&self) -> String {
        self.total_resource_slots.clone()
    }
}

/// Writes a round. Give it a fresh transaction; on an error that
/// [is transient](crate::Error::is_transient), try the whole again.
///
/// # Errors
/// Database errors; [`crate::Error::Conflict`] when rows changed in a way that the locks should prevent.
pub async fn commit(tx: &mut Tx, round: &Commit) -> Result<Committed> {
    let Locked { pending, callback_urls } = lock_pending(tx, round).await?;
    let mut out = Committed::default();
    let placed = check::validate(tx, round, &pending, &mut out).await?;
    let records: Vec<&Record> = round.records.iter().filter(|r| pending.contains(&r.id)).collect();
    let cancelled: Vec<&Cancelled> = round.cancelled.iter().filter(|c| pending.contains(&c.id)).collect();

    write::place(tx, round, &placed).await?;
    write::record(tx, &records).await?;
    write::cancel(tx, round.at, &cancelled).await?;
    occupancy::recount(tx, &round.recount).await?;
    write::tell(tx, round.at, &placed, &cancelled, &callback_urls).await?;
    out.placed = placed.iter().map(|p| p.id).collect();
    out.recorded = records.iter().map(|r| r.id).collect();
    out.cancelled = cancelled.iter().map(|c| c.id).collect();
    Ok(out)
}

/// Sessions that stay as they are until the round is written.
#[derive(Default)]
struct Locked {
    /// Those that are still pending.
    pending: HashSet<SessionId>,
    /// Whom some of these want told of their events.
    callback_urls: HashMap<SessionId, String>,
}

/// Locks the sessions concerned.
async fn lock_pending(tx: &mut Tx, round: &Commit) -> Result<Locked> {
    let ids = round.placed.iter().map(|p| p.id).chain(round.records.iter().map(|r| r.id));
    let ids: Vec<SessionId> = ids.chain(round.cancelled.iter().map(|c| c.id)).collect();
    let mut locked = Locked::default();
    if ids.is_empty() {
        return Ok(locked);
    }
    let sql = format!("SELECT id, callback_url FROM sessions WHERE id IN {{list}} AND {STILL_PENDING}");
    let stmt = Stmt::among(&sql, ids).on_postgres("ORDER BY id COLLATE \"C\" FOR UPDATE");
    for row in tx.fetch_all(stmt).await? {
        let id = row.parse("id")?;
        locked.pending.insert(id);
        if let Some(url) = row.get("callback_url")? {
            locked.callback_urls.insert(id, url);
        }
    }
    Ok(locked)
}

type Holder = (&'static str, String);

/// The accounts that a session counts for.
fn holders(p: &Placed) -> [Holder; 3] {
    [
        (Scope::Keypair.as_str(), p.access_key.0.clone()),
        (Scope::Project.as_str(), p.project.clone()),
        (Scope::Domain.as_str(), p.domain.clone()),
    ]
}

impl Placed {
    fn total(&self, slot: usize) -> i64 {
        self.kernels.iter().fold(0, |sum, k| sum.saturating_add(k.held[slot]))
    }
}
