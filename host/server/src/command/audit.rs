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
    /// With this text in what it was done to, or in the name of something that it changed
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
    /// Show what changed, value by value, below each entry
    #[arg(long)]
    changes: bool,
    /// Print JSON, changes included, instead of a table
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
    if args.changes {
        table::text(&entries.iter().flat_map(told).collect::<Vec<_>>())?;
        tell_next(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let headings = ["NUMBER", "TIME", "WHO", "FROM", "VIA", "ACTION", "TARGET", "CHANGES", "DETAILS"];
    table::print(&headings, entries.iter().map(line))?;
    tell_next(&answer);
    Ok(ExitCode::SUCCESS)
}

fn tell_next(answer: &Json) {
    if let Some(next) = answer["next"].as_i64() {
        eprintln!("there may be more: --before {next}");
    }
}

/// One entry is one line, whatever it tells.
fn on_one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn changes_of(entry: &Json) -> (&[Json], u64) {
    let rows = entry["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    (rows, entry["more_changes"].as_u64().unwrap_or_default())
}

fn line(entry: &Json) -> Vec<String> {
    let text = |name: &str| match &entry[name] {
        Json::Null => "-".to_owned(),
        Json::String(text) if text.is_empty() => "-".to_owned(),
        Json::String(text) => on_one_line(text),
        other => other.to_string(),
    };
    let mut cells = ["id", "at", "actor", "address", "via", "action", "target", "details"].map(text).to_vec();
    let (rows, more) = changes_of(entry);
    let count = rows.len() as u64 + more;
    cells.insert(cells.len() - 1, if count == 0 { "-".to_owned() } else { count.to_string() });
    cells
}

/// An entry and below it what it changed, value by value.
fn told(entry: &Json) -> Vec<String> {
    let text = |name: &str| on_one_line(entry[name].as_str().unwrap_or("-"));
    let head = ["at", "actor", "via", "action", "target"].map(text).join("  ");
    let mut lines = vec![format!("{}  {}", entry["id"], head.trim_end())];
    let (rows, more) = changes_of(entry);
    for row in rows {
        let word = match (&row["before"], &row["after"]) {
            (Json::Null, _) => " (new)",
            (_, Json::Null) => " (removed)",
            _ => "",
        };
        let (kind, name) = (row["kind"].as_str().unwrap_or_default(), row["name"].as_str().unwrap_or_default());
        lines.push(format!("    {kind} {}{word}", on_one_line(name)));
        let fields = row["after"].as_object().or_else(|| row["before"].as_object());
        for field in fields.into_iter().flat_map(serde_json::Map::keys) {
            let side = |side: &str| row[side].get(field).map(value);
            lines.push(match (side("before"), side("after")) {
                (Some(before), Some(after)) => format!("        {field}: {before} → {after}"),
                (before, after) => format!("        {field}: {}", before.or(after).unwrap_or_default()),
            });
        }
    }
    if more > 0 {
        lines.push(format!("    and {more} more"));
    }
    lines
}

fn value(value: &Json) -> String {
    match value {
        Json::Null => "-".to_owned(),
        Json::String(text) => on_one_line(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_told_value_by_value() {
        let entry = json!({
            "id": 7, "at": "now", "actor": "a@x", "via": "rest", "action": "modify_user", "target": "jo", "more_changes": 2,
            "changes": [
                {"kind": "user", "name": "jo@x", "before": {"role": "user", "full_name": null}, "after": {"role": "admin", "full_name": "J\no"}},
                {"kind": "config", "name": "a/b", "before": {"name": "a/b", "value": "1"}, "after": null},
            ],
        });
        assert_eq!(
            told(&entry),
            [
                "7  now  a@x  rest  modify_user  jo",
                "    user jo@x",
                "        role: user → admin",
                "        full_name: - → J o",
                "    config a/b (removed)",
                "        name: a/b",
                "        value: 1",
                "    and 2 more",
            ]
        );
        assert_eq!(line(&entry)[7], "4");
    }
}
