//! `quarterdeck plugin dev`: build at each change, push, watch in shadow, and show what it would have decided otherwise.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value as Json, json};

use super::project::Project;
use super::{TargetArgs, shadow};
use crate::client::{ApiClient, EndpointArgs};

/// How often files and server are looked at.
const PACE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// The project's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
    /// Configuration to try it with: a JSON file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Build, push and bind once, and end
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(args: &DevArgs, endpoint: &EndpointArgs) -> anyhow::Result<ExitCode> {
    let project = Project::read(&args.path)?;
    let client = ApiClient::new(endpoint)?;
    let config: Json = match &args.config {
        None => json!({}),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            serde_json::from_str(&text).with_context(|| path.display().to_string())?
        }
    };
    let mut built: Option<SystemTime> = None;
    let mut seen: Option<u64> = None;
    let mut watched: Option<String> = None;
    loop {
        let changed = project.changed();
        if built.is_none() || changed > built {
            built = changed.or(Some(SystemTime::UNIX_EPOCH));
            match renew(&project, &client, args, &config).await {
                Ok(binding) => {
                    seen = None;
                    watched = Some(binding);
                }
                Err(error) if args.once => return Err(error),
                // A file saved half-way is no reason to stop.
                Err(error) => eprintln!("{error:#}"),
            }
        }
        if args.once {
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(binding) = &watched
            && let Err(error) = differences(&client, binding, &mut seen).await
        {
            eprintln!("{error:#}");
        }
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                eprintln!("the shadow binding stays; `quarterdeck plugin shadow` shows it");
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// Builds, pushes and binds in shadow; the binding's id.
async fn renew(project: &Project, client: &ApiClient, args: &DevArgs, config: &Json) -> anyhow::Result<String> {
    project.build()?;
    let wasm = std::fs::read(project.component()).with_context(|| project.component().display().to_string())?;
    let pushed = client.send(Method::POST, "/plugins", "application/wasm", Bytes::from(wasm)).await?;
    let revision = &pushed["revision"];
    let name = revision["name"].as_str().context("the server names no plugin")?.to_owned();
    let digest = revision["digest"].as_str().context("the server names no digest")?;
    let body = json!({
        "plugin": digest, "target": args.target.document(), "mode": "shadow", "config": config,
    });
    client.call(Method::POST, "/plugins/bindings", Some(&body)).await?;
    eprintln!("{name} ({}) watches {}", &digest[..digest.len().min(12)], args.target.words());
    // The same component may watch elsewhere, too.
    let all = client.call(Method::GET, "/plugins/shadow", None).await?;
    let target = args.target.document();
    let same = |shadow: &&Json| {
        shadow["digest"] == *digest
            && shadow["target"]["kind"] == target["kind"]
            && shadow["target"]["name"].as_str().unwrap_or_default() == target["name"].as_str().unwrap_or_default()
    };
    let binding = all["shadows"].as_array().into_iter().flatten().find(same);
    Ok(binding.and_then(|shadow| shadow["binding"].as_str()).unwrap_or(&name).to_owned())
}

/// Shows what was found since the last look: one line per run in which it decided otherwise, then a line of figures.
async fn differences(client: &ApiClient, binding: &str, seen: &mut Option<u64>) -> anyhow::Result<()> {
    let answer = client.call(Method::GET, &format!("/plugins/shadow/{binding}?limit=100"), None).await?;
    let mut runs: Vec<&Json> = answer["runs"].as_array().into_iter().flatten().collect();
    runs.reverse();
    for run in runs {
        let id = run["id"].as_u64().unwrap_or_default();
        if seen.is_some_and(|seen| id <= seen) {
            continue;
        }
        *seen = Some(id);
        println_line(&format!(
            "#{id} {}: {} elsewhere, {} only live, {} only candidate",
            run["outcome"].as_str().unwrap_or_default(),
            run["elsewhere"],
            run["only_live"],
            run["only_candidate"]
        ))?;
        for session in run["details"]["sessions"].as_array().into_iter().flatten() {
            let name = session["name"].as_str().or_else(|| session["session"].as_str()).unwrap_or_default();
            println_line(&format!(
                "  {name}: {} -> {}",
                shadow::fate(&session["live"]),
                shadow::fate(&session["candidate"])
            ))?;
        }
        if let Some(verdicts) = shadow::verdicts(&run["details"]) {
            println_line(&format!("  {verdicts}"))?;
        }
    }
    Ok(())
}

fn println_line(line: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{line}")
}
