//! The loop: a worker per scaling group, all woken by signals and a timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarterdeck_store::schedule as rows;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Control;

/// How long a wake-up waits for others of its burst.
const COALESCE: Duration = Duration::from_millis(3);

/// How often it is looked at most which groups have work.
const PAUSE: Duration = Duration::from_millis(20);

/// After decisions that no longer held: what overtook them is probably done.
const AFTER_STALE: Duration = Duration::from_millis(50);

/// After a pass its group rests for so many times as long as the pass took, at most [`LONGEST_REST`]: a pass looks at all
/// sessions of the group, whether it places one or a thousand. The first one after a while begins at once.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The pause of a group whose pass failed, until somebody wakes it.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

struct Worker {
    wake: Arc<Notify>,
    stop: CancellationToken,
}

/// Schedules until `shutdown`; passes under way are finished first.
pub async fn run(control: Control, shutdown: CancellationToken) {
    let tracker = TaskTracker::new();
    let mut workers: HashMap<String, Worker> = HashMap::new();
    let mut timer = tokio::time::interval(control.settings().schedule_interval);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = control.signals().schedule.notified() => tokio::time::sleep(COALESCE).await,
            _ = timer.tick() => {}
        }
        let groups = match rows::groups(&mut control.store().reader()).await {
            Ok(groups) => groups,
            Err(error) => {
                tracing::error!(%error, "the scaling groups can't be read");
                continue;
            }
        };
        // A worker without work costs nothing, but groups come and go.
        if workers.len() > 4 * groups.len() + 64 {
            workers.retain(|name, worker| {
                let keep = groups.contains(name);
                if !keep {
                    worker.stop.cancel();
                }
                keep
            });
        }
        for name in groups {
            let worker = workers.entry(name).or_insert_with_key(|name| {
                let worker = Worker { wake: Arc::new(Notify::new()), stop: shutdown.child_token() };
                tracker.spawn(serve(control.clone(), name.clone(), Arc::clone(&worker.wake), worker.stop.clone()));
                worker
            });
            worker.wake.notify_one();
        }
        control.metrics().passed("schedule", control.clock().now());
        tokio::time::sleep(PAUSE).await;
    }
    tracker.close();
    tracker.wait().await;
}

/// Makes a pass over one group whenever it is woken. What arrives during a pass wakes it once more.
async fn serve(control: Control, group: String, wake: Arc<Notify>, stop: CancellationToken) {
    let mut again = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(AFTER_STALE), if again => {}
        }
        again = false;
        let began = Instant::now();
        let rest = match super::pass(&control, &group).await {
            Ok(pass) => {
                again = !pass.stale.is_empty();
                (began.elapsed() * REST).min(LONGEST_REST)
            }
            Err(error) => {
                tracing::error!(group, %error, "a scheduling pass failed");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}
