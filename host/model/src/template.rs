//! Templates of sessions and clusters: documents that are kept in one normal form.
//!
//! Aliases take their first name, what is left out its default; values stay as they were written.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::session;

/// Why a document is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It isn't of the form.
    #[error("{0}")]
    Form(String),
    /// It is, and breaks a rule. For the user.
    #[error("{0}")]
    Rule(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    #[serde(alias = "apiVersion")]
    api_version: String,
    kind: TaskKind,
    metadata: TaskMetadata,
    spec: TaskSpec,
}

#[derive(Serialize, Deserialize)]
enum TaskKind {
    #[serde(rename = "taskTemplate")]
    Camel,
    #[serde(rename = "task_template")]
    Snake,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskMetadata {
    name: String,
    #[serde(default)]
    tag: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskSpec {
    #[serde(default = "interactive", alias = "type", alias = "sessionType")]
    session_type: Kind,
    kernel: Kernel,
    #[serde(default)]
    scaling_group: Option<String>,
    #[serde(default)]
    mounts: Map<String, Value>,
    #[serde(default)]
    resources: Option<Map<String, Value>>,
    #[serde(default, alias = "agentList")]
    agent_list: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Interactive,
    Batch,
    Inference,
}

fn interactive() -> Kind {
    Kind::Interactive
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kernel {
    image: String,
    #[serde(default = "x86_64")]
    architecture: String,
    #[serde(default)]
    environ: Map<String, Value>,
    #[serde(default)]
    run: Option<Run>,
    #[serde(default)]
    git: Option<Git>,
}

fn x86_64() -> String {
    "x86_64".to_owned()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    #[serde(default)]
    bootstrap: Option<String>,
    #[serde(default, alias = "startup", alias = "startupCommand")]
    startup_command: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Git {
    repository: String,
    #[serde(default)]
    commit: Option<String>,
    #[serde(default)]
    branch: Option<String>,
    #[serde(default)]
    credential: Option<Credential>,
    #[serde(default, alias = "destination_dir", alias = "destinationDir")]
    dest_dir: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Credential {
    username: String,
    password: String,
}

/// The normal form of a session's template. Other keys at the top are kept.
///
/// # Errors
/// [`TemplateError`].
pub fn task(document: &Value) -> Result<Value, TemplateError> {
    const KEYS: &[&str] = &["api_version", "apiVersion", "kind", "metadata", "spec"];
    let Value::Object(document) = document else { return Err(not_an_object()) };
    let (known, extra): (Map<_, _>, Map<_, _>) =
        document.clone().into_iter().partition(|(key, _)| KEYS.contains(&key.as_str()));
    let task: Task = form(Value::Object(known))?;
    for (name, value) in &task.spec.kernel.environ {
        if !value.is_string() {
            return Err(TemplateError::Form(format!("spec.kernel.environ.{name}: value is not a string")));
        }
    }
    check_mounts(&task.spec.mounts)?;
    let mut normal = normal(&task)?;
    if let Value::Object(normal) = &mut normal {
        normal.extend(extra);
    }
    Ok(normal)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    #[serde(alias = "apiVersion")]
    api_version: String,
    kind: ClusterKind,
    mode: Mode,
    metadata: ClusterMetadata,
    spec: ClusterSpec,
}

#[derive(Serialize, Deserialize)]
enum ClusterKind {
    #[serde(rename = "clusterTemplate")]
    Camel,
    #[serde(rename = "cluster_template")]
    Snake,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    SingleNode,
    MultiNode,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterMetadata {
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterSpec {
    #[serde(default)]
    environ: Map<String, Value>,
    #[serde(default)]
    mounts: Map<String, Value>,
    nodes: Vec<Node>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    role: String,
    #[serde(alias = "sessionTemplate")]
    session_template: Uuid,
    #[serde(default = "one")]
    replicas: u32,
}

fn one() -> u32 {
    1
}

/// The normal form of a cluster's template.
///
/// # Errors
/// [`TemplateError`].
pub fn cluster(document: &Value) -> Result<Value, TemplateError> {
    if !document.is_object() {
        return Err(not_an_object());
    }
    let cluster: Cluster = form(document.clone())?;
    let nodes = &cluster.spec.nodes;
    for (index, node) in nodes.iter().enumerate() {
        if nodes[..index].iter().any(|other| other.role == node.role) {
            return Err(TemplateError::Rule("Each role can only be defined once".to_owned()));
        }
    }
    if !nodes.iter().any(|node| node.role == "main" && node.replicas == 1) {
        return Err(TemplateError::Rule("One and only one main node must be created per cluster".to_owned()));
    }
    check_mounts(&cluster.spec.mounts)?;
    normal(&cluster)
}

/// The name that a template gives itself.
pub fn name(document: &Value) -> &str {
    document["metadata"]["name"].as_str().unwrap_or_default()
}

fn form<T: serde::de::DeserializeOwned>(document: Value) -> Result<T, TemplateError> {
    serde_json::from_value(document).map_err(|e| TemplateError::Form(e.to_string()))
}

fn normal<T: Serialize>(template: &T) -> Result<Value, TemplateError> {
    serde_json::to_value(template).map_err(|e| TemplateError::Form(e.to_string()))
}

fn not_an_object() -> TemplateError {
    TemplateError::Form("value is not a dict".to_owned())
}

fn check_mounts(mounts: &Map<String, Value>) -> Result<(), TemplateError> {
    let home = format!("{}/", session::HOME);
    for (folder, target) in mounts {
        let target = match target {
            Value::Null => continue,
            Value::String(path) => path,
            _ => return Err(TemplateError::Form(format!("mounts.{folder}: value is not a string"))),
        };
        let path = target.strip_prefix(&home).unwrap_or(target);
        if session::is_reserved_path(path) {
            return Err(TemplateError::Rule(format!("Path {path} is reserved for internal operations.")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_template_takes_its_normal_form() {
        let normal = task(&json!({
            "apiVersion": "v1", "kind": "task_template", "metadata": {"name": "n"}, "note": 5,
            "spec": {"type": "batch", "kernel": {"image": "i", "run": {"startup": "ls"}}, "agentList": ["a"]},
        }));
        assert_eq!(
            normal.unwrap(),
            json!({
                "api_version": "v1", "kind": "task_template", "metadata": {"name": "n", "tag": null},
                "spec": {
                    "session_type": "batch",
                    "kernel": {
                        "image": "i", "architecture": "x86_64", "environ": {},
                        "run": {"bootstrap": null, "startup_command": "ls"}, "git": null,
                    },
                    "scaling_group": null, "mounts": {}, "resources": null, "agent_list": ["a"],
                },
                "note": 5,
            })
        );
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let good = json!({"api_version": "v1", "kind": "taskTemplate", "metadata": {"name": "n"}, "spec": {"kernel": {"image": "i"}}});
        assert!(task(&good).is_ok());
        let edits: [fn(&mut Value); 7] = [
            |d| d["spec"]["bogus"] = json!(1),
            |d| d["spec"]["kernel"]["bogus"] = json!(1),
            |d| d["metadata"]["bogus"] = json!(1),
            |d| d["kind"] = json!("clusterTemplate"),
            |d| d["spec"]["kernel"]["environ"] = json!({"A": 1}),
            |d| d["spec"]["kernel"] = json!({}),
            |d| d["spec"]["session_type"] = json!("BATCH"),
        ];
        for edit in edits {
            let mut document = good.clone();
            edit(&mut document);
            assert!(matches!(task(&document), Err(TemplateError::Form(_))), "{document}");
        }
        for (target, path) in [("/home/work/.ssh", ".ssh"), ("/etc", "/etc"), (".bashrc", ".bashrc")] {
            let mut document = good.clone();
            document["spec"]["mounts"] = json!({"f": target});
            let refusal = format!("Path {path} is reserved for internal operations.");
            assert_eq!(task(&document), Err(TemplateError::Rule(refusal)));
        }
    }

    #[test]
    fn a_cluster_has_one_main_node() {
        let id = Uuid::new_v4();
        let with = |nodes: Value| {
            cluster(
                &json!({"apiVersion": "v1", "kind": "clusterTemplate", "mode": "multi-node", "metadata": {"name": "c"}, "spec": {"nodes": nodes}}),
            )
        };
        let normal = with(json!([{"role": "main", "sessionTemplate": id.simple().to_string()}])).unwrap();
        assert_eq!(
            normal["spec"]["nodes"],
            json!([{"role": "main", "session_template": id.to_string(), "replicas": 1}])
        );
        assert_eq!((&normal["mode"], name(&normal)), (&json!("multi-node"), "c"));
        for bad in [
            json!([{"role": "worker", "session_template": id}]),
            json!([{"role": "main", "session_template": id}, {"role": "main", "session_template": id}]),
            json!([{"role": "main", "session_template": id, "replicas": 2}]),
        ] {
            assert!(matches!(with(bad), Err(TemplateError::Rule(_))));
        }
        assert!(matches!(with(json!([{"role": "main", "session_template": "x"}])), Err(TemplateError::Form(_))));
    }
}
