//! Background tasks: work that goes on after its request was answered, told about on the way.
//!
//! The rows are the truth: whoever follows a task, on any host, reads them ([`Follow`]). A task lives and dies with the
//! run of the host that began it; a host that is gone leaves tasks that nobody says are alive, and those are failed by the
//! loop `retention`, or at once by the next run of the only host. Tasks therefore do nothing that can't be done again.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_model::{TaskId, TaskStatus, Timestamp, UserId};
use quarterdeck_store::Dialect;
use quarterdeck_store::background_tasks::{self as rows, TaskRow, Update};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;

use crate::Control;
use crate::error::{Error, Result};

/// Tasks that one host has under way at most.
const MOST: usize = 64;
/// How often what a task tells is written.
const FLUSH: Duration = Duration::from_millis(100);
/// Steps of one task that are kept.
const KEPT_STEPS: i64 = 1_000;
/// Steps that wait to be written; more of them are told by the newest ones.
const WAITING_STEPS: usize = 1_000;
/// How often a host says that it still works on its tasks.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// A task that no host has spoken for in so long is lost.
const LOST_AFTER_MS: i64 = 30_000;
/// How long the outcome can be asked for.
const KEPT_MS: i64 = 24 * 3_600_000;
/// How soon another host's news is seen.
const LOOK: Duration = Duration::from_secs(1);
/// Steps read at a time.
const PAGE: i64 = 500;

const LOST: &str = "The host that worked on it was lost.";
const STOPPED: &str = "The host was stopped.";

/// What this host has under way.
#[derive(Debug)]
pub(crate) struct Tasks {
    run: String,
    under_way: Mutex<BTreeSet<TaskId>>,
    /// Something was written about some task.
    told: Notify,
    tracker: TaskTracker,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            run: uuid::Uuid::new_v4().simple().to_string(),
            under_way: Mutex::default(),
            told: Notify::new(),
            tracker: TaskTracker::new(),
        }
    }
}

impl Tasks {
    /// Waits until the end of what is under way is written down; [`Control::closing`] stops it.
    pub(crate) async fn close(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// How a task tells how far it is. Cheap to clone; what is told is written soon, in order.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    current: i64,
    total: i64,
    steps: VecDeque<Update>,
}

impl Progress {
    /// There is more to do than was known.
    pub fn add_total(&self, more: i64) {
        let mut told = self.0.lock();
        told.total = told.total.saturating_add(more);
    }

