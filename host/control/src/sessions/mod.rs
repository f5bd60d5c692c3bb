//! What can be done with sessions that exist: look them up, work in them, rename and end them.

mod commit;
mod destroy;
mod execute;
mod files;
pub(crate) mod hooks;
mod info;
mod restart;
mod services;
mod streams;

use std::collections::HashMap;
use std::sync::Arc;

use quarterdeck_model::{AccessKey, KernelRole, SessionId, SessionStatus};
use quarterdeck_rpc::AgentHandle;
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::sessions::SessionRow;
use quarterdeck_store::{Store, Violation, agents, kernels, sessions};
use serde_json::{Value, json};

use crate::agents::call_error;
use crate::error::{Error, Result, SessionMatch};
use crate::gather::Gather;
use crate::principal::Principal;
use crate::{AgentOperation, Control};

pub use commit::{Committing, being_committed, commit, commit_status};
pub use destroy::destroy;
pub(crate) use destroy::wait_for;
pub use execute::{complete, execute, execute_within, interrupt, logs};
pub use files::{Download, MAX_ARCHIVES, MAX_FILE, MAX_FILES, UserFile, download, download_single, list_files, upload};
pub(crate) use info::AskedAbout;
pub use info::{info, status_history};
pub use quarterdeck_rpc::{CallError, TerminalInput, TerminalOutput};
pub use restart::restart;
pub use services::{Admission, Service, ServiceRequest, find_service, shutdown_service, start_service};
pub use streams::{Terminal, apps, terminal, until_ending};

/// A session with its kernels, main kernel first.
#[derive(Clone, Debug)]
pub struct Found {
    /// The session.
    pub session: SessionRow,
    /// Its kernels.
    pub kernels: Vec<KernelRow>,
}

impl Found {
    /// The session's main kernel.
    ///
    /// # Errors
    /// [`Error::NotFound`] without one, [`Error::TooManyKernels`] with several.
    pub fn main(&self) -> Result<&KernelRow> {
        let mut mains = self.kernels.iter().filter(|k| k.cluster_role == "main");
        match (mains.next(), mains.next()) {
            (Some(kernel), None) => Ok(kernel),
            (None, _) => Err(Error::not_found("main kernel")),
            (Some(_), Some(_)) => Err(Error::TooManyKernels),
        }
    }
}

pub(crate) fn no_such_session(reference: &str) -> Error {
    Error::not_found_msg("session", format!("Session (id={reference}) does not exist."))
}

/// The newest session of a key pair that a reference means.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find(control: &Control, owner: &AccessKey, reference: &str, with_dead: bool) -> Result<Arc<Found>> {
    let found = match with_dead {
        false => {
            let store = control.store().clone();
            let load = move |wanted: Vec<Wanted>| {
                let store = store.clone();
                async move { find_live(&store, &wanted).await }
            };
            control.inner.sought.get((owner.clone(), reference.to_owned()), load).await?
        }
        true => {
            let mut reader = control.store().reader();
            match sessions::find(&mut reader, owner, reference, true).await?.into_iter().next() {
                None => None,
                Some(session) => {
                    let kernels = kernels::of_sessions(&mut reader, &[session.id]).await?;
                    Some(Arc::new(Found { session, kernels }))
                }
            }
        }
    };
    found.ok_or_else(|| no_such_session(reference))
}

/// A key pair, and what it means one of its sessions by.
type Wanted = (AccessKey, String);

/// Sessions that are sought.
pub(crate) type Sought = Gather<Wanted, Arc<Found>>;

/// The live ones among the sessions that are meant.
async fn find_live(store: &Store, wanted: &[Wanted]) -> Result<HashMap<Wanted, Arc<Found>>> {
    let mut reader = store.reader();
    let found = sessions::find_live(&mut reader, wanted).await?;
    let ids: Vec<SessionId> = found.values().map(|session| session.id).collect();
    let mut kernels: HashMap<SessionId, Vec<KernelRow>> = HashMap::new();
    for kernel in kernels::of_sessions(&mut reader, &ids).await? {
        kernels.entry(kernel.session_id).or_default().push(kernel);
    }
    // A session may be meant in two ways: each has its kernels.
    let of = |session: &SessionRow| kernels.get(&session.id).cloned().unwrap_or_default();
    Ok(found
        .into_iter()
        .map(|(wanted, session)| (wanted, Arc::new(Found { kernels: of(&session), session })))
        .collect())
}

