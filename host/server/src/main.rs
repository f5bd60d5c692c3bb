//! The one binary: server, agent, and the commands for people at the console.

mod client;
mod command;
mod settings;
mod table;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches as _, Parser, Subcommand};
use quarterdeck_control::audit::{self, Act, Actor, Via};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Debug, Parser)]
#[command(
    name = "quarterdeck",
    version,
    about = "A WebAssembly-pluggable control plane for compute clusters",
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 the answer is no (checks, dry runs), 4 no such object."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: REST and GraphQL API, agent RPC, control loops
    Serve(command::serve::ServeArgs),
    /// Make the first superadmin of a fresh installation, with the defaults it needs
    ///
    /// Makes the database when there is none, the domain, project, resource policy and scaling group `default`, and a
    /// superadmin with a key pair, which is shown this once. Refuses when there is a superadmin already.
    Init(command::init::InitArgs),
    /// Look after the database
    Db(command::db::DbArgs),
    /// Administer users at the server's console
    User(command::console::user::UserArgs),
    /// Administer key pairs at the server's console
    Keypair(command::console::keypair::KeypairArgs),
    /// Administer domains at the server's console
    Domain(command::console::domain::DomainArgs),
    /// Administer projects and their members at the server's console
    Project(command::console::project::ProjectArgs),
    /// Administer resource policies at the server's console
    Policy(command::console::policy::PolicyArgs),
    /// Administer scaling groups, and who may use them, at the server's console
    ScalingGroup(command::console::scaling_group::ScalingGroupArgs),
    /// Administer image records at the server's console
    Image(command::console::image::ImageArgs),
    /// Administer resource presets at the server's console
    Preset(command::console::preset::PresetArgs),
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
    /// Show who changed what on a running server, newest first
    Audit(command::audit::AuditArgs),
    /// The server's configuration file, and the shared configuration that servers follow while they run
    Config(command::config::ConfigArgs),
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
    // So is the first process of each kernel's sandbox.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == quarterdeck_agent::SANDBOX_ARG) {
        return quarterdeck_agent::sandbox::main();
    }
    let matches = Cli::command().get_matches();
    // Servers and agents act for others; everything else is what somebody at the console does.
    if !matches!(matches.subcommand_name(), Some("serve" | "agent")) {
        audit::whole_process(at_console(&matches));
    }
    match Cli::from_arg_matches(&matches).map_err(anyhow::Error::from).and_then(run) {
        Ok(code) => code,
        // Whoever read has read enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain in one line: it is what people paste into a report.
            eprintln!("error: {error:#}");
            if error.is::<command::console::Missing>() { ExitCode::from(NOT_THERE) } else { ExitCode::FAILURE }
        }
    }
}

/// What ends commands about something that isn't there.
const NOT_THERE: u8 = 4;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// How the audit tells of a command that opens the database itself.
fn at_console(matches: &ArgMatches) -> Act {
    let cli = Cli::command();
    let actor =
        Actor { name: Some(command::console::account()), address: Some("console".to_owned()), ..Actor::default() };
    let (mut words, mut innermost, mut command) = (vec!["quarterdeck"], matches, Some(&cli));
    while let Some((word, matches)) = innermost.subcommand() {
        words.push(word);
        innermost = matches;
        command = command.and_then(|command| command.find_subcommand(word));
    }
    // Arguments that belong together are a group, which nobody types.
    let is_group = |id: &str| command.is_some_and(|command| command.get_groups().any(|group| group.get_id() == id));
    let mut given = serde_json::Map::new();
    for id in innermost.ids().filter(|id| !is_group(id.as_str())) {
        let typed = innermost.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        // Where the database is may hold its password.
        if let (true, Some(values)) = (typed && id != "database", innermost.try_get_raw(id.as_str()).ok().flatten()) {
            let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
            let text = values.join(" ");
            // Secrets within a document are known by their names there.
            let document = serde_json::from_str(&text).ok().filter(serde_json::Value::is_object);
            given.insert(id.to_string(), document.unwrap_or_else(|| text.into()));
        }
    }
    let given = serde_json::Value::Object(given);
    let act = Act::new(Via::Cli, actor, words.join(" ")).with(audit::redacted(&given));
    let target = ["file", "name", "email"].iter().find_map(|name| given.get(*name)?.as_str());
    target.into_iter().fold(act, Act::on)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    use Command as C;
    if !matches!(
        cli.command,
        C::Completions { .. } | C::Agent(_) | C::Plugin(_) | C::Round(_) | C::Audit(_) | C::Why(_) | C::DryRun(_)
    ) {
        settings::keep_files_private();
    }
    match cli.command {
        C::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "quarterdeck", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        C::Serve(args) => command::serve::run(args),
        C::Agent(args) => command::agent::run(args),
        other => runtime()?.block_on(Box::pin(waiting(other))),
    }
}

/// Commands that mostly wait.
async fn waiting(command: Command) -> anyhow::Result<ExitCode> {
    use Command as C;
    let done = |()| ExitCode::SUCCESS;
    match command {
        C::Serve(_) | C::Agent(_) | C::Completions { .. } => unreachable!("they are run elsewhere"),
        C::Init(args) => command::init::run(args).await,
        C::Db(args) => command::db::run(args).await,
        C::Config(args) => command::config::run(args).await,
        C::AgentToken(command) => command::agent::token(command).await,
        C::Plugin(args) => command::plugin::run(args).await,
        C::Audit(args) => command::audit::run(args).await,
        C::Round(args) => command::round::run(args).await,
        C::Why(args) => command::why::run(args).await,
        C::DryRun(args) => command::dry_run::run(args).await,
        C::User(args) => command::console::user::run(args).await.map(done),
        C::Keypair(args) => command::console::keypair::run(args).await.map(done),
        C::Domain(args) => command::console::domain::run(args).await.map(done),
        C::Project(args) => command::console::project::run(args).await.map(done),
        C::Policy(args) => command::console::policy::run(args).await.map(done),
        C::ScalingGroup(args) => command::console::scaling_group::run(args).await.map(done),
        C::Image(args) => command::console::image::run(args).await.map(done),
        C::Preset(args) => command::console::preset::run(args).await.map(done),
    }
}

/// One thread is plenty for a command that mostly waits.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_command_says_what_it_is_for() {
        fn look(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path}");
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{path}: {}", arg.get_id());
            }
            for sub in command.get_subcommands() {
                look(sub, &path);
            }
        }
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        look(&cli, "");
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli, "quarterdeck", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("scaling-group") && script.contains("env-file"), "{shell}");
        }
    }
}
