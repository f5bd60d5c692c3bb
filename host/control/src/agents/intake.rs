//! The queue through which everything that agents say about kernels becomes rows.
//!
//! One task takes whatever waits and writes it in one transaction (group commit), so a thousand
//! agents cost as many transactions as the database manages, not as many as there are calls. When
//! such a transaction fails for a reason of its own, each item is tried alone.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use quarterdeck_model::{AgentId, KernelId, SessionId};
use quarterdeck_rpc::pb;
use quarterdeck_store::work::{Change, Work};
use quarterdeck_store::{agents as rows, idle, kernels};
use tokio::sync::{mpsc, oneshot};

use super::reports::{self, Aftermath};
use crate::error::{Error, Result};
use crate::{Control, Inner};

/// How many items one transaction carries at most.
const BATCH: usize = 512;
/// After a transaction with several items the next one waits for as long as that one took, and no longer than this: what
/// comes meanwhile goes with it at hardly any cost.
const GATHER: Duration = Duration::from_millis(20);
/// How many kernels they may be about: a bound for the size of the transaction.
const BATCH_REPORTS: usize = 4096;

/// Hands over what agents say.
#[derive(Clone, Debug)]
pub struct Intake {
    queue: mpsc::Sender<Item>,
}

#[derive(Debug)]
struct Item {
    what: What,
    reply: oneshot::Sender<Result<Option<u64>>>,
}

/// Something that an agent said, or that the host learned when it called.
#[derive(Debug)]
pub(crate) enum What {
    /// Reports of one boot of an agent.
    Reports { agent: AgentId, boot: String, reports: Vec<pb::Report> },
    /// Kernels that were to be ended and that the agent hasn't got.
    Gone { kernels: Vec<KernelId> },
    /// Running kernels that are no longer where they ran.
    Vanished { kernels: Vec<KernelId> },
    /// A session whose start can't succeed.
    StartFailed { session: SessionId, data: serde_json::Value },
    /// A session that couldn't be told to its agent (named if it counts as alive). It goes back into the queue if no
    /// other was told (`requeue`).
    Unreachable { session: SessionId, agent: Option<AgentId>, reason: String, requeue: bool },
}

impl What {
    fn weight(&self) -> usize {
        match self {
            What::Reports { reports, .. } => reports.len(),
            What::Gone { kernels } | What::Vanished { kernels } => kernels.len(),
            What::StartFailed { .. } | What::Unreachable { .. } => 1,
        }
    }

    fn kernels(&self) -> Vec<KernelId> {
        match self {
            What::Reports { reports, .. } => reports.iter().filter_map(|r| r.kernel_id.parse().ok()).collect(),
            What::Gone { kernels } | What::Vanished { kernels } => kernels.clone(),
            What::StartFailed { .. } | What::Unreachable { .. } => Vec::new(),
        }
    }
}

impl Intake {
    /// The queue, and its other end for [`run`].
    pub(crate) fn new() -> (Self, Receiver) {
        let (queue, items) = mpsc::channel(8192);
        (Self { queue }, Receiver { items })
    }

