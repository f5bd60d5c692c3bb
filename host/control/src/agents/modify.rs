//! What administrators do with agents.

use quarterdeck_model::{AgentId, Timestamp};
use quarterdeck_rpc::credentials;
use quarterdeck_store::{Error as StoreError, Store, Violation, agents as rows};

use crate::Control;
use crate::error::{Error, Result};

/// What may be changed about an agent; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct ModifyAgent {
    /// Whether it takes new kernels.
    pub schedulable: Option<bool>,
    /// The group it serves.
    pub scaling_group: Option<String>,
}

/// Changes an agent. The caller's right to do so was checked.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Integrity`] when the group doesn't exist.
pub async fn modify(control: &Control, id: &AgentId, change: &ModifyAgent) -> Result<()> {
    let mut tx = control.store().begin().await?;
    let changed = rows::modify(&mut tx, id, change.schedulable, change.scaling_group.as_deref()).await;
    let changed = changed.map_err(|error| match error.violation() {
        Some((Violation::ForeignKey, name)) => Error::Integrity(name),
        _ => Error::Store(error),
    })?;
    if changed == 0 {
        return Err(Error::not_found("agent"));
    }
    tx.commit().await?;
    if let Some(row) = rows::get(&mut control.store().reader(), id).await? {
        control.live().enter(&row);
    }
    control.signals().schedule.notify_one();
    Ok(())
}

/// Makes a token that lets agents join, and keeps its hash. It is shown this once.
///
/// # Errors
/// [`Error::Store`].
pub async fn new_join_token(
    store: &Store,
    note: Option<&str>,
    expires_at: Option<Timestamp>,
) -> Result<String, StoreError> {
    let token = credentials::generate();
    let mut tx = store.begin().await?;
    rows::add_join_token(&mut tx, &credentials::hash(&token), note, Timestamp::now(), expires_at).await?;
    tx.commit().await?;
    Ok(token)
}
