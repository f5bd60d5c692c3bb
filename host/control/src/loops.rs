//! The loops: who wakes them, and that each runs on one host only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_store::events;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Result;
use crate::signals::Wake;
use crate::start::Starter;
use crate::terminate::Terminator;
use crate::{
    Control, agents, background_tasks, callbacks, connections, drops, health, idle, liveness, news, plugins, retention,
    schedule, services, session_events, usage, usage_records, vfolders,
};

/// How long a wake-up waits for others of its burst: what comes together is written together.
const COALESCE: Duration = Duration::from_millis(3);

/// How long what an agent has may wait to be compared with the rows, together with what others have.
const TOGETHER: Duration = Duration::from_millis(250);

pub(crate) fn spawn(control: &Control, shutdown: CancellationToken) -> TaskTracker {
    let tracker = TaskTracker::new();
    // Leadership outlives the loops that need it.
    let resign = CancellationToken::new();
    let loops = TaskTracker::new();
    loops.spawn(led(control.clone(), "schedule", shutdown.clone(), |control, stop| async move {
        schedule::run(control, stop).await;
    }));
    loops.spawn(led(control.clone(), "idle", shutdown.clone(), |control, stop| async move {
        idle::run(control, stop).await;
    }));
    loops.spawn(led(control.clone(), "start", shutdown.clone(), |control, stop| async move {
        message(&control, "start", &control.signals().start, stop, Starter::new(control.clone())).await;
    }));
    loops.spawn(led(control.clone(), "terminate", shutdown.clone(), |control, stop| async move {
        message(&control, "terminate", &control.signals().terminate, stop, Terminator::new(control.clone())).await;
    }));
    loops.spawn(led(control.clone(), "services", shutdown.clone(), services::upkeep::run));
    loops.spawn(led(control.clone(), "callbacks", shutdown.clone(), callbacks::run));
    loops.spawn(led(control.clone(), "liveness", shutdown.clone(), |control, stop| async move {
        let since = control.clock().now();
        every(&control, "liveness", control.settings().tick_interval, stop, move |control| async move {
            liveness::pass(&control, since).await.map(drop)
        })
        .await;
    }));
    loops.spawn(led(control.clone(), "retention", shutdown.clone(), |control, stop| async move {
        every(&control, "retention", Duration::from_secs(30), stop, |control| async move {
            background_tasks::tidy(&control).await?;
            usage_records::record(&control, None).await?;
            retention::pass(&control).await?;
            usage::accrue(&control).await
        })
        .await;
    }));
    loops.spawn(led(control.clone(), "folders", shutdown.clone(), |control, stop| async move {
        every(&control, "folders", Duration::from_secs(10), stop, |control| async move {
            vfolders::life::sweep(&control).await
        })
        .await;
    }));
    let tidying = (control.clone(), shutdown.clone());
    // Every host has volumes of its own, or shares them: what one tidied up the other doesn't find.
    loops.spawn(async move {
        let (control, stop) = tidying;
        every(&control, "tidy-folders", Duration::from_secs(3_600), stop, |control| async move {
            vfolders::life::tidy(&control).await
        })
        .await;
    });
    if control.store().dialect() == quarterdeck_store::Dialect::Sqlite {
        // This host is alone: components that were on their way in when it began were left by one that is gone.
        let (control, begun) = (control.clone(), control.clock().now());
        loops.spawn(async move {
            if let Err(error) = plugins::give_up(&control, begun).await {
                tracing::warn!(%error, "components on their way in can't be given up");
            }
        });
    }
    loops.spawn(tasks(control.clone(), shutdown.clone()));
    loops.spawn(caches(control.clone(), shutdown.clone()));
    loops.spawn(comparisons(control.clone(), shutdown.clone()));
    loops.spawn(watch_connections(control.clone(), shutdown.clone()));
    loops.spawn(pump(control.clone(), shutdown.clone()));
    loops.spawn(news::listen(control.clone(), shutdown.clone()));
    loops.spawn(news::tell(control.clone(), shutdown.clone()));
    loops.spawn(shares(control.clone(), shutdown.clone()));
    // Every host has a directory of its own.
    loops.spawn(drops::run(control.clone(), shutdown.clone()));
    loops.close();

    let leader = control.clone();
    let stop = resign.clone();
    tracker.spawn(async move { leader.leadership().run(stop).await });
    let control = control.clone();
    tracker.spawn(async move {
        shutdown.cancelled().await;
        control.closing().cancel();
        loops.wait().await;
        control.tasks().close().await;
        flush(&control).await;
        resign.cancel();
        control.leadership().resign().await;
    });
    tracker.close();
    tracker
}

