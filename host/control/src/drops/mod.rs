//! The watched directory: a component that is put there comes in, and serves whom the settings beside it say.
//!
//! The loop compares what lies in the directory with what the database says was done about it; changes in the file
//! system only wake it. A content is dealt with once, whatever the number of hosts that see it and however often they
//! start: who rolls back what a file did isn't undone until the file changes. What can't be done shows in
//! [`list`], and is tried again now and then.

mod act;
mod files;
mod settings;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::Watcher as _;
use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::DropState;
use quarterdeck_store::drops::{self, Claim, DropRow};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::files::{Content, Found};
use crate::Control;
use crate::audit::{self, Act, Actor, Via};
use crate::error::{Error, Result};
use crate::plugins::superadmin;
use crate::principal::Principal;

/// How often the directory is looked at when the file system says nothing.
const POLL: Duration = Duration::from_secs(5);
/// How long a file must stay as it is before it is read.
const SETTLE: Duration = Duration::from_millis(700);
/// Changes come in bursts.
const COALESCE: Duration = Duration::from_millis(50);
/// How long others leave a file to the host that deals with it, unless it says that it is still at it.
const CLAIM: Duration = Duration::from_secs(15);
/// How long after a refusal the same content is tried again, at first; each time twice as long.
const RETRY: Duration = Duration::from_secs(15);
/// How long at most.
const RETRY_AT_MOST: Duration = Duration::from_secs(3600);

/// Files that a list shows.
pub const MAX_LISTED: u32 = 1000;

