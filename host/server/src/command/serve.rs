//! `quarterdeck serve`: puts the layers together and runs until told to stop.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::serve::ListenerExt as _;
use clap::Args;
use quarterdeck_control::agents::HostService;
use quarterdeck_control::{Control, Settings, secrets};
use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};
use quarterdeck_store::{Options, Store};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use super::app_proxy::{self, AppProxy};
use crate::settings::{self, DEFAULT_LISTEN, DEFAULT_RPC_LISTEN, FileSettings, LogFormat};

/// How long calls in flight may take to finish once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the recordings of the last scheduling rounds may take then.
const LAST_RECORDINGS: Duration = Duration::from_secs(2);
/// What signs tokens for files.
const STORAGE_SECRET: &str = "storage-secret";

#[derive(Debug, Args)]
#[command(after_long_help = "\
Flags win over environment variables, these over the configuration file, and that over the defaults. `quarterdeck config
example` prints a file with all keys; `quarterdeck config check FILE` looks for faults in one. What a site decides (idle
timeouts, registries, slots, …) is in the shared configuration, which servers follow while they run: `quarterdeck config tree`.

SIGTERM and SIGINT end the server when calls in flight are done, or after ten seconds.
")]
pub(crate) struct ServeArgs {
    /// Where the API listens (default 127.0.0.1:8081); port 0 picks a free one
    #[arg(long, env = "QUARTERDECK_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where agents reach the server (default 127.0.0.1:6021)
    #[arg(long, env = "QUARTERDECK_RPC_LISTEN", value_name = "ADDR")]
    rpc_listen: Option<SocketAddr>,
    /// `sqlite://PATH` or `postgres://…`; default: a SQLite file in the data directory
    #[arg(long, env = "QUARTERDECK_DATABASE", value_name = "URL", hide_env_values = true)]
    database: Option<String>,
    /// Database file and compiled plugins
    #[arg(long, env = "QUARTERDECK_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the embedded app proxy serves model services (none unless given), for scaling groups whose coordinator is `embedded`
    #[arg(long, env = "QUARTERDECK_APP_PROXY_LISTEN", value_name = "ADDR")]
    app_proxy_listen: Option<SocketAddr>,
    /// Under which address clients reach the app proxy, when that isn't where it listens
    #[arg(long, env = "QUARTERDECK_APP_PROXY_URL", value_name = "URL")]
    app_proxy_url: Option<String>,
    /// Components in this directory come in by themselves, and serve whom the `.toml` beside them names
    #[arg(long, env = "QUARTERDECK_PLUGIN_DIR", value_name = "DIR")]
    plugin_dir: Option<PathBuf>,
    /// Where clients send and fetch files of folders; default: below /storage where the API listens
    #[arg(long, env = "QUARTERDECK_STORAGE_LISTEN", value_name = "ADDR")]
    storage_listen: Option<SocketAddr>,
    /// The address of that for clients, when they don't come by the name under which they reach the API
    #[arg(long, env = "QUARTERDECK_STORAGE_URL", value_name = "URL")]
    storage_url: Option<String>,
    /// Configuration file (TOML); see `quarterdeck config example`
    #[arg(long, env = "QUARTERDECK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Names this host in its status, in locks and in logs
    #[arg(long, env = "QUARTERDECK_NODE_ID", value_name = "NAME")]
    node_id: Option<String>,
    /// How log lines look
    #[arg(long, env = "QUARTERDECK_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let file = FileSettings::read(args.config.as_deref())?;
    settings::init_logging(args.log_format.or(file.log_format).unwrap_or_default());
    settings::keep_memory_private();
    let mut tokio = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = file.worker_threads {
        tokio.worker_threads(threads);
    }
    let tokio = tokio.enable_all().build()?;
    tokio.block_on(serve(args, file))?;
    // Workers that still run a policy are not waited for: their deadline ends them.
    tokio.shutdown_timeout(Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: ServeArgs, mut file: FileSettings) -> anyhow::Result<()> {
    file.node_id = args.node_id.or(file.node_id);
    let data_dir = settings::data_dir_made(args.data_dir.or_else(|| file.data_dir.clone()))?;
    let url = settings::database_url(args.database.or_else(|| file.database.clone()), Some(data_dir.clone()))?;

    // Listen first: a taken port is told at once, and before anything is changed.
    let listen = args.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN);
    let api = TcpListener::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
    let rpc_listen = args.rpc_listen.or(file.rpc_listen).unwrap_or(DEFAULT_RPC_LISTEN);
    let rpc = TcpListener::bind(rpc_listen).await.with_context(|| format!("--rpc-listen {rpc_listen}"))?;
    let files = match args.storage_listen.or(file.storage_listen) {
        Some(addr) => Some(TcpListener::bind(addr).await.with_context(|| format!("--storage-listen {addr}"))?),
        None => None,
    };
    let (api_addr, rpc_addr) = (api.local_addr()?, rpc.local_addr()?);
    let apps = AppProxy::bind(
        args.app_proxy_listen.or(file.app_proxy_listen),
        args.app_proxy_url.or_else(|| file.app_proxy_url.clone()),
    )
    .await?;
    if quarterdeck_rpc::is_exposed(&rpc_addr.to_string()) {
        tracing::warn!(
            "AGENTS ARE SPOKEN TO WITHOUT ENCRYPTION on {rpc_addr}: whoever sees that network reads their credentials and \
             users' code, and may take an agent's place; keep it private (a tunnel or a network of its own)"
        );
    }

