//! A new session, from the request to the row (`spec/session.md` §3).

mod arrivals;
mod cluster;
mod extras;
mod facts;
mod kernels;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use quarterdeck_model::dotfile::Dotfile;
use quarterdeck_model::vfolder::FolderMount;
use quarterdeck_model::{
    AgentId, ClusterMode, EndpointId, KernelRole, KernelStatus, RouteId, SessionId, SessionStatus, SessionType,
    session as rules,
};
use quarterdeck_store::endpoints::NewRoute;
use quarterdeck_store::images::ImageRow;
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::projects::ProjectRow;
use quarterdeck_store::sessions::{NewSession, SessionRow};
use quarterdeck_store::{agents, sessions};
use serde_json::{Map, Value, json};

use crate::agents::in_background;
use crate::error::{Error, Result};
use crate::hooks::{self, Mode, dispatch};
use crate::principal::Principal;
use crate::sessions::{Found, find, find_strictly};
use crate::{Control, scaling_groups, scope, vfolders};

use facts::Grounds;

pub use arrivals::Arrivals;
pub(crate) use arrivals::run;
pub use cluster::{ClusterNode, CreateCluster, create_cluster};
pub use usage::usage;

/// What a request for a session says. Validated for form; whether it makes sense is decided here.
#[derive(Clone, Debug)]
pub struct CreateSession {
    /// The session's name.
    pub name: String,
    /// The image: a reference or an alias.
    pub image: String,
    /// The image's architecture; the host's own when `None`.
    pub architecture: Option<String>,
    /// What it is for.
    pub kind: SessionType,
    /// The project's name.
    pub project: String,
    /// The domain.
    pub domain: String,
    /// How many kernels.
    pub cluster_size: u32,
    /// Whether they share an agent.
    pub cluster_mode: ClusterMode,
    /// How it is to be set up.
    pub config: SessionConfig,
    /// A mark of its owner's.
    pub tag: Option<String>,
    /// Answer at once.
    pub enqueue_only: bool,
    /// How long to wait for the start; 0 = for ever.
    pub max_wait_s: u64,
    /// Batch: not before.
    pub starts_at: Option<String>,
    /// Take a live session of that name instead.
    pub reuse: bool,
    /// Batch: the command.
    pub startup_command: Option<String>,
    /// Runs in each kernel first.
    pub bootstrap_script: Option<String>,
    /// Ids or names of sessions that must succeed first.
    pub dependencies: Vec<String>,
    /// Told about its life.
    pub callback_url: Option<String>,
    /// Whose session it will be.
    pub owner_access_key: Option<String>,
    /// −1000…1000, higher goes first.
    pub priority: Option<i64>,
    /// How long it is expected to run.
    pub expected_duration_s: Option<f64>,
    /// Batch: when the command is ended.
    pub timeout_s: Option<f64>,
    /// Its kernels may use the engine that they run in, where an agent allows it. Never on a user's word.
    pub builds_images: bool,
    /// The kernels by role, main one first, where they differ; empty: one `main`, the rest `sub`, all alike.
    pub nodes: Vec<ClusterNode>,
    /// The model service that it is to serve.
    pub endpoint: Option<EndpointId>,
}

/// How a session is to be set up.
#[derive(Clone, Debug, Default)]
pub struct SessionConfig {
    /// Folders, or paths within them.
    pub mounts: Vec<String>,
    /// Where they appear.
    pub mount_map: IndexMap<String, String>,
    /// Environment variables.
    pub environ: IndexMap<String, String>,
    /// Where it is to be placed.
    pub scaling_group: Option<String>,
    /// Slot → amount; `None` = the old way below.
    pub resources: Option<Value>,
    /// Options such as `shmem`.
    pub resource_opts: Map<String, Value>,
    /// Ports that are reachable from the start.
    pub preopen_ports: Vec<u16>,
    /// Agents of the kernels, for superadmins.
    pub agent_list: Option<Vec<String>>,
    /// Old requests: memory in GiB.
    pub instance_memory: Option<Value>,
    /// Old requests: processors.
    pub instance_cores: Option<i64>,
    /// Old requests: GPUs.
    pub instance_gpus: Option<f64>,
    /// Old requests: TPUs.
    pub instance_tpus: Option<i64>,
}

/// The answer to such a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    /// The session.
    pub session_id: SessionId,
    /// Its name.
    pub name: String,
    /// Its status, or `TIMEOUT` when it didn't start in time.
    pub status: String,
    /// Ports of its services, as clients read them.
    pub service_ports: Value,
    /// Whether it is new.
    pub created: bool,
    /// Ports of its services, as agents tell them; `null` before it runs.
    pub raw_service_ports: Value,
}

