//! Clusters whose nodes differ, from a cluster template (`spec/session.md` §5).

use indexmap::IndexMap;
use quarterdeck_model::{ClusterMode, SessionType};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CreateSession, Created, SessionConfig, create};
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::templates::{self, TemplateKind};

/// Kernels of a cluster at most: a bound for one request.
const MAX_KERNELS: u32 = 1000;

/// The kernels of one role in a cluster whose roles differ.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    /// `main`, or whatever the template calls it.
    pub role: String,
    /// How many of them.
    pub replicas: u32,
    /// The image: a reference or an alias.
    pub image: String,
    /// The image's architecture; the host's own when `None`.
    pub architecture: Option<String>,
    /// Slot → amount.
    pub resources: Option<Value>,
    /// Environment variables beside the session's.
    pub environ: IndexMap<String, String>,
    /// Runs in each of them first.
    pub bootstrap_script: Option<String>,
}

/// What a request for a cluster says.
#[derive(Clone, Debug)]
pub struct CreateCluster {
    /// The session's name.
    pub name: String,
    /// The cluster template.
    pub template: Option<Uuid>,
    /// What it is for; what its main node's template says, when `None`.
    pub kind: Option<SessionType>,
    /// The project's name.
    pub project: String,
    /// The domain.
    pub domain: String,
    /// Where it is to be placed.
    pub scaling_group: Option<String>,
    /// A mark of its owner's.
    pub tag: Option<String>,
    /// Answer at once.
    pub enqueue_only: bool,
    /// How long to wait for the start; 0 = for ever.
    pub max_wait_s: u64,
    /// Whose session it will be.
    pub owner_access_key: Option<String>,
}

