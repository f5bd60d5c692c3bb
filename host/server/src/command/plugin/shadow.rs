//! `quarterdeck plugin shadow`: what candidates would have decided.

use clap::Args;
use hyper::Method;
use serde_json::Value as Json;

use super::show::{short, text};
use crate::client::ApiClient;
use crate::table;

#[derive(Debug, Args)]
pub(super) struct ShadowArgs {
    /// A plugin that watches, or its binding's id; all of them without it
    plugin: Option<String>,
    /// How many of the newest differences to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    limit: u8,
    /// Differences before this one
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
}

pub(super) async fn run(client: &ApiClient, args: ShadowArgs, json: bool) -> anyhow::Result<()> {
    let Some(plugin) = &args.plugin else {
        let answer = client.call(Method::GET, "/plugins/shadow", None).await?;
        if json {
            table::json(&answer)?;
        } else {
            list(answer["shadows"].as_array().map_or(&[], Vec::as_slice))?;
        }
        return Ok(());
    };
    super::check_name(plugin)?;
    let mut path = format!("/plugins/shadow/{plugin}?limit={}", args.limit);
    if let Some(before) = args.before {
        path.push_str(&format!("&before={before}"));
    }
    let answer = client.call(Method::GET, &path, None).await?;
    if json {
        table::json(&answer)?;
        return Ok(());
    }
    list(std::slice::from_ref(&answer["shadow"]))?;
    for run in answer["runs"].as_array().into_iter().flatten() {
        let counts = ["elsewhere", "only_live", "only_candidate"].map(|key| format!("{} {key}", run[key]));
        table::text(&[format!("#{} {} {}: {}", run["id"], text(run, "at"), text(run, "outcome"), counts.join(", "))])?;
        let sessions = run["details"]["sessions"].as_array().cloned().unwrap_or_default();
        let rows = sessions.iter().map(|s| {
            let name = if s["name"].is_string() { text(s, "name") } else { text(s, "session") };
            vec![format!("  {name}"), fate(&s["live"]), "->".to_owned(), fate(&s["candidate"])]
        });
        if !sessions.is_empty() {
            table::print(&["  SESSION", "LIVE", "", "CANDIDATE"], rows)?;
        }
        if let Some(verdicts) = verdicts(&run["details"]) {
            table::text(&[format!("  {verdicts}")])?;
        }
    }
    Ok(())
}

/// How a candidate hook differs, in a line; nothing of what isn't about an event.
pub(super) fn verdicts(details: &Json) -> Option<String> {
    let event = details["event"].as_str()?;
    let verdict = |side: &Json| match (side["verdict"].as_str(), side["reason"].as_str()) {
        (Some(verdict), Some(reason)) => format!("{verdict} ({reason})"),
        (verdict, _) => verdict.unwrap_or("allowed").to_owned(),
    };
    let other = [("other_patch", "with another patch"), ("other_value", "with another value")];
    let other = other.iter().filter(|(key, _)| details["candidate"][*key] == true).map(|(_, words)| *words);
    let candidate = std::iter::once(verdict(&details["candidate"])).chain(other.map(str::to_owned));
    Some(format!("{event}: {} -> {}", verdict(&details["live"]), candidate.collect::<Vec<_>>().join(" ")))
}

/// What becomes of a session, in a word or by its agents.
pub(super) fn fate(fate: &Json) -> String {
    let agents = fate["agents"].as_array().cloned().unwrap_or_default();
    let agents: Vec<&str> = agents.iter().filter_map(Json::as_str).collect();
    if agents.is_empty() { text(fate, "fate") } else { agents.join(",") }
}

fn list(shadows: &[Json]) -> std::io::Result<()> {
    let share = |value: &Json| value.as_f64().map_or_else(String::new, |share| format!("{:.1} %", share * 100.0));
    let signed =
        |value: &Json, unit: &str| value.as_f64().map_or_else(String::new, |value| format!("{value:+.0} {unit}"));
    table::print(
        &["PLUGIN", "DIGEST", "WATCHES", "SEEN", "SKIPPED", "FAILED", "ALIKE", "PLACED", "WAIT", "TIME", "STATE"],
        shadows.iter().map(|s| {
            let figures = &s["figures"];
            let target = match s["target"]["kind"].as_str() {
                Some("everywhere") | None => "everywhere".to_owned(),
                Some(kind) => format!("{kind}:{}", text(&s["target"], "name")),
            };
            let number = |key: &str| figures[key].as_i64().unwrap_or(0);
            vec![
                format!("{}@{}", text(s, "plugin"), text(s, "version")),
                short(&text(s, "digest")),
                target,
                text(figures, "seen"),
                text(figures, "skipped"),
                text(figures, "failed"),
                share(&figures["agreement"]),
                format!("{:+}", number("only_candidate") - number("only_live")),
                signed(&figures["wait_difference_ms"], "ms"),
                figures["latency_ratio"].as_f64().map_or_else(String::new, |ratio| format!("x{ratio:.2}")),
                s["rested"]["reason"].as_str().map_or_else(|| "watches".to_owned(), |why| format!("rests: {why}")),
            ]
        }),
    )
}
