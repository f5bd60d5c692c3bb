//! What clients hold on to in a session: its terminal, its applications, and word of its end.

use std::time::Duration;

use quarterdeck_model::SessionId;
use quarterdeck_store::events::SessionEvent;
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::sessions;
use serde_json::{Map, Value};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::{failed, find, main_kernel};
use crate::Control;
use crate::connections::{self, Connection};
use crate::error::Result;
use crate::principal::Principal;

/// How often a session is looked at although nothing was heard of it.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// Members of a service port that clients read.
const SHOWN: [&str; 3] = ["url_template", "allowed_arguments", "allowed_envs"];

/// Somebody's hold of a session's terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The session.
    pub session: SessionId,
    /// The terminal of its main kernel.
    pub link: quarterdeck_rpc::Terminal,
    /// Keeps the session from counting as idle.
    pub connection: Connection,
}

/// Attaches to the terminal of a session's main kernel, which goes on when nobody is attached.
///
/// # Errors
/// [`Error::NotFound`](crate::Error::NotFound), [`Error::InvalidParams`](crate::Error::InvalidParams) before it is placed,
/// [`Error::Agent`](crate::Error::Agent).
pub async fn terminal(control: &Control, caller: &Principal, reference: &str) -> Result<Terminal> {
    let (found, kernel, agent) = main_kernel(control, caller, reference).await?;
    let link = agent.terminal(&kernel.id.to_string()).await.map_err(|error| failed(&error))?;
    let connection = connections::open(control, found.session.id, kernel.id, "terminal").await?;
    Ok(Terminal { session: found.session.id, link, connection })
}

/// A kernel's service ports as it reported them, without those of the system.
pub(super) fn service_ports(kernel: &KernelRow) -> impl Iterator<Item = &Map<String, Value>> {
    let ports = kernel.service_ports.as_ref().and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(Value::as_object).filter(|port| port.get("protocol").and_then(Value::as_str) != Some("internal"))
}

/// The applications of a session: `[{"name", "protocol", "ports", …}]`; none while it doesn't run.
///
/// # Errors
/// [`Error::NotFound`](crate::Error::NotFound).
pub async fn apps(control: &Control, caller: &Principal, reference: &str) -> Result<Vec<Value>> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let apps = service_ports(found.main()?).map(|port| {
        let get = |name: &str| port.get(name).cloned().unwrap_or(Value::Null);
        let mut app = Map::new();
        app.insert("name".to_owned(), get("name"));
        app.insert("protocol".to_owned(), get("protocol"));
        app.insert(
            "ports".to_owned(),
            port.get("container_ports").cloned().unwrap_or_else(|| Value::Array(Vec::new())),
        );
        for name in SHOWN {
            if let Some(value) = port.get(name).filter(|value| !value.is_null()) {
                app.insert(name.to_owned(), value.clone());
            }
        }
        Value::Object(app)
    });
    Ok(apps.collect())
}

/// Whether this tells of the end of somebody's hold.
fn ends(event: &SessionEvent) -> bool {
    match event.name.as_str() {
        "session_terminating" | "session_terminated" | "session_cancelled" => true,
        "kernel_terminating" => event.cluster_role.as_deref() == Some("main"),
        _ => false,
    }
}

/// Resolves when a session begins to end, or is gone, whichever host ends it.
pub async fn until_ending(control: &Control, id: SessionId) {
    let mut events = control.signals().sessions.subscribe();
    loop {
        match sessions::status(&mut control.store().reader(), id).await {
            Ok(Some(status)) if status.occupies_user() || status == quarterdeck_model::SessionStatus::Pending => {}
            Ok(_) => return,
            Err(error) => tracing::warn!(session = %id, %error, "a session can't be looked at"),
        }
        loop {
            match timeout(LOOK_EVERY, events.recv()).await {
                Ok(Ok(event)) if event.session == id && ends(&event) => return,
                Ok(Ok(_)) => {}
                // Something was missed, or may have been: its row tells.
                Ok(Err(RecvError::Lagged(_))) | Err(_) => break,
                Ok(Err(RecvError::Closed)) => return,
            }
        }
    }
}
