//! `/image/import`: foreign images become ones that sessions can start from.

use quarterdeck_control::images::import::{self, CPU_COUNT_VARIABLES, ImportImage};
use quarterdeck_model::size;
use serde_json::{Value, json};

use crate::call::{Answer, Call, ok};
use crate::params::kinds::{int, list, object, one_of, text};
use crate::params::{Fault, Params};
use crate::route::Access::Admin;
use crate::route::Gate::{Reads, Writes};
use crate::route::{Route, get, post};

const DISTROS: &[&str] = &["ubuntu", "centos"];
const RUNTIMES: &[&str] = &["python"];
const PROTOCOLS: &[&str] = &["http", "tcp", "pty"];
/// Services that the form offers, and their ports.
const SERVICES: &[(&str, u16)] = &[
    ("jupyter", 8080),
    ("jupyterlab", 8090),
    ("tensorboard", 6006),
    ("digits", 5000),
    ("vscode", 8180),
    ("h2o-dai", 12345),
];
/// 64 MiB
const LEAST: u64 = 64 << 20;

pub(crate) fn routes() -> Vec<Route> {
    vec![get("/image/import", Admin, Reads, form), post("/image/import", Admin, Writes, start)]
}

/// What a client asks its user for.
async fn form(call: Call) -> Answer {
    let caller = call.caller()?;
    let choices = import::choices(call.control(), &caller).await?;
    let templates: Vec<_> =
        SERVICES.iter().map(|(name, port)| json!({"name": name, "protocol": "http", "ports": [port]})).collect();
    ok(&json!({"fieldGroups": [
        {"name": "Import options", "fields": [
            {"name": "src", "type": "string", "label": "Source image", "placeholder": "index.docker.io/lablup/tensorflow:2.0-source",
             "help": "The full name of the image to import."},
            {"name": "target", "type": "string", "label": "Target image", "placeholder": "index.docker.io/lablup/tensorflow:2.0-target",
             "help": "The full name of the image to make. Its registry must be one of the configured ones."},
            {"name": "brand", "type": "string", "label": "Name", "placeholder": "TensorFlow 2.0",
             "help": "What people call the image."},
            {"name": "baseDistro", "type": "choice", "choices": DISTROS, "default": DISTROS[0], "label": "Base system",
             "help": "The distribution that the source image is made of."},
            {"name": "minCPU", "type": "number", "min": 1, "default": 1, "label": "Least cores",
             "help": "Cores that a session of the image needs at least."},
            {"name": "minMemory", "type": "binarysize", "min": "64m", "default": "64m", "label": "Least memory",
             "help": "Memory that a session of the image needs at least."},
            {"name": "preferredSharedMemory", "type": "binarysize", "min": "64m", "default": "64m",
             "label": "Shared memory", "help": "Shared memory of a session that doesn't ask for another amount."},
            {"name": "supportedAccelerators", "type": "multichoice[str]", "choices": ["cuda"], "default": "cuda",
             "label": "Accelerators", "help": "Accelerators that programs in the image can use."},
            {"name": "runtimeType", "type": "choice", "choices": RUNTIMES, "label": "Runtime",
             "help": "The kind of interpreter that runs users' code."},
            {"name": "runtimePath", "type": "string", "default": "/usr/local/bin/python",
             "placeholder": "/usr/local/bin/python", "label": "Path of the runtime",
             "help": "Where that interpreter is in the image."},
            {"name": "CPUCountEnvs", "type": "list[string]", "default": CPU_COUNT_VARIABLES,
             "label": "Variables for the number of cores",
             "help": "Environment variables that tell programs how many cores they have."},
            {"name": "servicePorts", "type": "multichoice[template]", "templates": templates, "label": "Services",
             "help": "Services that the image offers, and their ports."},
        ]},
        {"name": "Import Task Options", "help": "Where the image is built.", "fields": [
            {"name": "group", "type": "choice", "choices": choices.projects, "label": "Group",
             "help": "The group of the session that builds the image."},
            {"name": "scalingGroup", "type": "choice", "choices": choices.scaling_groups, "label": "Scaling group",
             "help": "The scaling group of the session that builds the image."},
        ]},
    ]}))
}

async fn start(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    params.allow_extra();
    let launch = params.nested(&["launchOptions"], |launch| {
        launch.allow_extra();
        (
            launch.optional(&["scalingGroup"], "default".to_owned(), text),
            launch.optional(&["group"], "default".to_owned(), text),
        )
    });
    let import = ImportImage {
        source: params.required(&["src"], text),
        target: params.required(&["target"], text),
        architecture: params.optional(&["architecture"], None, |value| text(value).map(Some)),
        project: launch.1,
        scaling_group: launch.0,
        brand: params.required(&["brand"], text),
        distro: params.required(&["baseDistro"], one_of(DISTROS, "baseDistro")),
        least_cpu: params.optional(&["minCPU"], 1, int(1..=i64::from(u32::MAX))),
        least_memory: params.optional(&["minMemory"], LEAST, bytes),
        shared_memory: params.optional(&["preferredSharedMemory"], LEAST, bytes),
        accelerators: params.required(&["supportedAccelerators"], list(text)),
        runtime_type: params.required(&["runtimeType"], one_of(RUNTIMES, "runtimeType")),
        runtime_path: params.required(&["runtimePath"], text),
        services: params.optional(&["servicePorts"], Vec::new(), list(service)),
    };
    // Images tell their programs the number of cores by the usual variables, whatever these are.
    let _: Vec<String> = params.required(&["CPUCountEnvs"], list(text));
    params.finish()?;
    let caller = call.caller()?;
    let task = import::start(call.control(), &caller, import).await?;
    ok(&json!({"importTask": {"sessionId": task.session, "taskId": task.task}}))
}

/// A size, however it is written.
fn bytes(value: Value) -> Result<u64, Fault> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    size::parse_u64(&text).map_err(|_| "value is not a valid binary size".into())
}

fn service(value: Value) -> Result<(String, &'static str, Vec<u16>), Fault> {
    let mut params = Params::new(object(value)?);
    let name = params.required(&["name"], text);
    let protocol = params.required(&["protocol"], one_of(PROTOCOLS, "protocol"));
    let ports: Vec<u16> = params.required(&["ports"], |value| {
        let ports = list(int(1..=65535))(value)?;
        if ports.is_empty() {
            return Err("list length is less than 1".into());
        }
        Ok(ports.into_iter().map(|port| u16::try_from(port).unwrap_or(u16::MAX)).collect())
    });
    let faults = params.into_faults();
    if faults.is_empty() { Ok((name, protocol, ports)) } else { Err(Value::Object(faults)) }
}
