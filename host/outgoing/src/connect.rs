//! Connections: names are resolved, their addresses checked, and one of the checked ones connected to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};

use crate::address::Reach;
use crate::error::{Error, Result};

/// How long one address may take to accept a connection before the next is tried.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects as far as its reach goes.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) reach: Arc<Reach>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let reach = Arc::clone(&self.reach);
        Box::pin(async move { connect(&reach, &uri).await.map(TokioIo::new) })
    }
}

async fn connect(reach: &Reach, uri: &Uri) -> Result<TcpStream> {
    let host = uri.host().ok_or_else(|| Error::Url(uri.to_string()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or_else(|| if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let place = format!("{host}:{port}");
    let unreachable = |reason: String| Error::Unreachable { host: place.clone(), reason };
    let found: Vec<SocketAddr> =
        lookup_host((host, port)).await.map_err(|error| unreachable(error.to_string()))?.collect();
    let admitted: Vec<_> = found.iter().filter(|address| reach.admits(address.ip())).collect();
    if admitted.is_empty() && !found.is_empty() {
        return Err(Error::Refused(place));
    }
    let mut reason = "the name has no address".to_owned();
    for address in admitted {
        match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                return Ok(stream);
            }
            Ok(Err(error)) => reason = error.to_string(),
            Err(_) => reason = "it doesn't accept connections".to_owned(),
        }
    }
    Err(unreachable(reason))
}
