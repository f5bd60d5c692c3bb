//! The tables whose rows are kept an eye on.

use super::Watched;
use crate::schema::Kind::{Bool, Int, Text};

/// Columns of its own, and those that domains and projects have in common.
macro_rules! tenant {
    ($($own:expr),*) => {
        &[
            $($own,)*
            ("description", Text),
            ("is_active", Bool),
            ("total_resource_slots", Text),
            ("allowed_vfolder_hosts", Text),
            ("integration_id", Text),
        ]
    };
}

pub(crate) const CONFIG: Watched = Watched {
    kind: "config",
    table: "config",
    key: "name",
    name: &["name"],
    columns: &[("name", Text), ("value", Text)],
    silent: &[],
    spelled: &[],
};

pub(crate) const DOMAIN: Watched = Watched {
    kind: "domain",
    table: "domains",
    key: "name",
    name: &["name"],
    columns: tenant![("name", Text), ("allowed_docker_registries", Text)],
    silent: &["created_at", "modified_at", "dotfiles"],
    spelled: &[],
};

pub(crate) const PROJECT: Watched = Watched {
    kind: "project",
    table: "projects",
    key: "id",
    name: &["name", "domain_name"],
    columns: tenant![("id", Text), ("name", Text), ("domain_name", Text)],
    silent: &["created_at", "modified_at", "dotfiles"],
    spelled: &[],
};

pub(crate) const USER: Watched = Watched {
    kind: "user",
    table: "users",
    key: "id",
    name: &["email"],
    columns: &[
        ("id", Text),
        ("username", Text),
        ("email", Text),
        ("password", Text),
        ("need_password_change", Bool),
        ("full_name", Text),
        ("description", Text),
        ("status", Text),
        ("status_info", Text),
        ("domain_name", Text),
        ("role", Text),
        ("integration_id", Text),
        ("allowed_client_ip", Text),
        ("totp_activated", Bool),
    ],
    silent: &["password_changed_at", "created_at", "modified_at", "totp_key", "totp_activated_at"],
    spelled: &[],
};

pub(crate) const KEYPAIR: Watched = Watched {
    kind: "keypair",
    table: "keypairs",
    key: "access_key",
    name: &["access_key"],
    columns: &[
        ("access_key", Text),
        ("secret_key", Text),
        ("user_email", Text),
        ("is_active", Bool),
        ("is_admin", Bool),
        ("resource_policy", Text),
        ("rate_limit", Int),
        ("ssh_public_key", Text),
        ("ssh_private_key", Text),
        ("bootstrap_script", Text),
    ],
    silent: &["user_id", "created_at", "last_used", "num_queries", "dotfiles"],
    spelled: &[],
};

pub(crate) const POLICY: Watched = Watched {
    kind: "resource-policy",
    table: "keypair_resource_policies",
    key: "name",
    name: &["name"],
    columns: &[
        ("name", Text),
        ("default_for_unspecified", Text),
        ("total_resource_slots", Text),
        ("max_session_lifetime", Int),
        ("max_concurrent_sessions", Int),
        ("max_concurrent_sftp_sessions", Int),
        ("max_containers_per_session", Int),
        ("max_vfolder_count", Int),
        ("max_vfolder_size", Int),
        ("idle_timeout", Int),
        ("allowed_vfolder_hosts", Text),
    ],
    silent: &["created_at"],
    spelled: &[],
};

pub(crate) const SCALING_GROUP: Watched = Watched {
    kind: "scaling-group",
    table: "scaling_groups",
    key: "name",
    name: &["name"],
    columns: &[
        ("name", Text),
        ("description", Text),
        ("is_active", Bool),
        ("is_public", Bool),
        ("wsproxy_addr", Text),
        ("wsproxy_api_token", Text),
        ("driver", Text),
        ("driver_opts", Text),
        ("scheduler", Text),
        ("scheduler_opts", Text),
        ("use_host_network", Bool),
    ],
    silent: &["created_at"],
    spelled: &[],
};

pub(crate) const PRESET: Watched = Watched {
    kind: "resource-preset",
    table: "resource_presets",
    key: "name",
    name: &["name"],
    columns: &[("name", Text), ("resource_slots", Text), ("shared_memory", Int)],
    silent: &[],
    spelled: &[],
};

pub(crate) const BINDING: Watched = Watched {
    kind: "plugin-binding",
    table: "plugin_bindings",
    key: "id",
    name: &["plugin", "target_kind", "target", "mode"],
    columns: &[
        ("kind", Text),
        ("plugin", Text),
        ("target_kind", Text),
        ("target", Text),
        ("digest", Text),
        ("config", Text),
        ("position", Int),
        ("mode", Text),
        ("failure_policy", Text),
        ("bound_by", Text),
    ],
    silent: &["id", "bound_at"],
    spelled: &[],
};

pub(crate) const PROJECT_MEMBER: Watched = Watched {
    kind: "project-member",
    table: "project_members",
    key: "project_id || ' ' || user_id",
    name: &["member", "project", "domain"],
    columns: &[("member", Text), ("project", Text), ("domain", Text)],
    silent: &[],
    spelled: &[
        ("member", "(SELECT email FROM users WHERE users.id = user_id)"),
        ("project", "(SELECT name FROM projects WHERE projects.id = project_id)"),
        ("domain", "(SELECT domain_name FROM projects WHERE projects.id = project_id)"),
    ],
};

pub(crate) const SCALING_GROUP_DOMAIN: Watched = Watched {
    kind: "scaling-group-domain",
    table: "scaling_group_domains",
    key: "scaling_group || ' ' || domain_name",
    name: &["scaling_group", "domain_name"],
    columns: &[("scaling_group", Text), ("domain_name", Text)],
    silent: &[],
    spelled: &[],
};

pub(crate) const SCALING_GROUP_PROJECT: Watched = Watched {
    kind: "scaling-group-project",
    table: "scaling_group_projects",
    key: "scaling_group || ' ' || project_id",
    name: &["scaling_group", "project", "domain"],
    columns: &[("scaling_group", Text), ("project", Text), ("domain", Text)],
    silent: &[],
    spelled: &[
        ("project", "(SELECT name FROM projects WHERE projects.id = project_id)"),
        ("domain", "(SELECT domain_name FROM projects WHERE projects.id = project_id)"),
    ],
};

pub(crate) const SCALING_GROUP_KEYPAIR: Watched = Watched {
    kind: "scaling-group-keypair",
    table: "scaling_group_keypairs",
    key: "scaling_group || ' ' || access_key",
    name: &["scaling_group", "access_key"],
    columns: &[("scaling_group", Text), ("access_key", Text)],
    silent: &[],
    spelled: &[],
};
