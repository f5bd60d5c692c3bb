//! First contents of a database: the defaults of a fresh installation, and seed files.
//!
//! Works on a [`Store`] alone, since `db load` runs without a server. Hosts that are up notice by
//! the revisions.

mod defaults;
mod format;

use std::collections::HashMap;

use indexmap::IndexMap;
use quarterdeck_model::{ImageId, ProjectId, Timestamp, UserId};
use quarterdeck_store::domains::{self, DomainChanges, DomainRow};
use quarterdeck_store::images::{self, ImageRow};
use quarterdeck_store::keypairs::{self, KeypairChanges, KeypairRow};
use quarterdeck_store::projects::{self, ProjectChanges, ProjectRow};
use quarterdeck_store::resource_policies::{self, PolicyChanges, PolicyRow};
use quarterdeck_store::scaling_groups::{self, Associate, ScalingGroupChanges, ScalingGroupRow};
use quarterdeck_store::users::{self, UserChanges, UserRow};
use quarterdeck_store::{Store, Tx, config, revisions};
use serde_json::Value as Json;

use self::format::{
    Seed, SeedDomain, SeedFolders, SeedImage, SeedKeypair, SeedPolicy, SeedProject, SeedScalingGroup, SeedUser,
};
use crate::config::quote;
use crate::error::{Error, Result};
use crate::{keypairs as keypair_rules, password};

pub use self::defaults::ensure_defaults;
pub(crate) use self::defaults::write_defaults;

/// How many objects of each kind a seed had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Domains.
    pub domains: usize,
    /// Projects.
    pub projects: usize,
    /// Resource policies.
    pub policies: usize,
    /// Users.
    pub users: usize,
    /// Key pairs.
    pub keypairs: usize,
    /// Scaling groups.
    pub scaling_groups: usize,
    /// Images.
    pub images: usize,
    /// Keys of the configuration tree.
    pub config_keys: usize,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} domains, {} projects, {} resource policies, {} users, {} key pairs, {} scaling groups, {} images, \
             {} configuration keys",
            self.domains,
            self.projects,
            self.policies,
            self.users,
            self.keypairs,
            self.scaling_groups,
            self.images,
            self.config_keys
        )
    }
}

/// Brings the database to what a seed file lists. Objects that the file doesn't mention stay, and
/// loading the same file again changes nothing.
///
/// # Errors
/// [`Error::BadRequest`] for a malformed file or one whose parts don't fit together; then nothing was written.
pub async fn load(store: &Store, seed: &Json) -> Result<Report> {
    let seed: Seed =
        serde_json::from_value(seed.clone()).map_err(|e| Error::BadRequest(format!("malformed seed: {e}")))?;
    let hashes = new_hashes(store, &seed).await?;
    let mut tx = store.begin().await?;
    let report = write(&mut tx, seed, hashes, Timestamp::now()).await.map_err(|error| match error {
        Error::Store(e) if e.violation().is_some() => Error::BadRequest(format!("the seed doesn't fit: {e}")),
        other => other,
    })?;
    revisions::bump(&mut tx, revisions::IDENTITY).await?;
    revisions::bump(&mut tx, revisions::CONFIG).await?;
    tx.commit().await?;
    Ok(report)
}

/// Hashes of the passwords that aren't stored yet, by e-mail address. Made before the transaction,
/// which holds SQLite's only writer.
async fn new_hashes(store: &Store, seed: &Seed) -> Result<HashMap<String, String>> {
    let sql = &mut store.reader();
    let mut hashes = HashMap::new();
    for user in &seed.users {
        let Some(wanted) = &user.password else { continue };
        let stored = match users::by_email(sql, &user.email).await? {
            Some(row) => users::password(sql, row.id).await?,
            None => None,
        };
        if stored.is_none() || !password::verify(wanted, stored.as_deref(), None).await?.is_match() {
            hashes.insert(user.email.clone(), password::hash(wanted).await?);
        }
    }
    Ok(hashes)
}

