//! Rows of the reference as its tables hold them, leniently: what is missing or NULL is nothing.

use quarterdeck_model::Timestamp;
use quarterdeck_model::dotfile::{self, Dotfile};
use quarterdeck_model::slots::SlotMap;
use quarterdeck_model::vfolder::FolderPermission;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::validate;

/// What people know a row by.
pub(super) fn label(row: &Json, columns: &[&str]) -> String {
    let texts: Vec<String> = columns
        .iter()
        .filter_map(|column| match row.get(*column)? {
            Json::Null => None,
            Json::String(text) => Some(text.trim().to_owned()),
            other => Some(other.to_string()),
        })
        .collect();
    texts.join(" ")
}

/// The row as `T`.
pub(super) fn row<T: DeserializeOwned>(row: Json) -> Result<T, String> {
    serde_json::from_value(row).map_err(|e| format!("a column holds something unexpected: {e}"))
}

/// A value that must be there.
pub(super) fn required<T>(value: Option<T>, column: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("{column} is NULL"))
}

/// An instant as PostgreSQL writes it into a document, in UTC.
pub(super) fn instant(text: Option<&str>) -> Option<Timestamp> {
    let text = text?;
    if let Ok(at) = chrono::DateTime::parse_from_rfc3339(text) {
        return Some(at.with_timezone(&chrono::Utc).into());
    }
    chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok().map(|at| at.and_utc().into())
}

/// Slots as they are stored here; nothing is no limits.
pub(super) fn slots(value: Option<&Json>) -> Result<Json, String> {
    match value {
        None | Some(Json::Null) => Ok(validate::empty()),
        Some(value) => SlotMap::from_stored(value).map(|map| map.to_json()).map_err(|e| format!("slots: {e}")),
    }
}

/// Folder hosts with their permissions.
pub(super) fn folder_hosts(value: Option<Json>) -> Result<Json, String> {
    match value {
        None | Some(Json::Null) => Ok(validate::empty()),
        // Ordered, so that the same set is the same text.
        Some(Json::Object(hosts)) => {
            let sorted = hosts.into_iter().map(|(host, mut permissions)| {
                if let Json::Array(list) = &mut permissions {
                    list.sort_by_key(ToString::to_string);
                }
                (host, permissions)
            });
            let hosts = Json::Object(sorted.collect::<Map<_, _>>());
            validate::folder_hosts(hosts).map_err(|e| e.to_string())
        }
        Some(other) => Err(format!("allowed_vfolder_hosts is no object but {other}")),
    }
}

/// What may be done with a folder, by its value or by its name; nothing said is reading and writing.
pub(super) fn permission(text: Option<&str>) -> Result<FolderPermission, String> {
    match text.unwrap_or("rw").to_lowercase().as_str() {
        "ro" | "read_only" => Ok(FolderPermission::ReadOnly),
        "rw" | "read_write" => Ok(FolderPermission::ReadWrite),
        "wd" | "rw_delete" => Ok(FolderPermission::RwDelete),
        other => Err(format!("permission: {other} is none")),
    }
}

/// The bytes of a BYTEA column, as PostgreSQL writes it into a document.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let hex = text.strip_prefix("\\x")?.as_bytes();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Dotfiles that were packed into a BYTEA column, packed again; `None` for none.
pub(super) fn dotfiles(column: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    let Some(text) = column else { return Ok(None) };
    let bytes = bytes(text).ok_or("dotfiles are no bytes")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let files: Vec<Dotfile> = dotfile::unpack(&bytes).map_err(|e| format!("dotfiles can't be read: {e}"))?;
    if files.is_empty() {
        return Ok(None);
    }
    let packed = dotfile::pack(&files);
    if files.len() > dotfile::MAX_ENTRIES || packed.len() > dotfile::MAX_PACKED {
        return Err("there are more dotfiles than are allowed".to_owned());
    }
    Ok(Some(packed))
}

