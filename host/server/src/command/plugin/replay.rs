//! `quarterdeck plugin replay`: what a candidate would have decided in recorded rounds, found out without any server.

use std::fs::File;
use std::io::{BufReader, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quarterdeck_control::rounds::{Compared, MAX_FUEL, Take};
use quarterdeck_control::schedule::{REPLAY_FUEL, Recordings};
use quarterdeck_plugin::{COMPILE_CHILD_ARG, Compiler, Kind, Plugin, Runtime, RuntimeOptions};
use serde::Serialize;

use crate::client::{ApiClient, EndpointArgs};
use crate::command::round::{FilterArgs, metric_rows};
use crate::table;

/// The exit code that tells of differences, with `--fail-on-difference`.
const DIFFERENT: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The candidate (`.wasm`)
    component: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// With --server: the newest so many rounds
    #[arg(long, value_name = "N", default_value_t = 50)]
    last: u32,
    /// The candidate's configuration: a JSON file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Units of fuel that the candidate may use in a round
    #[arg(long, value_name = "N", default_value_t = REPLAY_FUEL, value_parser = clap::value_parser!(u64).range(1..=MAX_FUEL))]
    fuel: u64,
    /// Exit with code 3 when any decision differs
    #[arg(long)]
    fail_on_difference: bool,
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// Recordings, as `quarterdeck round export` writes them
    #[arg(long, value_name = "FILE")]
    rounds: Option<PathBuf>,
    /// Recordings of a running server
    #[arg(long)]
    server: bool,
}

/// What the replays come to together. `recorded` is what was decided then.
#[derive(Debug, Default, Serialize)]
struct Summary {
    rounds: u64,
    /// Rounds with another decision or order.
    different: u64,
    /// Rounds in which the candidate failed: it decided nothing there.
    failed: u64,
    pending: u64,
    placed_recorded: u64,
    placed_candidate: u64,
    /// Placed by both, on other agents.
    moved: u64,
    only_recorded: u64,
    only_candidate: u64,
    /// Waiting time of what was left, in milliseconds.
    left_waited_ms_recorded: u64,
    left_waited_ms_candidate: u64,
    /// Means over the rounds.
    fragmentation_recorded: f64,
    fragmentation_candidate: f64,
    fairness_recorded: f64,
    fairness_candidate: f64,
    fuel_total: u64,
    fuel_largest: u64,
}

impl Summary {
    fn add(&mut self, compared: &Compared) {
        let (left, right) = (&compared.left_metrics, &compared.right_metrics);
        let replay = compared.right.replay.as_ref();
        let n = self.rounds as f64;
        let mean = |mean: &mut f64, value: f64| *mean = (*mean * n + value) / (n + 1.0);
        mean(&mut self.fragmentation_recorded, left.fragmentation);
        mean(&mut self.fragmentation_candidate, right.fragmentation);
        mean(&mut self.fairness_recorded, left.fairness);
        mean(&mut self.fairness_candidate, right.fairness);
        self.rounds += 1;
        self.different += u64::from(!compared.same);
        self.failed += u64::from(replay.is_some_and(|replay| !replay.is_ok()));
        self.pending += u64::from(left.pending);
        self.placed_recorded += u64::from(left.placed);
        self.placed_candidate += u64::from(right.placed);
        self.moved += u64::from(compared.counts.moved);
        self.only_recorded += u64::from(compared.counts.only_left);
        self.only_candidate += u64::from(compared.counts.only_right);
        self.left_waited_ms_recorded = self.left_waited_ms_recorded.saturating_add(left.left_waited_ms);
        self.left_waited_ms_candidate = self.left_waited_ms_candidate.saturating_add(right.left_waited_ms);
        let fuel = replay.and_then(|replay| replay.fuel_used).unwrap_or(0);
        self.fuel_total = self.fuel_total.saturating_add(fuel);
        self.fuel_largest = self.fuel_largest.max(fuel);
    }
}