/// As [`find`], but several matches are an error.
///
/// # Errors
/// [`Error::NotFound`], [`Error::TooManySessionsMatched`].
pub async fn find_strictly(
    control: &Control,
    owner: &AccessKey,
    reference: &str,
    with_dead: bool,
) -> Result<SessionRow> {
    let mut rows = sessions::find(&mut control.store().reader(), owner, reference, with_dead).await?;
    match rows.len() {
        0 => Err(no_such_session(reference)),
        1 => Ok(rows.swap_remove(0)),
        _ => Err(Error::TooManySessionsMatched(rows.iter().map(matched).collect())),
    }
}

fn matched(row: &SessionRow) -> SessionMatch {
    SessionMatch { id: row.id, name: row.name.clone(), status: row.status, created_at: row.created_at }
}

/// The caller's sessions that a reference means, dead ones included, newest first.
///
/// # Errors
/// [`Error::Store`].
pub async fn find_matches(control: &Control, caller: &Principal, reference: &str) -> Result<Vec<SessionMatch>> {
    let rows = sessions::find(&mut control.store().reader(), &caller.access_key, reference, true).await?;
    Ok(rows.iter().map(matched).collect())
}

/// Gives a running session another name.
///
/// # Errors
/// [`Error::NotFound`], [`Error::TooManySessionsMatched`]; [`Error::InvalidParams`] when it doesn't run or the name is taken.
pub async fn rename(control: &Control, caller: &Principal, reference: &str, name: &str) -> Result<()> {
    let session = find_strictly(control, &caller.access_key, reference, true).await?;
    if session.status != SessionStatus::Running {
        return Err(Error::invalid("Can't change name of not running session"));
    }
    let mut tx = control.store().begin().await?;
    match sessions::rename(&mut tx, session.id, name).await {
        Ok(_) => Ok(tx.commit().await?),
        Err(error) if matches!(error.violation(), Some((Violation::Unique, _))) => {
            Err(Error::invalid(format!("A session named {name} exists already.")))
        }
        Err(error) => Err(error.into()),
    }
}

/// Where a session of the system is reached directly; an empty object for others.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn direct_access_info(control: &Control, caller: &Principal, reference: &str) -> Result<Value> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let kernel = found.main()?;
    if kernel.kernel_role != KernelRole::System {
        return Ok(json!({}));
    }
    let public_host = match &kernel.agent_id {
        Some(id) => agents::get(&mut control.store().reader(), id).await?.and_then(|row| row.public_host),
        None => None,
    };
    let ports = kernel.service_ports.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
    let of = |name: &str| ports.iter().find(|p| p.get("name").and_then(Value::as_str) == Some(name)).cloned();
    let sshd_ports =
        of("sftpd").or_else(|| of("sshd")).and_then(|p| p.get("host_ports").cloned()).unwrap_or_else(|| json!([]));
    Ok(json!({ "kernel_role": "SYSTEM", "public_host": public_host, "sshd_ports": sshd_ports }))
}

/// What the agent found about abuse in a session. No runtime of this release looks for any.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn abusing_report(control: &Control, caller: &Principal, reference: &str) -> Result<Value> {
    find(control, &caller.access_key, reference, false).await?.main()?;
    Ok(json!({}))
}

/// Whether the session exists.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn require_session(control: &Control, caller: &Principal, reference: &str) -> Result<()> {
    find(control, &caller.access_key, reference, false).await?.main().map(drop)
}

/// The main kernel of one of the caller's live sessions, and its agent.
async fn main_kernel(
    control: &Control,
    caller: &Principal,
    reference: &str,
) -> Result<(Arc<Found>, KernelRow, AgentHandle)> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let kernel = found.main()?.clone();
    let agent = agent_of(control, &kernel, AgentOperation::Execute).await?;
    Ok((found, kernel, agent))
}

/// A call that failed inside a running kernel.
fn failed(error: &CallError) -> Error {
    call_error(AgentOperation::Execute, error)
}

/// The agent that a kernel runs on.
pub(crate) async fn agent_of(control: &Control, kernel: &KernelRow, operation: AgentOperation) -> Result<AgentHandle> {
    let unplaced = || Error::invalid("expected valid agent id and agent address, got agent_id=None and addr=None");
    let id = kernel.agent_id.as_ref().ok_or_else(unplaced)?;
    let agent = agents::get(&mut control.store().reader(), id).await?.ok_or_else(unplaced)?;
    crate::agents::handle(control, &agent, operation)
}
