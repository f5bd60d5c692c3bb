//! Folder hosts: which there are, and what is granted on them.

use std::collections::{BTreeMap, BTreeSet};

use quarterdeck_model::vfolder::{HostPermission, OwnershipType};
use quarterdeck_model::{ProjectId, UserId, UserRole};
use quarterdeck_store::projects::ProjectRow;
use quarterdeck_store::vfolders::VfolderRow;
use quarterdeck_store::{Sql, domains, projects, resource_policies};
use serde_json::{Map, Value as Json};

use super::is_enabled;
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// Folder host → permissions.
pub type Granted = BTreeMap<String, BTreeSet<String>>;

fn add(granted: &mut Granted, hosts: &Json) {
    for (host, permissions) in hosts.as_object().into_iter().flatten() {
        let names = permissions.as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned);
        granted.entry(host.clone()).or_default().extend(names);
    }
}

/// The projects of a user that are in use in a domain.
async fn projects_of<S: Sql>(sql: &mut S, user: UserId, domain: &str) -> Result<Vec<ProjectRow>> {
    let mut rows = projects::of_user(sql, user).await?;
    rows.retain(|p| p.is_active && p.domain_name == domain);
    Ok(rows)
}

/// What somebody may do on which hosts: all that its domain, its projects and a resource policy grant (§2.3).
async fn granted<S: Sql>(sql: &mut S, domain: &str, policy: &str, projects: &[ProjectRow]) -> Result<Granted> {
    let mut granted = Granted::new();
    if let Some(domain) = domains::get(sql, domain).await?.filter(|d| d.is_active) {
        add(&mut granted, &domain.allowed_vfolder_hosts);
    }
    for project in projects {
        add(&mut granted, &project.allowed_vfolder_hosts);
    }
    if let Some(policy) = resource_policies::get(sql, policy).await? {
        add(&mut granted, &policy.allowed_vfolder_hosts);
    }
    Ok(granted)
}

async fn any_type(control: &Control) -> bool {
    is_enabled(control, OwnershipType::User).await || is_enabled(control, OwnershipType::Group).await
}

/// What a caller may do on which hosts; `project` counts even for those who aren't its members.
pub(crate) async fn of_caller(control: &Control, caller: &Principal, project: Option<ProjectId>) -> Result<Granted> {
    if !any_type(control).await {
        return Ok(Granted::new());
    }
    let mut sql = control.store().reader();
    let mut rows = projects_of(&mut sql, caller.user_id, &caller.domain).await?;
    if let Some(id) = project
        && !rows.iter().any(|p| p.id == id)
    {
        rows.extend(projects::get(&mut sql, id).await?);
    }
    granted(&mut sql, &caller.domain, &caller.resource_policy, &rows).await
}

/// What a user may do on which hosts, by its domain, projects and the policy of a key pair.
pub(super) async fn of_user(control: &Control, user: UserId, domain: &str, policy: &str) -> Result<Granted> {
    let mut sql = control.store().reader();
    let rows = projects_of(&mut sql, user, domain).await?;
    granted(&mut sql, domain, policy, &rows).await
}

/// Refuses what isn't granted on a host.
pub(super) fn check(granted: &Granted, host: &str, permission: HostPermission) -> Result<()> {
    if granted.get(host).is_some_and(|names| names.contains(permission.as_str())) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`VFolderHostPermission.{}` Not allowed in vfolder host(`{host}`)",
        permission.constant()
    )))
}

/// Refuses what the caller may not do on a folder's host. Folders without a host have nothing to grant.
pub(super) async fn require(
    control: &Control,
    caller: &Principal,
    folder: &VfolderRow,
    permission: HostPermission,
) -> Result<()> {
    if folder.host.is_empty() {
        return Ok(());
    }
    check(&of_caller(control, caller, None).await?, &folder.host, permission)
}

/// The host for folders whose request names none.
pub(super) async fn default_host(control: &Control) -> Option<String> {
    control.config_tree().get("volumes/default_host").await.filter(|host| !host.is_empty())
}

/// The hosts of somebody.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// The one for folders whose request names none.
    pub default: Option<String>,
    /// Those that may be used.
    pub allowed: Vec<String>,
    /// More about them, in the same order.
    pub volumes: Vec<VolumeInfo>,
}

/// What users see of a volume.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    /// What kind of file system serves it.
    pub backend: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// How full it is, as far as the site shows that.
    pub usage: Json,
    /// Where file servers for it run.
    pub sftp_scaling_groups: Vec<String>,
}

