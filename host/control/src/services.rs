//! Model services: endpoints, and the sessions that serve them (`spec/services.md`).
//!
//! What a service should have is a row; [`upkeep`] makes it so, level-triggered: it compares services with their routes and
//! these with their sessions. App proxies learn where healthy sessions are: foreign ones are told ([`coordinator`]), our
//! own looks itself ([`table`]).

pub(crate) mod coordinator;
mod definition;
mod health;
mod metrics;
mod table;
pub(crate) mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use quarterdeck_model::service::RouteStatus;
use quarterdeck_model::vfolder::UsageMode;
use quarterdeck_model::{ClusterMode, EndpointId, RouteId, SessionType, UserRole};
use quarterdeck_store::endpoints::{self, EndpointRow, EndpointScope, NewEndpoint, RouteRow};
use quarterdeck_store::users;
use quarterdeck_store::vfolders::VfolderRow;
use serde_json::{Map, Value as Json};

use crate::enqueue::{CreateSession, SessionConfig};
use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::validate::integrity;
use crate::vfolders::{self, Viewer};
use crate::{Control, images, scaling_groups, scope};

pub use coordinator::version as proxy_version;
pub use health::Probes;
pub use metrics::ProxyMetrics;
pub use table::{follow, secret};

/// Where our own app proxy is reached: `wsproxy_addr` of scaling groups that use it.
pub const EMBEDDED: &str = "embedded";

/// A service may have so many sessions at most.
const MOST_SESSIONS: i64 = 1_000;

/// What a request for a service says. Validated for form; whether it makes sense is decided here.
#[derive(Clone, Debug)]
pub struct CreateService {
    /// Its name.
    pub name: String,
    /// How many sessions it is to have.
    pub desired_session_count: i64,
    /// The image: a reference or an alias.
    pub image: String,
    /// The image's architecture; the host's own when `None`.
    pub architecture: Option<String>,
    /// The project's name.
    pub project: String,
    /// The domain.
    pub domain: String,
    /// Kernels of a session.
    pub cluster_size: u32,
    /// Whether these share an agent.
    pub cluster_mode: ClusterMode,
    /// A mark of its owner's.
    pub tag: Option<String>,
    /// What its sessions run, unless the model's definition says.
    pub startup_command: Option<String>,
    /// Runs in each kernel first.
    pub bootstrap_script: Option<String>,
    /// Told about the lives of its sessions.
    pub callback_url: Option<String>,
    /// Whose service it will be.
    pub owner_access_key: Option<String>,
    /// Whether anybody may call it.
    pub open_to_public: bool,
    /// The folder with the model: its id or name.
    pub model: String,
    /// Where that appears.
    pub model_mount_destination: String,
    /// Environment variables.
    pub environ: IndexMap<String, String>,
    /// Where its sessions are to run.
    pub scaling_group: Option<String>,
    /// What each session asks for.
    pub resources: Map<String, Json>,
    /// Options such as `shmem`.
    pub resource_opts: Map<String, Json>,
}

/// A service with its routes.
#[derive(Clone, Debug)]
pub struct Found {
    /// The service.
    pub row: EndpointRow,
    /// Its routes, oldest first.
    pub routes: Vec<RouteRow>,
}

impl Found {
    /// The routes that get requests.
    pub fn active(&self) -> impl Iterator<Item = &RouteRow> {
        self.routes.iter().filter(|route| route.status == RouteStatus::Healthy)
    }
}

fn no_such_object() -> Error {
    Error::not_found("object")
}