    let defaults = Options::default();
    let options = Options {
        connections: file.database_connections.unwrap_or(defaults.connections),
        sync_full: file.sync_full.unwrap_or(defaults.sync_full),
        ..Options::default()
    };
    let store = Store::open(&url, &options).await?;
    store.migrate().await?;
    quarterdeck_control::seed::ensure_defaults(&store).await?;

    let runtime = Runtime::new(RuntimeOptions {
        cache_dir: Some(data_dir.join("compiled")),
        compiler: Compiler::Child {
            program: std::env::current_exe().context("the path of this program")?,
            args: vec![quarterdeck_plugin::COMPILE_CHILD_ARG.into()],
        },
        ..RuntimeOptions::default()
    })?;
    let mut settings = control_settings(&file, api_addr)?;
    settings.signatures = file.signatures()?;
    settings.plugin_dir = args.plugin_dir.or_else(|| file.plugin_dir.clone());
    let secret = secrets::of(&store, STORAGE_SECRET).await?;
    let storage_url = args.storage_url.or_else(|| file.storage_url.clone());
    settings.storage = file.storage.clone().unwrap_or_default().open(&data_dir, secret, storage_url)?;
    let control = Control::new(store, runtime, settings).await?;

    let shutdown = CancellationToken::new();
    tokio::spawn(shutdown_signal(shutdown.clone()));
    let loops = control.spawn_loops(shutdown.clone());

    let mut api_settings = quarterdeck_api::ApiSettings::default();
    if let Some(limit) = file.anonymous_rate_limit {
        api_settings.anonymous_rate_limit = limit.into();
    }
    api_settings.storage_port = files.as_ref().map(TcpListener::local_addr).transpose()?.map(|addr| addr.port());
    let router = quarterdeck_api::router(control.clone(), api_settings);
    let http = tokio::spawn(serve_api(api, router, shutdown.clone()));
    let files = files.map(|listener| {
        tokio::spawn(serve_api(listener, quarterdeck_api::storage::router(control.clone()), shutdown.clone()))
    });
    let agents = tokio::spawn(serve_agents(control.clone(), rpc, shutdown.clone()));
    let at = apps.as_ref().map(|apps| format!(" apps {}", apps.url)).unwrap_or_default();
    let services = tokio::spawn(app_proxy::serve(control.clone(), apps, shutdown.clone()));

    writeln!(std::io::stdout(), "listening on http://{api_addr} rpc http://{rpc_addr}{at}")?;
    std::io::stdout().flush()?;

    shutdown.cancelled().await;
    tracing::info!("stopping: finishing calls in flight");
    let drained = tokio::time::timeout(DRAIN, async {
        let mut outcomes = vec![http.await, agents.await, services.await];
        if let Some(files) = files {
            outcomes.push(files.await);
        }
        loops.close();
        loops.wait().await;
        outcomes
    });
    match drained.await {
        Ok(outcomes) => {
            for outcome in outcomes {
                outcome??;
            }
        }
        Err(_) => tracing::warn!("some calls didn't finish in time"),
    }
    control.identity().flush().await?;
    if tokio::time::timeout(LAST_RECORDINGS, control.recorder().flush()).await.is_err() {
        tracing::warn!("some scheduling rounds were not recorded in time");
    }
    Ok(())
}

/// Answers clients until told to stop.
async fn serve_api(listener: TcpListener, router: Router, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Answers are small: waiting for more to send would only delay them.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("the API")
}

/// Answers agents until told to stop.
async fn serve_agents(control: Control, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(1024))
        .tcp_nodelay(true)
        .add_service(quarterdeck_rpc::host_service(HostService::new(control)))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.cancelled_owned())
        .await
        .context("the agents' service")
}

fn control_settings(file: &FileSettings, service_addr: SocketAddr) -> anyhow::Result<Settings> {
    let mut settings = Settings { service_addr: Some(service_addr.to_string()), ..Settings::default() };
    if let Some(id) = &file.node_id {
        settings.node_id.clone_from(id);
    }
    // Within their ranges, as the file was read.
    if let Some(seconds) = file.heartbeat_timeout_seconds {
        settings.heartbeat_timeout_ms = (seconds * 1000.0) as i64;
    }
    if let Some(seconds) = file.idle_interval_seconds {
        settings.idle_interval = Duration::from_secs_f64(seconds);
    }
    if let Some(proxies) = &file.trusted_proxies {
        settings.trusted_proxies = proxies
            .iter()
            .map(|p| p.parse().with_context(|| format!("trusted_proxies: {p} is no network")))
            .collect::<anyhow::Result<_>>()?;
    }
    if let Some(hide) = file.hide_agents {
        settings.hide_agents = hide;
    }
    if let Some(image) = &file.importer_image {
        settings.importer_image.clone_from(image);
    }
    if let Some(rounds) = file.recorded_rounds {
        settings.record_rounds = rounds > 0;
        settings.round_ring = rounds as usize;
    }
    Ok(settings)
}

/// Cancels the token at SIGINT or SIGTERM.
pub(crate) async fn shutdown_signal(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::error!(%error, "SIGTERM can't be listened for");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
    shutdown.cancel();
}
