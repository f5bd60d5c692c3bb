//! From decisions to rows: what is noted at sessions and kernels, and the transaction that writes it.

use std::collections::BTreeSet;

use quarterdeck_model::{AccessKey, predicates};
use quarterdeck_store::Store;
use quarterdeck_store::occupancy::Scope;
use quarterdeck_store::rounds::{self, NewRound};
use quarterdeck_store::schedule::{
    self as rows, Cancelled, Commit, Committed, KernelRecord, Placed, PlacedKernel, Record,
};
use serde_json::Value as Json;

use super::books::{Decision, Verdict};
use super::frame::{Account, Frame, Session, to_stored};
use crate::error::Result;

/// Why sessions that waited too long, and private ones that may not run, are cancelled.
pub(crate) const PENDING_TIMEOUT: &str = "pending-timeout";

/// What a round decided, as rows. `expired` are sessions that waited too long.
pub(crate) fn prepare(frame: &Frame, expired: &[rows::SessionRow], decisions: &[Decision]) -> Commit {
    let now = frame.now.iso();
    let mut commit = Commit {
        at: frame.now,
        slots: frame.slots.iter().map(|(name, _)| name.clone()).collect(),
        placed: Vec::new(),
        records: Vec::new(),
        cancelled: expired.iter().map(|s| cancelled(s, s.kernels.first().map(|k| k.id), 0, None)).collect(),
        accounts: Vec::new(),
        recount: Vec::new(),
    };
    let mut accounts: BTreeSet<(Scope, usize)> = BTreeSet::new();
    let mut recount: BTreeSet<&str> = BTreeSet::new();
    for (i, decision) in decisions.iter().enumerate() {
        let order = i as u32 + 1;
        let session = &frame.pending[decision.session];
        let data = session.row.status_data.as_ref();
        let owner = &frame.owners[session.owner];
        let passed = &decision.checks.passed;
        if !matches!(decision.verdict, Verdict::Placed(_)) && owner.miscounted {
            recount.insert(&owner.holder);
        }
        match &decision.verdict {
            Verdict::Placed(agents) => {
                commit.placed.push(placed(frame, session, agents, order));
                accounts.insert((Scope::Keypair, session.owner));
                accounts.insert((Scope::Project, session.project));
                accounts.insert((Scope::Domain, session.domain));
            }
            Verdict::Ineligible => {
                let failed: Vec<(&str, &str)> =
                    decision.checks.failed.iter().map(|(name, msg, _)| (*name, msg.as_str())).collect();
                let data = predicates::note_failed(data, &now, &failed, passed);
                if session.row.is_private {
                    let main = session.kernels.first().map(|k| k.row.id);
                    commit.cancelled.push(cancelled(&session.row, main, order, Some(data)));
                } else {
                    commit.records.push(record(session, predicates::CHECKS_FAILED, data, Vec::new()));
                }
            }
            Verdict::NoRoom { msg, kernel } => {
                let kernels = session
                    .kernels
                    .iter()
                    .enumerate()
                    .map(|(i, k)| {
                        let data = predicates::note_passed(k.row.status_data.as_ref(), &now, passed);
                        let failed = *kernel == Some(i);
                        KernelRecord {
                            id: k.row.id,
                            status_info: failed.then(|| predicates::NO_AVAILABLE_INSTANCES.to_owned()),
                            status_data: if failed {
                                predicates::note_no_instance(Some(&data), &now, msg)
                            } else {
                                data
                            },
                        }
                    })
                    .collect();
                let data = predicates::note_passed(data, &now, passed);
                let data = predicates::note_no_instance(Some(&data), &now, msg);
                commit.records.push(record(session, predicates::NO_AVAILABLE_INSTANCES, data, kernels));
            }
            Verdict::Refused { refusal, why } => {
                let data = predicates::note_passed(data, &now, passed);
                let data = predicates::note_error(Some(&data), &format!("{refusal:?}"), why);
                commit.records.push(record(session, predicates::SCHEDULER_ERROR, data, Vec::new()));
            }
        }
    }
    for (session, problem) in &frame.broken {
        let data = predicates::note_error(session.status_data.as_ref(), "InvalidRequest", problem);
        commit.records.push(Record {
            id: session.id,
            status_info: predicates::SCHEDULER_ERROR.to_owned(),
            status_data: data,
            kernels: Vec::new(),
        });
    }
    commit.accounts = accounts.into_iter().map(|(scope, i)| account(frame, scope, i)).collect();
    commit.recount = recount.into_iter().map(AccessKey::from).collect();
    commit
}

