//! A user ends a session.

use std::time::Duration;

use quarterdeck_model::{SessionId, SessionStatus};
use quarterdeck_store::sessions;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::info::final_stats;
use super::{find_strictly, hooks, no_such_session};
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::{scope, terminate};

/// How often a waiting call looks at the row even though nobody told it to.
const LOOK_EVERY: Duration = Duration::from_millis(1000);

/// Ends a session, and with `recursive` first those that depend on it. Waits (for a bounded time) until agents are done.
/// Answers `{"stats": …}`, or the list of stats when recursive.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Forbidden`] where its status doesn't allow it or the caller may not act for the owner;
/// [`Error::RejectedByHook`].
pub async fn destroy(
    control: &Control,
    caller: &Principal,
    reference: &str,
    owner_access_key: Option<&str>,
    forced: bool,
    recursive: bool,
) -> Result<Value> {
    let owner = scope::resolve_owner(control, caller, owner_access_key).await?;
    let reason = if forced { "force-terminated" } else { "user-requested" };
    if !recursive {
        let id = super::find(control, &owner.access_key, reference, false).await?.session.id;
        return Ok(json!({ "stats": one(control, id, reason, forced).await? }));
    }
    let root = find_strictly(control, &owner.access_key, reference, false).await?;
    let mut ids = sessions::dependents(&mut control.store().reader(), root.id).await?;
    let rows = sessions::get_many(&mut control.store().reader(), &ids).await?;
    for row in &rows {
        if row.access_key != owner.access_key || row.status.is_dead() {
            return Err(no_such_session(&row.id.to_string()));
        }
    }
    ids.push(root.id);
    let mut all = Vec::new();
    for result in futures::future::join_all(ids.iter().map(|id| one(control, *id, reason, forced))).await {
        match result {
            Ok(stats) => all.push(stats),
            // One that refuses stays; the others go.
            Err(Error::NotFound { .. } | Error::Forbidden(_) | Error::RejectedByHook { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Value::Array(all))
}

async fn one(control: &Control, id: SessionId, reason: &str, forced: bool) -> Result<Value> {
    let body = hooks::before_destroy(control, id, reason, forced).await?;
    let outcome = match terminate::request(control, &[id], reason, forced).await?.pop() {
        // It ended between the look-up and the transaction.
        None | Some(Err(Error::NotFound { .. })) => return Err(no_such_session(&id.to_string())),
        Some(outcome) => outcome?,
    };
    if outcome == terminate::Outcome::Terminating {
        wait_for(control, id, control.settings().destroy_wait, SessionStatus::is_dead).await?;
    }
    if let Some(body) = body {
        hooks::notify_destroyed(control, body);
    }
    if outcome == terminate::Outcome::Cancelled {
        return Ok(json!({ "status": "terminated" }));
    }
    final_stats(control, id).await
}

/// Waits until the session's status is one that counts, at most `limit`; its status then, `None` when time ran out.
pub(crate) async fn wait_for(
    control: &Control,
    id: SessionId,
    limit: Duration,
    counts: impl Fn(SessionStatus) -> bool,
) -> Result<Option<SessionStatus>> {
    let watch = control.signals().watch(id);
    let deadline = Instant::now() + limit;
    loop {
        let changed = watch.changed();
        tokio::pin!(changed);
        // From here on no change is missed, so that the row may be read.
        changed.as_mut().enable();
        match sessions::status(&mut control.store().reader(), id).await? {
            None => return Ok(None),
            Some(status) if counts(status) => return Ok(Some(status)),
            Some(_) => {}
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(None);
        }
        // Another host may have changed it: look again after a while whatever happens.
        let _ = timeout_at(deadline.min(now + LOOK_EVERY), changed).await;
    }
}
