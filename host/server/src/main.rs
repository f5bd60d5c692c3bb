//! The one binary: server, agent, and the commands for people at the console.

mod client;
mod command;
mod settings;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "quarterdeck", version, about = "A WebAssembly-pluggable control plane for compute clusters")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: REST and GraphQL API, agent RPC, control loops
    Serve(command::serve::ServeArgs),
    /// Look after the database
    #[command(subcommand)]
    Db(command::db::DbCommand),
    /// Run a node agent
    Agent(command::agent::AgentArgs),
    /// Make tokens that let agents join
    #[command(subcommand)]
    AgentToken(command::agent::TokenCommand),
    /// Administer policy plugins on a running server
    Plugin(command::plugin::PluginArgs),
    /// Look at the scheduling rounds that a running server recorded, and play them again
    Round(command::round::RoundArgs),
    /// Tell why a session waits
    Why(command::why::WhyArgs),
    /// Tell whether a session would start now, and where; nothing is written. Ends with 3 when it would wait
    DryRun(command::dry_run::DryRunArgs),
    /// Show what can be configured
    #[command(subcommand)]
    Config(command::config::ConfigCommand),
    /// Print a shell completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    // The compiler of untrusted components runs as a child of this very binary, in limits of its own.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == quarterdeck_plugin::COMPILE_CHILD_ARG) {
        return quarterdeck_plugin::compile_child_main();
    }
    match run(Cli::parse()) {
        Ok(code) => code,
        // Whoever read has read enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain in one line: it is what people paste into a report.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if matches!(cli.command, Command::Serve(_) | Command::Db(_) | Command::AgentToken(_)) {
        settings::keep_files_private();
    }
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "quarterdeck", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(command) => command::config::run(&command),
        Command::Serve(args) => command::serve::run(args),
        Command::Db(command) => runtime()?.block_on(command::db::run(command)),
        Command::Agent(args) => command::agent::run(args),
        Command::AgentToken(command) => runtime()?.block_on(command::agent::token(command)),
        Command::Plugin(args) => runtime()?.block_on(command::plugin::run(args)),
        Command::Round(args) => runtime()?.block_on(command::round::run(args)),
        Command::Why(args) => runtime()?.block_on(command::why::run(args)),
        Command::DryRun(args) => runtime()?.block_on(command::dry_run::run(args)),
    }
}

/// One thread is plenty for a command that mostly waits.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
