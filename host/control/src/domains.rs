//! Domains: making, changing, deactivating and purging them.

use quarterdeck_store::domains::{self, DomainChanges, DomainRow};
use serde_json::Value as Json;

use crate::Control;
use crate::error::{Error, Result};
use crate::identity::commit;
use crate::principal::Principal;
use crate::scope::superadmin_changes;
use crate::validate::{
    NOT_A_SLUG, empty, folder_hosts, integrity, is_slug, length, length_opt, no_matching, slots_opt,
};

/// What a new domain is to be like.
#[derive(Clone, Debug, Default)]
pub struct DomainInput {
    /// For people.
    pub description: Option<String>,
    /// Whether it is in use; it is without saying.
    pub is_active: Option<bool>,
    /// Slot → limit.
    pub total_resource_slots: Option<Json>,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Option<Json>,
    /// Registries whose images may be used.
    pub allowed_docker_registries: Option<Vec<String>>,
    /// The id in somebody else's system.
    pub integration_id: Option<String>,
}

/// Changes to a domain; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ModifyDomainInput {
    /// A new name. Users and sessions of the domain prevent it.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Whether it is in use.
    pub is_active: Option<bool>,
    /// Slot → limit.
    pub total_resource_slots: Option<Json>,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Option<Json>,
    /// Registries whose images may be used.
    pub allowed_docker_registries: Option<Vec<String>>,
    /// The id in somebody else's system.
    pub integration_id: Option<String>,
}

/// Makes a domain.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::BadRequest`] for a bad name or bad folder hosts;
/// [`Error::InvalidParams`] for bad slots; [`Error::Integrity`] when the name is taken or a text too long.
pub async fn create(control: &Control, caller: &Principal, name: &str, input: DomainInput) -> Result<DomainRow> {
    superadmin_changes(caller)?;
    if !is_slug(name) {
        return Err(Error::BadRequest(NOT_A_SLUG.to_owned()));
    }
    length(name, 64)?;
    length_opt(input.description.as_deref(), 512)?;
    length_opt(input.integration_id.as_deref(), 512)?;
    let now = control.clock().now();
    let row = DomainRow {
        name: name.to_owned(),
        description: input.description,
        is_active: input.is_active.unwrap_or(true),
        created_at: now,
        modified_at: now,
        total_resource_slots: slots_opt(input.total_resource_slots.as_ref())?.unwrap_or_else(empty),
        allowed_vfolder_hosts: input.allowed_vfolder_hosts.map_or_else(|| Ok(empty()), folder_hosts)?,
        allowed_docker_registries: input.allowed_docker_registries.unwrap_or_default(),
        integration_id: input.integration_id,
    };
    let mut tx = control.store().begin().await?;
    domains::insert(&mut tx, &row).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(row)
}

/// Changes a domain. Changing nothing is fine, if it exists.
///
/// # Errors
/// As [`create`] (but [`Error::InvalidParams`] for a bad new name), and [`Error::NotFound`].
pub async fn modify(control: &Control, caller: &Principal, name: &str, input: ModifyDomainInput) -> Result<DomainRow> {
    superadmin_changes(caller)?;
    if let Some(new) = &input.name {
        if !is_slug(new) {
            return Err(Error::invalid(NOT_A_SLUG));
        }
        length(new, 64)?;
    }
    length_opt(input.description.as_deref(), 512)?;
    length_opt(input.integration_id.as_deref(), 512)?;
    let changes = DomainChanges {
        name: input.name,
        description: input.description,
        is_active: input.is_active,
        total_resource_slots: slots_opt(input.total_resource_slots.as_ref())?,
        allowed_vfolder_hosts: input.allowed_vfolder_hosts.map(folder_hosts).transpose()?,
        allowed_docker_registries: input.allowed_docker_registries,
        integration_id: input.integration_id,
    };
    let mut tx = control.store().begin().await?;
    if domains::update(&mut tx, name, &changes, control.clock().now()).await.map_err(integrity)? == 0 {
        return Err(no_matching("domain"));
    }
    let name = changes.name.as_deref().unwrap_or(name);
    let row = domains::get(&mut tx, name).await?.ok_or_else(|| no_matching("domain"))?;
    commit(control, tx).await?;
    Ok(row)
}

/// Puts a domain out of use.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`].
pub async fn delete(control: &Control, caller: &Principal, name: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let changes = DomainChanges { is_active: Some(false), ..DomainChanges::default() };
    let mut tx = control.store().begin().await?;
    if domains::update(&mut tx, name, &changes, control.clock().now()).await? == 0 {
        return Err(no_matching("domain"));
    }
    commit(control, tx).await
}

/// Removes a domain with its past sessions.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`]; [`Error::BadRequest`] while it has active
/// kernels, users or projects.
pub async fn purge(control: &Control, caller: &Principal, name: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    let usage = domains::usage(&mut tx, name).await?;
    let obstacle = if usage.active_kernels > 0 {
        Some("Domain has some active kernels. Terminate them first.")
    } else if usage.users > 0 {
        Some("There are users bound to the domain. Remove users first.")
    } else if usage.projects > 0 {
        Some("There are groups bound to the domain. Remove groups first.")
    } else {
        None
    };
    if let Some(obstacle) = obstacle {
        return Err(Error::BadRequest(format!("unexpected error: {obstacle}")));
    }
    if domains::delete(&mut tx, name).await.map_err(integrity)? == 0 {
        return Err(no_matching("domain"));
    }
    commit(control, tx).await
}