pub(crate) async fn run(args: ReplayArgs, endpoint: &EndpointArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let config = match &args.config {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => "{}".to_owned(),
    };
    let plugin = load(&args.component, &config).await?;
    let file = match &args.source.rounds {
        Some(path) => File::open(path).with_context(|| path.display().to_string())?,
        None => fetch(endpoint, &args.filter, args.last).await?,
    };
    let fuel = args.fuel;
    // Playing keeps a processor busy.
    let (rounds, summary) = tokio::task::spawn_blocking(move || play(&plugin, &config, file, fuel)).await??;
    if as_json {
        table::json(&serde_json::json!({"rounds": rounds, "summary": summary}))?;
    } else {
        print(&rounds, &summary)?;
    }
    let different = args.fail_on_difference && summary.different > 0;
    Ok(if different { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

/// Loads the candidate as a server would: compiled by a child of this program, in limits.
async fn load(path: &Path, config: &str) -> anyhow::Result<Arc<Plugin>> {
    let component = std::fs::read(path).with_context(|| path.display().to_string())?;
    let runtime = Runtime::new(RuntimeOptions {
        compiler: Compiler::Child {
            program: std::env::current_exe().context("the path of this program")?,
            args: vec![COMPILE_CHILD_ARG.into()],
        },
        ..RuntimeOptions::default()
    })?;
    let plugin = runtime.load(&component).await.with_context(|| path.display().to_string())?;
    ensure!(plugin.kind == Kind::Scheduler, "{} is a {}: only schedulers play rounds", path.display(), plugin.kind);
    if let Err(objection) = plugin.check_config(config) {
        anyhow::bail!("{} refuses the configuration: {objection}", plugin.info.name);
    }
    Ok(plugin)
}

/// Recordings of a server, in a file that nobody else sees.
async fn fetch(endpoint: &EndpointArgs, filter: &FilterArgs, last: u32) -> anyhow::Result<File> {
    let client = ApiClient::new(endpoint)?;
    let mut file = tempfile::tempfile()?;
    let path = format!("/plugins/rounds/export?{}&compression=zstd", filter.query(last));
    client.download(&path, &mut |bytes| file.write_all(bytes)).await?;
    file.rewind()?;
    Ok(file)
}

fn play(plugin: &Plugin, config: &str, file: File, fuel: u64) -> anyhow::Result<(Vec<Compared>, Summary)> {
    let progress = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("{spinner} {pos} rounds played, {per_sec} ({elapsed})")?);
    let (mut rounds, mut summary) = (Vec::new(), Summary::default());
    for recording in Recordings::new(BufReader::new(file))? {
        let recording = recording?;
        let right = Take::replayed(&recording, plugin, config, fuel);
        let compared = Compared::new(&recording, Take::recorded(&recording), right);
        summary.add(&compared);
        rounds.push(compared);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok((rounds, summary))
}

fn print(rounds: &[Compared], summary: &Summary) -> anyhow::Result<()> {
    let pair = |left: u32, right: u32| if left == right { left.to_string() } else { format!("{left} → {right}") };
    table::print(
        &["ROUND", "GROUP", "POLICY", "PENDING", "PLACED", "NO LONGER", "NEWLY", "MOVED", "ORDER", "FUEL", "OUTCOME"],
        rounds.iter().map(|c| {
            let replay = c.right.replay.as_ref();
            vec![
                c.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                c.scaling_group.clone(),
                format!("{}@{}", c.left.plugin.name, c.left.plugin.version),
                c.left_metrics.pending.to_string(),
                pair(c.left_metrics.placed, c.right_metrics.placed),
                c.counts.only_left.to_string(),
                c.counts.only_right.to_string(),
                c.counts.moved.to_string(),
                c.order_parts_at.map_or_else(|| "same".to_owned(), |turn| format!("parts at {}", turn + 1)),
                replay.and_then(|r| r.fuel_used).map_or_else(String::new, |fuel| fuel.to_string()),
                replay.map_or_else(String::new, |r| r.outcome.clone()),
            ]
        }),
    )?;
    for c in rounds.iter().filter(|c| !c.changes.is_empty()) {
        eprintln!("round {}:", c.id.map_or_else(|| "-".to_owned(), |id| id.to_string()));
        table::print(
            &["SESSION", "NAME", "RECORDED", "CANDIDATE"],
            c.changes.iter().map(|change| {
                vec![change.session.clone(), change.name.clone(), change.left.to_string(), change.right.to_string()]
            }),
        )?;
        if c.left_out > 0 {
            eprintln!("and {} more", c.left_out);
        }
    }
    if let [only] = rounds {
        let metrics = serde_json::to_value((&only.left_metrics, &only.right_metrics))?;
        table::print(&["", "RECORDED", "CANDIDATE"], metric_rows(&metrics[0], &metrics[1]))?;
    } else {
        table::print(&["", "RECORDED", "CANDIDATE"], summary_rows(summary))?;
    }
    eprintln!(
        "{} rounds: {} with differences, {} in which the candidate failed",
        summary.rounds, summary.different, summary.failed
    );
    Ok(())
}

fn summary_rows(s: &Summary) -> Vec<Vec<String>> {
    let seconds = |ms: u64| format!("{:.1}", ms as f64 / 1000.0);
    let row = |name: &str, left: String, right: String| vec![name.to_owned(), left, right];
    vec![
        row("placed", s.placed_recorded.to_string(), s.placed_candidate.to_string()),
        row("waited by the others, s", seconds(s.left_waited_ms_recorded), seconds(s.left_waited_ms_candidate)),
        row(
            "fragmentation, mean",
            format!("{:.3}", s.fragmentation_recorded),
            format!("{:.3}", s.fragmentation_candidate),
        ),
        row("fairness (Jain), mean", format!("{:.3}", s.fairness_recorded), format!("{:.3}", s.fairness_candidate)),
        row("fuel of a round at most", String::new(), s.fuel_largest.to_string()),
    ]
}