/// The caller's own services, those included whose end was asked for.
///
/// # Errors
/// [`Error::Store`].
pub async fn list(control: &Control, caller: &Principal, name: Option<String>) -> Result<Vec<Found>> {
    let mut sql = control.store().reader();
    let scope = EndpointScope { owner: Some(caller.user_id), name, ..EndpointScope::default() };
    let rows = endpoints::select(&mut sql, &scope).await?;
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let mut routes: HashMap<EndpointId, Vec<RouteRow>> = HashMap::new();
    for route in endpoints::of_endpoints(&mut sql, &ids).await? {
        routes.entry(route.endpoint).or_default().push(route);
    }
    let found = |row: EndpointRow| Found { routes: routes.remove(&row.id).unwrap_or_default(), row };
    Ok(rows.into_iter().map(found).collect())
}

/// A service by its id, if the caller may look after it.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Forbidden`] when it is somebody else's.
pub async fn get(control: &Control, caller: &Principal, id: &str) -> Result<Found> {
    let id: EndpointId = id.parse().map_err(|_| no_such_object())?;
    let mut sql = control.store().reader();
    let row = endpoints::get(&mut sql, id).await?.ok_or_else(no_such_object)?;
    require_reach(control, caller, &row).await?;
    let routes = endpoints::of_endpoints(&mut sql, &[id]).await?;
    Ok(Found { row, routes })
}

/// Services are looked after by their owners, superadmins, and administrators of the owner's domain.
async fn require_reach(control: &Control, caller: &Principal, row: &EndpointRow) -> Result<()> {
    if caller.user_id == row.session_owner || caller.is_superadmin() {
        return Ok(());
    }
    if caller.role == UserRole::Admin {
        let owner = users::get(&mut control.store().reader(), row.session_owner).await?;
        if owner.is_some_and(|o| o.domain_name == caller.domain && o.role != UserRole::Superadmin) {
            return Ok(());
        }
    }
    Err(Error::Forbidden("The service belongs to somebody else.".to_owned()))
}

/// Makes a service; its sessions follow.
///
/// # Errors
/// Those of `spec/services.md` §2.1, in its order.
pub async fn create(control: &Control, caller: &Principal, request: CreateService) -> Result<EndpointId> {
    if !(0..=MOST_SESSIONS).contains(&request.desired_session_count) {
        return Err(Error::invalid(format!("The desired session count must be between 0 and {MOST_SESSIONS}.")));
    }
    let owner = scope::resolve_owner(control, caller, request.owner_access_key.as_deref()).await?;
    let group = group(control, &owner, &request).await?;
    let place = coordinator::of_group(control, &group).await?;
    let project = scope::check_domain_and_project(control, caller, &owner, &request.domain, &request.project).await?;
    let model = model(control, &owner, &request.model).await?;
    let architecture = request.architecture.as_deref().unwrap_or(std::env::consts::ARCH);
    let image = images::resolve(control, &request.image, architecture).await?;
    let definition = definition::of_folder(control, &model).await?;
    let environ = request.environ.clone();
    let row = EndpointRow {
        id: EndpointId::new(),
        name: request.name.clone(),
        created_user: caller.user_id,
        session_owner: owner.user_id,
        desired_session_count: request.desired_session_count,
        image: image.name.clone(),
        architecture: image.architecture.clone(),
        model: Some(model.id),
        model_mount_destination: request.model_mount_destination.clone(),
        domain_name: request.domain.clone(),
        project_id: project.id,
        scaling_group: group.name.clone(),
        tag: request.tag.clone(),
        startup_command: request.startup_command.clone(),
        bootstrap_script: request.bootstrap_script.clone(),
        callback_url: request.callback_url.clone(),
        environ,
        open_to_public: request.open_to_public,
        resource_slots: Json::Object(request.resources.clone()),
        resource_opts: Json::Object(request.resource_opts.clone()),
        cluster_mode: request.cluster_mode,
        cluster_size: i64::from(request.cluster_size),
        url: place.url_of(&request.name),
        definition,
        created_at: control.clock().now(),
        failures: 0,
        retry_at: None,
        status_info: None,
        told: None,
    };
    // What no session could ever be is refused now, not by the loop.
    crate::enqueue::rehearse(control, &owner, &session_request(&row, &project.name, &model.name)).await?;
    let id = row.id;
    let mut tx = control.store().begin().await?;
    match endpoints::insert(&mut tx, &NewEndpoint { row, image_id: image.id }).await.map_err(integrity) {
        Ok(()) => {}
        Err(Error::Integrity(_)) => {
            return Err(Error::invalid(format!("A service with the name {} exists already.", request.name)));
        }
        Err(error) => return Err(error),
    }
    endpoints::touch(&mut tx).await?;
    tx.commit().await?;
    control.signals().services.notify_one();
    Ok(id)
}

