//! `quarterdeck plugin …`: policies on a running server, and tools for those who write them.

mod author;
mod bench;
mod dev;
mod drops;
mod inspect;
mod new;
mod project;
mod promote;
mod properties;
mod push;
mod replay;
mod scenario;
mod shadow;
mod show;
mod sign;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value as Json, json};

use crate::client::{ApiClient, EndpointArgs};
use crate::table;
use show::{short, text};

#[derive(Debug, Args)]
pub(crate) struct PluginArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Upload a component; nobody is served by it until it is bound
    Push(push::PushArgs),
    /// List plugins, their revisions and whom they serve
    List,
    /// Let a plugin serve somebody, from the next call on
    Bind {
        /// NAME, NAME@VERSION, or the beginning of a digest
        plugin: String,
        #[command(flatten)]
        target: TargetArgs,
        /// Configuration of this binding: a JSON file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Place in the order of calls (hooks and idle checkers); by name without it
        #[arg(long, value_name = "N")]
        order: Option<i64>,
        /// Hooks: let the operation go on when the hook fails, instead of refusing it
        #[arg(long)]
        fail_open: bool,
        /// Only watch: see what is decided, and keep what it would have decided otherwise
        #[arg(long)]
        shadow: bool,
    },
    /// End a binding; a scaling group goes back to the built-in fifo
    Unbind {
        /// The plugin's name
        plugin: String,
        #[command(flatten)]
        target: TargetArgs,
        /// The binding of one that only watches
        #[arg(long)]
        shadow: bool,
    },
    /// Show what plugins that only watch would have decided
    Shadow(shadow::ShadowArgs),
    /// Let a plugin that only watched decide, with the configuration that it watched with
    Promote(promote::PromoteArgs),
    /// Undo the last change at a target: what served before serves again
    Rollback {
        #[command(flatten)]
        target: TargetArgs,
        /// Which kind, where several are bound (idle-checker, hook)
        #[arg(long)]
        kind: Option<String>,
    },
    /// Show what a scheduler would have decided in recorded rounds, without a server
    Replay(replay::ReplayArgs),
    /// Show what became of the files in the watched directories
    Drops,
    /// Make a key pair to sign components with
    Keygen(sign::KeygenArgs),
    /// Sign a component
    Sign(sign::SignArgs),
    /// Show everything about a plugin
    Inspect {
        /// NAME, NAME@VERSION, or the beginning of a digest; a component's file (`.wasm`) needs no server
        plugin: String,
    },
    #[command(flatten)]
    Author(author::AuthorCommand),
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// A scaling group (schedulers)
    #[arg(long, value_name = "GROUP")]
    scaling_group: Option<String>,
    /// A domain (hooks and idle checkers)
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Everybody (hooks and idle checkers)
    #[arg(long)]
    everywhere: bool,
}

impl TargetArgs {
    fn document(&self) -> Json {
        match (&self.scaling_group, &self.domain) {
            (Some(group), _) => json!({"kind": "scaling-group", "name": group}),
            (None, Some(domain)) => json!({"kind": "domain", "name": domain}),
            (None, None) => json!({"kind": "everywhere"}),
        }
    }

    fn words(&self) -> String {
        match (&self.scaling_group, &self.domain) {
            (Some(group), _) => format!("scaling group {group}"),
            (None, Some(domain)) => format!("domain {domain}"),
            (None, None) => "everybody".to_owned(),
        }
    }
}

