//! A session's kernels are started anew.

use std::time::Duration;

use quarterdeck_model::{KernelStatus, SessionStatus};
use quarterdeck_store::work::Work;

use super::destroy::wait_for;
use super::{find, no_such_session};
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// How long the call waits for the session to run again.
const WAIT: Duration = Duration::from_secs(60);

/// Restarts the kernels of a running session in place, and waits (for a bounded time) until it runs again. The loop that
/// ends kernels does the first half, the loop that starts them the second.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Forbidden`] when it doesn't run.
pub async fn restart(control: &Control, caller: &Principal, reference: &str) -> Result<()> {
    let id = find(control, &caller.access_key, reference, false).await?.session.id;
    let mut tx = control.store().begin().await?;
    let mut work = Work::open(&mut tx, [id], control.clock().now()).await?;
    let Some(session) = work.session(id) else { return Err(no_such_session(reference)) };
    if !matches!(session.status, SessionStatus::Running | SessionStatus::RunningDegraded) {
        let status = session.status.as_str().to_lowercase();
        return Err(Error::Forbidden(format!("Cannot restart sessions in {status} status")));
    }
    let kernels: Vec<_> = work.kernels_of(id).iter().map(|k| k.id).collect();
    work.set_session(id, SessionStatus::Restarting, Some("restarting"), None);
    for kernel in kernels {
        work.set_kernel(kernel, KernelStatus::Restarting, Some("restarting"), None);
    }
    let changes = work.flush(&mut tx).await?;
    tx.commit().await?;
    control.announce(&changes);
    control.signals().terminate.notify_one();
    let over = |status: SessionStatus| {
        matches!(status, SessionStatus::Running | SessionStatus::RunningDegraded | SessionStatus::Error)
            || status.is_dead()
    };
    wait_for(control, id, WAIT, over).await?;
    Ok(())
}