/// The scaling group of a new service: public ones first.
async fn group(
    control: &Control,
    owner: &Arc<Principal>,
    request: &CreateService,
) -> Result<quarterdeck_store::scaling_groups::ScalingGroupRow> {
    let project = match scope::check_domain_and_project(control, owner, owner, &request.domain, &request.project).await
    {
        Ok(project) => Some(project.id),
        // It is refused in its turn.
        Err(Error::InvalidParams { .. }) => None,
        Err(error) => return Err(error),
    };
    let wanted = request.scaling_group.as_deref();
    scaling_groups::choose_for(control, owner, project, wanted, SessionType::Inference, true).await
}

/// The model folder that a text means, by id first, then by name.
async fn model(control: &Control, owner: &Principal, text: &str) -> Result<VfolderRow> {
    let folders = vfolders::accessible(control, &Viewer::from(owner)).await?;
    let mut models = folders.into_iter().map(|seen| seen.row).filter(|row| row.usage_mode == UsageMode::Model);
    let id = text.parse().ok();
    let models: Vec<_> = models.by_ref().collect();
    let found = models.iter().find(|row| Some(row.id) == id).or_else(|| models.iter().find(|row| row.name == text));
    found.cloned().ok_or_else(|| Error::not_found_msg("virtual folder", "Cannot find model folder"))
}

/// The request for one more session of a service.
fn session_request(row: &EndpointRow, project: &str, model: &str) -> CreateSession {
    // A session's name is no longer than 64 characters; the id alone tells sessions apart.
    const NAME: usize = 64 - 1 - 36;
    let stem: String = row.name.chars().take(NAME).collect();
    let stem = stem.trim_end_matches(['-', '_', '.']);
    let mut environ = row.environ.clone();
    let mut preopen_ports = Vec::new();
    let mut startup_command = row.startup_command.clone();
    if let Some(service) = &row.definition {
        for (name, value) in &service.environ {
            environ.entry(name.clone()).or_insert_with(|| value.clone());
        }
        environ.entry("SERVICE_PORT".to_owned()).or_insert_with(|| service.port.to_string());
        preopen_ports.push(service.port);
        startup_command.get_or_insert_with(|| service.start_command.line());
    }
    let mut mount_map = IndexMap::new();
    mount_map.insert(model.to_owned(), row.model_mount_destination.clone());
    CreateSession {
        name: format!("{stem}-{}", uuid::Uuid::new_v4()),
        image: row.image.clone(),
        architecture: Some(row.architecture.clone()),
        kind: SessionType::Inference,
        project: project.to_owned(),
        domain: row.domain_name.clone(),
        cluster_size: u32::try_from(row.cluster_size).unwrap_or(1),
        cluster_mode: row.cluster_mode,
        config: SessionConfig {
            mounts: vec![model.to_owned()],
            mount_map,
            environ,
            scaling_group: Some(row.scaling_group.clone()),
            resources: Some(row.resource_slots.clone()),
            resource_opts: row.resource_opts.as_object().cloned().unwrap_or_default(),
            preopen_ports,
            ..SessionConfig::default()
        },
        tag: row.tag.clone(),
        enqueue_only: true,
        max_wait_s: 0,
        starts_at: None,
        reuse: false,
        startup_command,
        bootstrap_script: row.bootstrap_script.clone(),
        dependencies: Vec::new(),
        callback_url: row.callback_url.clone(),
        owner_access_key: None,
        priority: None,
        expected_duration_s: None,
        timeout_s: None,
        builds_images: false,
        nodes: Vec::new(),
        endpoint: Some(row.id),
    }
}