/// Enqueues a session, or finds the live one of that name, and waits for its start unless told not to.
///
/// # Errors
/// Whatever `spec/session.md` §3 lists, in its order.
pub async fn create(control: &Control, caller: &Principal, request: CreateSession) -> Result<Created> {
    let parties = parties(control, caller, &request).await?;
    // Names are free as a rule, and the transaction looks at that anyway: look first only where hooks would hear of a
    // session that isn't going to be, or where the name may mean another session's id.
    let mut look = control.policies().has_hooks("PRE_ENQUEUE_SESSION") || request.name.parse::<SessionId>().is_ok();
    // A name that is taken between the look-up and the insertion is looked up again.
    for _ in 0..4 {
        if look && let Some(existing) = reuse(control, &parties, &request).await? {
            return Ok(existing);
        }
        match enqueue(control, caller, &parties, &request).await {
            Ok(Some(session)) => return wait(control, &request, session).await,
            Ok(None) => {}
            Err(error) if look => return Err(error),
            // A live session of that name goes before whatever else is wrong.
            Err(error) => return reuse(control, &parties, &request).await?.ok_or(error),
        }
        look = true;
    }
    Err(Error::Unavailable(format!("The session name {} is in demand. Please try again.", request.name)))
}

/// The session that [`create`] would enqueue, unless a live one of its name is taken instead. Nothing is written and
/// nobody is told; hooks that decide about new sessions are asked, as they decide from what they are shown alone.
///
/// # Errors
/// Those of [`create`], as far as they come before anything is written.
pub(crate) async fn rehearse(control: &Control, caller: &Principal, request: &CreateSession) -> Result<NewSession> {
    let parties = parties(control, caller, request).await?;
    if let Some(existing) = reuse(control, &parties, request).await? {
        return Err(Error::SessionAlreadyExists(existing.session_id));
    }
    Ok(Box::pin(build(control, caller, &parties, request, true)).await?.0)
}

/// Whom and what a request is about.
struct Parties {
    owner: Arc<Principal>,
    grounds: Arc<Grounds>,
    image: Arc<ImageRow>,
}

async fn parties(control: &Control, caller: &Principal, request: &CreateSession) -> Result<Parties> {
    check_agent_list(caller, request)?;
    let owner = scope::resolve_owner(control, caller, request.owner_access_key.as_deref()).await?;
    let facts = control.arrivals().facts();
    let grounds = facts.grounds(control, caller, &owner, &request.domain, &request.project).await?;
    rules::check_mount_map(&request.config.mount_map).map_err(Error::invalid)?;
    check_texts(request)?;
    let architecture = request.architecture.as_deref().unwrap_or(std::env::consts::ARCH);
    let image = facts.image(control, &request.image, architecture).await?;
    grounds.check_registry(&image)?;
    Ok(Parties { owner, grounds, image })
}

fn check_agent_list(caller: &Principal, request: &CreateSession) -> Result<()> {
    let Some(list) = &request.config.agent_list else { return Ok(()) };
    if !caller.is_superadmin() {
        return Err(Error::InsufficientPrivilege(
            "You are not allowed to manually assign agents for your session.".to_owned(),
        ));
    }
    let wanted = match request.cluster_mode {
        ClusterMode::MultiNode => request.cluster_size as usize,
        ClusterMode::SingleNode => 1,
    };
    if !list.is_empty() && list.len() != wanted {
        return Err(Error::invalid(format!("The agent list must name {wanted} agent(s) for this session.")));
    }
    Ok(())
}

/// Bounds of columns, and characters that no database takes.
fn check_texts(request: &CreateSession) -> Result<()> {
    let environ = request.config.environ.iter().flat_map(|(name, value)| [name, value]);
    let texts =
        [&request.tag, &request.startup_command, &request.bootstrap_script, &request.callback_url, &request.starts_at];
    if texts.into_iter().flatten().chain(environ).any(|text| text.contains('\0')) {
        return Err(Error::invalid("Texts must not contain NUL characters."));
    }
    crate::callbacks::check(request.callback_url.as_deref())?;
    let too_long = |text: &Option<String>, limit| text.as_ref().is_some_and(|t| t.chars().count() > limit);
    if too_long(&request.tag, 64) {
        return Err(Error::invalid("The tag must not be longer than 64 characters."));
    }
    if too_long(&request.bootstrap_script, 16 * 1024) {
        return Err(Error::invalid("The bootstrap script must not be longer than 16 KiB."));
    }
    Ok(())
}

