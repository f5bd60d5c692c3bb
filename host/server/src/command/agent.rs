//! `quarterdeck agent …` and `quarterdeck agent-token …`

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use quarterdeck_agent::doctor::Verdict;
use quarterdeck_agent::{
    AgentOptions, ContainerNetwork, DockerOptions, IsolationMode, Network, ProcessOptions, RuntimeKind,
};
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
    /// A container of its image each
    Docker,
    /// Only on the books: for scale tests
    Synthetic,
}

/// Whether kernels are kept apart from the node and from each other.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum IsolationArg {
    /// Where the node allows it
    Auto,
    /// Or the agent doesn't start
    Required,
    /// No: kernels run as the agent's own user
    None,
}

/// What kernels have for a network.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum NetworkArg {
    /// One of their own, shared with the session's other kernels only; service ports are reached through the agent
    None,
    /// The node's
    Host,
}

/// How the runtime `process` runs kernels.
#[derive(Debug, Args)]
pub(crate) struct ProcessArgs {
    /// Whether kernels are kept apart from the node and from each other
    #[arg(long, value_enum, default_value = "auto")]
    isolation: IsolationArg,
    /// What kernels have for a network
    #[arg(long, value_enum, default_value = "none")]
    network: NetworkArg,
    /// Don't filter kernels' system calls: to find out whether the filter is in the way of something
    #[arg(long)]
    all_system_calls: bool,
    /// A directory that kernels may read besides the system's own; may be repeated
    #[arg(long = "expose", value_name = "DIR")]
    exposed: Vec<PathBuf>,
    /// Who kernels are on the node when the agent is root: a user id that nobody has
    #[arg(long, value_name = "UID", default_value_t = quarterdeck_agent::KERNEL_USER, value_parser = clap::value_parser!(u32).range(1..))]
    kernel_user: u32,
    /// Where service ports are offered on the node
    #[arg(long, value_name = "ADDR", default_value_t = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST))]
    service_address: std::net::IpAddr,
    /// From which ports, e.g. 30000-32767
    #[arg(long, value_name = "FIRST-LAST", value_parser = port_range, default_value = "30000-32767")]
    service_ports: (u16, u16),
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let range =
        text.split_once('-').and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    match range {
        Some((first, last)) if first > 0 && first <= last => Ok((first, last)),
        _ => Err("two ports, e.g. 30000-32767".into()),
    }
}

impl From<ProcessArgs> for ProcessOptions {
    fn from(args: ProcessArgs) -> Self {
        Self {
            isolation: match args.isolation {
                IsolationArg::Auto => IsolationMode::Auto,
                IsolationArg::Required => IsolationMode::Required,
                IsolationArg::None => IsolationMode::None,
            },
            network: match args.network {
                NetworkArg::None => Network::None,
                NetworkArg::Host => Network::Host,
            },
            all_system_calls: args.all_system_calls,
            exposed: args.exposed,
            kernel_user: Some(args.kernel_user),
            sandbox_program: None,
            service_address: Some(args.service_address),
            service_ports: Some(args.service_ports),
        }
    }
}

/// What containers have for a network.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ContainerNetworkArg {
    /// One behind the node's address; kernels of a session share one, others don't reach each other
    Bridge,
    /// A loopback; kernels of a session share a network that leads nowhere
    None,
    /// The node's
    Host,
}

/// How the runtime `docker` runs kernels.
#[derive(Debug, Args)]
pub(crate) struct DockerArgs {
    /// The engine's socket (docker only); default: that of DOCKER_HOST, else /var/run/docker.sock
    #[arg(long, value_name = "PATH", value_parser = socket)]
    docker_socket: Option<PathBuf>,
    /// What containers have for a network
    #[arg(long, value_enum, default_value = "bridge")]
    container_network: ContainerNetworkArg,
    /// Who programs in containers are; default: 1000:1000, or the agent's own user when it isn't root
    #[arg(long, value_name = "UID[:GID]", value_parser = user)]
    container_user: Option<(u32, u32)>,
    /// Let sessions of image imports use the engine: who may import images can do everything on this node then
    #[arg(long)]
    build_images: bool,
}

#[allow(clippy::unnecessary_wraps, reason = "what clap takes")]
fn socket(text: &str) -> Result<PathBuf, String> {
    Ok(text.strip_prefix("unix://").unwrap_or(text).into())
}

fn user(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) if uid > 0 => Ok((uid, gid)),
        _ => Err("numbers of a user other than root and of a group, e.g. 1000:1000".into()),
    }
}

impl From<DockerArgs> for DockerOptions {
    fn from(args: DockerArgs) -> Self {
        Self {
            socket: args.docker_socket,
            network: match args.container_network {
                ContainerNetworkArg::Bridge => ContainerNetwork::Bridge,
                ContainerNetworkArg::None => ContainerNetwork::None,
                ContainerNetworkArg::Host => ContainerNetwork::Host,
            },
            user: args.container_user,
            builds_images: args.build_images,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Tell what this node offers to an agent, what is missing, and how to get it. Ends with 1 when kernels can't be isolated
    Doctor {
        #[command(flatten)]
        process: ProcessArgs,
        #[command(flatten)]
        docker: DockerArgs,
        /// Where kernels' files would live; default: `agent` in the data directory
        #[arg(long, env = "QUARTERDECK_AGENT_STATE_DIR", value_name = "DIR")]
        state_dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// The server's RPC address, e.g. http://10.0.0.1:6021
    #[arg(long, env = "QUARTERDECK_SERVER", value_name = "RPC_URL", required = true)]
    server: Option<String>,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    docker: DockerArgs,
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
    if let Some(AgentCommand::Doctor { process, docker, state_dir, json }) = args.command {
        return doctor(process, docker, state_dir, json);
    }
    let server = args.server.context("--server is missing")?;
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
        RuntimeArg::Docker => RuntimeKind::Docker,
        RuntimeArg::Synthetic => RuntimeKind::Synthetic,
    };
    if args.count > 1 && !matches!(runtime, RuntimeKind::Synthetic) {
        anyhow::bail!("--count is for the synthetic runtime: a node has one real agent");
    }
    if [&server, &args.listen.to_string()].into_iter().any(|addr| quarterdeck_rpc::is_exposed(addr)) {
        tracing::warn!(
            "THE SERVER IS SPOKEN TO WITHOUT ENCRYPTION ({}, listening on {}): whoever sees that network reads the agent's \
             credential and users' code; keep it private (a tunnel or a network of its own)",
            server,
            args.listen
        );
    }
    let options = AgentOptions {
        server,
        process: args.process.into(),
        docker: args.docker.into(),
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

fn doctor(
    process: ProcessArgs,
    docker: DockerArgs,
    state_dir: Option<PathBuf>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let dir = match state_dir {
        Some(dir) => dir,
        None => settings::data_dir_made(None)?.join("agent"),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let findings = tokio.block_on(quarterdeck_agent::doctor::examine(&process.into(), &docker.into(), &dir))?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Missing => "missing",
                Verdict::Unsafe => "UNSAFE",
            };
            writeln!(out, "{mark:<8}{:<17}{}", finding.name, finding.detail)?;
            if let Some(fix) = &finding.fix {
                writeln!(out, "{:<25}fix: {fix}", "")?;
            }
        }
    }
    let is_unsafe = findings.iter().any(|finding| finding.verdict == Verdict::Unsafe);
    Ok(if is_unsafe { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
