//! `quarterdeck db backup` and `quarterdeck db restore`

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use quarterdeck_store::backup;

use super::DatabaseArgs;

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// Where to
    file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// A file that `db backup` wrote
    file: PathBuf,
    /// A directory with room for a copy of the file; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

pub(super) async fn write(database: &DatabaseArgs, args: &BackupArgs) -> anyhow::Result<()> {
    if args.file.exists() && !args.force {
        bail!("{} is there already: --force replaces it", args.file.display());
    }
    let store = database.open_existing().await?;
    let mut tables = Tables::default();
    backup::write(&store, &args.file, &mut |table, rows| tables.done(table, rows)).await?;
    let bytes = std::fs::metadata(&args.file).with_context(|| args.file.display().to_string())?.len();
    eprintln!("{}: {bytes} bytes", args.file.display());
    Ok(())
}

pub(super) async fn restore(database: &DatabaseArgs, args: &RestoreArgs) -> anyhow::Result<()> {
    // Before the database is made: a mistyped name leaves nothing behind.
    std::fs::metadata(&args.file).with_context(|| args.file.display().to_string())?;
    let store = database.open().await?;
    let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let mut tables = Tables::default();
    backup::restore(&store, &args.file, &scratch, &mut |table, rows| tables.done(table, rows)).await?;
    eprintln!("{} rows of {} tables restored", tables.rows, tables.count);
    Ok(())
}

/// Tells people at a terminal how far it is.
#[derive(Default)]
struct Tables {
    count: usize,
    rows: u64,
}

impl Tables {
    fn done(&mut self, table: &str, rows: u64) {
        self.count += 1;
        self.rows += rows;
        if rows > 0 && std::io::stderr().is_terminal() {
            eprintln!("  {table}: {rows}");
        }
    }
}