/// Changes how many sessions a service should have; how many routes there are now.
///
/// # Errors
/// As [`get`]; [`Error::InvalidParams`] for a number that can't be; [`Error::BadRequest`] when the service is on its way out.
pub async fn scale(control: &Control, caller: &Principal, id: &str, to: i64) -> Result<usize> {
    if to < 0 {
        return Err(Error::invalid("Amount of desired session count cannot be a negative number"));
    }
    if to > MOST_SESSIONS {
        return Err(Error::invalid(format!("A service can't have more than {MOST_SESSIONS} sessions.")));
    }
    let found = get(control, caller, id).await?;
    let mut tx = control.store().begin().await?;
    let row = endpoints::lock(&mut tx, found.row.id).await?.ok_or_else(no_such_object)?;
    if row.is_ending() {
        return Err(Error::BadRequest("The service is being deleted.".to_owned()));
    }
    endpoints::set_desired(&mut tx, row.id, to).await?;
    tx.commit().await?;
    control.signals().services.notify_one();
    Ok(found.routes.len())
}

/// Asks for a service's end. One without routes is gone at once.
///
/// # Errors
/// As [`get`].
pub async fn delete(control: &Control, caller: &Principal, id: &str) -> Result<()> {
    let found = get(control, caller, id).await?;
    let mut tx = control.store().begin().await?;
    endpoints::set_desired(&mut tx, found.row.id, -1).await?;
    endpoints::touch(&mut tx).await?;
    tx.commit().await?;
    if found.routes.is_empty() {
        upkeep::remove(control, &found.row).await?;
    }
    control.signals().services.notify_one();
    Ok(())
}

/// Tells the coordinator of a service's routes now.
///
/// # Errors
/// As [`get`]; [`Error::Unavailable`] when there is no coordinator, or it can't be told.
pub async fn sync(control: &Control, caller: &Principal, id: &str) -> Result<()> {
    let found = get(control, caller, id).await?;
    coordinator::push(control, &found.row).await
}

/// A token with which a service that isn't public can be called for a while.
///
/// # Errors
/// As [`get`]; [`Error::InvalidParams`] for a time that has no end; [`Error::Unavailable`] without a coordinator.
pub async fn token(control: &Control, caller: &Principal, id: &str, seconds: f64) -> Result<String> {
    /// A century.
    const LONGEST: f64 = 3.2e9;
    if !(seconds > 0.0 && seconds <= LONGEST) {
        return Err(Error::InvalidParams {
            msg: "The duration must be positive.".to_owned(),
            data: Some(serde_json::json!({ "duration": "must be positive" })),
        });
    }
    let found = get(control, caller, id).await?;
    let exp = control.clock().now().micros() / 1_000_000 + seconds.ceil() as i64;
    coordinator::token(control, &found.row, exp).await
}

async fn route(control: &Control, caller: &Principal, id: &str, route: &str) -> Result<(EndpointRow, RouteRow)> {
    let found = get(control, caller, id).await?;
    let route: RouteId = route.parse().map_err(|_| no_such_object())?;
    let route = found.routes.into_iter().find(|r| r.id == route).ok_or_else(no_such_object)?;
    Ok((found.row, route))
}

/// Sets a route's share of the requests.
///
/// # Errors
/// As [`get`].
pub async fn set_ratio(control: &Control, caller: &Principal, id: &str, route_id: &str, ratio: f64) -> Result<()> {
    let (row, route) = route(control, caller, id, route_id).await?;
    let mut tx = control.store().begin().await?;
    endpoints::set_ratio(&mut tx, route.id, ratio).await?;
    endpoints::touch(&mut tx).await?;
    tx.commit().await?;
    control.signals().routes.notify_one();
    // The change is made; the loop tells the coordinator again.
    if let Err(error) = coordinator::push(control, &row).await {
        tracing::warn!(%error, service = row.name, "the coordinator can't be told of a route's ratio");
    }
    Ok(())
}