/// The live session of that name, when there is one and it may be taken (`spec/session.md` §3.6).
async fn reuse(control: &Control, parties: &Parties, request: &CreateSession) -> Result<Option<Created>> {
    let Parties { owner, image, .. } = parties;
    let found = match find(control, &owner.access_key, &request.name, false).await {
        Ok(found) => found,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let main = found.main()?;
    let same = main.image == image.name && main.architecture == image.architecture;
    if !same || !request.reuse {
        return Err(Error::SessionAlreadyExists(found.session.id));
    }
    Ok(Some(answer(&found.session, Some(main), found.session.status.to_string(), false)))
}

fn answer(session: &SessionRow, main: Option<&KernelRow>, status: String, created: bool) -> Created {
    let raw = main.and_then(|k| k.service_ports.clone()).unwrap_or(Value::Null);
    Created {
        session_id: session.id,
        name: session.name.clone(),
        status,
        service_ports: service_ports(&raw),
        created,
        raw_service_ports: raw,
    }
}

/// Service ports as clients read them: what is internal stays so.
pub fn service_ports(raw: &Value) -> Value {
    let list = raw.as_array().into_iter().flatten();
    let ports = list.filter(|p| p.get("protocol").and_then(Value::as_str) != Some("internal")).map(|port| {
        let member = |key: &str| port.get(key).cloned();
        let mut out = Map::new();
        out.insert("name".to_owned(), member("name").unwrap_or_default());
        out.insert("protocol".to_owned(), member("protocol").unwrap_or_default());
        out.insert("ports".to_owned(), member("container_ports").unwrap_or_else(|| json!([])));
        for key in ["url_template", "allowed_arguments", "allowed_envs"] {
            if let Some(value) = member(key).filter(|v| !v.is_null()) {
                out.insert(key.to_owned(), value);
            }
        }
        Value::Object(out)
    });
    Value::Array(ports.collect())
}

/// Builds the session and hands it over to be written. `None`: meanwhile the name was taken.
async fn enqueue(
    control: &Control,
    caller: &Principal,
    parties: &Parties,
    request: &CreateSession,
) -> Result<Option<SessionId>> {
    let (session, told) = Box::pin(build(control, caller, parties, request, false)).await?;
    let (id, domain) = (session.id, session.domain_name.clone());
    if !control.arrivals().put(session).await? {
        return Ok(None);
    }
    control.metrics().enqueued.inc();
    control.signals().schedule.notify_one();
    control.signals().events.notify_one();
    if let Some(body) = told {
        let (control, caller) = (control.clone(), caller.clone());
        in_background("hooks can't be told of an enqueued session", async move {
            dispatch(&control, "POST_ENQUEUE_SESSION", Mode::Notify, Some(&caller), Some(&domain), body).await.map(drop)
        });
    }
    Ok(Some(id))
}

/// Builds the session, with what `POST_ENQUEUE_SESSION` is to be told of it, if anybody listens.
async fn build(
    control: &Control,
    caller: &Principal,
    parties: &Parties,
    request: &CreateSession,
    rehearsal: bool,
) -> Result<(NewSession, Option<Value>)> {
    let Parties { owner, grounds, image } = parties;
    let (project, dotfiles) = (&grounds.project, grounds.dotfiles.clone());
    let now = control.clock().now();
    let config = &request.config;
    let (environ, extras) = extras::take(&config.environ)?;
    let starts_at = check_batch(request, now)?;
    let bootstrap_script = request.bootstrap_script.clone().or_else(|| grounds.bootstrap_script.clone());
    let most = grounds.most_kernels;
    if i64::from(request.cluster_size) > most {
        return Err(Error::QuotaExceeded(format!("You cannot create session with more than {most} containers.")));
    }
    let role = quarterdeck_model::image::role(&image.labels);
    let is_private = role == KernelRole::System;
    let group =
        scaling_groups::choose(control, owner, project.id, config.scaling_group.as_deref(), request.kind, is_private)
            .await?;
    let wanted = vfolders::Wanted { mounts: &config.mounts, map: &config.mount_map };
    let vfolder_mounts = vfolders::resolve_mounts(control, owner, project.id, wanted).await?;
    check_dotfiles(&dotfiles, &vfolder_mounts)?;
    let designated = designated(control, request).await?;
    let plan = kernels::plan(control, request, parties).await?;
    let kernel_set = kernels::build(control, request, &plan, &designated)?;
    let mut session = NewSession {
        id: SessionId::new(),
        creation_id: uuid::Uuid::new_v4().simple().to_string(),
        name: request.name.clone(),
        session_type: request.kind,
        priority: request.priority.or(extras.priority).unwrap_or(0),
        expected_ms: millis(request.expected_duration_s).or(extras.expected_ms),
        timeout_ms: millis(request.timeout_s).or(extras.timeout_ms),
        builds_images: request.builds_images,
        cluster_mode: request.cluster_mode,
        is_private,
        domain_name: request.domain.clone(),
        project_id: project.id,
        user_id: owner.user_id,
        access_key: owner.access_key.clone(),
        scaling_group: group.name.clone(),
        tag: request.tag.clone(),
        created_at: now,
        starts_at,
        startup_command: request.startup_command.clone(),
        bootstrap_script,
        callback_url: request.callback_url.clone(),
        environ: json!(environ),
        use_host_network: group.use_host_network,
        requested_slots: kernel_set.total,
        kernels: kernel_set.kernels,
        dependencies: dependencies(control, owner, request).await?,
        dotfiles,
        vfolder_mounts,
        route: None,
    };
    session.route = request.endpoint.map(|endpoint| NewRoute {
        id: RouteId::new(),
        endpoint,
        session: session.id,
        session_owner: owner.user_id,
        domain_name: session.domain_name.clone(),
        project_id: project.id,
        created_at: now,
    });
    if !(-1000..=1000).contains(&session.priority) {
        return Err(Error::invalid("The priority must be between -1000 and 1000."));
    }
    let told = ask_hooks(control, caller, owner, project, &mut session, rehearsal).await?;
    kernels::set_environment(&mut session);
    Ok((session, told))
}

/// A dotfile can't lie where a folder appears.
fn check_dotfiles(files: &[Dotfile], mounts: &[FolderMount]) -> Result<()> {
    let hidden = |file: &&Dotfile| {
        let path = format!("{}/{}", rules::HOME, file.path);
        mounts.iter().any(|mount| mount.kernel_path == path || mount.kernel_path == file.path)
    };
    match files.iter().find(hidden) {
        Some(file) => Err(Error::General(format!("The dotfile {} conflicts with a vfolder's mount path.", file.path))),
        None => Ok(()),
    }
}

fn millis(seconds: Option<f64>) -> Option<i64> {
    // A float cast saturates, which is right for absurdly long times.
    seconds.filter(|s| s.is_finite() && *s > 0.0).map(|s| (s * 1000.0) as i64)
}

fn check_batch(
    request: &CreateSession,
    now: quarterdeck_model::Timestamp,
) -> Result<Option<quarterdeck_model::Timestamp>> {
    if request.kind == SessionType::Batch {
        if request.startup_command.as_ref().is_none_or(|c| c.trim().is_empty()) {
            return Err(Error::invalid("Batch sessions must have a non-empty startup command."));
        }
    } else if request.starts_at.is_some() {
        return Err(Error::invalid("Parameter starts_at should be used only for batch sessions"));
    }
    let parse = |text: &String| {
        rules::parse_starts_at(text, now)
            .ok_or_else(|| Error::invalid(format!("Parameter starts_at can't be read: {text}")))
    };
    request.starts_at.as_ref().map(parse).transpose()
}

/// The agents that a superadmin picked, one for each kernel.
async fn designated(control: &Control, request: &CreateSession) -> Result<Vec<AgentId>> {
    let Some(list) = request.config.agent_list.as_ref().filter(|list| !list.is_empty()) else { return Ok(Vec::new()) };
    let ids: Vec<AgentId> = list.iter().map(|id| AgentId(id.clone())).collect();
    let known = agents::get_many(&mut control.store().reader(), &ids).await?;
    if let Some(unknown) = ids.iter().find(|id| !known.iter().any(|row| row.id == **id)) {
        return Err(Error::invalid(format!("No such agent: {unknown}")));
    }
    Ok(ids)
}

async fn dependencies(control: &Control, owner: &Principal, request: &CreateSession) -> Result<Vec<SessionId>> {
    let mut ids = Vec::with_capacity(request.dependencies.len());
    for reference in &request.dependencies {
        match find_strictly(control, &owner.access_key, reference, false).await {
            Ok(session) => ids.push(session.id),
            Err(Error::NotFound { .. }) => {
                return Err(Error::InvalidParams {
                    msg: "Unknown session ID or name in the dependency list".to_owned(),
                    data: Some(json!({ "session_ref": reference })),
                });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ids)
}

/// Asks the hooks about the session as it would be, and applies what they change. Returns what `POST_ENQUEUE_SESSION`
/// is to be told, if anybody listens.
async fn ask_hooks(
    control: &Control,
    caller: &Principal,
    owner: &Principal,
    project: &ProjectRow,
    session: &mut NewSession,
    rehearsal: bool,
) -> Result<Option<Value>> {
    let policies = control.policies();
    let (pre, post) = (policies.has_hooks("PRE_ENQUEUE_SESSION"), policies.has_hooks("POST_ENQUEUE_SESSION"));
    if !pre && !post {
        return Ok(None);
    }
    let kernel = |k: &quarterdeck_store::kernels::NewKernel| json!({"role": k.cluster_role, "image": k.image, "architecture": k.architecture, "slots": k.requested_slots});
    let body = json!({
        "session": {
            "id": session.id,
            "name": session.name,
            "type": session.session_type.as_str().to_lowercase(),
            "cluster_mode": session.cluster_mode,
            "cluster_size": session.kernels.len(),
            "scaling_group": session.scaling_group,
            "tag": session.tag,
            "priority": session.priority,
            "starts_at": session.starts_at.map(|at| at.iso()),
            "environ": session.environ,
            "startup_command": session.startup_command,
            "kernels": session.kernels.iter().map(kernel).collect::<Vec<_>>(),
            "mounts": session.vfolder_mounts.iter().map(|m| &m.name).collect::<Vec<_>>(),
        },
        "owner": {
            "access_key": owner.access_key, "uuid": owner.user_id, "email": owner.email, "role": owner.role,
            "domain": owner.domain, "project": project.name,
        },
        "usage": usage(control, &owner.access_key, project.id, &session.domain_name).await?,
    });
    let (event, domain) = ("PRE_ENQUEUE_SESSION", Some(session.domain_name.as_str()));
    let asked = if rehearsal {
        hooks::rehearse(control, event, Some(caller), domain, body).await?
    } else {
        dispatch(control, event, Mode::All, Some(caller), domain, body).await?
    };
    let body = asked.body;
    let patched = body.get("session").cloned().unwrap_or_default();
    let malformed = |what: &str| Error::RejectedByHook {
        plugin: "PRE_ENQUEUE_SESSION".to_owned(),
        reason: format!("a hook changed {what} to something that it can't be"),
    };
    session.tag = match patched.get("tag") {
        None | Some(Value::Null) => None,
        Some(Value::String(tag)) if tag.chars().count() <= 64 => Some(tag.clone()),
        Some(_) => return Err(malformed("the tag")),
    };
    session.priority = patched
        .get("priority")
        .and_then(Value::as_i64)
        .filter(|p| (-1000..=1000).contains(p))
        .ok_or_else(|| malformed("the priority"))?;
    let environ = patched.get("environ").and_then(Value::as_object).ok_or_else(|| malformed("the environment"))?;
    if !environ.values().all(Value::is_string) {
        return Err(malformed("the environment"));
    }
    session.environ = Value::Object(environ.clone());
    let wanted = patched.get("scaling_group").and_then(Value::as_str).ok_or_else(|| malformed("the scaling group"))?;
    if wanted != session.scaling_group {
        let chosen =
            scaling_groups::choose(control, owner, project.id, Some(wanted), session.session_type, session.is_private)
                .await?;
        session.use_host_network = chosen.use_host_network;
        session.scaling_group = chosen.name;
    }
    Ok(post.then_some(body))
}

/// Waits for the start as the request wishes, and answers (`spec/session.md` §3.12).
async fn wait(control: &Control, request: &CreateSession, id: SessionId) -> Result<Created> {
    if request.enqueue_only {
        let status = SessionStatus::Pending.to_string();
        let name = request.name.clone();
        let none = json!([]);
        return Ok(Created {
            session_id: id,
            name,
            status,
            service_ports: none,
            created: true,
            raw_service_ports: Value::Null,
        });
    }
    // "For ever" is a while that no call outlives.
    let limit = if request.max_wait_s == 0 {
        Duration::from_secs(365 * 86_400)
    } else {
        Duration::from_secs(request.max_wait_s)
    };
    let settled = |status: SessionStatus| {
        use SessionStatus as S;
        !matches!(status, S::Pending | S::Scheduled | S::Pulling | S::Preparing)
    };
    let outcome = crate::sessions::wait_for(control, id, limit, settled).await?;
    let mut reader = control.store().reader();
    let Some(session) = sessions::get(&mut reader, id).await? else {
        return Err(Error::Internal(format!("session {id} vanished while it was waited for")));
    };
    let kernels = quarterdeck_store::kernels::of_sessions(&mut reader, &[id]).await?;
    let found = Found { session, kernels };
    if outcome.is_none() {
        return Ok(answer(&found.session, None, "TIMEOUT".to_owned(), true));
    }
    let main = found.main()?;
    let runs = main.status == KernelStatus::Running;
    Ok(answer(&found.session, runs.then_some(main), main.status.to_string(), true))
}
