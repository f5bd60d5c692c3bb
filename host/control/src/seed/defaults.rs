//! What a fresh installation begins with.

use indexmap::IndexMap;
use quarterdeck_model::vfolder::HostPermission;
use quarterdeck_model::{DefaultForUnspecified, Timestamp};
use quarterdeck_store::{Store, Tx, Violation, config, domains, revisions};
use serde_json::json;

use super::format::{SeedDomain, SeedFolders, SeedPolicy, SeedProject, SeedScalingGroup, fifo, static_driver};
use super::{config_keys, write_domain, write_policy, write_project, write_scaling_group};
use crate::error::{Error, Result};
use crate::validate::empty;

/// Gives a database without any domain what a first user needs: a domain, a project, a resource
/// policy and a scaling group, all called `default`. No user. Whether it did.
///
/// # Errors
/// [`Error::Store`].
pub async fn ensure_defaults(store: &Store) -> Result<bool> {
    if domains::any(&mut store.reader()).await? {
        return Ok(false);
    }
    let mut tx = store.begin().await?;
    if domains::any(&mut tx).await? {
        return Ok(false);
    }
    match write_defaults(&mut tx, Timestamp::now()).await {
        Ok(()) => tx.commit().await?,
        // Another host that started at the same time was faster.
        Err(Error::Store(e)) if matches!(e.violation(), Some((Violation::Unique, _))) => return Ok(false),
        Err(error) => return Err(error),
    }
    Ok(true)
}

pub(crate) async fn write_defaults(tx: &mut Tx, now: Timestamp) -> Result<()> {
    const NAME: &str = "default";
    const FOLDER_HOST: &str = "local:volume1";
    let domain = SeedDomain {
        name: NAME.to_owned(),
        description: Some("The default domain".to_owned()),
        is_active: true,
        total_resource_slots: empty(),
        // The volume that a server has unless it is told otherwise.
        allowed_vfolder_hosts: json!({ FOLDER_HOST: HostPermission::ALL }),
        allowed_docker_registries: Vec::new(),
    };
    write_domain(tx, domain, now).await?;
    let project = SeedProject {
        id: None,
        name: NAME.to_owned(),
        domain_name: NAME.to_owned(),
        description: Some("The default project".to_owned()),
        is_active: true,
        total_resource_slots: empty(),
        allowed_vfolder_hosts: empty(),
    };
    write_project(tx, project, now).await?;
    let policy = SeedPolicy {
        name: NAME.to_owned(),
        default_for_unspecified: DefaultForUnspecified::Unlimited,
        total_resource_slots: empty(),
        max_session_lifetime: 0,
        max_concurrent_sessions: 30,
        max_concurrent_sftp_sessions: 3,
        max_containers_per_session: 16,
        max_vfolder_count: 20,
        max_vfolder_size: 0,
        idle_timeout: 0,
        allowed_vfolder_hosts: empty(),
    };
    write_policy(tx, policy, now).await?;
    let group = SeedScalingGroup {
        name: NAME.to_owned(),
        description: Some("The default scaling group".to_owned()),
        is_active: true,
        is_public: true,
        wsproxy_addr: None,
        driver: static_driver(),
        driver_opts: empty(),
        scheduler: fifo(),
        // One session that fits nowhere must not hold up everybody behind it.
        scheduler_opts: json!({"config": {"skip_blocked": true}}),
        use_host_network: false,
        domains: vec![NAME.to_owned()],
    };
    write_scaling_group(tx, group, now).await?;
    let folders =
        SeedFolders { types: vec!["user".to_owned(), "group".to_owned()], default_host: Some(FOLDER_HOST.to_owned()) };
    config::set(tx, &config_keys(IndexMap::new(), IndexMap::new(), folders)).await?;
    revisions::bump(tx, revisions::CONFIG).await?;
    revisions::bump(tx, revisions::IDENTITY).await?;
    Ok(())
}