/// The files in the watched directories of all hosts and what became of them, the newest first, at most
/// [`MAX_LISTED`].
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::Store`].
pub async fn list(control: &Control, caller: &Principal) -> Result<Vec<DropRow>> {
    superadmin(caller)?;
    Ok(drops::newest(&mut control.store().reader(), MAX_LISTED).await?)
}

/// Watches the directory of the settings, if there is one, until stopped.
pub(crate) async fn run(control: Control, stop: CancellationToken) {
    let Some(dir) = control.settings().plugin_dir.clone() else { return };
    let wake = Arc::new(Notify::new());
    let _watcher = watch(&dir, &wake);
    let mut watch = Watch::new(control, dir);
    loop {
        let unsettled = tokio::select! {
            () = stop.cancelled() => return,
            unsettled = watch.pass() => unsettled,
        };
        let pause = match unsettled {
            Ok(true) => SETTLE,
            Ok(false) => POLL,
            Err(error) => {
                tracing::warn!(%error, "the plugin directory can't be compared with the database");
                POLL
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.notified() => tokio::time::sleep(COALESCE).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Lets the file system wake the loop. Without it the loop looks by itself.
fn watch(dir: &Path, wake: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let wake = Arc::clone(wake);
    let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // To look is no change.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            wake.notify_one();
        }
    })
    .and_then(|mut watcher| watcher.watch(dir, notify::RecursiveMode::NonRecursive).map(|()| watcher));
    watched
        .inspect_err(|error| tracing::info!(%error, dir = %dir.display(), "the plugin directory is only polled"))
        .ok()
}

/// What this process knows of one file.
struct Known {
    found: Found,
    since: Instant,
    /// What stands for its content, once it was read.
    content: Option<String>,
}

/// One watched directory.
struct Watch {
    control: Control,
    dir: PathBuf,
    place: String,
    known: HashMap<String, Known>,
    /// Whether the directory could be read the last time: the log needn't repeat it.
    readable: bool,
}

/// What a look at one file came to.
enum Look {
    /// It may still be written to.
    Unsettled,
    /// Nothing more to do.
    Done,
}

impl Watch {
    fn new(control: Control, dir: PathBuf) -> Self {
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let shown = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        let place = format!("{host}:{}", shown.display());
        Self { control, dir, place, known: HashMap::new(), readable: true }
    }

    /// Looks at everything once; whether it should do so again soon.
    async fn pass(&mut self) -> Result<bool> {
        let dir = self.dir.clone();
        let looked = tokio::task::spawn_blocking(move || files::look(&dir)).await;
        let (found, too_many) = match looked.map_err(|e| Error::Internal(format!("looking broke off: {e}")))? {
            Ok(looked) => looked,
            // A directory that can't be read says nothing about its files: they aren't gone.
            Err(error) => {
                if std::mem::take(&mut self.readable) {
                    tracing::error!(%error, dir = %self.dir.display(), "the plugin directory can't be read");
                }
                return Ok(false);
            }
        };
        self.readable = true;
        let mut rows: HashMap<String, DropRow> = drops::of_place(&mut self.control.store().reader(), &self.place)
            .await?
            .into_iter()
            .map(|row| (row.file.clone(), row))
            .collect();
        let mut unsettled = false;
        for (file, found) in found {
            let row = rows.remove(&file);
            match self.look_at(&file, found, row).await {
                Ok(Look::Unsettled) => unsettled = true,
                Ok(Look::Done) => {}
                Err(error) => tracing::warn!(file, %error, "a file of the plugin directory can't be dealt with"),
            }
        }
        if too_many {
            tracing::warn!(dir = %self.dir.display(), "only the first {} components are looked at", files::MAX_FILES);
            return Ok(unsettled);
        }
        for (file, row) in rows {
            // Twice, as with everything: some tools remove a file before they put the new one in its place.
            match self.known.remove(&file) {
                Some(known) if known.found != Found::default() => {
                    self.known.insert(file, Known { found: Found::default(), since: Instant::now(), content: None });
                    unsettled = true;
                }
                Some(known) if known.since.elapsed() < SETTLE => {
                    self.known.insert(file, known);
                    unsettled = true;
                }
                Some(_) => {
                    audit::scope(self.by_file("plugin file removed", &file), act::gone(&self.control, &row)).await?;
                }
                None => {
                    self.known.insert(file, Known { found: Found::default(), since: Instant::now(), content: None });
                    unsettled = true;
                }
            }
        }
        Ok(unsettled)
    }

    async fn look_at(&mut self, file: &str, found: Found, row: Option<DropRow>) -> Result<Look> {
        let known = match self.known.get_mut(file) {
            Some(known) if known.found == found => known,
            _ => {
                let known = Known { found, since: Instant::now(), content: None };
                self.known.insert(file.to_owned(), known);
                if row.is_none() {
                    let waiting = self.row(file, "", DropState::Waiting, Some("it may still be written to".to_owned()));
                    self.keep(None, waiting).await?;
                }
                return Ok(Look::Unsettled);
            }
        };
        if known.since.elapsed() < SETTLE {
            return Ok(Look::Unsettled);
        }
        let dealt_with =
            |content: &str| row.as_ref().is_some_and(|row| row.content == content && row.state == DropState::Ok);
        if known.content.as_deref().is_some_and(dealt_with) {
            return Ok(Look::Done);
        }
        if let (Some(content), Some(row)) = (&known.content, &row)
            && row.content == *content
        {
            // Not its turn yet: it needn't be read to know that.
            let act = drops::act(&mut self.control.store().reader(), file).await?;
            let now = self.control.clock().now();
            if act.is_some_and(|a| a.content == *content && a.state != DropState::Ok && a.next_at > now) {
                return Ok(Look::Done);
            }
        }
        if let Some(fault) = known.found.fault.clone() {
            let refused = self.row(file, &format!("fault: {fault}"), DropState::Refused, Some(fault));
            return self.keep(row.as_ref(), refused).await.map(|()| Look::Done);
        }
        let found = known.found.clone();
        let read = tokio::task::spawn_blocking(move || found.read()).await;
        let content = match read.map_err(|e| Error::Internal(format!("reading broke off: {e}")))? {
            Ok(Some(content)) => content,
            Ok(None) => {
                self.known.remove(file);
                return Ok(Look::Unsettled);
            }
            Err(fault) => {
                let refused = self.row(file, &format!("fault: {fault}"), DropState::Refused, Some(fault));
                return self.keep(row.as_ref(), refused).await.map(|()| Look::Done);
            }
        };
        known.content = Some(content.all.clone());
        if dealt_with(&content.all) {
            return Ok(Look::Done);
        }
        self.deal_with(file, content, row).await.map(|()| Look::Done)
    }

    /// Deals with a content unless somebody does or did.
    async fn deal_with(&self, file: &str, content: Content, row: Option<DropRow>) -> Result<()> {
        let all = content.all.clone();
        let holder = self.control.settings().node_id.clone();
        let claim = Claim { holder: &holder, place: &self.place, file, content: &all };
        let now = self.control.clock().now();
        let mut tx = self.control.store().begin().await?;
        let ours = drops::claim(&mut tx, &claim, now, after(now, CLAIM)).await?;
        let act = drops::act(&mut tx, file).await?.ok_or_else(|| Error::Internal("a claim is gone".to_owned()))?;
        tx.commit().await?;
        let mut outcome = self.row(file, &all, act.state, act.reason.clone());
        outcome.digest = Some(content.digest.clone());
        outcome.plugin.clone_from(&act.plugin);
        if !ours {
            if act.state == DropState::Waiting {
                outcome.reason = Some(format!("{} is at it", act.place));
            }
            outcome.binding = act::binding(&content);
            return self.keep(row.as_ref(), outcome).await;
        }

        let dealing = act::act(&self.control, file, content, act.since);
        let dealing = Box::pin(audit::scope(self.by_file("plugin file", file), dealing));
        let mut renewal = tokio::time::interval_at(tokio::time::Instant::now() + CLAIM / 3, CLAIM / 3);
        // Both go on at once: one of them may have the connection that the other waits for.
        let renewing = async {
            loop {
                renewal.tick().await;
                let until = after(self.control.clock().now(), CLAIM);
                let renewed = async {
                    let mut tx = self.control.store().begin().await?;
                    drops::renew(&mut tx, &claim, until).await?;
                    tx.commit().await
                };
                if let Err(error) = renewed.await {
                    break error;
                }
            }
        };
        let result = tokio::select! {
            result = dealing => result,
            error = renewing => return Err(error.into()),
        };
        let now = self.control.clock().now();
        outcome.at = now;
        match result {
            Ok(done) => {
                outcome.state = DropState::Ok;
                outcome.plugin = Some(done.plugin);
                outcome.binding = done.binding;
                tracing::info!(
                    file,
                    plugin = outcome.plugin,
                    place = self.place,
                    "a file of the plugin directory came in"
                );
            }
            Err(error) => {
                let passing = matches!(error, Error::Store(_) | Error::Unavailable(_) | Error::Internal(_));
                outcome.state = if passing { DropState::Waiting } else { DropState::Refused };
                outcome.reason = Some(words(&error));
                tracing::warn!(
                    file,
                    place = self.place,
                    reason = outcome.reason,
                    "a file of the plugin directory doesn't come in"
                );
            }
        }
        let doublings = u32::try_from(act.tries - 1).unwrap_or(0).min(16);
        let retry = after(now, RETRY.saturating_mul(1 << doublings).min(RETRY_AT_MOST));
        let mut tx = self.control.store().begin().await?;
        drops::finish(&mut tx, &holder, &outcome, retry).await?;
        drops::set(&mut tx, &outcome).await?;
        tx.commit().await?;
        Ok(())
    }

    fn row(&self, file: &str, content: &str, state: DropState, reason: Option<String>) -> DropRow {
        DropRow {
            place: self.place.clone(),
            file: file.to_owned(),
            content: content.to_owned(),
            digest: None,
            plugin: None,
            state,
            reason,
            binding: None,
            at: self.control.clock().now(),
        }
    }

    /// How the audit tells of what a file brings about.
    fn by_file(&self, action: &str, file: &str) -> Act {
        let actor = Actor { name: Some(format!("file {file}")), address: Some(self.place.clone()), ..Actor::default() };
        Act::new(Via::System, actor, action).on(file)
    }

    /// Writes a row down unless it says so already.
    async fn keep(&self, before: Option<&DropRow>, row: DropRow) -> Result<()> {
        if before.is_some_and(|before| *before == DropRow { at: before.at, ..row.clone() }) {
            return Ok(());
        }
        let mut tx = self.control.store().begin().await?;
        drops::set(&mut tx, &row).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn after(at: Timestamp, wait: Duration) -> Timestamp {
    at.plus_millis(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

/// An error in one line, for people.
fn words(error: &Error) -> String {
    match error {
        Error::NotFound { object, msg: Some(msg), .. } => format!("no such {object}: {msg}"),
        error => error.to_string(),
    }
}
