//! The queue through which new sessions are written: whatever waits goes into one transaction.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use quarterdeck_model::AccessKey;
use quarterdeck_store::audit::{self, Act};
use quarterdeck_store::sessions::{self as rows, NewSession};
use quarterdeck_store::{Dialect, Violation};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::facts::Facts;
use crate::error::{Error, Result};
use crate::{Control, Inner};

/// Sessions of one transaction at most.
const BATCH: usize = 256;
/// After a transaction with several sessions the next one waits for as long as that one took, and no longer than this:
/// it costs nearly the same whether it carries one session or many. Those who come one after the other don't wait.
const GATHER: Duration = Duration::from_millis(2);

/// Takes new sessions to be written.
#[derive(Clone, Debug)]
pub struct Arrivals {
    queue: mpsc::Sender<Arrival>,
    facts: Arc<Facts>,
}

#[derive(Debug)]
struct Arrival {
    session: NewSession,
    /// Who makes it.
    act: Option<Arc<Act>>,
    reply: oneshot::Sender<Result<bool>>,
}

/// The end of the queue that the writers hold.
#[derive(Debug)]
pub(crate) struct Receiver {
    queue: Mutex<mpsc::Receiver<Arrival>>,
}

impl Arrivals {
    /// The queue, and its other end for [`run`].
    pub(crate) fn new() -> (Self, Receiver) {
        let (queue, arrivals) = mpsc::channel(4096);
        (Self { queue, facts: Arc::default() }, Receiver { queue: Mutex::new(arrivals) })
    }

    /// What requests have in common.
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Writes a session with its kernels and dependencies. `false`: a live session of its owner's has that name.
    /// Once it was handed over it is written, even if nobody waits for the answer any more.
    pub(crate) async fn put(&self, session: NewSession) -> Result<bool> {
        let (reply, answer) = oneshot::channel();
        let closed = || Error::Unavailable("the host is shutting down".to_owned());
        self.queue.send(Arrival { session, act: audit::current(), reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// Writes what comes, until the host is dropped.
pub(crate) async fn run(inner: Weak<Inner>, receiver: Receiver) {
    let Some(dialect) = inner.upgrade().map(|inner| inner.store.dialect()) else { return };
    match dialect {
        // It has one writer.
        Dialect::Sqlite => take_turns(&inner, &receiver).await,
        // While one transaction is on its way, the next one gathers: neither side waits for the other.
        Dialect::Postgres => {
            tokio::join!(take_turns(&inner, &receiver), take_turns(&inner, &receiver));
        }
    }
}

async fn take_turns(inner: &Weak<Inner>, receiver: &Receiver) {
    loop {
        let mut queue = receiver.queue.lock().await;
        let Some(first) = queue.recv().await else { return };
        let mut batch = vec![first];
        while batch.len() < BATCH {
            let Ok(arrival) = queue.try_recv() else { break };
            batch.push(arrival);
        }
        drop(queue);
        let Some(control) = inner.upgrade().map(|inner| Control { inner }) else { return };
        let (began, several) = (Instant::now(), batch.len() > 1);
        write(&control, batch).await;
        drop(control);
        if several {
            tokio::time::sleep(began.elapsed().min(GATHER)).await;
        }
    }
}

async fn write(control: &Control, batch: Vec<Arrival>) {
    let mut replies = Vec::with_capacity(batch.len());
    let (sessions, acts): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|arrival| {
            replies.push(arrival.reply);
            (arrival.session, arrival.act)
        })
        .unzip();
    let mut together = crate::retry(|| insert(control, &sessions, &acts)).await;
    if together.as_ref().is_err_and(is_taken) {
        // The other writer, or another host, was faster with a name. By now it can be seen.
        together = crate::retry(|| insert(control, &sessions, &acts)).await;
    }
    if let (Err(error), true) = (&together, sessions.len() > 1) {
        tracing::debug!(%error, sessions = sessions.len(), "sessions can't be written together; one by one then");
        for ((session, act), reply) in sessions.iter().zip(&acts).zip(replies) {
            let (session, act) = (std::slice::from_ref(session), std::slice::from_ref(act));
            let written = crate::retry(|| insert(control, session, act)).await;
            let _ = reply.send(written.map(|mut answers| answers.pop().unwrap_or(false)));
        }
        return;
    }
    match together {
        Ok(answers) => {
            for (reply, written) in replies.into_iter().zip(answers) {
                let _ = reply.send(Ok(written));
            }
        }
        Err(error) => {
            if let Some(reply) = replies.into_iter().next() {
                let _ = reply.send(Err(error));
            }
        }
    }
}

fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Store(error) if matches!(error.violation(), Some((Violation::Unique, _))))
}

/// Inserts those whose names are free.
async fn insert(control: &Control, sessions: &[NewSession], acts: &[Option<Arc<Act>>]) -> Result<Vec<bool>> {
    let mut tx = control.store().begin().await?;
    let wanted: Vec<(AccessKey, String)> = sessions.iter().map(|s| (s.access_key.clone(), s.name.clone())).collect();
    let mut taken: HashSet<_> = rows::taken_names(&mut tx, &wanted).await?.into_iter().collect();
    let answers: Vec<bool> = wanted.into_iter().map(|name| taken.insert(name)).collect();
    let free: Cow<'_, [NewSession]> = if answers.iter().all(|free| *free) {
        sessions.into()
    } else {
        sessions.iter().zip(&answers).filter(|(_, free)| **free).map(|(session, _)| session.clone()).collect()
    };
    if free.is_empty() {
        return Ok(answers);
    }
    tx.on_behalf_of(acts.iter().zip(&answers).filter(|(_, free)| **free).filter_map(|(act, _)| act.clone()));
    match rows::enqueue(&mut tx, &free).await {
        Ok(()) => tx.commit().await?,
        // Another host was faster.
        Err(error) if free.len() == 1 && matches!(error.violation(), Some((Violation::Unique, _))) => {
            return Ok(vec![false; sessions.len()]);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(answers)
}