    /// So much more is done.
    pub fn advance(&self, by: i64, message: impl Into<String>) {
        let mut told = self.0.lock();
        told.current = told.current.saturating_add(by);
        let step = Update { id: 0, current: told.current, total: told.total, message: Some(message.into()) };
        if told.steps.len() == WAITING_STEPS {
            told.steps.pop_front();
        }
        told.steps.push_back(step);
    }
}

/// Begins a task. It is under way, and can be followed, when this returns; `work` gets its outcome's message from what
/// it returns, or the failure's from its error.
///
/// # Errors
/// [`Error::Overloaded`] while this host has too many under way; [`Error::Unavailable`] when it stops;
/// [`Error::Store`].
pub async fn start<F>(
    control: &Control,
    kind: &'static str,
    owner: Option<UserId>,
    work: impl FnOnce(Progress) -> F + Send + 'static,
) -> Result<TaskId>
where
    F: Future<Output = Result<String>> + Send + 'static,
{
    let tasks = control.tasks();
    if control.closing().is_cancelled() {
        return Err(Error::Unavailable(STOPPED.to_owned()));
    }
    let id = TaskId::new();
    {
        let mut under_way = tasks.under_way.lock();
        if under_way.len() >= MOST {
            return Err(Error::Overloaded("Too many background tasks are under way."));
        }
        under_way.insert(id);
    }
    let now = control.clock().now();
    let row = TaskRow {
        id,
        kind: kind.to_owned(),
        owner,
        host: tasks.run.clone(),
        status: TaskStatus::Started,
        current: 0,
        total: 0,
        message: None,
        started_at: now,
        updated_at: now,
    };
    let written = async {
        let mut tx = control.store().begin().await?;
        rows::insert(&mut tx, &row).await?;
        tx.commit().await
    };
    if let Err(error) = written.await {
        tasks.under_way.lock().remove(&id);
        return Err(error.into());
    }
    tracing::info!(task = %id, kind, "a background task begins");
    let (progress, host) = (Progress(Arc::default()), control.clone());
    let work = work(progress.clone());
    tasks.tracker.spawn(async move {
        run(&host, id, progress, work).await;
        host.tasks().under_way.lock().remove(&id);
        host.tasks().told.notify_waiters();
    });
    Ok(id)
}

async fn run(
    control: &Control,
    id: TaskId,
    progress: Progress,
    work: impl Future<Output = Result<String>> + Send + 'static,
) {
    // A task of its own: while progress is written here, the work must go on. It may have the connection that writing
    // waits for, or be next in the row for it.
    let mut work = tokio::spawn(work);
    let mut timer = interval(FLUSH);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = 0;
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            () = control.closing().cancelled() => {
                work.abort();
                // What it was in the middle of is rolled back before the end is written.
                let _ = (&mut work).await;
                break Ok(Err(Error::Unavailable(STOPPED.to_owned())));
            }
            _ = timer.tick() => written += flush(control, id, &progress).await,
        }
        if written > KEPT_STEPS {
            written = 0;
            let trimmed = async {
                let mut tx = control.store().begin().await?;
                rows::trim(&mut tx, id, KEPT_STEPS).await?;
                tx.commit().await
            };
            if let Err(error) = trimmed.await {
                tracing::warn!(task = %id, %error, "the steps of a task can't be trimmed");
            }
        }
    };
    let (status, message) = match outcome {
        Ok(Ok(message)) => (TaskStatus::Done, message),
        Ok(Err(Error::Unavailable(reason))) if control.closing().is_cancelled() => (TaskStatus::Cancelled, reason),
        Ok(Err(error)) => (TaskStatus::Failed, told(&error)),
        Err(_) => (TaskStatus::Failed, "The task broke off; see the server's log.".to_owned()),
    };
    tracing::info!(task = %id, %status, message, "a background task ends");
    flush(control, id, &progress).await;
    let ended = crate::retry(|| async {
        let mut tx = control.store().begin().await?;
        rows::finish(&mut tx, id, status, &message, control.clock().now()).await?;
        tx.commit().await?;
        Ok(())
    });
    if let Err(error) = ended.await {
        // Nobody says from now on that it is alive, so that it counts as lost.
        tracing::error!(task = %id, %error, "the end of a background task can't be written");
    }
}

/// What those who follow are told of a failure.
fn told(error: &Error) -> String {
    match error {
        Error::Store(_) | Error::Internal(_) => {
            tracing::error!(%error, "a background task failed");
            "An internal error; see the server's log.".to_owned()
        }
        Error::NotFound { object, msg, .. } => {
            let title = format!("No such {object}.");
            msg.as_ref().map_or_else(|| title.clone(), |msg| format!("{title} ({msg})"))
        }
        error => error.to_string(),
    }
}

/// Writes what was told since the last time; how many steps.
async fn flush(control: &Control, id: TaskId, progress: &Progress) -> i64 {
    let steps: Vec<Update> = progress.0.lock().steps.drain(..).collect();
    if steps.is_empty() {
        return 0;
    }
    let written = async {
        let mut tx = control.store().begin().await?;
        rows::progress(&mut tx, id, &steps, control.clock().now()).await?;
        tx.commit().await
    };
    match written.await {
        Ok(()) => control.tasks().told.notify_waiters(),
        Err(error) => {
            tracing::warn!(task = %id, %error, "the progress of a task can't be written; it is tried again");
            let mut told = progress.0.lock();
            for step in steps.iter().rev() {
                told.steps.push_front(step.clone());
            }
            return 0;
        }
    }
    i64::try_from(steps.len()).unwrap_or(i64::MAX)
}

