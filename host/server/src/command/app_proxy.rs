//! The embedded app proxy of `serve`: follows the services, and brings requests to their sessions.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use quarterdeck_control::{Control, services};
use quarterdeck_proxy::{Proxy, ProxyOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A listener for the services' clients, and the address that they are told.
#[derive(Debug)]
pub(crate) struct AppProxy {
    listener: TcpListener,
    pub(crate) url: String,
}

impl AppProxy {
    /// Listens, if there is to be one.
    pub(crate) async fn bind(listen: Option<SocketAddr>, url: Option<String>) -> anyhow::Result<Option<Self>> {
        let Some(listen) = listen else {
            anyhow::ensure!(url.is_none(), "--app-proxy-url needs --app-proxy-listen");
            return Ok(None);
        };
        let listener = TcpListener::bind(listen).await.with_context(|| format!("--app-proxy-listen {listen}"))?;
        let url = match url {
            Some(url) => {
                let good = url.starts_with("http://") || url.starts_with("https://");
                anyhow::ensure!(good, "--app-proxy-url {url}: must begin with http:// or https://");
                url.trim_end_matches('/').to_owned()
            }
            None => {
                let at = listener.local_addr()?;
                if at.ip().is_unspecified() {
                    tracing::warn!(
                        "clients are told that services are at {at}: set --app-proxy-url to what they can reach"
                    );
                }
                format!("http://{at}")
            }
        };
        Ok(Some(Self { listener, url }))
    }
}

/// Serves until told to stop.
pub(crate) async fn serve(control: Control, apps: Option<AppProxy>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Some(AppProxy { listener, url }) = apps else { return Ok(()) };
    let secret = services::secret(&control).await?;
    let proxy =
        Proxy::new(secret, ProxyOptions::default(), Some(Arc::new(services::ProxyMetrics::new(control.metrics()))));
    let (sender, mut table) = watch::channel(Vec::new());
    let followed = tokio::spawn(services::follow(control, url, sender, shutdown.clone()));
    let updated = {
        let proxy = proxy.clone();
        tokio::spawn(async move {
            while table.changed().await.is_ok() {
                let services = table.borrow_and_update().clone();
                proxy.update(services);
            }
        })
    };
    proxy.serve(listener, shutdown).await.context("the app proxy")?;
    followed.await??;
    updated.await?;
    Ok(())
}
