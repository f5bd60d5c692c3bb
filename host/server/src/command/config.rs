//! `quarterdeck config …`: the server's file (`example`, `check`, `schema`) and the shared configuration.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::command::console::DeskArgs;
use crate::command::console::tree::{self, TreeCommand};
use crate::settings;
use crate::table;

/// What ends a look at a file that has faults.
const FAULTY: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    desk: DeskArgs,
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a documented configuration file with the defaults
    Example,
    /// Look whether `serve` would take a configuration file; every fault is told with its line. Ends with 3 when it has any
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    #[command(flatten)]
    Tree(TreeCommand),
}

pub(crate) async fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ConfigCommand::Example => std::io::stdout().write_all(settings::EXAMPLE.as_bytes())?,
        ConfigCommand::Schema => table::json(&settings::schema::document())?,
        ConfigCommand::Check { file } => {
            let faults = settings::check::file(&file)?;
            let name = file.display();
            if args.desk.json() {
                let list: Vec<_> =
                    faults.iter().map(|f| json!({"line": f.line, "key": f.key, "fault": f.text})).collect();
                table::json(&json!({"file": name.to_string(), "faults": list}))?;
            } else if faults.is_empty() {
                table::text(&[format!("{name}: ok")])?;
            } else {
                table::text(&faults.iter().map(|fault| format!("{name}:{fault}")).collect::<Vec<_>>())?;
            }
            return Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAULTY) });
        }
        ConfigCommand::Tree(command) => tree::run(args.desk, command).await?,
    }
    Ok(ExitCode::SUCCESS)
}
