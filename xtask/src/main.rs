//! Every chore of the project: `cargo xtask …`.
#![allow(clippy::print_stdout, reason = "this program talks to people on standard output")]

mod authors;
mod bench;
mod bench_proxy;
mod check;
mod demo;
mod docs;
mod folders;
mod guests;
mod load;
mod prerequisites;
mod run;
mod suite;
mod throughput;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Chores of the Quarterdeck project")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Watch the main job for real: server, agents, the official client, a policy swapped live
    Demo,
    /// Run all tests, with PostgreSQL, real agents and the official client
    Test {
        /// Full counts (seeds, kills, swaps) instead of those for CI
        #[arg(long)]
        long: bool,
    },
    /// Layers, formatting, lints, licences and duplicate dependencies
    Check,
    /// Build the policy guests: built-in ones and examples
    Guests,
    /// Build and try the examples in all languages, and a project of each kind that `plugin new` makes
    Authors,
    /// Write what is generated: the contract's reference in docs/
    Gen,
    /// Measure the hot paths
    Bench {
        /// Only what policies cost
        #[arg(long)]
        policies: bool,
        /// Only signed requests, beside the bare framework
        #[arg(long)]
        requests: bool,
        /// Only sessions and heartbeats
        #[arg(long)]
        sessions: bool,
        /// Only the app proxy, beside nginx
        #[arg(long)]
        proxy: bool,
        /// Only files of folders, beside cp
        #[arg(long)]
        folders: bool,
        /// Only what policies cost; the figures as one JSON object a line, after whatever else is said
        #[arg(long)]
        json: bool,
        /// Only what policies cost on a server, with the debug build: the figures mean nothing
        #[arg(long)]
        rehearse: bool,
    },
    /// The framework by itself, as a measure for the server
    #[command(hide = true)]
    BareFramework,
    /// Run the official client's conformance suite (arguments go to pytest)
    Conformance {
        /// `sqlite` or `postgres`
        #[arg(long, default_value = "sqlite")]
        database: String,
        /// Where kernels run: `process` or `docker`
        #[arg(long, default_value = "process")]
        runtime: String,
        /// For pytest, after `--`
        #[arg(last = true)]
        pytest: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Demo => demo::run_demo(),
        Task::Test { long } => suite::run_all(long),
        Task::Check => check::run_all(),
        Task::Guests => guests::build(),
        Task::Authors => suite::authors_alone(),
        Task::Gen => docs::generate(),
        Task::Bench { rehearse: false, .. } if bench::again_in_release()? => Ok(()),
        Task::Bench { requests: true, .. } => bench::requests(),
        Task::Bench { sessions: true, .. } => throughput::alone(),
        Task::Bench { rehearse: true, .. } => bench::rehearse(),
        Task::Bench { json, policies, .. } if json || policies => bench::policies(json),
        Task::Bench { proxy: true, .. } => bench_proxy::run_all(),
        Task::Bench { folders: true, .. } => folders::alone(),
        Task::Bench { .. } => bench::run_all(),
        Task::BareFramework => bench::requests::serve_bare(&bench::runtime()?),
        Task::Conformance { database, runtime, pytest } => suite::conformance_alone(&database, &runtime, &pytest),
    }
}