#[derive(Deserialize)]
pub(super) struct Policy {
    pub(super) name: Option<String>,
    pub(super) created_at: Option<String>,
    pub(super) default_for_unspecified: Option<String>,
    pub(super) total_resource_slots: Option<Json>,
    pub(super) max_session_lifetime: Option<i64>,
    pub(super) max_concurrent_sessions: Option<i64>,
    pub(super) max_concurrent_sftp_sessions: Option<i64>,
    pub(super) max_containers_per_session: Option<i64>,
    pub(super) max_vfolder_count: Option<i64>,
    pub(super) max_vfolder_size: Option<i64>,
    pub(super) idle_timeout: Option<i64>,
    pub(super) allowed_vfolder_hosts: Option<Json>,
}

#[derive(Deserialize)]
pub(super) struct Domain {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) is_active: Option<bool>,
    pub(super) created_at: Option<String>,
    pub(super) modified_at: Option<String>,
    pub(super) total_resource_slots: Option<Json>,
    pub(super) allowed_vfolder_hosts: Option<Json>,
    pub(super) allowed_docker_registries: Option<Vec<String>>,
    pub(super) integration_id: Option<String>,
    pub(super) dotfiles: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Group {
    pub(super) id: Option<Uuid>,
    pub(super) name: Option<String>,
    pub(super) domain_name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) is_active: Option<bool>,
    pub(super) created_at: Option<String>,
    pub(super) modified_at: Option<String>,
    pub(super) total_resource_slots: Option<Json>,
    pub(super) allowed_vfolder_hosts: Option<Json>,
    pub(super) integration_id: Option<String>,
    pub(super) dotfiles: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct User {
    pub(super) uuid: Option<Uuid>,
    pub(super) username: Option<String>,
    pub(super) email: Option<String>,
    pub(super) password: Option<String>,
    pub(super) need_password_change: Option<bool>,
    pub(super) password_changed_at: Option<String>,
    pub(super) full_name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) status: Option<String>,
    pub(super) status_info: Option<String>,
    pub(super) created_at: Option<String>,
    pub(super) modified_at: Option<String>,
    pub(super) domain_name: Option<String>,
    pub(super) role: Option<String>,
    pub(super) integration_id: Option<String>,
    pub(super) allowed_client_ip: Option<Vec<String>>,
    pub(super) totp_activated: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Member {
    pub(super) user_id: Option<Uuid>,
    pub(super) group_id: Option<Uuid>,
}

#[derive(Deserialize)]
pub(super) struct Keypair {
    pub(super) access_key: Option<String>,
    pub(super) secret_key: Option<String>,
    pub(super) user: Option<Uuid>,
    pub(super) is_active: Option<bool>,
    pub(super) is_admin: Option<bool>,
    pub(super) resource_policy: Option<String>,
    pub(super) created_at: Option<String>,
    pub(super) last_used: Option<String>,
    pub(super) rate_limit: Option<i64>,
    pub(super) num_queries: Option<i64>,
    pub(super) ssh_public_key: Option<String>,
    pub(super) ssh_private_key: Option<String>,
    pub(super) dotfiles: Option<String>,
    pub(super) bootstrap_script: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ScalingGroup {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) is_active: Option<bool>,
    pub(super) is_public: Option<bool>,
    pub(super) created_at: Option<String>,
    pub(super) wsproxy_addr: Option<String>,
    pub(super) wsproxy_api_token: Option<String>,
    pub(super) driver: Option<String>,
    pub(super) driver_opts: Option<Json>,
    pub(super) scheduler: Option<String>,
    pub(super) scheduler_opts: Option<Json>,
    pub(super) use_host_network: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Association {
    pub(super) scaling_group: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) group: Option<Uuid>,
    pub(super) access_key: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Preset {
    pub(super) name: Option<String>,
    pub(super) resource_slots: Option<Json>,
    pub(super) shared_memory: Option<i64>,
}

#[derive(Deserialize)]
pub(super) struct Image {
    pub(super) id: Option<Uuid>,
    pub(super) name: Option<String>,
    pub(super) image: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) registry: Option<String>,
    pub(super) architecture: Option<String>,
    pub(super) config_digest: Option<String>,
    pub(super) size_bytes: Option<i64>,
    pub(super) is_local: Option<bool>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) accelerators: Option<String>,
    pub(super) labels: Option<Map<String, Json>>,
    pub(super) resources: Option<Json>,
    pub(super) created_at: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Alias {
    pub(super) alias: Option<String>,
    pub(super) image: Option<Uuid>,
}

