//! Maintenance: the status of the installation and its announcement.

use quarterdeck_store::meta;
use serde_json::{Value as Json, json};

use crate::Control;
use crate::error::{Error, Result};

/// Where clients and operators find both in the configuration tree.
const STATUS: &str = "manager/status";
const ANNOUNCEMENT: &str = "manager/announcement";

/// The release of the reference that this API matches.
pub const COMPATIBLE_VERSION: &str = "23.03.5";

/// Whether the installation serves changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagerStatus {
    /// Everything is served.
    Running,
    /// Maintenance: what exists goes on, nothing new is taken.
    Frozen,
    /// Kept for clients.
    Terminated,
    /// Kept for clients.
    Preparing,
}

impl ManagerStatus {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            ManagerStatus::Running => "running",
            ManagerStatus::Frozen => "frozen",
            ManagerStatus::Terminated => "terminated",
            ManagerStatus::Preparing => "preparing",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Frozen, Self::Terminated, Self::Preparing].into_iter().find(|s| s.as_str() == text)
    }
}

impl std::fmt::Display for ManagerStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ManagerStatus {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| Error::invalid(format!("'{text}' is not a valid ManagerStatus")))
    }
}

/// The status now. Another host's change is seen within a second.
pub async fn status(control: &Control) -> ManagerStatus {
    let stored = control.config_tree().value(STATUS);
    stored.as_deref().and_then(ManagerStatus::parse).unwrap_or(ManagerStatus::Running)
}

/// Refuses what isn't served while the installation is frozen (or in another status).
///
/// # Errors
/// [`Error::ServerFrozen`], [`Error::Unavailable`].
pub async fn require_running(control: &Control) -> Result<()> {
    gate(control, &[ManagerStatus::Running]).await
}

/// Refuses what isn't served unless the installation is running or frozen.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn require_serving(control: &Control) -> Result<()> {
    gate(control, &[ManagerStatus::Running, ManagerStatus::Frozen]).await
}

async fn gate(control: &Control, allowed: &[ManagerStatus]) -> Result<()> {
    match status(control).await {
        status if allowed.contains(&status) => Ok(()),
        ManagerStatus::Frozen => Err(Error::ServerFrozen),
        status => Err(Error::Unavailable(format!("Server is not in the required status: {status}"))),
    }
}

/// Changes the status, on all hosts.
///
/// # Errors
/// [`Error::Store`].
pub async fn set_status(control: &Control, status: ManagerStatus) -> Result<()> {
    control.config_tree().set(&[(STATUS.to_owned(), status.as_str().to_owned())]).await
}

/// What clients are told about the installation. `api_version` is what was negotiated for the request.
///
/// # Errors
/// [`Error::Store`].
pub async fn status_document(control: &Control, api_version: (u32, &str)) -> Result<Json> {
    let status = status(control).await.as_str();
    let active = meta::active_sessions(&mut control.store().reader()).await?;
    let settings = control.settings();
    Ok(json!({
        "nodes": [{
            "id": settings.node_id,
            "num_proc": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            "service_addr": settings.service_addr.clone().unwrap_or_default(),
            "heartbeat_timeout": settings.heartbeat_timeout_ms as f64 / 1000.0,
            "ssl_enabled": false,
            "active_sessions": active,
            "status": status,
            "version": COMPATIBLE_VERSION,
            "api_version": [api_version.0, api_version.1],
        }],
        "status": status,
        "active_sessions": active,
    }))
}

/// The announcement, if there is one.
pub async fn announcement(control: &Control) -> Option<String> {
    control.config_tree().value(ANNOUNCEMENT)
}

/// Changes or removes the announcement, on all hosts.
///
/// # Errors
/// [`Error::InvalidParams`] for an empty one.
pub async fn set_announcement(control: &Control, enabled: bool, message: Option<&str>) -> Result<()> {
    if !enabled {
        return control.config_tree().delete(ANNOUNCEMENT, false).await;
    }
    let Some(message) = message.filter(|m| !m.is_empty()) else {
        return Err(Error::invalid("Empty message not allowed to enable announcement"));
    };
    if message.contains('\0') {
        return Err(Error::invalid("A message must not contain a NUL character."));
    }
    control.config_tree().set(&[(ANNOUNCEMENT.to_owned(), message.to_owned())]).await
}