/// Says that this host still works on its tasks. Every host, at intervals of [`SIGN_OF_LIFE`].
pub(crate) async fn keep_alive(control: &Control) -> Result<()> {
    let ids: Vec<_> = control.tasks().under_way.lock().iter().copied().collect();
    if !ids.is_empty() {
        let mut tx = control.store().begin().await?;
        rows::keep_alive(&mut tx, &ids, control.clock().now()).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Fails what hosts have left behind, and forgets what ended long ago. By one host.
pub(crate) async fn tidy(control: &Control) -> Result<()> {
    let now = control.clock().now();
    fail_lost(control, now.plus_millis(-LOST_AFTER_MS)).await?;
    let mut tx = control.store().begin().await?;
    rows::drop_before(&mut tx, now.plus_millis(-KEPT_MS)).await?;
    tx.commit().await?;
    Ok(())
}

/// A host that is alone knows when it begins that nobody works on what is there.
pub(crate) async fn recover(control: &Control, begun: Timestamp) -> Result<()> {
    if control.store().dialect() == Dialect::Sqlite {
        fail_lost(control, begun).await?;
    }
    Ok(())
}

async fn fail_lost(control: &Control, since: Timestamp) -> Result<()> {
    let mut tx = control.store().begin().await?;
    let lost = rows::fail_lost(&mut tx, since, LOST, control.clock().now()).await?;
    tx.commit().await?;
    if lost > 0 {
        tracing::warn!(lost, "background tasks were left behind by a host");
        control.tasks().told.notify_waiters();
    }
    Ok(())
}

/// What somebody who follows a task hears next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A step.
    Update(Update),
    /// Its end.
    Ended(TaskRow),
}

/// Somebody follows a task.
#[derive(Debug)]
pub struct Follow {
    control: Control,
    row: TaskRow,
    after: i64,
    steps: VecDeque<Update>,
    is_over: bool,
}

/// Follows a task, from its first step that is still known or from the one after `after`.
///
/// # Errors
/// [`Error::NotFound`] for what isn't there, or ended more than a day ago.
pub async fn follow(control: &Control, id: TaskId, after: Option<i64>) -> Result<Follow> {
    const OBJECT: &str = "background task";
    let row = rows::get(&mut control.store().reader(), id).await?.ok_or_else(|| Error::NotFound {
        object: OBJECT,
        msg: None,
        data: Some(format!("No such {OBJECT}.").into()),
    })?;
    let after = after.unwrap_or_default();
    Ok(Follow { control: control.clone(), row, after, steps: VecDeque::new(), is_over: false })
}

impl Follow {
    /// The task as it was when it was followed first, if it had ended by then.
    pub fn ended_before(&self) -> Option<&TaskRow> {
        (self.row.status != TaskStatus::Started).then_some(&self.row)
    }

    /// What comes next; `None` after the end. May be dropped and called again at any time.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn next(&mut self) -> Result<Option<News>> {
        let control = self.control.clone();
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(Some(News::Update(step)));
            }
            if self.is_over {
                return Ok(None);
            }
            let told = control.tasks().told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            // The row first: what it says is over has no steps that are yet to be written.
            let row = rows::get(&mut control.store().reader(), self.row.id).await?;
            let steps = rows::updates_after(&mut control.store().reader(), self.row.id, self.after, PAGE).await?;
            if let Some(last) = steps.last() {
                self.after = last.id;
                self.steps = steps.into();
                continue;
            }
            match row {
                Some(row) if row.status == TaskStatus::Started => {}
                Some(row) => {
                    self.is_over = true;
                    return Ok(Some(News::Ended(row)));
                }
                None => {
                    self.is_over = true;
                    return Ok(None);
                }
            }
            tokio::select! {
                () = told => {}
                () = tokio::time::sleep(LOOK) => {}
                () = control.closing().cancelled() => {
                    self.is_over = true;
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};
    use quarterdeck_store::testing;

    use super::*;
    use crate::Settings;

    async fn end_of(control: &Control, id: TaskId) -> TaskRow {
        let mut follow = follow(control, id, None).await.unwrap();
        let ended = async {
            loop {
                if let Some(News::Ended(row)) = follow.next().await.unwrap() {
                    return row;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap()
    }

    /// With SQLite there is one connection that writes: work that has it must not be kept from giving it back.
    #[tokio::test]
    async fn progress_is_written_beside_what_the_work_writes() {
        for db in testing::databases().await {
            let options = RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() };
            let runtime = Runtime::new(options).unwrap();
            let control = Control::new(db.store.clone(), runtime, Settings::default()).await.unwrap();
            let host = control.clone();
            let id = start(&control, "test", None, move |progress| async move {
                progress.add_total(4);
                for step in 1..=4 {
                    let tx = host.store().begin().await?;
                    progress.advance(1, format!("step {step}"));
                    tokio::time::sleep(FLUSH * 2).await;
                    tx.commit().await?;
                }
                Ok("written".to_owned())
            });
            let row = end_of(&control, id.await.unwrap()).await;
            assert_eq!((row.status, row.current, row.message.as_deref()), (TaskStatus::Done, 4, Some("written")));
            let broken = start(&control, "test", None, |_| async { panic!("it was meant to") });
            let row = end_of(&control, broken.await.unwrap()).await;
            assert_eq!(row.status, TaskStatus::Failed);
        }
    }
}