    async fn put(&self, what: What) -> Result<Option<u64>> {
        let (reply, answer) = oneshot::channel();
        let closed = || Error::Unavailable("the host is shutting down".to_owned());
        self.queue.send(Item { what, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Takes in reports; the last sequence number that counts as heard. `None`: the host doesn't know this boot.
    ///
    /// # Errors
    /// [`Error::Store`]; the agent sends them again then.
    pub async fn reports(&self, agent: AgentId, boot: String, reports: Vec<pb::Report>) -> Result<Option<u64>> {
        self.put(What::Reports { agent, boot, reports }).await
    }

    /// Kernels that were to be ended don't exist on their agent.
    pub(crate) async fn gone(&self, kernels: Vec<KernelId>) -> Result<()> {
        self.put(What::Gone { kernels }).await.map(drop)
    }

    /// Kernels that ran are no longer there.
    pub(crate) async fn vanished(&self, kernels: Vec<KernelId>) -> Result<()> {
        self.put(What::Vanished { kernels }).await.map(drop)
    }

    /// A session can't be started.
    pub(crate) async fn start_failed(&self, session: SessionId, data: serde_json::Value) -> Result<()> {
        self.put(What::StartFailed { session, data }).await.map(drop)
    }

    /// An agent can't be told of a session: it gets nothing new for a while, and the session goes back into the queue
    /// if `requeue` and its status allow it. Returns whether it did.
    pub(crate) async fn unreachable(
        &self,
        session: SessionId,
        agent: Option<AgentId>,
        reason: String,
        requeue: bool,
    ) -> Result<bool> {
        Ok(self.put(What::Unreachable { session, agent, reason, requeue }).await? == Some(1))
    }
}

/// The end of the queue that the writer holds.
#[derive(Debug)]
pub(crate) struct Receiver {
    items: mpsc::Receiver<Item>,
}

/// Writes what comes, until the host is dropped.
pub(crate) async fn run(inner: Weak<Inner>, mut receiver: Receiver) {
    while let Some(first) = receiver.items.recv().await {
        let Some(control) = inner.upgrade().map(|inner| Control { inner }) else { return };
        let mut weight = first.what.weight();
        let mut batch = vec![first];
        while batch.len() < BATCH && weight < BATCH_REPORTS {
            let Ok(item) = receiver.items.try_recv() else { break };
            weight += item.what.weight();
            batch.push(item);
        }
        let (began, several) = (Instant::now(), batch.len() > 1);
        write(&control, batch).await;
        drop(control);
        if several {
            tokio::time::sleep(began.elapsed().min(GATHER)).await;
        }
    }
}

async fn write(control: &Control, batch: Vec<Item>) {
    let (whats, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|item| (item.what, item.reply)).unzip();
    match attempt(control, &whats).await {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                // Who no longer waits learns it from the rows.
                let _ = reply.send(Ok(answer));
            }
        }
        Err(error) => {
            tracing::warn!(%error, items = whats.len(), "agents' news can't be written together; one by one then");
            for (what, reply) in whats.into_iter().zip(replies) {
                let answer = attempt(control, std::slice::from_ref(&what)).await;
                let _ = reply.send(answer.map(|mut answers| answers.pop().flatten()));
            }
        }
    }
}

async fn attempt(control: &Control, whats: &[What]) -> Result<Vec<Option<u64>>> {
    crate::retry(|| transaction(control, whats)).await
}

async fn transaction(control: &Control, whats: &[What]) -> Result<Vec<Option<u64>>> {
    let kernels: Vec<KernelId> = whats.iter().flat_map(What::kernels).collect();
    let mut tx = control.store().begin().await?;
    let owners = kernels::sessions_of(&mut tx, &kernels).await?;
    let mut sessions: Vec<SessionId> = owners.into_iter().map(|(_, session)| session).collect();
    sessions.extend(whats.iter().filter_map(|what| match what {
        What::StartFailed { session, .. } | What::Unreachable { session, .. } => Some(*session),
        _ => None,
    }));
    let mut work = Work::open(&mut tx, sessions, control.clock().now()).await?;
    let mut reporters: Vec<AgentId> = whats
        .iter()
        .filter_map(|what| match what {
            What::Reports { agent, .. } => Some(agent.clone()),
            _ => None,
        })
        .collect();
    reporters.sort();
    reporters.dedup();
    let mut marks = rows::report_marks(&mut tx, &reporters).await?;
    let before = marks.clone();

    let mut after = Aftermath::new(control);
    let mut cooldowns: BTreeMap<&AgentId, &str> = BTreeMap::new();
    let mut taken = 0;
    let mut answers = Vec::with_capacity(whats.len());
    for what in whats {
        answers.push(match what {
            What::Reports { agent, boot, reports } => match marks.get_mut(agent) {
                Some((known, seq)) if known == boot => {
                    for report in reports {
                        let number = i64::try_from(report.seq).unwrap_or(i64::MAX);
                        if number > *seq {
                            reports::apply(&mut work, &mut after, agent, report);
                            *seq = number;
                            taken += 1;
                        }
                    }
                    Some(u64::try_from(*seq).unwrap_or_default())
                }
                _ => None,
            },
            What::Gone { kernels } => {
                for kernel in kernels {
                    reports::gone(&mut work, &mut after, *kernel);
                }
                Some(0)
            }
            What::Vanished { kernels } => {
                for kernel in kernels {
                    reports::vanished(&mut work, &mut after, *kernel);
                }
                Some(0)
            }
            What::StartFailed { session, data } => {
                reports::start_failed(&mut work, &mut after, *session, data);
                Some(0)
            }
            What::Unreachable { session, agent, reason, requeue } => {
                cooldowns.extend(agent.as_ref().map(|agent| (agent, reason.as_str())));
                Some(u64::from(*requeue && reports::requeue(&mut work, *session, reason)))
            }
        });
    }
    let pause = i64::try_from(control.settings().unreachable_cooldown.as_micros()).unwrap_or(i64::MAX);
    for (agent, reason) in cooldowns {
        rows::set_cooldown(&mut tx, agent, work.now().plus_micros(pause), reason).await?;
    }
    let changes: Vec<Change> = work.flush(&mut tx).await?;
    let moved: Vec<_> = marks
        .into_iter()
        .filter(|(agent, mark)| before.get(agent) != Some(mark))
        .map(|(agent, (_, seq))| (agent, seq))
        .collect();
    rows::set_report_marks(&mut tx, &moved).await?;
    let (busy, idle_since) = after.access();
    if !busy.is_empty() {
        idle::set_busy(&mut tx, &busy).await?;
    }
    if !idle_since.is_empty() {
        idle::set_access(&mut tx, &idle_since, control.clock().now()).await?;
    }
    tx.commit().await?;
    control.metrics().report_batches.inc();
    control.metrics().reports.inc_by(taken);
    after.run(&changes);
    Ok(answers)
}
