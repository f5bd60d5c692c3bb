//! Live statistics of all agents, whichever host they report to.
//!
//! A host remembers what its own agents say ([`Live`](super::Live)). While there are other hosts, it writes that down
//! every few seconds for them to read.

use std::collections::HashMap;
use std::hash::Hash;

use quarterdeck_model::{AgentId, KernelId, Timestamp};
use quarterdeck_store::live::{self as rows, Kind};
use serde_json::Value;

use super::Text;
use crate::Control;
use crate::error::Result;

/// What this host heard longer ago may be known better elsewhere: agents change their host.
const FRESH_MS: i64 = 15_000;
/// What another host heard longer ago tells nothing of the present.
const CURRENT_MS: i64 = 30_000;
/// After this long a row that nobody renews is dropped.
const KEPT_MS: i64 = 120_000;

/// Live statistics of these kernels, as their agents sent them; of those that run elsewhere, as far as known.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store).
pub async fn of_kernels(control: &Control, ids: &[KernelId]) -> Result<HashMap<KernelId, Value>> {
    gather(control, Kind::Kernel, ids, |id| control.live().kernel_heard(*id)).await
}

/// Live statistics of these agents: `{"node": …, "devices": …}`.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store).
pub async fn of_agents(control: &Control, ids: &[AgentId]) -> Result<HashMap<AgentId, Value>> {
    gather(control, Kind::Agent, ids, |id| control.live().agent_heard(id)).await
}

async fn gather<Id: Clone + Eq + Hash + ToString>(
    control: &Control,
    kind: Kind,
    ids: &[Id],
    heard: impl Fn(&Id) -> Option<(Text, Timestamp)>,
) -> Result<HashMap<Id, Value>> {
    let now = control.clock().now();
    let own: HashMap<&Id, (Text, Timestamp)> = ids.iter().filter_map(|id| Some((id, heard(id)?))).collect();
    let fresh = now.plus_millis(-FRESH_MS);
    let elsewhere = match control.others().are_there() {
        false => HashMap::new(),
        true => {
            let asked = ids.iter().filter(|id| own.get(id).is_none_or(|(_, at)| *at < fresh)).map(Id::to_string);
            rows::read(&mut control.store().reader(), kind, asked, now.plus_millis(-CURRENT_MS)).await?
        }
    };
    let told = |id: &Id| elsewhere.get(&id.to_string()).map(String::as_str);
    let stats = ids.iter().filter_map(|id| {
        let text = told(id).or_else(|| own.get(id).map(|(text, _)| &**text))?;
        Some((id.clone(), serde_json::from_str(text).ok()?))
    });
    Ok(stats.collect())
}

/// Writes what this host heard since `since`, if there are others to read it. The time up to which it is written.
pub(crate) async fn share(control: &Control, since: Timestamp) -> Result<Timestamp> {
    let now = control.clock().now();
    if !control.others().are_there() {
        return Ok(now);
    }
    let all = control.live().heard_since(since);
    if !all.is_empty() {
        let mut tx = control.store().begin().await?;
        rows::write(&mut tx, &all).await?;
        tx.commit().await?;
    }
    Ok(now)
}

/// Drops what nobody renews.
pub(crate) async fn expire(control: &Control) -> Result<u64> {
    let mut tx = control.store().begin().await?;
    let dropped = rows::expire(&mut tx, control.clock().now().plus_millis(-KEPT_MS)).await?;
    tx.commit().await?;
    Ok(dropped)
}
