//! `quarterdeck audit`: who changed what on a running server.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use hyper::Method;
use quarterdeck_control::config::quote;
use serde_json::Value as Json;

use crate::client::{ApiClient, EndpointArgs};
use crate::table;

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// By somebody: e-mail address, user id, access key, or account at the console
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
    /// With this text in the action
    #[arg(long, value_name = "TEXT")]
    action: Option<String>,
    /// With this text in what it was done to
    #[arg(long, value_name = "TEXT")]
    target: Option<String>,
    /// By which door the change came in
    #[arg(long, value_enum)]
    via: Option<Door>,
    /// From then on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before then (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// With smaller numbers: the next page
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Door {
    Rest,
    Graphql,
    Cli,
    System,
}

pub(crate) async fn run(args: AuditArgs) -> anyhow::Result<ExitCode> {
    let mut path = format!("/audit?limit={}", args.limit);
    let via = args.via.and_then(|door| door.to_possible_value()).map(|door| door.get_name().to_owned());
    let texts = [
        ("actor", &args.actor),
        ("action", &args.action),
        ("target", &args.target),
        ("via", &via),
        ("since", &args.since),
        ("until", &args.until),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            path.push_str(&format!("&{name}={}", quote(text)));
        }
    }
    if let Some(before) = args.before {
        path.push_str(&format!("&before={before}"));
    }
    let answer = ApiClient::new(&args.endpoint)?.call(Method::GET, &path, None).await?;
    if args.json {
        table::json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let entries = answer["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let headings = ["NUMBER", "TIME", "WHO", "FROM", "VIA", "ACTION", "TARGET", "DETAILS"];
    table::print(&headings, entries.iter().map(line))?;
    if let Some(next) = answer["next"].as_i64() {
        eprintln!("there may be more: --before {next}");
    }
    Ok(ExitCode::SUCCESS)
}

fn line(entry: &Json) -> Vec<String> {
    let text = |name: &str| match &entry[name] {
        Json::Null => "-".to_owned(),
        Json::String(text) if text.is_empty() => "-".to_owned(),
        // One entry is one line, whatever it tells.
        Json::String(text) => text.replace(char::is_control, " "),
        other => other.to_string(),
    };
    ["id", "at", "actor", "address", "via", "action", "target", "details"].map(text).to_vec()
}
