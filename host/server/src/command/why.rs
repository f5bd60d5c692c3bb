//! `quarterdeck why`: why a session waits.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use quarterdeck_model::quantity::Quantity;
use quarterdeck_model::slots::SlotKind;
use serde_json::Value as Json;

use crate::client::{ApiClient, EndpointArgs};
use crate::table;

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The session's name or id
    session: String,
    /// The key pair whose session it is, for administrators; an id needs none
    #[arg(long, value_name = "KEY")]
    owner_access_key: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: WhyArgs) -> anyhow::Result<ExitCode> {
    let plain = |text: &str| {
        let odd = |b: u8| !b.is_ascii_graphic() || matches!(b, b'/' | b'?' | b'#' | b'%' | b'&' | b'=');
        !text.is_empty() && !text.bytes().any(odd)
    };
    anyhow::ensure!(plain(&args.session), "{:?} is no name or id of a session", args.session);
    let mut path = format!("/plugins/why/{}", args.session);
    if let Some(key) = &args.owner_access_key {
        anyhow::ensure!(plain(key), "{key:?} is no access key");
        path.push_str(&format!("?owner_access_key={key}"));
    }
    let answer = ApiClient::new(&args.endpoint)?.call(Method::GET, &path, None).await?;
    if args.json {
        table::json(&answer)?;
    } else {
        table::text(&[format!(
            "{} ({}): {}",
            text(&answer, "name"),
            text(&answer, "status"),
            text(&answer, "summary")
        )])?;
        print(&answer)?;
        let round = &answer["last_round"];
        if round.is_object() {
            table::text(&[format!(
                "last round: {} by {}, {}: {} placed, {} without room",
                text(round, "at"),
                text(round, "plugin"),
                text(round, "outcome"),
                round["placed"],
                round["deferred"]
            )])?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What such answers have in common: queue, reasons, the scheduler's words and the agents.
pub(crate) fn print(answer: &Json) -> std::io::Result<()> {
    let mut lines = Vec::new();
    if answer["queue"].is_object() {
        let queue = &answer["queue"];
        lines.push(format!("queue: {} ahead of it, {} pending in all", queue["ahead"], queue["pending"]));
    }
    for reason in answer["reasons"].as_array().into_iter().flatten() {
        let mut line = format!("reason: {}: {}", text(reason, "code"), text(reason, "message"));
        if let Some(until) = reason["until"].as_str() {
            line.push_str(&format!(" (until {until})"));
        }
        lines.push(line);
        for s in reason["shortages"].as_array().into_iter().flatten() {
            lines.push(format!(
                "  {}: {} missing ({} asked for, {} of {} taken)",
                text(s, "slot"),
                amount(s, "missing"),
                amount(s, "requested"),
                amount(s, "used"),
                amount(s, "limit"),
            ));
        }
        for session in reason["waits_for"].as_array().into_iter().flatten() {
            lines.push(format!("  waits for {} ({})", text(session, "name"), text(session, "id")));
        }
    }
    let says = &answer["scheduler"];
    if says.is_object() {
        let name = format!("scheduler: {}@{}", text(says, "plugin"), text(says, "version"));
        let words = [text(says, "turn"), text(says, "says"), text(says, "failure")];
        let words: Vec<String> = words.into_iter().filter(|w| !w.is_empty()).collect();
        lines.push(format!("{name}: {}", words.join(": ")));
        if let Some(instead) = says["instead"].as_str() {
            lines.push(format!("  {instead}"));
        }
    }
    table::text(&lines)?;
    let agents = answer["agents"].as_array().cloned().unwrap_or_default();
    if !agents.is_empty() {
        table::print(&["AGENT", "ARCHITECTURE", "FITS", "MISSING", "SCHEDULER"], agents.iter().map(agent))?;
        let total = answer["agents_total"].as_u64().unwrap_or(0);
        if total > agents.len() as u64 {
            table::text(&[format!("and {} more", total - agents.len() as u64)])?;
        }
    }
    Ok(())
}

fn agent(agent: &Json) -> Vec<String> {
    let fits = match agent["obstacle"].as_str() {
        None => "yes".to_owned(),
        Some(obstacle) => match agent["until"].as_str() {
            Some(until) => format!("no: {obstacle} until {until}"),
            None => format!("no: {obstacle}"),
        },
    };
    let lacks = agent["lacks"].as_array().into_iter().flatten();
    let lacks: Vec<String> = lacks.map(|s| format!("{} {}", amount(s, "missing"), text(s, "slot"))).collect();
    vec![text(agent, "id"), text(agent, "architecture"), fits, lacks.join(", "), text(&agent["scheduler"], "why")]
}

/// An amount in human units.
fn amount(shortage: &Json, key: &str) -> String {
    let kind = match shortage["kind"].as_str() {
        Some("bytes") => SlotKind::Bytes,
        Some("unique") => SlotKind::Unique,
        _ => SlotKind::Count,
    };
    let raw = text(shortage, key);
    Quantity::parse(&raw).map_or(raw, |quantity| kind.humanized(&quantity))
}

pub(crate) fn text(value: &Json, key: &str) -> String {
    match &value[key] {
        Json::Null => String::new(),
        Json::String(s) => s.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{agent, amount};

    #[test]
    fn amounts_are_told_in_human_units() {
        assert_eq!(amount(&json!({"kind": "bytes", "missing": "1610612736"}), "missing"), "1.5g");
        assert_eq!(amount(&json!({"kind": "count", "missing": "0.5"}), "missing"), "0.5");
        let row = agent(&json!({
            "id": "i-1", "architecture": "x86_64", "fits": false, "obstacle": "capacity",
            "lacks": [{"slot": "cpu", "kind": "count", "missing": "2"}], "scheduler": {"why": "full"},
        }));
        assert_eq!(row, ["i-1", "x86_64", "no: capacity", "2 cpu", "full"]);
    }
}
