//! `quarterdeck config …`

use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use crate::settings;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a documented configuration file with the defaults
    Example,
}

pub(crate) fn run(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Example => std::io::stdout().write_all(settings::EXAMPLE.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}
