//! `quarterdeck plugin test`: scenarios, and the properties that every policy of a kind must have.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use quarterdeck_control::schedule::REPLAY_FUEL;
use quarterdeck_plugin::Meter;
use serde_json::json;

use super::author::Candidate;
use super::scenario::{self, Played};
use super::{properties, show_bytes};
use crate::table;

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// A project's folder, or a component (`.wasm`)
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Scenarios: a file or a folder (a project's own without it)
    #[arg(long, value_name = "PATH")]
    scenarios: Option<PathBuf>,
    /// Try what every policy of its kind must hold: rules, determinism, an end within its fuel
    #[arg(long)]
    properties: bool,
    /// With --properties: the number of sessions in the largest input
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sessions: u32,
    /// Units of fuel that each call may use
    #[arg(long, value_name = "N", default_value_t = REPLAY_FUEL)]
    fuel: u64,
    /// Take a project's component as it is
    #[arg(long)]
    no_build: bool,
}

pub(super) async fn run(args: &TestArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let candidate = Candidate::find(&args.path, args.scenarios.as_ref(), !args.no_build)?;
    let plugin = candidate.load().await?;
    if candidate.scenarios.is_none() && !args.properties {
        bail!("no scenarios: name some with --scenarios, or try --properties");
    }
    let mut results = Vec::new();
    for scenario in candidate
        .scenarios
        .iter()
        .map(|path| scenario::load(path, plugin.kind))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
    {
        let file = scenario.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let played = scenario
            .play(&plugin, Meter::Fuel(args.fuel))
            .unwrap_or_else(|error| Played { failure: Some(format!("{error:#}")), ..Played::default() });
        results.push((file, scenario.name, played));
    }
    if args.properties {
        for (name, played) in properties::check(&plugin, args.sessions, Meter::Fuel(args.fuel)) {
            results.push(("properties".to_owned(), name, played));
        }
    }
    let failed = results.iter().filter(|(.., played)| !played.passed()).count();
    if as_json {
        let document: Vec<_> = results.iter().map(|(file, name, played)| json!({
            "file": file, "name": name, "passed": played.passed(), "failure": played.failure,
            "mismatches": played.mismatches, "fuel": played.trace.fuel_used, "peak_memory": played.trace.peak_memory,
        })).collect();
        table::json(&json!({"plugin": plugin.info.name, "version": plugin.info.version, "results": document}))?;
    } else {
        print(&results)?;
        eprintln!(
            "{}@{} ({}): {} passed, {failed} failed",
            plugin.info.name,
            plugin.info.version,
            plugin.kind,
            results.len() - failed
        );
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(results: &[(String, String, Played)]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let mut last = "";
    for (file, name, played) in results {
        if file != last {
            writeln!(out, "{file}")?;
            last = file;
        }
        if played.passed() {
            let fuel = played.trace.fuel_used.map(|fuel| format!("{fuel} fuel, ")).unwrap_or_default();
            writeln!(out, "  ok    {name} ({fuel}{})", show_bytes(played.trace.peak_memory))?;
            continue;
        }
        writeln!(out, "  FAIL  {name}")?;
        if let Some(failure) = &played.failure {
            writeln!(out, "        the call failed: {failure}")?;
        }
        for mismatch in &played.mismatches {
            writeln!(out, "        {}", mismatch.what)?;
            writeln!(out, "          - {}", mismatch.expected)?;
            writeln!(out, "          + {}", mismatch.got)?;
        }
        for line in &played.trace.journal.lines {
            writeln!(out, "        log: {}", line.message)?;
        }
    }
    Ok(())
}
