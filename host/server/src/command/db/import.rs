//! `quarterdeck db import`

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quarterdeck_control::import::{self, Options, Remark, Report};
use quarterdeck_store::reference::Source;
use serde_json::{Value as Json, json};

use super::DatabaseArgs;
use crate::table;

/// Remarks of one kind that people are shown of a table; `--json` has all.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The database to take over, `postgres://USER:PASSWORD@HOST/NAME`; it is only read
    #[arg(env = "QUARTERDECK_IMPORT_FROM", value_name = "URL", hide_env_values = true)]
    source: String,
    /// Do everything, tell what would be, and undo it
    #[arg(long)]
    dry_run: bool,
    /// Bring what is here already to what it is there
    #[arg(long)]
    update: bool,
    /// The policy of key pairs whose own isn't there; without, they are left out
    #[arg(long, value_name = "NAME")]
    fallback_policy: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(database: &DatabaseArgs, args: ImportArgs) -> anyhow::Result<ExitCode> {
    let mut source = Source::open(&args.source).await.context("the database to import from")?;
    let store = database.open().await?;
    let options = Options { dry_run: args.dry_run, update: args.update, fallback_policy: args.fallback_policy };
    let bar = progress_bar();
    let mut told = String::new();
    let report = import::run(&store, &mut source, &options, &mut |table, done, total| {
        if told != table {
            table.clone_into(&mut told);
            bar.set_length(u64::try_from(total).unwrap_or(u64::MAX));
            bar.set_message(told.clone());
        }
        bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    if args.json {
        table::json(&document(&report))?;
    } else {
        show(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}: {pos}/{len}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn document(report: &Report) -> Json {
    let remarks = |list: &[Remark], word: &str| -> Vec<Json> {
        list.iter().map(|r| json!({"table": r.table, "row": r.row, word: r.text})).collect()
    };
    let tables: serde_json::Map<String, Json> = report
        .tables
        .iter()
        .map(|(table, c)| {
            let counts = json!({
                "read": c.read, "added": c.added, "updated": c.updated, "existing": c.existing, "skipped": c.skipped,
            });
            ((*table).to_owned(), counts)
        })
        .collect();
    json!({
        "dry_run": report.dry_run,
        "schema_revision": report.revision,
        "tables": tables,
        "skipped": remarks(&report.skipped, "reason"),
        "notes": remarks(&report.notes, "note"),
        "other_tables": report.other_tables,
    })
}

fn show(report: &Report) -> std::io::Result<()> {
    table::print(
        &["TABLE", "READ", "ADDED", "UPDATED", "EXISTING", "SKIPPED"],
        report.tables.iter().map(|(table, c)| {
            let counts = [c.read, c.added, c.updated, c.existing, c.skipped];
            std::iter::once((*table).to_owned()).chain(counts.iter().map(ToString::to_string)).collect()
        }),
    )?;
    for (title, list) in [("left out", &report.skipped), ("noted", &report.notes)] {
        for table in report.tables.keys() {
            let of_table: Vec<&Remark> = list.iter().filter(|r| r.table == *table).collect();
            let lines: Vec<String> =
                of_table.iter().take(SHOWN).map(|r| format!("{title}: {table}: {}: {}", r.row, r.text)).collect();
            table::text(&lines)?;
            if of_table.len() > SHOWN {
                table::text(&[format!("{title}: {table}: … and {} more; --json has all", of_table.len() - SHOWN)])?;
            }
        }
    }
    if !report.other_tables.is_empty() {
        table::text(&[format!("not taken over: {}", report.other_tables.join(", "))])?;
    }
    if report.dry_run {
        eprintln!("a dry run: nothing was written");
    }
    Ok(())
}