pub(crate) async fn run(args: PluginArgs) -> anyhow::Result<ExitCode> {
    // What needs no server, or knows better which.
    let command = match args.command {
        PluginCommand::Replay(own) => return replay::run(own, &args.endpoint, args.json).await,
        PluginCommand::Keygen(own) => return sign::keygen(&own),
        PluginCommand::Sign(own) => return sign::sign(&own),
        PluginCommand::Author(own) => return author::run(own, &args.endpoint, args.json).await,
        PluginCommand::Inspect { plugin } if inspect::is_file(&plugin) => {
            inspect::run(plugin.as_ref(), args.json).await?;
            return Ok(ExitCode::SUCCESS);
        }
        command => command,
    };
    let client = ApiClient::new(&args.endpoint)?;
    match command {
        PluginCommand::Replay(_) | PluginCommand::Keygen(_) | PluginCommand::Sign(_) | PluginCommand::Author(_) => {}
        PluginCommand::Drops => drops::run(&client, args.json).await?,
        PluginCommand::Push(push) => push::run(&client, args.json, push).await?,
        PluginCommand::List => {
            let answer = client.call(Method::GET, "/plugins", None).await?;
            if args.json {
                table::json(&answer)?;
            } else {
                show::list(&answer)?;
            }
        }
        PluginCommand::Bind { plugin, target, config, order, fail_open, shadow } => {
            let mut body = json!({
                "plugin": plugin,
                "target": target.document(),
                "failure_policy": if fail_open { "fail-open" } else { "fail-closed" },
                "mode": mode(shadow),
            });
            if let Some(path) = config {
                let file = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                body["config"] = serde_json::from_str(&file).with_context(|| path.display().to_string())?;
            }
            if let Some(order) = order {
                body["order"] = json!(order);
            }
            let answer = client.call(Method::POST, "/plugins/bindings", Some(&body)).await?;
            if shadow && !args.json {
                eprintln!(
                    "{}@{} now watches {}",
                    text(&answer["now"], "name"),
                    text(&answer["now"], "version"),
                    target.words()
                );
            } else {
                print_switch(args.json, &answer, &target)?;
            }
        }
        PluginCommand::Unbind { plugin, target, shadow } => {
            let body = json!({"plugin": plugin, "target": target.document(), "mode": mode(shadow)});
            let answer = client.call(Method::DELETE, "/plugins/bindings", Some(&body)).await?;
            if shadow && !args.json {
                eprintln!("{} no longer watches {}", text(&answer, "before"), target.words());
            } else {
                print_switch(args.json, &answer, &target)?;
            }
        }
        PluginCommand::Shadow(shadow) => shadow::run(&client, shadow, args.json).await?,
        PluginCommand::Promote(promote) => {
            let answer = promote::run(&client, &promote).await?;
            print_switch(args.json, &answer, &promote.target)?;
        }
        PluginCommand::Rollback { target, kind } => {
            let mut body = json!({"target": target.document()});
            if let Some(kind) = kind {
                body["kind"] = json!(kind);
            }
            let answer = client.call(Method::POST, "/plugins/rollback", Some(&body)).await?;
            print_switch(args.json, &answer, &target)?;
        }
        PluginCommand::Inspect { plugin } => {
            check_name(&plugin)?;
            let answer = client.call(Method::GET, &format!("/plugins/{plugin}"), None).await?;
            if args.json {
                table::json(&answer)?;
            } else {
                show::inspection(&answer)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn mode(shadow: bool) -> &'static str {
    if shadow { "shadow" } else { "live" }
}

/// Whether a name may stand in a path.
fn check_name(plugin: &str) -> anyhow::Result<()> {
    let odd = |b: u8| !b.is_ascii_graphic() || matches!(b, b'/' | b'?' | b'#' | b'%');
    if plugin.is_empty() || plugin.bytes().any(odd) {
        bail!("{plugin:?} is no plugin name");
    }
    Ok(())
}

/// Bytes for people.
fn show_bytes(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn print_switch(as_json: bool, answer: &Json, target: &TargetArgs) -> std::io::Result<()> {
    if as_json {
        return table::json(answer);
    }
    let before = answer["before"].as_str().unwrap_or("nothing");
    match answer.get("now").filter(|n| !n.is_null()) {
        Some(now) => eprintln!(
            "{}@{} ({}) now serves {}, where {before} did",
            text(now, "name"),
            text(now, "version"),
            short(&text(now, "digest")),
            target.words()
        ),
        None => eprintln!("{before} no longer serves {}", target.words()),
    }
    Ok(())
}