async fn write(tx: &mut Tx, seed: Seed, mut hashes: HashMap<String, String>, now: Timestamp) -> Result<Report> {
    let mut report = Report {
        domains: seed.domains.len(),
        projects: seed.groups.len(),
        policies: seed.keypair_resource_policies.len(),
        users: seed.users.len(),
        scaling_groups: seed.scaling_groups.len(),
        images: seed.images.len(),
        ..Report::default()
    };
    for domain in seed.domains {
        write_domain(tx, domain, now).await?;
    }
    for project in seed.groups {
        write_project(tx, project, now).await?;
    }
    for policy in seed.keypair_resource_policies {
        write_policy(tx, policy, now).await?;
    }
    for user in seed.users {
        let hash = hashes.remove(&user.email);
        report.keypairs += user.keypairs.len();
        write_user(tx, user, hash, now).await?;
    }
    for group in seed.scaling_groups {
        write_scaling_group(tx, group, now).await?;
    }
    for image in seed.images {
        write_image(tx, image, now).await?;
    }
    for (alias, name) in seed.image_aliases {
        let image = images::by_name(tx, &name).await?.into_iter().next();
        let image = image.ok_or_else(|| Error::BadRequest(format!("the alias {alias} means no image: {name}")))?;
        images::set_alias(tx, &alias, image.id).await?;
    }
    let keys = config_keys(seed.resource_slot_types, seed.docker_registries, seed.vfolder);
    report.config_keys = keys.len();
    config::set(tx, &keys).await?;
    Ok(report)
}

fn config_keys(
    slot_types: IndexMap<String, String>,
    registries: IndexMap<String, IndexMap<String, String>>,
    folders: SeedFolders,
) -> Vec<(String, String)> {
    let mut keys = Vec::new();
    for (slot, kind) in slot_types {
        // What is built in needs no entry.
        if slot != "cpu" && slot != "mem" {
            keys.push((format!("config/resource_slots/{}", quote(&slot)), kind));
        }
    }
    for (name, entries) in registries {
        let root = format!("config/docker/registry/{}", quote(&name));
        for (entry, value) in entries {
            let key = if entry == "url" { root.clone() } else { format!("{root}/{}", quote(&entry)) };
            keys.push((key, value));
        }
    }
    for kind in folders.types {
        keys.push((format!("volumes/_types/{}", quote(&kind)), String::new()));
    }
    if let Some(host) = folders.default_host {
        keys.push(("volumes/default_host".to_owned(), host));
    }
    keys
}

async fn write_domain(tx: &mut Tx, domain: SeedDomain, now: Timestamp) -> Result<()> {
    if domains::get(tx, &domain.name).await?.is_some() {
        let changes = DomainChanges {
            name: None,
            description: domain.description,
            is_active: Some(domain.is_active),
            total_resource_slots: Some(domain.total_resource_slots),
            allowed_vfolder_hosts: Some(domain.allowed_vfolder_hosts),
            allowed_docker_registries: Some(domain.allowed_docker_registries),
            integration_id: None,
        };
        domains::update(tx, &domain.name, &changes, now).await?;
        return Ok(());
    }
    let row = DomainRow {
        name: domain.name,
        description: domain.description,
        is_active: domain.is_active,
        created_at: now,
        modified_at: now,
        total_resource_slots: domain.total_resource_slots,
        allowed_vfolder_hosts: domain.allowed_vfolder_hosts,
        allowed_docker_registries: domain.allowed_docker_registries,
        integration_id: None,
    };
    Ok(domains::insert(tx, &row).await?)
}

