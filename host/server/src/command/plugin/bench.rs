//! `quarterdeck plugin bench`: what a policy costs, and whether it became dearer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use quarterdeck_control::schedule::REPLAY_FUEL;
use quarterdeck_plugin::{Call, CallTrace, Kind, Meter, Plugin};
use serde::{Deserialize, Serialize};

use super::author::Candidate;
use super::properties::inputs::{self, Dice, Size};
use super::show_bytes;
use crate::table;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// A project's folder, or a component (`.wasm`)
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Calls to measure, per input
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    calls: u32,
    /// Keep the figures in a file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Compare with the figures in a file; exit with 1 when a threshold is passed
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// With --compare: percent that fuel and memory may grow
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    threshold: f64,
    /// With --compare: percent that the median time may grow; times differ between runs
    #[arg(long, value_name = "PERCENT", default_value_t = 50.0)]
    time_threshold: f64,
    /// With --compare: milliseconds of the median time that don't count, whatever the percentage
    #[arg(long, value_name = "MS", default_value_t = 0.5)]
    slack_ms: f64,
    /// Take a project's component as it is
    #[arg(long)]
    no_build: bool,
}

/// Figures by input.
type Report = BTreeMap<String, Figures>;

/// Times in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figures {
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    fuel: u64,
    peak_memory: usize,
    /// Of the input, as JSON.
    input_bytes: usize,
}

pub(super) async fn run(args: &BenchArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let candidate = Candidate::find(&args.path, None, !args.no_build)?;
    let plugin = candidate.load().await?;
    let report = measure(&plugin, args.calls)?;
    if let Some(path) = &args.save {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    let before: Option<Report> = match &args.compare {
        None => None,
        Some(path) => {
            let text = std::fs::read(path).with_context(|| path.display().to_string())?;
            Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?)
        }
    };
    if as_json {
        table::json(&serde_json::to_value(&report)?)?;
    } else {
        table::print(
            &["INPUT", "P50 MS", "P95 MS", "P99 MS", "FUEL", "PEAK MEMORY", "INPUT SIZE"],
            report.iter().map(|(name, figures)| {
                vec![
                    name.clone(),
                    format!("{:.3}", figures.p50_ms),
                    format!("{:.3}", figures.p95_ms),
                    format!("{:.3}", figures.p99_ms),
                    figures.fuel.to_string(),
                    show_bytes(figures.peak_memory),
                    show_bytes(figures.input_bytes),
                ]
            }),
        )?;
        eprintln!("component: {}", show_bytes(plugin.size));
    }
    let dearer: Vec<String> = before.iter().flat_map(|before| compare(args, before, &report)).collect();
    for line in &dearer {
        eprintln!("dearer: {line}");
    }
    Ok(if dearer.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn compare(args: &BenchArgs, before: &Report, now: &Report) -> Vec<String> {
    let mut dearer = Vec::new();
    for (name, now) in now {
        let Some(before) = before.get(name) else { continue };
        let mut hold = |what: &str, before: f64, now: f64, percent: f64, slack: f64| {
            if now > before * (1.0 + percent / 100.0) && now > before + slack {
                dearer.push(format!("{name}: {what} {before} -> {now} ({percent} % allowed)"));
            }
        };
        hold("fuel", before.fuel as f64, now.fuel as f64, args.threshold, 0.0);
        hold("peak memory", before.peak_memory as f64, now.peak_memory as f64, args.threshold, 0.0);
        hold("median time in ms", before.p50_ms, now.p50_ms, args.time_threshold, args.slack_ms);
    }
    dearer
}

fn measure(plugin: &Plugin, calls: u32) -> anyhow::Result<Report> {
    let mut report = Report::new();
    match plugin.kind {
        Kind::Scheduler => {
            for (sessions, agents) in [(100, 20), (1000, 200)] {
                let recording = inputs::round(&mut Dice::new(7), Size { sessions, agents });
                let size = serde_json::to_vec(&recording.snapshot)?.len();
                let run = |meter| {
                    let replay = recording.replay(plugin, "{}", meter);
                    anyhow::ensure!(replay.is_ok(), "{}", replay.outcome);
                    let duration = std::time::Duration::from_micros(replay.duration_us);
                    let (fuel_used, peak_memory) = (replay.fuel_used, replay.peak_memory);
                    Ok(CallTrace { duration, fuel_used, peak_memory, journal: replay.journal })
                };
                report.insert(format!("{sessions} sessions, {agents} agents"), figures(calls, size, run)?);
            }
        }
        Kind::IdleChecker => {
            for sessions in [100, 1000] {
                let tick = inputs::tick(&mut Dice::new(7), sessions);
                let size = serde_json::to_vec(&tick)?.len();
                let run = |meter| {
                    let (trace, result) = plugin.check_traced(&Call { meter, ..Call::new("{}") }, &tick);
                    result?;
                    Ok(trace)
                };
                report.insert(format!("{sessions} sessions"), figures(calls, size, run)?);
            }
        }
        Kind::Hook => {
            for name in &plugin.info.events {
                let event = inputs::event(&mut Dice::new(7), name);
                let run = |meter| {
                    let (trace, result) = plugin.handle_traced(&Call { meter, ..Call::new("{}") }, &event);
                    result?;
                    Ok(trace)
                };
                report.insert(name.clone(), figures(calls, event.body.len(), run)?);
            }
        }
    }
    Ok(report)
}

fn figures(
    calls: u32,
    input_bytes: usize,
    run: impl Fn(Meter) -> anyhow::Result<CallTrace>,
) -> anyhow::Result<Figures> {
    let metered = run(Meter::Fuel(REPLAY_FUEL))?;
    let mut times: Vec<f64> =
        (0..calls).map(|_| Ok(run(Meter::Epoch)?.duration.as_secs_f64() * 1000.0)).collect::<anyhow::Result<_>>()?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    Ok(Figures {
        p50_ms: at(0.50),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        fuel: metered.fuel_used.unwrap_or_default(),
        peak_memory: metered.peak_memory,
        input_bytes,
    })
}
