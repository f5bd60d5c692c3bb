//! `quarterdeck dry-run`: would a session start now?

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use hyper::Method;
use serde_json::{Map, Value as Json, json};

use super::why;
use crate::client::{ApiClient, EndpointArgs};
use crate::table;

/// What the command ends with when the session would not start now.
const WOULD_WAIT: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct DryRunArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// A request as `POST /session` takes it: a JSON file; what else is given here goes over it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The image: a reference or an alias
    #[arg(long, required_unless_present = "file")]
    image: Option<String>,
    /// Its architecture; the server's own without it
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// What it asks for, such as cpu=2,mem=4g
    #[arg(long, value_name = "SLOT=AMOUNT,…", value_delimiter = ',')]
    resources: Vec<String>,
    /// interactive, batch or inference
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The command of a batch session
    #[arg(long)]
    startup_command: Option<String>,
    /// The project
    #[arg(long, visible_alias = "group")]
    project: Option<String>,
    /// The domain
    #[arg(long)]
    domain: Option<String>,
    /// The scaling group
    #[arg(long, value_name = "GROUP")]
    scaling_group: Option<String>,
    /// How many kernels
    #[arg(long, value_name = "N")]
    cluster_size: Option<u32>,
    /// single-node or multi-node
    #[arg(long, value_name = "MODE")]
    cluster_mode: Option<String>,
    /// From -1000 to 1000
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i64>,
    /// Before all sessions that wait, instead of behind them
    #[arg(long)]
    ahead: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Ends with 0 when the session would start now, with 3 when it would wait.
pub(crate) async fn run(args: DryRunArgs) -> anyhow::Result<ExitCode> {
    let body = body(&args)?;
    let answer = ApiClient::new(&args.endpoint)?.call(Method::POST, "/plugins/dry-run", Some(&body)).await?;
    if args.json {
        table::json(&answer)?;
    } else {
        table::text(&[why::text(&answer, "summary")])?;
        let kernels = answer["kernels"].as_array().cloned().unwrap_or_default();
        if !kernels.is_empty() {
            let rows = kernels.iter().map(|k| vec![why::text(k, "name"), why::text(k, "agent"), why::text(k, "image")]);
            table::print(&["KERNEL", "AGENT", "IMAGE"], rows)?;
        }
        why::print(&answer)?;
    }
    Ok(if answer["would_start"] == json!(true) { ExitCode::SUCCESS } else { ExitCode::from(WOULD_WAIT) })
}

fn body(args: &DryRunArgs) -> anyhow::Result<Json> {
    let mut body = match &args.file {
        None => Map::new(),
        Some(path) => {
            let file = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            match serde_json::from_str(&file).with_context(|| path.display().to_string())? {
                Json::Object(body) => body,
                _ => bail!("{}: a request is a JSON object", path.display()),
            }
        }
    };
    // A session needs a name; this one's is nobody's.
    body.entry("name").or_insert_with(|| json!(format!("dry-run-{}", uuid::Uuid::new_v4().simple())));
    let given = [
        ("image", args.image.as_ref().map(|v| json!(v))),
        ("architecture", args.architecture.as_ref().map(|v| json!(v))),
        ("type", args.kind.as_ref().map(|v| json!(v))),
        ("startupCommand", args.startup_command.as_ref().map(|v| json!(v))),
        ("group", args.project.as_ref().map(|v| json!(v))),
        ("domain", args.domain.as_ref().map(|v| json!(v))),
        ("cluster_size", args.cluster_size.map(|v| json!(v))),
        ("cluster_mode", args.cluster_mode.as_ref().map(|v| json!(v))),
        ("ahead", args.ahead.then_some(json!(true))),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            body.insert(key.to_owned(), value);
        }
    }
    let mut nested = |outer: &str, key: &str, value: Json| {
        let object = body.entry(outer.to_owned()).or_insert_with(|| json!({}));
        if let Json::Object(object) = object {
            object.insert(key.to_owned(), value);
        }
    };
    if let Some(group) = &args.scaling_group {
        nested("config", "scaling_group", json!(group));
    }
    if !args.resources.is_empty() {
        let mut resources = Map::new();
        for part in &args.resources {
            let (slot, amount) = part.split_once('=').with_context(|| format!("{part:?} is not SLOT=AMOUNT"))?;
            resources.insert(slot.to_owned(), json!(amount));
        }
        nested("config", "resources", Json::Object(resources));
    }
    if let Some(priority) = args.priority {
        nested("quarterdeck", "priority", json!(priority));
    }
    Ok(Json::Object(body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;
    use serde_json::json;

    use super::{DryRunArgs, body};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: DryRunArgs,
    }

    #[test]
    fn flags_become_a_request() {
        let cli = Cli::parse_from([
            "dry-run",
            "--image",
            "python",
            "--resources",
            "cpu=2,mem=4g",
            "--priority",
            "-5",
            "--ahead",
        ]);
        let mut body = body(&cli.args).unwrap();
        assert!(body["name"].as_str().unwrap().starts_with("dry-run-"));
        body.as_object_mut().unwrap().remove("name");
        let expected = json!({
            "image": "python", "ahead": true, "config": {"resources": {"cpu": "2", "mem": "4g"}},
            "quarterdeck": {"priority": -5},
        });
        assert_eq!(body, expected);
        assert!(Cli::try_parse_from(["dry-run"]).is_err(), "an image or a file is needed");
        assert!(super::body(&Cli::parse_from(["dry-run", "--image", "x", "--resources", "cpu"]).args).is_err());
    }
}
