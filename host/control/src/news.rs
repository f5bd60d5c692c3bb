//! What hosts of one database tell each other, so that nobody waits for the next look at the rows.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarterdeck_store::notices::Heard;
use quarterdeck_store::{Dialect, revisions};
use tokio_util::sync::CancellationToken;

use crate::Control;
use crate::error::Result;

/// What wakes come together in this time are told of together.
const GATHER: Duration = Duration::from_millis(3);
/// How often the other hosts are told something at most: each time is a transaction.
const PAUSE: Duration = Duration::from_millis(20);
/// After the database couldn't be reached.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A host that was silent for longer may be gone. Each says every [`ALIVE_EVERY`] that it is there.
const SILENCE: Duration = Duration::from_secs(20);
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// What a host says that is there.
const ALIVE: &str = "alive";

/// Whether there are other hosts on this database.
#[derive(Debug, Default)]
pub(crate) struct Others(Mutex<Option<Instant>>);

impl Others {
    fn heard(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Whether another host was heard lately.
    pub(crate) fn are_there(&self) -> bool {
        self.0.lock().is_some_and(|at| at.elapsed() < SILENCE)
    }
}

/// Reads again what this host caches and others changed.
pub(crate) async fn refresh(control: &Control) -> Result<()> {
    control.identity().refresh().await?;
    refresh_config(control).await?;
    control.policies().refresh().await
}

async fn refresh_config(control: &Control) -> Result<()> {
    if control.config_tree().refresh().await? {
        control.signals().schedule.notify_one();
    }
    Ok(())
}

/// Tells the other hosts that there may be work, until stopped. What this host leads is its own work.
pub(crate) async fn tell(control: Control, stop: CancellationToken) {
    if control.store().dialect() == Dialect::Sqlite {
        return;
    }
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut topics = Vec::new();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = alive.tick() => topics.push(ALIVE),
            () = control.signals().due() => tokio::time::sleep(GATHER).await,
        }
        topics.extend(control.signals().take_due().into_iter().filter(|topic| !control.leadership().leads(topic)));
        if topics.is_empty() {
            continue;
        }
        if let Err(error) = control.store().tell(&control.settings().node_id, &topics).await {
            tracing::debug!(%error, "the other hosts can't be told; they look by themselves");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hears what others tell, until stopped.
pub(crate) async fn listen(control: Control, stop: CancellationToken) {
    let mut listener = control.store().listener();
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = listener.next() => heard,
        };
        let done = match heard {
            Ok(heard) => act(&control, heard).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "what other hosts tell can't be heard; this host looks every second");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AFTER_FAILURE) => {}
            }
        }
    }
}

async fn act(control: &Control, heard: Heard) -> Result<()> {
    match heard {
        Heard::Committed => refresh(control).await,
        Heard::Missed => {
            control.signals().wake_all_here();
            refresh(control).await
        }
        Heard::Said { by, .. } if by == control.settings().node_id => Ok(()),
        Heard::Said { by, topics } => {
            if !by.is_empty() {
                control.others().heard();
            }
            for topic in &topics {
                match topic.as_str() {
                    revisions::IDENTITY => control.identity().refresh().await?,
                    revisions::CONFIG => refresh_config(control).await?,
                    revisions::BINDINGS => control.policies().refresh().await?,
                    topic => control.signals().told(topic),
                }
            }
            Ok(())
        }
    }
}
