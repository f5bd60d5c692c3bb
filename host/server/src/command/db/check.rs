//! `quarterdeck db check`

use std::process::ExitCode;

use clap::Args;
use quarterdeck_control::check::{self, Report, Severity};
use serde_json::json;

use super::DatabaseArgs;
use crate::table;

/// What ends a look that found something broken.
const BROKEN: u8 = 3;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Put counters right that aren't what sessions and kernels add up to
    #[arg(long)]
    repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(database: &DatabaseArgs, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let store = database.open_existing().await?;
    let report = check::run(&store, args.repair).await?;
    if args.json {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|f| json!({"check": f.check, "severity": f.severity.as_str(), "detail": f.detail, "repaired": f.repaired}))
            .collect();
        table::json(&json!({"sound": report.is_sound(), "checks": report.checks, "findings": findings}))?;
    } else {
        show(&report)?;
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

fn show(report: &Report) -> std::io::Result<()> {
    table::print(
        &["CHECK", "RESULT"],
        report.checks.iter().map(|check| {
            let found = || report.findings.iter().filter(|f| f.check == *check);
            let broken = found().filter(|f| f.severity == Severity::Fault && !f.repaired).count();
            let repaired = found().filter(|f| f.repaired).count();
            let result = match (broken, repaired, found().count()) {
                (0, 0, 0) => "ok".to_owned(),
                (0, 0, n) => format!("{n} warnings"),
                (0, n, _) => format!("{n} repaired"),
                (n, ..) => format!("{n} broken"),
            };
            vec![(*check).to_owned(), result]
        }),
    )?;
    for finding in &report.findings {
        let mark = if finding.repaired { "repaired" } else { finding.severity.as_str() };
        table::text(&[format!("{}: {mark}: {}", finding.check, finding.detail)])?;
    }
    let counters = report.findings.iter().any(|f| f.check == "counters" && !f.repaired);
    if counters {
        eprintln!("`quarterdeck db check --repair` puts counters right");
    }
    Ok(())
}