/// Enqueues the session that a cluster template describes, each node after its own session template.
///
/// # Errors
/// Those of [`create`]; [`Error::NotFound`] for templates that aren't there or out of the caller's sight;
/// [`Error::SessionAlreadyExists`] for a live session of that name.
pub async fn create_cluster(control: &Control, caller: &Principal, request: CreateCluster) -> Result<Created> {
    let id = request.template.map(|id| id.to_string()).unwrap_or_default();
    let owner = request.owner_access_key.as_deref();
    let template = templates::get(control, caller, TemplateKind::Cluster, &id, owner).await?;
    let mut nodes = Vec::new();
    for node in template.document["spec"]["nodes"].as_array().into_iter().flatten() {
        let session = node["session_template"].as_str().and_then(|id| Uuid::parse_str(id).ok());
        let session = session.ok_or_else(|| Error::invalid("A node names no session template."))?;
        let body = templates::request_of(control, caller, session).await?;
        let replicas = node["replicas"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        nodes.push((node["role"].as_str().unwrap_or_default().to_owned(), replicas, body));
    }
    create(control, caller, combine(request, &template.document, nodes)?).await
}

/// The request that a cluster template and those of its nodes come to.
fn combine(
    request: CreateCluster,
    template: &Value,
    mut nodes: Vec<(String, u32, Map<String, Value>)>,
) -> Result<CreateSession> {
    // The main kernel comes first, wherever its node stands.
    nodes.sort_by_key(|(role, ..)| role != "main");
    nodes.retain(|(_, replicas, _)| *replicas > 0);
    let cluster_size = nodes.iter().fold(0_u32, |sum, (_, replicas, _)| sum.saturating_add(*replicas));
    if cluster_size > MAX_KERNELS {
        return Err(Error::invalid(format!("A cluster can't have more than {MAX_KERNELS} kernels.")));
    }
    let Some((_, 1, main)) = nodes.first().filter(|(role, ..)| role == "main").cloned() else {
        return Err(Error::invalid("One and only one main node must be created per cluster"));
    };
    if let Some((role, ..)) = nodes.iter().find(|(role, ..)| !is_hostname(role)) {
        return Err(Error::invalid(format!("The role {role:?} can't be part of a host name.")));
    }
    let spec = &template["spec"];
    let mut config = SessionConfig {
        environ: texts(&spec["environ"]),
        scaling_group: request.scaling_group.or_else(|| text(&main["config"], "scaling_group")),
        ..SessionConfig::default()
    };
    mount(&mut config, spec["mounts"].as_object());
    let mut agents = Vec::new();
    for (_, replicas, body) in &nodes {
        let own = &body["config"];
        let listed = own["mounts"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let places = listed.map(|name| (name.to_owned(), own["mount_map"].get(name).cloned().unwrap_or_default()));
        mount(&mut config, Some(&places.collect()));
        let named = own["agent_list"].as_array().into_iter().flatten().filter_map(Value::as_str);
        agents.extend(named.take(*replicas as usize).map(str::to_owned));
    }
    config.agent_list = (!agents.is_empty()).then_some(agents);
    let kind = main.get("type").and_then(Value::as_str).and_then(SessionType::from_lower);
    let image = text(&Value::Object(main.clone()), "image").unwrap_or_default();
    Ok(CreateSession {
        name: request.name,
        image,
        architecture: main.get("arch").and_then(Value::as_str).map(str::to_owned),
        kind: request.kind.or(kind).unwrap_or(SessionType::Interactive),
        project: request.project,
        domain: request.domain,
        cluster_size,
        cluster_mode: match template["mode"].as_str() {
            Some("multi-node") => ClusterMode::MultiNode,
            _ => ClusterMode::SingleNode,
        },
        config,
        tag: request.tag.or_else(|| main.get("tag").and_then(Value::as_str).map(str::to_owned)),
        enqueue_only: request.enqueue_only,
        max_wait_s: request.max_wait_s,
        starts_at: None,
        reuse: false,
        startup_command: main.get("startupCommand").and_then(Value::as_str).map(str::to_owned),
        bootstrap_script: None,
        dependencies: Vec::new(),
        callback_url: None,
        owner_access_key: request.owner_access_key,
        priority: None,
        expected_duration_s: None,
        timeout_s: None,
        builds_images: false,
        endpoint: None,
        nodes: nodes.into_iter().map(node).collect(),
    })
}

fn node((role, replicas, body): (String, u32, Map<String, Value>)) -> ClusterNode {
    let member = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
    ClusterNode {
        role,
        replicas,
        image: member("image").unwrap_or_default(),
        architecture: member("arch"),
        resources: Some(body["config"]["resources"].clone()).filter(Value::is_object),
        environ: texts(&body["config"]["environ"]),
        bootstrap_script: member("bootstrap_script"),
    }
}

/// Host names are made of roles.
fn is_hostname(role: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=48).contains(&role.len()) && role.bytes().all(inner) && !role.starts_with('-')
}

/// Adds folders, with the places that they are given; the first one counts.
fn mount(config: &mut SessionConfig, mounts: Option<&Map<String, Value>>) {
    for (folder, place) in mounts.into_iter().flatten() {
        if config.mounts.contains(folder) {
            continue;
        }
        config.mounts.push(folder.clone());
        if let Some(place) = place.as_str().filter(|place| !place.is_empty()) {
            config.mount_map.insert(folder.clone(), place.to_owned());
        }
    }
}

fn text(object: &Value, key: &str) -> Option<String> {
    object.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn texts(object: &Value) -> IndexMap<String, String> {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    object.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), shown(value))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn request() -> CreateCluster {
        CreateCluster {
            name: "cluster".to_owned(),
            template: None,
            kind: None,
            project: "default".to_owned(),
            domain: "default".to_owned(),
            scaling_group: None,
            tag: None,
            enqueue_only: true,
            max_wait_s: 0,
            owner_access_key: None,
        }
    }

    fn body(image: &str, config: Value) -> Map<String, Value> {
        json!({"image": image, "arch": "x86_64", "type": "batch", "tag": "t", "startupCommand": "run", "config": config})
            .as_object()
            .unwrap()
            .clone()
    }

    #[test]
    fn nodes_come_together() {
        let template = json!({
            "mode": "multi-node",
            "spec": {"environ": {"A": "1", "N": 5}, "mounts": {"data": "/data"}},
        });
        let nodes = vec![
            ("worker".to_owned(), 2, body("w", json!({"environ": {"B": "2"}, "mounts": ["data", "more"]}))),
            ("main".to_owned(), 1, body("m", json!({"resources": {"cpu": 2}, "scaling_group": "sg"}))),
        ];
        let made = combine(request(), &template, nodes).unwrap();
        assert_eq!((made.image.as_str(), made.cluster_size, made.cluster_mode), ("m", 3, ClusterMode::MultiNode));
        assert_eq!((made.kind, made.startup_command.as_deref()), (SessionType::Batch, Some("run")));
        assert_eq!((made.tag.as_deref(), made.config.scaling_group.as_deref()), (Some("t"), Some("sg")));
        assert_eq!((&made.config.environ["A"], &made.config.environ["N"]), (&"1".to_owned(), &"5".to_owned()));
        assert_eq!(made.config.mounts, ["data", "more"]);
        assert_eq!(made.config.mount_map["data"], "/data");
        let roles: Vec<_> = made.nodes.iter().map(|n| (n.role.as_str(), n.replicas, n.image.as_str())).collect();
        assert_eq!(roles, [("main", 1, "m"), ("worker", 2, "w")]);
        assert_eq!(made.nodes[1].environ["B"], "2");
        assert!(!made.reuse && made.config.agent_list.is_none());
    }

    #[test]
    fn what_makes_no_cluster_is_refused() {
        let template = json!({"mode": "single-node", "spec": {}});
        let node = |role: &str, replicas| (role.to_owned(), replicas, body("i", json!({})));
        for nodes in [
            vec![],
            vec![node("worker", 1)],
            vec![node("main", 2)],
            vec![node("main", 0)],
            vec![node("main", 1), node("wor ker", 1)],
            vec![node("main", 1), node("worker", u32::MAX)],
        ] {
            assert!(matches!(combine(request(), &template, nodes), Err(Error::InvalidParams { .. })));
        }
    }
}