/// Takes a route away: the service has one session less from then on.
///
/// # Errors
/// As [`get`]; [`Error::InvalidParams`] while its session is on its way.
pub async fn remove_route(control: &Control, caller: &Principal, id: &str, route_id: &str) -> Result<()> {
    let (row, route) = route(control, caller, id, route_id).await?;
    if route.status == RouteStatus::Provisioning {
        return Err(Error::invalid("Cannot remove route in PROVISIONING status"));
    }
    if route.status == RouteStatus::Terminating {
        return Ok(());
    }
    let now = control.clock().now();
    let mut tx = control.store().begin().await?;
    let row = endpoints::lock(&mut tx, row.id).await?.ok_or_else(no_such_object)?;
    let moved = endpoints::Moved { id: route.id, from: route.status, to: RouteStatus::Terminating };
    if endpoints::set_statuses(&mut tx, &[moved], now).await? > 0 && row.desired_session_count > 0 {
        endpoints::set_desired(&mut tx, row.id, row.desired_session_count - 1).await?;
    }
    endpoints::touch(&mut tx).await?;
    tx.commit().await?;
    control.signals().services.notify_one();
    control.signals().routes.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_model::service::{ServiceDefinition, StartCommand};
    use quarterdeck_model::{ProjectId, Timestamp, UserId};
    use serde_json::json;

    use super::*;

    #[test]
    fn sessions_are_named_after_their_service_and_run_what_the_model_says() {
        let mut row = EndpointRow {
            id: EndpointId::new(),
            name: "a-rather-long-name-of-a-service-that-serves".to_owned(),
            created_user: UserId::new(),
            session_owner: UserId::new(),
            desired_session_count: 1,
            image: "r/i:t".to_owned(),
            architecture: "x86_64".to_owned(),
            model: None,
            model_mount_destination: "/models".to_owned(),
            domain_name: "default".to_owned(),
            project_id: ProjectId::new(),
            scaling_group: "sg".to_owned(),
            tag: None,
            startup_command: None,
            bootstrap_script: None,
            callback_url: None,
            environ: IndexMap::from([("A".to_owned(), "own".to_owned())]),
            open_to_public: false,
            resource_slots: json!({"cpu": 1}),
            resource_opts: json!({}),
            cluster_mode: ClusterMode::SingleNode,
            cluster_size: 1,
            url: None,
            definition: Some(ServiceDefinition {
                start_command: StartCommand::List(vec!["serve".to_owned()]),
                port: 8000,
                environ: [("A".to_owned(), "theirs".to_owned()), ("B".to_owned(), "b".to_owned())].into(),
                health_check: None,
            }),
            created_at: Timestamp(0),
            failures: 0,
            retry_at: None,
            status_info: None,
            told: None,
        };
        let request = session_request(&row, "default", "folder");
        assert!(request.name.len() <= 64 && request.name.starts_with("a-rather-long-name-of-a-ser"));
        assert!(quarterdeck_model::session::is_valid_name(&request.name), "{}", request.name);
        assert_eq!(request.startup_command.as_deref(), Some("serve"));
        assert_eq!((request.config.environ["A"].as_str(), request.config.environ["B"].as_str()), ("own", "b"));
        assert_eq!(
            (request.config.environ["SERVICE_PORT"].as_str(), request.config.preopen_ports),
            ("8000", vec![8000])
        );
        assert_eq!(request.config.mount_map["folder"], "/models");
        row.startup_command = Some("other".to_owned());
        assert_eq!(session_request(&row, "default", "f").startup_command.as_deref(), Some("other"));
    }
}
