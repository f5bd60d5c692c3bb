//! `quarterdeck agent …` and `quarterdeck agent-token …`

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use quarterdeck_agent::{AgentOptions, RuntimeKind};
use quarterdeck_model::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::command::db::DatabaseArgs;
use crate::command::serve::shutdown_signal;
use crate::settings::{self, LogFormat};

/// How kernels are run.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RuntimeArg {
    /// A process tree each, in a work directory of its own
    Process,
    /// Only on the books: for scale tests
    Synthetic,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The server's RPC address, e.g. http://10.0.0.1:6021
    #[arg(long, env = "QUARTERDECK_SERVER", value_name = "RPC_URL")]
    server: String,
    /// How kernels are run
    #[arg(long, value_enum, default_value = "process")]
    runtime: RuntimeArg,
    /// Agents in this process (synthetic only)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// What it offers, e.g. cpu=4,mem=8g; default: the node's CPUs and memory
    #[arg(long, value_name = "SLOTS")]
    slots: Option<String>,
    /// The scaling group to join
    #[arg(long, default_value = "default", value_name = "NAME")]
    scaling_group: String,
    /// A join token from `quarterdeck agent-token new`
    #[arg(long, env = "QUARTERDECK_JOIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds the join token: unlike `--token`, other processes don't see it
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// The agent's id; default: `i-` and the host's name
    #[arg(long)]
    id: Option<String>,
    /// Where the server reaches this agent
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), value_name = "ADDR")]
    listen: SocketAddr,
    /// Address to give to the server, when it isn't the one listened on
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// Host name that users reach this node by
    #[arg(long)]
    public_host: Option<String>,
    /// Where kernels' files live; default: `agent` in the data directory
    #[arg(long, env = "QUARTERDECK_AGENT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where committed sessions are archived; default: `commits` beside the kernels' files
    #[arg(long, env = "QUARTERDECK_AGENT_COMMIT_DIR", value_name = "DIR")]
    commit_dir: Option<PathBuf>,
    /// How log lines look
    #[arg(long, env = "QUARTERDECK_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

pub(crate) fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    settings::init_logging(args.log_format);
    settings::keep_memory_private();
    let token = match (args.token_file, args.token) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(&file).with_context(|| format!("--token-file {}", file.display()))?;
            text.trim().to_owned()
        }
        (None, Some(token)) => token,
        (None, None) => anyhow::bail!("an agent needs a join token: --token-file, --token or QUARTERDECK_JOIN_TOKEN"),
    };
    let state_dir = match args.state_dir {
        Some(dir) => dir,
        None => settings::data_dir_made(None)?.join("agent"),
    };
    let slots = args.slots.as_deref().map(quarterdeck_agent::parse_slots).transpose().context("--slots")?;
    let runtime = match args.runtime {
        RuntimeArg::Process => RuntimeKind::Process,
        RuntimeArg::Synthetic => RuntimeKind::Synthetic,
    };
    if args.count > 1 && !matches!(runtime, RuntimeKind::Synthetic) {
        anyhow::bail!("--count is for the synthetic runtime: a node has one real agent");
    }
    if matches!(runtime, RuntimeKind::Process) {
        tracing::warn!("kernels run as this agent's own user: the process runtime is no security boundary");
    }
    if [&args.server, &args.listen.to_string()].into_iter().any(|addr| quarterdeck_rpc::is_exposed(addr)) {
        tracing::warn!(
            "THE SERVER IS SPOKEN TO WITHOUT ENCRYPTION ({}, listening on {}): whoever sees that network reads the agent's \
             credential and users' code; keep it private (a tunnel or a network of its own)",
            args.server,
            args.listen
        );
    }
    let options = AgentOptions {
        server: args.server,
        listen: args.listen,
        advertise: args.advertise,
        runtime,
        count: args.count,
        slots,
        scaling_group: args.scaling_group,
        token,
        id: args.id,
        state_dir,
        commit_dir: args.commit_dir,
        public_host: args.public_host,
        ..AgentOptions::default()
    };
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(shutdown_signal(shutdown.clone()));
        quarterdeck_agent::run(options, shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token with which agents join; it is shown this once
    New {
        #[command(flatten)]
        database: DatabaseArgs,
        /// What it is for
        #[arg(long)]
        note: Option<String>,
        /// Days until it expires; without it, never
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: Option<u32>,
    },
}

pub(crate) async fn token(command: TokenCommand) -> anyhow::Result<ExitCode> {
    let TokenCommand::New { database, note, days } = command;
    let store = database.open().await?;
    let expires_at = days.map(|days| Timestamp::now().plus_millis(i64::from(days) * 86_400_000));
    let token = quarterdeck_control::agents::new_join_token(&store, note.as_deref(), expires_at).await?;
    writeln!(std::io::stdout(), "{token}")?;
    Ok(ExitCode::SUCCESS)
}
