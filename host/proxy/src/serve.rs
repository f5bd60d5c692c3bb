//! Accepting clients.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::forward::Proxy;

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// How long requests under way may take once the proxy is told to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// After an `accept` that failed (no file descriptors left), how long to wait for better times.
const BREATH: Duration = Duration::from_millis(100);

impl Proxy {
    /// Answers clients until told to stop; what is under way then may end.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).keep_alive_interval(Some(HEAD));
        let graceful = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(self.options().connections));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            // Answers are often small: waiting for more to send would only delay them.
            let _ = stream.set_nodelay(true);
            let proxy = self.clone();
            let service = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { Ok::<_, Infallible>(proxy.answer(request, peer).await) }
            });
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection broke off");
                }
            });
        }
        drop(listener);
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests to services didn't finish in time");
        }
    }
}
