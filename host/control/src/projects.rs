//! Projects: making, changing, deactivating and purging them, and their members.

use quarterdeck_model::{ProjectId, UserId};
use quarterdeck_store::projects::{self, ProjectChanges, ProjectRow};
use serde_json::Value as Json;

use crate::Control;
use crate::error::{Error, Result};
use crate::identity::commit;
use crate::principal::Principal;
use crate::scope::admin_changes;
use crate::validate::{
    NOT_A_SLUG, empty, folder_hosts, integrity, is_slug, length, length_opt, no_matching, nothing_to_update, slots_opt,
};
use crate::vfolders::estate;

/// What a new project is to be like.
#[derive(Clone, Debug, Default)]
pub struct ProjectInput {
    /// Its domain.
    pub domain_name: String,
    /// For people.
    pub description: Option<String>,
    /// Whether it is in use; it is without saying.
    pub is_active: Option<bool>,
    /// Slot → limit.
    pub total_resource_slots: Option<Json>,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Option<Json>,
    /// The id in somebody else's system.
    pub integration_id: Option<String>,
}

/// Changes to a project; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ModifyProjectInput {
    /// Its name.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Whether it is in use.
    pub is_active: Option<bool>,
    /// Its domain.
    pub domain_name: Option<String>,
    /// Slot → limit.
    pub total_resource_slots: Option<Json>,
    /// Folder host → permissions.
    pub allowed_vfolder_hosts: Option<Json>,
    /// The id in somebody else's system.
    pub integration_id: Option<String>,
    /// `add` or `remove`: what to do with `user_uuids`.
    pub user_update_mode: Option<String>,
    /// Users to add or remove.
    pub user_uuids: Option<Vec<String>>,
}

enum Members {
    Add(Vec<UserId>),
    Remove(Vec<UserId>),
}

fn members(mode: Option<&str>, users: Option<&[String]>) -> Result<Option<Members>> {
    let known = match mode {
        None => return Ok(None),
        Some("add") => true,
        Some("remove") => false,
        Some(_) => return Err(Error::invalid("invalid user_update_mode")),
    };
    let Some(users) = users.filter(|users| !users.is_empty()) else { return Ok(None) };
    let mut users = users
        .iter()
        .map(|id| id.parse().map_err(|_| Error::BadRequest("badly formed hexadecimal UUID string".to_owned())))
        .collect::<Result<Vec<UserId>>>()?;
    users.sort_unstable();
    users.dedup();
    Ok(Some(if known { Members::Add(users) } else { Members::Remove(users) }))
}

/// Makes a project.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::InvalidParams`] for a bad name or bad slots;
/// [`Error::BadRequest`] for bad folder hosts; [`Error::Integrity`] when the name is taken in the
/// domain, the domain unknown or a text too long.
pub async fn create(control: &Control, caller: &Principal, name: &str, input: ProjectInput) -> Result<ProjectRow> {
    if !is_slug(name) {
        return Err(Error::invalid(NOT_A_SLUG));
    }
    admin_changes(caller, &input.domain_name)?;
    length(name, 64)?;
    length_opt(input.description.as_deref(), 512)?;
    length_opt(input.integration_id.as_deref(), 512)?;
    let now = control.clock().now();
    let row = ProjectRow {
        id: ProjectId::new(),
        name: name.to_owned(),
        domain_name: input.domain_name,
        description: input.description,
        is_active: input.is_active.unwrap_or(true),
        created_at: now,
        modified_at: now,
        total_resource_slots: slots_opt(input.total_resource_slots.as_ref())?.unwrap_or_else(empty),
        allowed_vfolder_hosts: input.allowed_vfolder_hosts.map_or_else(|| Ok(empty()), folder_hosts)?,
        integration_id: input.integration_id,
    };
    let mut tx = control.store().begin().await?;
    projects::insert(&mut tx, &row).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(row)
}