/// Campaigns for a loop, and runs it while this host leads it.
fn led<F: Future<Output = ()>>(
    control: Control,
    name: &'static str,
    shutdown: CancellationToken,
    run: impl Fn(Control, CancellationToken) -> F,
) -> impl Future<Output = ()> {
    // At once, and not when the loop is first polled: the first campaign is for all of them.
    control.leadership().want(name);
    lead(control, name, shutdown, run)
}

async fn lead<F: Future<Output = ()>>(
    control: Control,
    name: &'static str,
    shutdown: CancellationToken,
    run: impl Fn(Control, CancellationToken) -> F,
) {
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = control.leadership().led(name) => {}
        }
        let stop = shutdown.child_token();
        let watch = async {
            tokio::select! {
                () = control.leadership().lost(name) => stop.cancel(),
                () = stop.cancelled() => {}
            }
        };
        tokio::join!(
            async {
                run(control.clone(), stop.clone()).await;
                stop.cancel();
            },
            watch
        );
    }
}

/// Runs a pass at each tick, until stopped.
async fn every<F: Future<Output = Result<()>>>(
    control: &Control,
    name: &'static str,
    period: Duration,
    stop: CancellationToken,
    pass: impl Fn(Control) -> F,
) {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timer.tick() => {}
        }
        match pass(control.clone()).await {
            Ok(()) => control.metrics().passed(name, control.clock().now()),
            Err(error) => tracing::error!(%error, name, "a loop's pass failed"),
        }
    }
}

/// Tells agents what to do, as long as this host leads that.
trait Messenger: Sync {
    /// This host begins to lead.
    fn begin(&self) -> impl Future<Output = Result<()>> + Send;
    /// Tells what is due.
    fn pass(&self) -> impl Future<Output = Result<()>> + Send;
    /// Comes at each tick.
    fn tidy(&self) {}
}

impl Messenger for Starter {
    async fn begin(&self) -> Result<()> {
        Self::begin(self).await
    }

    async fn pass(&self) -> Result<()> {
        Self::pass(self).await
    }

    fn tidy(&self) {
        Self::tidy(self);
    }
}

impl Messenger for Terminator {
    async fn begin(&self) -> Result<()> {
        Self::begin(self).await
    }

    async fn pass(&self) -> Result<()> {
        Self::pass(self).await
    }
}

/// Runs a pass at each tick and whenever `due`, until stopped.
async fn message(
    control: &Control,
    name: &'static str,
    due: &Wake,
    stop: CancellationToken,
    messenger: impl Messenger,
) {
    let mut timer = interval(control.settings().tick_interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut begun = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = due.notified() => tokio::time::sleep(COALESCE).await,
            _ = timer.tick() => messenger.tidy(),
        }
        let pass = async {
            if !begun {
                messenger.begin().await?;
            }
            messenger.pass().await
        };
        match pass.await {
            Ok(()) => {
                begun = true;
                control.metrics().passed(name, control.clock().now());
            }
            Err(error) => tracing::error!(%error, name, "a loop's pass failed"),
        }
    }
}