#[derive(Deserialize)]
pub(super) struct Template {
    pub(super) id: Option<Uuid>,
    pub(super) created_at: Option<String>,
    pub(super) is_active: Option<bool>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) name: Option<String>,
    pub(super) domain_name: Option<String>,
    pub(super) group_id: Option<Uuid>,
    pub(super) user_uuid: Option<Uuid>,
    pub(super) template: Option<Json>,
}

#[derive(Deserialize)]
pub(super) struct Folder {
    pub(super) id: Option<Uuid>,
    pub(super) host: Option<String>,
    pub(super) quota_scope_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) usage_mode: Option<String>,
    pub(super) permission: Option<String>,
    pub(super) max_size: Option<i64>,
    pub(super) created_at: Option<String>,
    pub(super) last_used: Option<String>,
    pub(super) creator: Option<String>,
    pub(super) unmanaged_path: Option<String>,
    pub(super) user: Option<Uuid>,
    pub(super) group: Option<Uuid>,
    pub(super) cloneable: Option<bool>,
    pub(super) status: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct FolderGrant {
    pub(super) vfolder: Option<Uuid>,
    pub(super) user: Option<Uuid>,
    pub(super) permission: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct FolderInvitation {
    pub(super) id: Option<Uuid>,
    pub(super) vfolder: Option<Uuid>,
    pub(super) inviter: Option<String>,
    pub(super) invitee: Option<String>,
    pub(super) permission: Option<String>,
    pub(super) state: Option<String>,
    pub(super) created_at: Option<String>,
    pub(super) modified_at: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn instants_in_both_forms() {
        let micros = |text: &str| instant(Some(text)).map(Timestamp::micros);
        assert_eq!(micros("1970-01-01T00:00:01.5+00:00"), Some(1_500_000));
        assert_eq!(micros("1970-01-01T01:00:01+01:00"), Some(1_000_000));
        assert_eq!(micros("1970-01-01T00:00:01.000001"), Some(1_000_001));
        assert_eq!((micros("yesterday"), instant(None)), (None, None));
    }

    #[test]
    fn dotfiles_are_read_from_hexadecimal_bytes() {
        let files = vec![Dotfile { path: ".a".into(), perm: "644".into(), data: "1".into() }];
        let hex: String = dotfile::pack(&files).iter().map(|b| format!("{b:02x}")).collect();
        let packed = dotfiles(Some(&format!("\\x{hex}"))).unwrap().unwrap();
        assert_eq!(dotfile::unpack(&packed).unwrap(), files);
        assert_eq!(dotfiles(Some("\\x90")).unwrap(), None);
        assert_eq!(dotfiles(Some("\\x")).unwrap(), None);
        assert_eq!(dotfiles(None).unwrap(), None);
        for broken in ["\\xc1", "\\x9", "plain", "\\xzz"] {
            assert!(dotfiles(Some(broken)).is_err(), "{broken}");
        }
    }

    #[test]
    fn limits_are_never_widened_by_what_cannot_be_read() {
        assert_eq!(slots(None).unwrap(), json!({}));
        assert_eq!(slots(Some(&json!({"cpu": "2", "mem": "1024"}))).unwrap(), json!({"cpu": "2", "mem": "1024"}));
        assert!(slots(Some(&json!({"cpu": "many"}))).is_err());
        assert!(slots(Some(&json!([]))).is_err());
        assert_eq!(folder_hosts(Some(Json::Null)).unwrap(), json!({}));
        let hosts = folder_hosts(Some(json!({"h": ["upload-file", "download-file"]}))).unwrap();
        assert_eq!(hosts, json!({"h": ["download-file", "upload-file"]}));
        assert!(folder_hosts(Some(json!(["h"]))).is_err());
        assert!(folder_hosts(Some(json!({"h": ["fly"]}))).is_err());
        assert_eq!(permission(Some("RW_DELETE")), Ok(FolderPermission::RwDelete));
        assert_eq!(
            (permission(Some("ro")), permission(None)),
            (Ok(FolderPermission::ReadOnly), Ok(FolderPermission::ReadWrite))
        );
        assert!(permission(Some("owner")).is_err());
    }
}