async fn write_project(tx: &mut Tx, project: SeedProject, now: Timestamp) -> Result<()> {
    if let Some(known) = projects::by_name(tx, &project.domain_name, &project.name).await? {
        let changes = ProjectChanges {
            description: project.description,
            is_active: Some(project.is_active),
            total_resource_slots: Some(project.total_resource_slots),
            allowed_vfolder_hosts: Some(project.allowed_vfolder_hosts),
            ..ProjectChanges::default()
        };
        projects::update(tx, known.id, &changes, now).await?;
        return Ok(());
    }
    let row = ProjectRow {
        id: project.id.unwrap_or_else(ProjectId::new),
        name: project.name,
        domain_name: project.domain_name,
        description: project.description,
        is_active: project.is_active,
        created_at: now,
        modified_at: now,
        total_resource_slots: project.total_resource_slots,
        allowed_vfolder_hosts: project.allowed_vfolder_hosts,
        integration_id: None,
    };
    Ok(projects::insert(tx, &row).await?)
}

async fn write_policy(tx: &mut Tx, policy: SeedPolicy, now: Timestamp) -> Result<()> {
    let changes = PolicyChanges {
        default_for_unspecified: Some(policy.default_for_unspecified),
        total_resource_slots: Some(policy.total_resource_slots.clone()),
        max_session_lifetime: Some(policy.max_session_lifetime),
        max_concurrent_sessions: Some(policy.max_concurrent_sessions),
        max_concurrent_sftp_sessions: Some(policy.max_concurrent_sftp_sessions),
        max_containers_per_session: Some(policy.max_containers_per_session),
        max_vfolder_count: Some(policy.max_vfolder_count),
        max_vfolder_size: Some(policy.max_vfolder_size),
        idle_timeout: Some(policy.idle_timeout),
        allowed_vfolder_hosts: Some(policy.allowed_vfolder_hosts.clone()),
    };
    if resource_policies::update(tx, &policy.name, &changes).await? == Some(1) {
        return Ok(());
    }
    let row = PolicyRow {
        name: policy.name,
        created_at: now,
        default_for_unspecified: policy.default_for_unspecified,
        total_resource_slots: policy.total_resource_slots,
        max_session_lifetime: policy.max_session_lifetime,
        max_concurrent_sessions: policy.max_concurrent_sessions,
        max_concurrent_sftp_sessions: policy.max_concurrent_sftp_sessions,
        max_containers_per_session: policy.max_containers_per_session,
        max_vfolder_count: policy.max_vfolder_count,
        max_vfolder_size: policy.max_vfolder_size,
        idle_timeout: policy.idle_timeout,
        allowed_vfolder_hosts: policy.allowed_vfolder_hosts,
    };
    Ok(resource_policies::insert(tx, &row).await?)
}

async fn write_user(tx: &mut Tx, user: SeedUser, hash: Option<String>, now: Timestamp) -> Result<()> {
    let row = match users::by_email(tx, &user.email).await? {
        Some(known) => {
            let changes = UserChanges {
                username: user.username,
                password: hash.map(|hash| (hash, now)),
                need_password_change: Some(user.need_password_change),
                full_name: user.full_name,
                description: user.description,
                status: Some(user.status),
                status_info: user.status_info,
                domain_name: Some(user.domain_name.clone()),
                role: Some(user.role),
                ..UserChanges::default()
            };
            users::update(tx, known.id, &changes, now).await?;
            UserRow { domain_name: user.domain_name, ..known }
        }
        None => {
            let row = UserRow {
                id: user.uuid.unwrap_or_else(UserId::new),
                username: Some(user.username.unwrap_or_else(|| user.email.clone())),
                email: user.email,
                need_password_change: user.need_password_change,
                password_changed_at: hash.is_some().then_some(now),
                full_name: Some(user.full_name.unwrap_or_default()),
                description: Some(user.description.unwrap_or_default()),
                status: user.status,
                status_info: user.status_info,
                created_at: now,
                modified_at: now,
                domain_name: user.domain_name,
                role: user.role,
                integration_id: None,
                allowed_client_ip: None,
                totp_activated: false,
                totp_activated_at: None,
            };
            users::insert(tx, &row, hash.as_deref()).await?;
            row
        }
    };
    for name in &user.groups {
        let project = projects::by_name(tx, &row.domain_name, name).await?;
        let project =
            project.ok_or_else(|| Error::BadRequest(format!("{} is to join an unknown group: {name}", row.email)))?;
        projects::join_all(tx, row.id, &row.domain_name, &[project.id]).await?;
    }
    for keypair in user.keypairs {
        write_keypair(tx, &row, keypair, now).await?;
    }
    Ok(())
}

