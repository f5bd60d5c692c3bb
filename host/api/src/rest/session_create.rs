//! `POST /session`: the parameters of a new session, as each API version writes them.

use quarterdeck_control::enqueue::{self, CreateCluster, CreateSession, Created, SessionConfig};
use quarterdeck_model::session::RESERVED_NAME;
use quarterdeck_model::{ClusterMode, SessionType};
use serde_json::{Value, json};

use super::templates;
use crate::call::{Answer, Call, created};
use crate::params::kinds::{boolish, coerced_int, int, list, map, member, nullable, number, object, text, url, uuid};
use crate::params::{Fault, Params};
use crate::version::Version;
use crate::wire::{INVALID_API_PARAMS, Problem};

/// `POST /session` and `POST /session/_/create`
pub(super) async fn create(mut call: Call) -> Answer {
    let params = call.params().await?;
    let version = call.version();
    Box::pin(enqueue(call, params, version)).await
}

/// `POST /session/_/create-from-template`
pub(super) async fn create_from_template(mut call: Call) -> Answer {
    let params = templates::filled_in(&mut call).await?;
    // Filled in, a request is written as the newest version writes it.
    Box::pin(enqueue(call, params, Version::NEWEST)).await
}

/// `POST /session/_/create-cluster`
pub(super) async fn create_cluster(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let request = CreateCluster {
        name: params.required(&["clientSessionToken", "name"], session_name),
        template: params.required(&["template_id", "templateId"], nullable(uuid)),
        kind: params.optional(&["type", "sessionType"], None, |v| session_type(v).map(Some)),
        project: params.optional(&["group", "groupName", "group_name"], "default".to_owned(), text),
        domain: params.optional(&["domain", "domainName", "domain_name"], "default".to_owned(), text),
        scaling_group: params.optional(&["scaling_group", "scalingGroup"], None, nullable(text)),
        tag: params.optional(&["tag"], None, nullable(text)),
        enqueue_only: params.optional(&["enqueueOnly"], false, boolish),
        max_wait_s: params.optional(&["maxWaitSeconds"], 0, |v| int(0..=i64::from(u32::MAX))(v).map(i64::unsigned_abs)),
        owner_access_key: params.optional(&["owner_access_key"], None, nullable(text)),
    };
    params.finish()?;
    let caller = call.caller()?;
    let session = enqueue::create_cluster(call.control(), &caller, request).await?;
    created(&json!({
        "kernelId": session.session_id.to_string(),
        "sessionId": session.session_id.to_string(),
        "sessionName": session.name,
        "status": session.status,
        "servicePorts": session.service_ports,
        "created": session.created,
    }))
}

async fn enqueue(call: Call, mut params: Params, version: Version) -> Answer {
    let request = read(&mut params, version);
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

/// The parameters of a new session.
pub(super) fn read(params: &mut Params, version: Version) -> CreateSession {
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
        builds_images: false,
        nodes: Vec::new(),
        endpoint: None,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn version(major: u32, revision: &'static str) -> Version {
        Version { major, revision, named: None }
    }

    fn parse(version: Version, body: Value) -> Result<CreateSession, Problem> {
        let mut params = Params::from_body(body.to_string().as_bytes(), false)?;
        let request = read(&mut params, version);
        params.finish()?;
        Ok(request)
    }

    const V6: Version = Version { major: 6, revision: "20230315", named: None };

    #[test]
    fn old_spellings_mean_the_same() {
        let new = parse(
            V6,
            json!({"name": "sess-1", "image": "i", "group": "g", "domain": "d", "clusterSize": 2, "type": "batch"}),
        );
        let old = parse(
            V6,
            json!({"clientSessionToken": "sess-1", "lang": "i", "groupName": "g", "domain_name": "d", "cluster_size": "2", "sessionType": "batch"}),
        );
        assert_eq!(format!("{:?}", new.unwrap()), format!("{:?}", old.unwrap()));
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let request = parse(V6, json!({"name": "sess-1", "image": "i"})).unwrap();
        assert_eq!((request.project.as_str(), request.domain.as_str()), ("default", "default"));
        assert_eq!((request.cluster_size, request.cluster_mode), (1, ClusterMode::SingleNode));
        assert_eq!((request.kind, request.reuse, request.enqueue_only), (SessionType::Interactive, true, false));
        assert!(request.config.resources.is_none() && request.config.agent_list.is_none());
        let empty = parse(V6, json!({"name": "sess-1", "image": "i", "config": {"agent_list": []}})).unwrap();
        assert_eq!(empty.config.agent_list, Some(Vec::new()));
    }

    #[test]
    fn each_version_has_its_config() {
        let with = |config: Value| json!({"name": "sess-1", "image": "i", "config": config});
        let v5 = version(5, "20191215");
        let (v4, v4_old) = (version(4, "20190615"), version(4, "20190115"));
        assert_eq!(parse(v5, with(json!({"clusterSize": 3}))).unwrap().cluster_size, 3);
        assert_eq!(parse(v4, with(json!({"cluster_size": 3}))).unwrap().cluster_size, 3);
        let old = parse(v4_old, with(json!({"instanceCores": 2, "instanceMemory": 1.5}))).unwrap();
        assert_eq!(old.config.instance_cores, Some(2));
        for (version, config) in [
            (V6, json!({"clusterSize": 3})),
            (V6, json!({"instanceCores": 2})),
            (v5, json!({"agent_list": ["i-a"]})),
            (v4, json!({"mount_map": {}})),
            (v4, json!({"preopen_ports": []})),
            (v4_old, json!({"resources": {}})),
        ] {
            assert!(parse(version, with(config.clone())).is_err(), "{version:?} {config}");
        }
    }

    #[test]
    fn the_extension_is_checked() {
        let with = |extension: Value| json!({"name": "sess-1", "image": "i", "quarterdeck": extension});
        let request = parse(V6, with(json!({"priority": -5, "timeout": 1.5}))).unwrap();
        assert_eq!((request.priority, request.timeout_s, request.expected_duration_s), (Some(-5), Some(1.5), None));
        for bad in [json!({"priority": 1001}), json!({"timeout": -1}), json!({"bogus": 1}), json!(5)] {
            assert!(parse(V6, with(bad.clone())).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_ports_and_types_are_checked() {
        for change in [
            json!({"name": "ab"}),
            json!({"name": "-abcd"}),
            json!({"type": "BATCH"}),
            json!({"group": null}),
            json!({"maxWaitSeconds": -1}),
            json!({"cluster_size": 2.5}),
            json!({"callback_url": "nowhere"}),
            json!({"config": {"preopen_ports": [80]}}),
            json!({"config": {"environ": {"A": ""}}}),
        ] {
            let mut body = json!({"name": "sess-1", "image": "i"});
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            assert!(parse(V6, body).is_err(), "{change}");
        }
    }
}
