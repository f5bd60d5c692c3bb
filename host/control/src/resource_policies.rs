//! Resource policies: making, changing and deleting them.

use quarterdeck_model::DefaultForUnspecified;
use quarterdeck_store::resource_policies::{self, PolicyChanges, PolicyRow};
use serde_json::Value as Json;

use crate::Control;
use crate::error::{Error, Result};
use crate::identity::commit;
use crate::principal::Principal;
use crate::scope::superadmin_changes;
use crate::validate::{empty, folder_hosts, integrity, length, no_matching, nothing_to_update, slots, slots_opt};

/// What a new policy is to be like.
#[derive(Clone, Debug, Default)]
pub struct PolicyInput {
    /// `LIMITED` or `UNLIMITED`.
    pub default_for_unspecified: String,
    /// Slot → limit.
    pub total_resource_slots: Json,
    /// Seconds; 0 = for ever.
    pub max_session_lifetime: i64,
    /// Sessions at a time.
    pub max_concurrent_sessions: i64,
    /// Kernels of one session.
    pub max_containers_per_session: i64,
    /// Seconds; 0 = never idle.
    pub idle_timeout: i64,
    /// Folders.
    pub max_vfolder_count: i64,
    /// Bytes of one folder.
    pub max_vfolder_size: i64,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Option<Json>,
}

/// Changes to a policy; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ModifyPolicyInput {
    /// `LIMITED` or `UNLIMITED`.
    pub default_for_unspecified: Option<String>,
    /// Slot → limit.
    pub total_resource_slots: Option<Json>,
    /// Seconds; 0 = for ever.
    pub max_session_lifetime: Option<i64>,
    /// Sessions at a time.
    pub max_concurrent_sessions: Option<i64>,
    /// Kernels of one session.
    pub max_containers_per_session: Option<i64>,
    /// Seconds; 0 = never idle.
    pub idle_timeout: Option<i64>,
    /// Folders.
    pub max_vfolder_count: Option<i64>,
    /// Bytes of one folder.
    pub max_vfolder_size: Option<i64>,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Option<Json>,
}

fn default_for_unspecified(text: &str) -> Result<DefaultForUnspecified> {
    text.parse().map_err(|_| Error::invalid(format!("'{text}'")))
}

/// Makes a policy.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::InvalidParams`] for bad slots or an unknown default;
/// [`Error::BadRequest`] for bad folder hosts; [`Error::Integrity`] when the name is taken or too long.
pub async fn create(control: &Control, caller: &Principal, name: &str, input: PolicyInput) -> Result<PolicyRow> {
    superadmin_changes(caller)?;
    length(name, 256)?;
    let row = PolicyRow {
        name: name.to_owned(),
        created_at: control.clock().now(),
        default_for_unspecified: default_for_unspecified(&input.default_for_unspecified)?,
        total_resource_slots: slots(&input.total_resource_slots)?,
        max_session_lifetime: input.max_session_lifetime,
        max_concurrent_sessions: input.max_concurrent_sessions,
        max_concurrent_sftp_sessions: 1,
        max_containers_per_session: input.max_containers_per_session,
        max_vfolder_count: input.max_vfolder_count,
        max_vfolder_size: input.max_vfolder_size,
        idle_timeout: input.idle_timeout,
        allowed_vfolder_hosts: input.allowed_vfolder_hosts.map_or_else(|| Ok(empty()), folder_hosts)?,
    };
    let mut tx = control.store().begin().await?;
    resource_policies::insert(&mut tx, &row).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(row)
}

/// Changes a policy.
///
/// # Errors
/// As [`create`], and [`Error::NotFound`]; [`Error::BadRequest`] when there is nothing to change.
pub async fn modify(control: &Control, caller: &Principal, name: &str, input: ModifyPolicyInput) -> Result<()> {
    superadmin_changes(caller)?;
    let changes = PolicyChanges {
        default_for_unspecified: input.default_for_unspecified.as_deref().map(default_for_unspecified).transpose()?,
        total_resource_slots: slots_opt(input.total_resource_slots.as_ref())?,
        max_session_lifetime: input.max_session_lifetime,
        max_concurrent_sessions: input.max_concurrent_sessions,
        max_concurrent_sftp_sessions: None,
        max_containers_per_session: input.max_containers_per_session,
        max_vfolder_count: input.max_vfolder_count,
        max_vfolder_size: input.max_vfolder_size,
        idle_timeout: input.idle_timeout,
        allowed_vfolder_hosts: input.allowed_vfolder_hosts.map(folder_hosts).transpose()?,
    };
    let mut tx = control.store().begin().await?;
    match resource_policies::update(&mut tx, name, &changes).await? {
        None => Err(nothing_to_update()),
        Some(0) => Err(no_matching("resource policy")),
        Some(_) => commit(control, tx).await,
    }
}

/// Deletes a policy.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`]; [`Error::Integrity`] while key pairs use it.
pub async fn delete(control: &Control, caller: &Principal, name: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    if resource_policies::delete(&mut tx, name).await.map_err(integrity)? == 0 {
        return Err(no_matching("resource policy"));
    }
    commit(control, tx).await
}
