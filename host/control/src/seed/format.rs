//! What a seed file looks like.

use indexmap::IndexMap;
use quarterdeck_model::{DefaultForUnspecified, ImageId, ProjectId, UserId, UserRole, UserStatus};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::validate::empty;

fn yes() -> bool {
    true
}

pub(super) fn fifo() -> String {
    "fifo".to_owned()
}

pub(super) fn static_driver() -> String {
    "static".to_owned()
}

/// The whole file.
#[derive(Deserialize)]
pub(super) struct Seed {
    #[serde(default)]
    pub(super) domains: Vec<SeedDomain>,
    #[serde(default)]
    pub(super) groups: Vec<SeedProject>,
    #[serde(default)]
    pub(super) keypair_resource_policies: Vec<SeedPolicy>,
    #[serde(default)]
    pub(super) users: Vec<SeedUser>,
    #[serde(default)]
    pub(super) scaling_groups: Vec<SeedScalingGroup>,
    #[serde(default)]
    pub(super) resource_slot_types: IndexMap<String, String>,
    #[serde(default)]
    pub(super) docker_registries: IndexMap<String, IndexMap<String, String>>,
    #[serde(default)]
    pub(super) images: Vec<SeedImage>,
    #[serde(default)]
    pub(super) image_aliases: IndexMap<String, String>,
    #[serde(default)]
    pub(super) vfolder: SeedFolders,
}

/// A domain.
#[derive(Deserialize)]
pub(super) struct SeedDomain {
    pub(super) name: String,
    pub(super) description: Option<String>,
    #[serde(default = "yes")]
    pub(super) is_active: bool,
    #[serde(default = "empty")]
    pub(super) total_resource_slots: Json,
    #[serde(default = "empty")]
    pub(super) allowed_vfolder_hosts: Json,
    #[serde(default)]
    pub(super) allowed_docker_registries: Vec<String>,
}

/// A project.
#[derive(Deserialize)]
pub(super) struct SeedProject {
    pub(super) id: Option<ProjectId>,
    pub(super) name: String,
    pub(super) domain_name: String,
    pub(super) description: Option<String>,
    #[serde(default = "yes")]
    pub(super) is_active: bool,
    #[serde(default = "empty")]
    pub(super) total_resource_slots: Json,
    #[serde(default = "empty")]
    pub(super) allowed_vfolder_hosts: Json,
}

/// A resource policy of key pairs.
#[derive(Deserialize)]
pub(super) struct SeedPolicy {
    pub(super) name: String,
    pub(super) default_for_unspecified: DefaultForUnspecified,
    #[serde(default = "empty")]
    pub(super) total_resource_slots: Json,
    #[serde(default)]
    pub(super) max_session_lifetime: i64,
    pub(super) max_concurrent_sessions: i64,
    #[serde(default)]
    pub(super) max_concurrent_sftp_sessions: i64,
    pub(super) max_containers_per_session: i64,
    #[serde(default)]
    pub(super) max_vfolder_count: i64,
    #[serde(default)]
    pub(super) max_vfolder_size: i64,
    #[serde(default)]
    pub(super) idle_timeout: i64,
    #[serde(default = "empty")]
    pub(super) allowed_vfolder_hosts: Json,
}

/// A user with its key pairs.
#[derive(Deserialize)]
pub(super) struct SeedUser {
    pub(super) uuid: Option<UserId>,
    pub(super) username: Option<String>,
    pub(super) email: String,
    pub(super) password: Option<String>,
    #[serde(default)]
    pub(super) need_password_change: bool,
    pub(super) full_name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) status: UserStatus,
    pub(super) status_info: Option<String>,
    pub(super) domain_name: String,
    pub(super) role: UserRole,
    #[serde(default)]
    pub(super) groups: Vec<String>,
    #[serde(default)]
    pub(super) keypairs: Vec<SeedKeypair>,
}

/// A key pair; what it has no keys for gets new ones.
#[derive(Deserialize)]
pub(super) struct SeedKeypair {
    pub(super) access_key: Option<String>,
    pub(super) secret_key: Option<String>,
    #[serde(default = "yes")]
    pub(super) is_active: bool,
    #[serde(default)]
    pub(super) is_admin: bool,
    pub(super) resource_policy: String,
    pub(super) rate_limit: i64,
}

/// A scaling group.
#[derive(Deserialize)]
pub(super) struct SeedScalingGroup {
    pub(super) name: String,
    pub(super) description: Option<String>,
    #[serde(default = "yes")]
    pub(super) is_active: bool,
    #[serde(default = "yes")]
    pub(super) is_public: bool,
    pub(super) wsproxy_addr: Option<String>,
    #[serde(default = "static_driver")]
    pub(super) driver: String,
    #[serde(default = "empty")]
    pub(super) driver_opts: Json,
    #[serde(default = "fifo")]
    pub(super) scheduler: String,
    #[serde(default = "empty")]
    pub(super) scheduler_opts: Json,
    #[serde(default)]
    pub(super) use_host_network: bool,
    #[serde(default)]
    pub(super) domains: Vec<String>,
}

/// An image, as a rescan would have found it.
#[derive(Deserialize)]
pub(super) struct SeedImage {
    pub(super) id: Option<ImageId>,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) tag: String,
    pub(super) registry: String,
    pub(super) architecture: String,
    pub(super) config_digest: String,
    pub(super) size_bytes: i64,
    #[serde(default)]
    pub(super) is_local: bool,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) accelerators: Option<String>,
    #[serde(default)]
    pub(super) labels: IndexMap<String, String>,
    #[serde(default = "empty")]
    pub(super) resources: Json,
}

/// What folders may be.
#[derive(Default, Deserialize)]
pub(super) struct SeedFolders {
    pub(super) default_host: Option<String>,
    #[serde(default)]
    pub(super) types: Vec<String>,
}
