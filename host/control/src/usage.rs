//! The counters of what agents, key pairs, projects and domains hold.

use quarterdeck_store::occupancy;

use crate::Control;
use crate::error::Result;

/// Computes all counters anew from the kernels there are. They are kept right by every transaction;
/// this is for administrators who doubt it.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store).
pub async fn recalculate(control: &Control) -> Result<()> {
    let mut tx = control.store().begin().await?;
    occupancy::recalculate(&mut tx).await?;
    tx.commit().await?;
    control.signals().schedule.notify_one();
    Ok(())
}