/// The project, if the caller may change it. What administrators can't see they may not change.
async fn changeable<S: quarterdeck_store::Sql>(sql: &mut S, caller: &Principal, id: ProjectId) -> Result<ProjectRow> {
    let row = projects::get(sql, id).await?;
    admin_changes(caller, row.as_ref().map_or("", |p| p.domain_name.as_str()))?;
    row.ok_or_else(|| no_matching("group"))
}

/// Changes a project, its members or both; the project when it was changed itself.
///
/// # Errors
/// As [`create`], and [`Error::NotFound`]; [`Error::BadRequest`] when there is nothing to change, and
/// for members who aren't users of the project's domain; [`Error::Integrity`] when a user is a
/// member already.
pub async fn modify(
    control: &Control,
    caller: &Principal,
    id: ProjectId,
    input: ModifyProjectInput,
) -> Result<Option<ProjectRow>> {
    if let Some(new) = &input.name {
        if !is_slug(new) {
            return Err(Error::invalid(NOT_A_SLUG));
        }
        length(new, 64)?;
    }
    let members = members(input.user_update_mode.as_deref(), input.user_uuids.as_deref())?;
    length_opt(input.description.as_deref(), 512)?;
    length_opt(input.integration_id.as_deref(), 512)?;
    let changes = ProjectChanges {
        name: input.name,
        domain_name: input.domain_name,
        description: input.description,
        is_active: input.is_active,
        total_resource_slots: slots_opt(input.total_resource_slots.as_ref())?,
        allowed_vfolder_hosts: input.allowed_vfolder_hosts.map(folder_hosts).transpose()?,
        integration_id: input.integration_id.map(Some),
    };
    let mut tx = control.store().begin().await?;
    changeable(&mut tx, caller, id).await?;
    if let Some(domain) = &changes.domain_name {
        admin_changes(caller, domain)?;
    }
    let updated = projects::update(&mut tx, id, &changes, control.clock().now()).await.map_err(integrity)?;
    match &members {
        None if updated.is_none() => return Err(nothing_to_update()),
        None => {}
        Some(Members::Add(users)) => {
            let added = projects::add_members(&mut tx, id, users).await.map_err(integrity)?;
            // Whoever has no place in the domain looks like nobody: what other domains have is none of its business.
            if added < users.len() as u64 {
                let what = "violates foreign key constraint: only users of the project's domain can be its members";
                return Err(Error::Integrity(what.to_owned()));
            }
        }
        Some(Members::Remove(users)) => {
            projects::remove_members(&mut tx, id, users).await?;
        }
    }
    let row = match updated {
        Some(_) => projects::get(&mut tx, id).await?,
        None => None,
    };
    commit(control, tx).await?;
    Ok(row)
}

/// Puts a project out of use.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`].
pub async fn delete(control: &Control, caller: &Principal, id: ProjectId) -> Result<()> {
    let changes = ProjectChanges { is_active: Some(false), integration_id: Some(None), ..ProjectChanges::default() };
    let mut tx = control.store().begin().await?;
    changeable(&mut tx, caller, id).await?;
    projects::update(&mut tx, id, &changes, control.clock().now()).await?;
    commit(control, tx).await
}

/// Removes a project with its past sessions and folders.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`]; [`Error::BadRequest`] while it has active kernels or its folders
/// are in sessions; [`Error::Storage`].
pub async fn purge(control: &Control, caller: &Principal, id: ProjectId) -> Result<()> {
    let mut reader = control.store().reader();
    changeable(&mut reader, caller, id).await?;
    let folders = estate::of_project(control, id).await?;
    check_idle(&mut reader, id).await?;
    estate::dissolve(control, &folders).await?;
    let mut tx = control.store().begin().await?;
    changeable(&mut tx, caller, id).await?;
    check_idle(&mut tx, id).await?;
    projects::delete(&mut tx, id).await.map_err(integrity)?;
    commit(control, tx).await
}

async fn check_idle<S: quarterdeck_store::Sql>(sql: &mut S, id: ProjectId) -> Result<()> {
    if projects::active_kernels(sql, id).await? > 0 {
        return Err(Error::BadRequest(
            "unexpected error: Group has some active session. Terminate them first to proceed removal.".to_owned(),
        ));
    }
    Ok(())
}
