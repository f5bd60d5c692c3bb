//! When sessions were last used.

use quarterdeck_model::{SessionId, Timestamp};
use quarterdeck_store::Sql;
use quarterdeck_store::idle as rows;

use crate::error::Result;

/// What happens to a session that tells of its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessEvent {
    /// It started to run.
    Started,
    /// Code begins to run in it.
    ExecutionStarted,
    /// Code has ended in it, however it ended.
    ExecutionEnded,
    /// The first connection to one of its services is open.
    Connected,
    /// The last connection to its services was closed.
    Disconnected,
}

impl AccessEvent {
    /// Whether it is in use from now on.
    fn busy(self) -> bool {
        matches!(self, AccessEvent::ExecutionStarted | AccessEvent::Connected)
    }
}

/// Notes the use of sessions. Within the transaction of a status change, or on its own.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store).
pub async fn note<S: Sql>(sql: &mut S, sessions: &[SessionId], event: AccessEvent, now: Timestamp) -> Result<()> {
    if event.busy() {
        rows::set_busy(sql, sessions).await?;
    } else {
        rows::set_access(sql, sessions, now).await?;
    }
    Ok(())
}

/// How long an access is remembered under a network timeout of `threshold_ms`.
pub fn lifetime_ms(threshold_ms: i64) -> i64 {
    threshold_ms.saturating_mul(2).max(86_400_000)
}
