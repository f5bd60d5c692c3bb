//! Resource policies of key pairs.

use quarterdeck_model::{DefaultForUnspecified, Timestamp, UserId};
use serde_json::Value as Json;

use super::instant;
use crate::listing::{Conditions, Source};
use crate::{Result, Row, Sql, Value};

const COLUMNS: &str = "r.name, r.created_at, r.default_for_unspecified, r.total_resource_slots, \
                       r.max_session_lifetime, r.max_concurrent_sessions, r.max_containers_per_session, \
                       r.idle_timeout, r.max_vfolder_count, r.max_vfolder_size, r.allowed_vfolder_hosts";

const SOURCE: Source = Source {
    columns: COLUMNS,
    from: "keypair_resource_policies r",
    count_from: "keypair_resource_policies r",
    order: "r.name",
    unique: "r.name",
};

/// One row a key pair.
const BY_KEYPAIR: Source = Source {
    columns: COLUMNS,
    from: "keypair_resource_policies r JOIN keypairs k ON k.resource_policy = r.name",
    count_from: "keypair_resource_policies r JOIN keypairs k ON k.resource_policy = r.name",
    order: "r.name, k.access_key",
    unique: "k.access_key",
};

/// A resource policy.
#[derive(Clone, Debug)]
pub struct PolicyItem {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What it means by slots that it doesn't mention.
    pub default_for_unspecified: DefaultForUnspecified,
    /// What a key pair may occupy at once: slot → amount.
    pub total_resource_slots: Json,
    /// Seconds; 0: for ever.
    pub max_session_lifetime: i64,
    /// Sessions at once.
    pub max_concurrent_sessions: i64,
    /// Kernels of one session.
    pub max_containers_per_session: i64,
    /// Seconds.
    pub idle_timeout: i64,
    /// Folders of one user.
    pub max_vfolder_count: i64,
    /// Bytes.
    pub max_vfolder_size: i64,
    /// Storage host → what is allowed there.
    pub allowed_vfolder_hosts: Json,
}

fn read(row: &Row) -> Result<PolicyItem> {
    Ok(PolicyItem {
        name: row.get("name")?,
        created_at: instant(row, "created_at")?,
        default_for_unspecified: row.parse("default_for_unspecified")?,
        total_resource_slots: row.json("total_resource_slots")?,
        max_session_lifetime: row.get("max_session_lifetime")?,
        max_concurrent_sessions: row.get("max_concurrent_sessions")?,
        max_containers_per_session: row.get("max_containers_per_session")?,
        idle_timeout: row.get("idle_timeout")?,
        max_vfolder_count: row.get("max_vfolder_count")?,
        max_vfolder_size: row.get("max_vfolder_size")?,
        allowed_vfolder_hosts: row.json("allowed_vfolder_hosts")?,
    })
}

/// Policies by name; all of them without one.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, name: Option<&str>) -> Result<Vec<PolicyItem>> {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(name) = name {
        conditions.equal("r.name", name);
    }
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}

/// The policies of a user's key pairs, one row a key pair.
///
/// # Errors
/// The database's.
pub async fn of_user<S: Sql>(sql: &mut S, user: UserId) -> Result<Vec<PolicyItem>> {
    let mut conditions = Conditions::new(sql.dialect());
    conditions.equal("k.user_id", Value::from(user.to_string()));
    crate::listing::select(sql, &BY_KEYPAIR, conditions, i64::MAX, read).await
}