fn placed(frame: &Frame, session: &Session, agents: &[u32], order: u32) -> Placed {
    Placed {
        order,
        id: session.row.id,
        access_key: session.row.access_key.clone(),
        project: session.row.project_id.to_string(),
        domain: session.row.domain_name.clone(),
        is_private: session.row.is_private,
        kernels: session
            .kernels
            .iter()
            .zip(agents)
            .map(|(kernel, &agent)| PlacedKernel {
                id: kernel.row.id,
                agent: frame.agents[agent as usize].id.clone(),
                held: kernel.requested.iter().map(|amount| to_stored(*amount)).collect(),
            })
            .collect(),
    }
}

fn record(session: &Session, status_info: &str, status_data: Json, kernels: Vec<KernelRecord>) -> Record {
    Record { id: session.row.id, status_info: status_info.to_owned(), status_data, kernels }
}

fn cancelled(
    row: &rows::SessionRow,
    main_kernel: Option<quarterdeck_model::KernelId>,
    order: u32,
    status_data: Option<Json>,
) -> Cancelled {
    Cancelled { order, id: row.id, main_kernel, reason: PENDING_TIMEOUT, status_data }
}

fn account(frame: &Frame, scope: Scope, index: usize) -> rows::Account {
    let account: &Account = match scope {
        Scope::Keypair => &frame.owners[index],
        Scope::Project => &frame.projects[index],
        Scope::Domain => &frame.domains[index],
    };
    let limit = |n: u64| if n == u64::MAX { i64::MAX } else { to_stored(n) };
    rows::Account {
        scope,
        holder: account.holder.clone(),
        fingerprint: account.fingerprint.clone(),
        limit: match &account.limit {
            Ok(limits) => limits.iter().map(|n| limit(*n)).collect(),
            // Only private sessions get here with such a limit, and they are exempt from it.
            Err(_) => vec![0; frame.slots.len()],
        },
        sessions: (limit(account.session_limit.0), limit(account.session_limit.1)),
    }
}

/// Whether there is anything to write.
pub(crate) fn is_empty(commit: &Commit) -> bool {
    commit.placed.is_empty() && commit.records.is_empty() && commit.cancelled.is_empty()
}

/// Writes a round, with its record in the ring; collisions with other writers are sorted out by
/// trying again. What became of it, and the id of its record.
pub(crate) async fn write(
    store: &Store,
    commit: &Commit,
    round: Option<NewRound>,
    keep: i64,
) -> Result<(Committed, Option<i64>)> {
    crate::retry(|| async { Ok(write_once(store, commit, round.clone(), keep).await?) }).await
}

async fn write_once(
    store: &Store,
    commit: &Commit,
    round: Option<NewRound>,
    keep: i64,
) -> quarterdeck_store::Result<(Committed, Option<i64>)> {
    let mut tx = store.begin().await?;
    let committed = rows::commit(&mut tx, commit).await?;
    let mut id = None;
    if let Some(mut round) = round {
        round.placed = committed.placed.len() as i64;
        round.stale = committed.stale.len() as i64;
        id = Some(rounds::append(&mut tx, &round, keep).await?);
    }
    tx.commit().await?;
    Ok((committed, id))
}