async fn write_keypair(tx: &mut Tx, user: &UserRow, keypair: SeedKeypair, now: Timestamp) -> Result<()> {
    if let Some(key) = &keypair.access_key {
        let changes = KeypairChanges {
            is_active: Some(keypair.is_active),
            is_admin: Some(keypair.is_admin),
            resource_policy: Some(keypair.resource_policy.clone()),
            rate_limit: Some(keypair.rate_limit),
        };
        if keypairs::update(tx, key, &changes).await? == Some(1) {
            if let Some(secret) = &keypair.secret_key {
                keypairs::set_secret(tx, key, secret).await?;
            }
            return Ok(());
        }
    } else if !keypairs::of_users(tx, &[user.id]).await?.is_empty() {
        // Without a name it can't be told from those that are there.
        return Ok(());
    }
    let fresh = keypair_rules::new_row(user, keypair.resource_policy, keypair.rate_limit, now);
    let row = KeypairRow {
        access_key: keypair.access_key.map_or(fresh.access_key, Into::into),
        secret_key: keypair.secret_key.unwrap_or(fresh.secret_key),
        is_active: keypair.is_active,
        is_admin: keypair.is_admin,
        user_id: fresh.user_id,
        user_email: fresh.user_email,
        resource_policy: fresh.resource_policy,
        created_at: fresh.created_at,
        last_used: None,
        rate_limit: fresh.rate_limit,
        num_queries: 0,
        ssh_public_key: None,
    };
    Ok(keypairs::insert(tx, &row, None).await?)
}

async fn write_scaling_group(tx: &mut Tx, group: SeedScalingGroup, now: Timestamp) -> Result<()> {
    if scaling_groups::get(tx, &group.name).await?.is_some() {
        let changes = ScalingGroupChanges {
            description: group.description,
            is_active: Some(group.is_active),
            is_public: Some(group.is_public),
            wsproxy_addr: group.wsproxy_addr,
            wsproxy_api_token: None,
            driver: Some(group.driver),
            driver_opts: Some(group.driver_opts),
            scheduler: Some(group.scheduler),
            scheduler_opts: Some(group.scheduler_opts),
            use_host_network: Some(group.use_host_network),
        };
        scaling_groups::update(tx, &group.name, &changes).await?;
    } else {
        let row = ScalingGroupRow {
            name: group.name.clone(),
            description: group.description,
            is_active: group.is_active,
            is_public: group.is_public,
            created_at: now,
            wsproxy_addr: group.wsproxy_addr,
            wsproxy_api_token: None,
            driver: group.driver,
            driver_opts: group.driver_opts,
            scheduler: group.scheduler,
            scheduler_opts: group.scheduler_opts,
            use_host_network: group.use_host_network,
        };
        scaling_groups::insert(tx, &row).await?;
    }
    for domain in &group.domains {
        scaling_groups::ensure_associated(tx, &group.name, Associate::Domain(domain)).await?;
    }
    Ok(())
}