/// Every host: its background tasks are alive as long as it says so.
async fn tasks(control: Control, stop: CancellationToken) {
    let begun = control.clock().now();
    if let Err(error) = background_tasks::recover(&control, begun).await {
        tracing::warn!(%error, "background tasks of an earlier run can't be failed yet");
    }
    every(&control, "tasks", background_tasks::SIGN_OF_LIFE, stop, |control| async move {
        background_tasks::keep_alive(&control).await
    })
    .await;
}

/// Every host: what others changed is read again, should it not have [heard](news::listen) of it; what this host heard
/// is written.
async fn caches(control: Control, stop: CancellationToken) {
    every(&control, health::CACHES, Duration::from_secs(1), stop, |control| async move {
        agents::note_seen(&control).await?;
        news::refresh(&control).await?;
        control.identity().flush().await?;
        retention::measure(&control).await
    })
    .await;
}

/// Every host: what its agents have is compared with the rows, for those whose time has come since the last pass.
async fn comparisons(control: Control, stop: CancellationToken) {
    every(&control, "comparisons", TOGETHER, stop, |control| async move { agents::reconcile_due(&control).await })
        .await;
}

/// Every host: shows the others how its agents do.
async fn shares(control: Control, stop: CancellationToken) {
    if control.store().dialect() == quarterdeck_store::Dialect::Sqlite {
        return;
    }
    let shared = &Mutex::new(control.clock().now());
    every(&control, "statistics", control.settings().share_interval, stop, |control| async move {
        let since = *shared.lock();
        let until = agents::statistics::share(&control, since).await?;
        *shared.lock() = until;
        Ok(())
    })
    .await;
}

/// Every host: which connections to sessions had traffic.
async fn watch_connections(control: Control, stop: CancellationToken) {
    every(
        &control,
        "connections",
        connections::PERIOD,
        stop,
        |control| async move { connections::pass(&control).await },
    )
    .await;
}

async fn flush(control: &Control) {
    let written = async {
        agents::flush_seen(control).await?;
        control.identity().flush().await
    };
    if let Err(error) = written.await {
        tracing::warn!(%error, "the last facts can't be written");
    }
}

const PAGE: i64 = 1_000;

/// Where this host stands in the log of events.
#[derive(Debug, Default)]
struct Position {
    /// Events up to this one were before anybody listened.
    base: Option<i64>,
    newest: i64,
    /// What was handed out lately.
    seen: BTreeSet<i64>,
}

/// Every host: reads the log of events and hands them to whoever listens.
async fn pump(control: Control, stop: CancellationToken) {
    let mut position = Position::default();
    let mut timer = interval(Duration::from_secs(1));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = control.signals().events.notified() => tokio::time::sleep(COALESCE).await,
            _ = timer.tick() => {}
        }
        if let Err(error) = read_events(&control, &mut position).await {
            tracing::error!(%error, "events can't be read");
        }
    }
}

async fn read_events(control: &Control, position: &mut Position) -> Result<()> {
    let mut reader = control.store().reader();
    let base = match position.base {
        Some(base) if control.signals().sessions.receiver_count() > 0 => base,
        _ => {
            // Nobody listens: those who come later hear what happens then.
            let newest = events::newest(&mut reader).await?;
            *position = Position { base: Some(newest), newest, seen: BTreeSet::new() };
            return Ok(());
        }
    };
    let mut from = base.max(position.newest - session_events::look_back(control));
    loop {
        let page = events::after(&mut reader, from, PAGE).await?;
        let full = page.len() as i64 == PAGE;
        for event in page {
            from = event.id;
            position.newest = position.newest.max(event.id);
            if position.seen.insert(event.id) {
                // No listener is fine.
                let _ = control.signals().sessions.send(Arc::new(event));
            }
        }
        if !full {
            break;
        }
    }
    position.seen = position.seen.split_off(&(position.newest - session_events::LOOK_BACK));
    Ok(())
}
