//! `POST /session`: the parameters of a new session, as each API version writes them.

use quarterdeck_control::enqueue::{self, CreateSession, Created, SessionConfig};
use quarterdeck_model::session::RESERVED_NAME;
use quarterdeck_model::{ClusterMode, SessionType};
use serde_json::{Value, json};

use crate::call::{Answer, Call, created};
use crate::params::kinds::{boolish, coerced_int, int, list, map, member, nullable, number, object, text, url};
use crate::params::{Fault, Params};
use crate::version::Version;
use crate::wire::{INVALID_API_PARAMS, Problem};

/// `POST /session` and `POST /session/_/create`
pub(super) async fn create(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let request = read(&mut params, call.version());
    params.finish()?;
    if request.name == RESERVED_NAME {
        let msg = format!("Requested session ID {RESERVED_NAME} is reserved word");
        return Err(Problem::new(INVALID_API_PARAMS).msg(msg));
    }
    let caller = call.caller()?;
    let session = enqueue::create(call.control(), &caller, request).await?;
    created(&document(&session))
}

fn document(session: &Created) -> Value {
    let mut document = json!({
        "sessionId": session.session_id.to_string(),
        "sessionName": session.name,
        "status": session.status,
        "servicePorts": session.service_ports,
        "created": session.created,
    });
    if !session.created {
        // How old releases told the ports of a session that existed already.
        document["service_ports"] = session.raw_service_ports.clone();
    }
    document
}

fn read(params: &mut Params, version: Version) -> CreateSession {
    let (config, old_cluster_size) = params.nested(&["config"], |config| read_config(config, version));
    let cluster_size = params.optional(&["cluster_size", "clusterSize"], None, |v| cluster_size(v).map(Some));
    let extension = params.nested(&["quarterdeck"], read_extension);
    CreateSession {
        name: params.required(&["name", "clientSessionToken"], session_name),
        image: params.required(&["image", "lang"], text),
        architecture: params.optional(&["arch", "architecture"], None, |v| text(v).map(Some)),
        kind: params.optional(&["type", "sessionType"], SessionType::Interactive, session_type),
        project: params.optional(&["group", "groupName", "group_name"], "default".to_owned(), text),
        domain: params.optional(&["domain", "domainName", "domain_name"], "default".to_owned(), text),
        cluster_size: cluster_size.or(old_cluster_size).unwrap_or(1),
        cluster_mode: params.optional(&["cluster_mode", "clusterMode"], ClusterMode::SingleNode, member("ClusterMode")),
        config,
        tag: params.optional(&["tag"], None, nullable(text)),
        enqueue_only: params.optional(&["enqueueOnly"], false, boolish),
        max_wait_s: params
            .optional(&["maxWaitSeconds"], 0, |v| coerced_int(0..=i64::from(u32::MAX))(v).map(i64::unsigned_abs)),
        starts_at: params.optional(&["starts_at", "startsAt"], None, nullable(text)),
        reuse: params.optional(&["reuseIfExists"], true, boolish),
        startup_command: params.optional(&["startupCommand"], None, nullable(text)),
        bootstrap_script: params.optional(&["bootstrap_script", "bootstrapScript"], None, nullable(text)),
        dependencies: params.optional(&["dependencies"], None, nullable(list(text))).unwrap_or_default(),
        callback_url: params.optional(&["callback_url", "callbackUrl", "callbackURL"], None, nullable(url)),
        owner_access_key: params.optional(&["owner_access_key"], None, nullable(text)),
        priority: extension.priority,
        expected_duration_s: extension.expected_duration_s,
        timeout_s: extension.timeout_s,
    }
}

/// The names that `quarterdeck_model` allows.
pub(super) fn session_name(value: Value) -> Result<String, Fault> {
    let name = text(value)?;
    if quarterdeck_model::session::is_valid_name(&name) {
        Ok(name)
    } else {
        Err("value does not match the pattern of session names".into())
    }
}

/// As requests write it: lower-case.
fn session_type(value: Value) -> Result<SessionType, Fault> {
    let found = value.as_str().and_then(SessionType::from_lower);
    found.ok_or_else(|| "value is not a valid member of SessionTypes".into())
}

fn cluster_size(value: Value) -> Result<u32, Fault> {
    coerced_int(1..=i64::from(u32::MAX))(value).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// What the reference's requests have no words for.
#[derive(Default)]
struct Extension {
    priority: Option<i64>,
    expected_duration_s: Option<f64>,
    timeout_s: Option<f64>,
}

fn read_extension(params: &mut Params) -> Extension {
    Extension {
        priority: params.optional(&["priority"], None, nullable(int(-1000..=1000))),
        expected_duration_s: params.optional(&["expected_duration"], None, nullable(seconds)),
        timeout_s: params.optional(&["timeout"], None, nullable(seconds)),
    }
}

fn seconds(value: Value) -> Result<f64, Fault> {
    let seconds = number(value)?;
    if seconds < 0.0 { Err("value is less than 0".into()) } else { Ok(seconds) }
}

/// The `config` object, whose members depend on the API version; and the cluster size that versions
/// before 6 have in there.
fn read_config(params: &mut Params, version: Version) -> (SessionConfig, Option<u32>) {
    let mut config = SessionConfig {
        mounts: params.optional(&["mounts"], None, nullable(list(text))).unwrap_or_default(),
        environ: params.optional(&["environ"], None, nullable(map(text))).unwrap_or_default(),
        ..SessionConfig::default()
    };
    let old_cluster_size = match version.major {
        0..=3 => params.optional(&["clusterSize"], None, nullable(cluster_size)),
        4 => params.optional(&["cluster_size", "clusterSize"], None, nullable(cluster_size)),
        5 => params.optional(&["clusterSize"], None, nullable(cluster_size)),
        _ => None,
    };
    if version.major < 4 || (version.major == 4 && version.revision < "20190315") {
        config.instance_memory = params.optional(&["instanceMemory"], None, nullable(Ok));
        config.instance_cores = params.optional(&["instanceCores"], None, nullable(int(0..=i64::MAX)));
        config.instance_gpus = params.optional(&["instanceGPUs"], None, nullable(number));
        config.instance_tpus = params.optional(&["instanceTPUs"], None, nullable(int(0..=i64::MAX)));
        return (config, old_cluster_size);
    }
    config.scaling_group = params.optional(&["scaling_group", "scalingGroup"], None, nullable(text));
    config.resources = params.optional(&["resources"], None, nullable(object)).map(Value::Object);
    config.resource_opts =
        params.optional(&["resource_opts", "resourceOpts"], None, nullable(object)).unwrap_or_default();
    if version.major >= 5 {
        config.mount_map = params.optional(&["mount_map", "mountMap"], None, nullable(map(text))).unwrap_or_default();
        config.preopen_ports =
            params.optional(&["preopen_ports", "preopenPorts"], None, nullable(list(port))).unwrap_or_default();
    }
    if version.major >= 6 {
        config.agent_list = params.optional(&["agent_list", "agentList"], None, nullable(list(text)));
    }
    (config, old_cluster_size)
}

fn port(value: Value) -> Result<u16, Fault> {
    int(1024..=65535)(value).map(|n| u16::try_from(n).unwrap_or(u16::MAX))
}