async fn write_image(tx: &mut Tx, image: SeedImage, now: Timestamp) -> Result<()> {
    let row = ImageRow {
        id: image.id.unwrap_or_else(ImageId::new),
        name: image.name,
        image: image.image,
        tag: image.tag,
        registry: image.registry,
        architecture: image.architecture,
        config_digest: image.config_digest,
        size_bytes: image.size_bytes,
        is_local: image.is_local,
        kind: image.kind.unwrap_or_else(|| "COMPUTE".to_owned()),
        accelerators: image.accelerators,
        labels: image.labels,
        resources: image.resources,
        created_at: now,
    };
    images::upsert(tx, &row).await?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_store::testing;
    use serde_json::json;

    use super::*;

    /// The seed of the conformance suite.
    pub(crate) fn conformance_seed() -> Json {
        serde_json::from_str(include_str!("../../../tests/conformance/seed.json")).unwrap()
    }

    #[tokio::test]
    async fn loading_twice_changes_nothing() {
        for db in testing::databases().await {
            let first = load(&db.store, &conformance_seed()).await.unwrap();
            let expected = Report {
                domains: 1,
                projects: 1,
                policies: 2,
                users: 3,
                keypairs: 3,
                scaling_groups: 1,
                images: 2,
                config_keys: 6,
            };
            assert_eq!(first, expected);
            let sql = &mut db.store.reader();
            let user = users::by_email(sql, "user@conf.test").await.unwrap().unwrap();
            let hash = users::password(sql, user.id).await.unwrap();
            assert_eq!(load(&db.store, &conformance_seed()).await.unwrap(), first);
            let again = users::by_email(sql, "user@conf.test").await.unwrap().unwrap();
            assert_eq!(again, UserRow { modified_at: again.modified_at, ..user.clone() });
            assert_eq!(users::password(sql, user.id).await.unwrap(), hash);
            assert_eq!(user.id.to_string(), "9b000000-0000-4000-8000-000000000003");
            assert_eq!(projects::of_user(sql, user.id).await.unwrap().len(), 1);
            let groups = scaling_groups::associated(sql, Some("default"), None, None).await.unwrap();
            assert_eq!(groups.len(), 1);
            assert_eq!(images::by_alias(sql, "python").await.unwrap().unwrap().tag, "3.9-ubuntu20.04");
            let registry = config::get(sql, "config/docker/registry/conf-registry").await.unwrap();
            assert_eq!(registry.as_deref(), Some("http://127.0.0.1:55000"));
        }
    }

    #[tokio::test]
    async fn a_changed_password_and_key_are_taken_over() {
        let db = testing::sqlite().await;
        load(&db.store, &conformance_seed()).await.unwrap();
        let mut seed = conformance_seed();
        seed["users"][2]["password"] = json!("another");
        seed["users"][2]["keypairs"][0]["secret_key"] = json!("x".repeat(40));
        load(&db.store, &seed).await.unwrap();
        let sql = &mut db.store.reader();
        let user = users::by_email(sql, "user@conf.test").await.unwrap().unwrap();
        let hash = users::password(sql, user.id).await.unwrap();
        assert!(password::verify("another", hash.as_deref(), None).await.unwrap().is_match());
        assert_eq!(keypairs::get(sql, "AKIACONFUSER00000003").await.unwrap().unwrap().secret_key, "x".repeat(40));
    }

    #[tokio::test]
    async fn a_seed_that_does_not_fit_leaves_nothing() {
        for db in testing::databases().await {
            let mut seed = conformance_seed();
            seed["users"][0]["domain_name"] = json!("nowhere");
            assert!(matches!(load(&db.store, &seed).await, Err(Error::BadRequest(_))));
            assert!(matches!(load(&db.store, &json!({"users": 1})).await, Err(Error::BadRequest(_))));
            assert!(!domains::any(&mut db.store.reader()).await.unwrap());
        }
    }

    #[tokio::test]
    async fn defaults_are_for_empty_databases_only() {
        for db in testing::databases().await {
            assert!(ensure_defaults(&db.store).await.unwrap());
            assert!(!ensure_defaults(&db.store).await.unwrap());
            let sql = &mut db.store.reader();
            let groups = scaling_groups::associated(sql, Some("default"), None, None).await.unwrap();
            assert_eq!(groups[0].scheduler, "fifo");
            assert_eq!(groups[0].scheduler_opts, json!({"config": {"skip_blocked": true}}));
            assert!(resource_policies::get(sql, "default").await.unwrap().is_some());
        }
    }
}
