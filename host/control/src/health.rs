//! Whether this host can do its work.

use std::time::Duration;

use quarterdeck_model::policy::Target;
use quarterdeck_store::revisions;

use crate::Control;

/// How long the database may take for the simplest question.
const DATABASE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a loop may go without finishing a pass. The slowest ticks every 30 seconds.
const LOOP_PATIENCE_S: i64 = 90;
/// The same for the loop that every host runs each second.
const CACHES_PATIENCE_S: i64 = 15;

/// The name under which the loop that keeps caches fresh tells of its passes.
pub const CACHES: &str = "caches";

/// What keeps this host from doing its work, in words for operators; nothing when all is well.
pub async fn faults(control: &Control) -> Vec<String> {
    let mut faults = Vec::new();
    let mut reader = control.store().reader();
    match tokio::time::timeout(DATABASE_PATIENCE, revisions::get(&mut reader, revisions::IDENTITY)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready: the database fails");
            faults.push("the database fails".to_owned());
        }
        Err(_) => faults.push("the database doesn't answer".to_owned()),
    }
    let now = control.clock().now();
    let stuck = |name: &str, patience: i64| {
        control.metrics().last_pass(name).is_some_and(|at| now.seconds() as i64 - at > patience)
    };
    if control.metrics().last_pass(CACHES).is_none() {
        faults.push("the loops haven't begun".to_owned());
    }
    if stuck(CACHES, CACHES_PATIENCE_S) {
        faults.push("the caches are stale".to_owned());
    }
    for name in control.leadership().all_led().iter() {
        if stuck(name, LOOP_PATIENCE_S) {
            faults.push(format!("the loop `{name}` is stuck"));
        }
    }
    // What a domain's hook refuses is that domain's trouble; this host can do its work for the others.
    let blocking = control.policies().troubles().into_iter().filter(|t| t.blocks && t.target == Target::everywhere());
    faults.extend(blocking.map(|t| format!("the hook plugin `{}` is suspended: {}", t.plugin, t.reason)));
    faults
}
