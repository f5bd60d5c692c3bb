//! `quarterdeck plugin push`: a component on its way in, step by step.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value as Json, json};

use super::show::{short, text, took};
use super::sign::beside;
use crate::client::ApiClient;
use crate::table;

/// How often the server is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// The component (`.wasm`)
    file: PathBuf,
    /// Its detached signature; default: the file beside it with `.minisig` after its name, if there is one
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

pub(super) async fn run(client: &ApiClient, as_json: bool, args: PushArgs) -> anyhow::Result<()> {
    let component = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let mut watch = Watch { client, path: format!("/plugins/{}", quarterdeck_plugin::digest(&component)), seen: 0 };
    if !as_json {
        // What happened to it before is not of now.
        watch.seen = watch.steps().await.iter().filter_map(|s| s["id"].as_i64()).max().unwrap_or(0);
    }
    let signature = signature(&args)?;
    let headers: Vec<_> = signature.iter().map(|s| ("X-Plugin-Signature", STANDARD.encode(s))).collect();
    let body = Bytes::from(component);
    let mut push = pin!(client.send_with(Method::POST, "/plugins", "application/wasm", &headers, body));
    let answer = loop {
        tokio::select! {
            answer = &mut push => break answer,
            () = tokio::time::sleep(LOOK), if !as_json => watch.look().await,
        }
    };
    if as_json {
        table::json(&answer?)?;
        return Ok(());
    }
    watch.look().await;
    let answer = answer?;
    let revision = &answer["revision"];
    let known = if answer["created"] == json!(true) { "" } else { " (already there)" };
    eprintln!(
        "pushed {}@{} ({}), digest {}{known}",
        text(revision, "name"),
        text(revision, "version"),
        text(revision, "kind"),
        short(&text(revision, "digest"))
    );
    Ok(())
}

/// The signature that goes along.
fn signature(args: &PushArgs) -> anyhow::Result<Option<Vec<u8>>> {
    let path = match &args.signature {
        Some(path) => path.clone(),
        None => match beside(&args.file) {
            path if path.exists() => path,
            _ => return Ok(None),
        },
    };
    let signature = std::fs::read(&path).with_context(|| path.display().to_string())?;
    Ok(Some(signature))
}

/// Shows the steps that end.
struct Watch<'a> {
    client: &'a ApiClient,
    path: String,
    /// The last step that was shown.
    seen: i64,
}

impl Watch<'_> {
    /// The steps until now. There are none before the component has arrived.
    async fn steps(&self) -> Vec<Json> {
        let answer = self.client.call(Method::GET, &self.path, None).await.unwrap_or_default();
        answer["revisions"][0]["steps"].as_array().cloned().unwrap_or_default()
    }

    async fn look(&mut self) {
        for step in self.steps().await {
            let id = step["id"].as_i64().unwrap_or(0);
            if id <= self.seen {
                continue;
            }
            if step["status"] == json!("running") {
                break;
            }
            self.seen = id;
            let status = if step["status"] == json!("ok") { String::new() } else { text(&step, "status") };
            eprintln!("{}", format!("  {:<12} {:>9}  {status}", text(&step, "step"), took(&step)).trim_end());
        }
    }
}