/// The hosts that the caller may use in some way.
///
/// # Errors
/// [`Error::Store`].
pub async fn allowed(control: &Control, caller: &Principal, project: Option<ProjectId>) -> Result<Hosts> {
    let granted = if any_type(control).await {
        let mut sql = control.store().reader();
        let rows = match (project, caller.role) {
            // A project that is none of the caller's has nothing to tell.
            (Some(id), role) => {
                let row = projects::get(&mut sql, id).await?.filter(|p| p.is_active);
                let mut visible = Vec::new();
                if let Some(row) = row {
                    let sees = match role {
                        UserRole::Superadmin => true,
                        UserRole::Admin if row.domain_name == caller.domain => true,
                        _ => projects::is_member(&mut sql, id, caller.user_id).await?,
                    };
                    visible.extend(sees.then_some(row));
                }
                visible
            }
            (None, UserRole::Admin) => projects::list(&mut sql, Some(&caller.domain), None, Some(true)).await?,
            (None, _) => projects_of(&mut sql, caller.user_id, &caller.domain).await?,
        };
        granted(&mut sql, &caller.domain, &caller.resource_policy, &rows).await?
    } else {
        Granted::new()
    };
    let storages = control.storages();
    let (mut allowed, mut volumes) = (Vec::new(), Vec::new());
    let shown = control.config_tree().get("volumes/exposed_volume_info").await;
    let shown = shown.unwrap_or_else(|| "percentage".to_owned());
    for offered in storages.volumes().await {
        if !granted.contains_key(&offered.host) {
            continue;
        }
        let mut usage = Map::new();
        match storages.fs_usage(&offered).await {
            Ok(fs) => {
                for field in shown.split(',').map(str::trim) {
                    match field {
                        "percentage" => {
                            let percent = fs.used_bytes as f64 / (fs.capacity_bytes.max(1)) as f64 * 100.0;
                            usage.insert("percentage".to_owned(), percent.into());
                        }
                        "used_bytes" => drop(usage.insert("used".to_owned(), fs.used_bytes.into())),
                        "capacity_bytes" => drop(usage.insert("total".to_owned(), fs.capacity_bytes.into())),
                        _ => {}
                    }
                }
            }
            Err(error) => tracing::warn!(%error, host = offered.host, "a volume's usage is unknown"),
        }
        volumes.push(VolumeInfo {
            sftp_scaling_groups: storages.sftp_scaling_groups(&offered.host),
            backend: offered.volume.backend,
            capabilities: offered.volume.capabilities,
            usage: Json::Object(usage),
        });
        allowed.push(offered.host);
    }
    let default = default_host(control).await.filter(|host| allowed.contains(host));
    Ok(Hosts { default, allowed, volumes })
}

/// Every host that there is, and the one for folders whose request names none.
pub async fn all(control: &Control) -> (Option<String>, Vec<String>) {
    let hosts: Vec<String> = control.storages().volumes().await.into_iter().map(|v| v.host).collect();
    let default = default_host(control).await.filter(|host| hosts.contains(host));
    (default, hosts)
}

/// How fast a host is, as its storage tells it.
///
/// # Errors
/// [`Error::InvalidParams`] for an unknown storage, [`Error::Storage`].
pub async fn performance(control: &Control, host: &str) -> Result<Json> {
    let (_, volume) = quarterdeck_model::vfolder::split_host(host);
    Ok(control.storages().of_host(host)?.performance(volume).await?)
}

/// A volume with everything that superadmins may know about it.
#[derive(Clone, Debug)]
pub struct VolumeDetails {
    /// `<proxy>:<volume>`
    pub host: String,
    /// The volume.
    pub volume: quarterdeck_storage::Volume,
    storage: std::sync::Arc<dyn quarterdeck_storage::Storage>,
}

impl VolumeDetails {
    /// How the hardware below it is.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn hardware(&self) -> Result<Json> {
        Ok(self.storage.hardware(&self.volume.name).await?)
    }

    /// How fast it is; nothing when its storage can't tell.
    pub async fn performance(&self) -> Json {
        match self.storage.performance(&self.volume.name).await {
            Ok(mut document) => document.get_mut("metric").map_or_else(crate::validate::empty, Json::take),
            Err(_) => crate::validate::empty(),
        }
    }

    /// How full it is.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn usage(&self) -> Result<Json> {
        let usage = self.storage.fs_usage(&self.volume.name).await?;
        Ok(serde_json::json!({"capacity_bytes": usage.capacity_bytes, "used_bytes": usage.used_bytes}))
    }
}

/// Every volume of every storage that answers.
pub async fn volumes(control: &Control) -> Vec<VolumeDetails> {
    let offered = control.storages().volumes().await;
    offered.into_iter().map(|o| VolumeDetails { host: o.host, volume: o.volume, storage: o.storage }).collect()
}

/// One volume, by `<proxy>:<volume>`.
///
/// # Errors
/// [`Error::BadRequest`] with a sentence when there is no such storage or volume.
pub async fn volume(control: &Control, host: &str) -> Result<VolumeDetails> {
    let (proxy, name) = quarterdeck_model::vfolder::split_host(host);
    let storage =
        control.storages().get(proxy).map_err(|_| Error::BadRequest(format!("no such storage proxy: '{proxy}'")))?;
    let found = storage.volumes().await?.into_iter().find(|v| v.name == name);
    let volume =
        found.ok_or_else(|| Error::BadRequest(format!("no such volume in the storage proxy '{proxy}': '{name}'")))?;
    Ok(VolumeDetails { host: host.to_owned(), volume, storage })
}
