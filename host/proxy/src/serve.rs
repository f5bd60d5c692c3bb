//! Accepting clients, and the threads that serve them.
//!
//! A client's connection and those to replicas that its requests take are of one thread: a request never waits for
//! another thread to wake up. Each thread keeps connections to replicas of its own.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::forward::{Forwarder, Proxy};

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// How long requests under way may take once the proxy is told to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// After an `accept` that failed (no file descriptors left), how long to wait for better times.
const BREATH: Duration = Duration::from_millis(100);
/// More threads than this would only share the same network.
const MOST_THREADS: usize = 8;

/// Clients that wait for a thread to take them.
const WAITING: usize = 64;

/// A client that was accepted.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    /// Given back when the connection ends.
    place: OwnedSemaphorePermit,
}

/// A thread that serves clients.
struct Worker {
    clients: mpsc::Sender<Accepted>,
    ended: oneshot::Receiver<()>,
}

impl Proxy {
    /// Answers clients until told to stop; what is under way then may end.
    ///
    /// # Errors
    /// When its threads can't be started.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
        let workers = (0..threads).map(|_| Worker::start(self.clone())).collect::<std::io::Result<Vec<_>>>()?;
        let room = Arc::new(Semaphore::new(self.options().connections));
        for worker in workers.iter().cycle() {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { break };
            let (stream, peer) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&listener) => accepted,
            };
            if worker.clients.send(Accepted { stream, peer, place }).await.is_err() {
                return Err(std::io::Error::other("a thread of the app proxy has died"));
            }
        }
        drop(listener);
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.ended).collect();
        for end in ends {
            // A thread that died has nothing left to finish.
            let _ = end.await;
        }
        Ok(())
    }
}

/// The next client.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

impl Worker {
    fn start(proxy: Proxy) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (clients, accepted) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name("app-proxy".to_owned()).spawn(move || {
            runtime.block_on(serve(&proxy, accepted));
            // Whoever waited may have given up.
            let _ = end.send(());
        })?;
        Ok(Self { clients, ended })
    }
}

/// What a thread does: serves the clients that it is given until there come no more and those it has are done.
async fn serve(proxy: &Proxy, mut clients: mpsc::Receiver<Accepted>) {
    let forwarder = Arc::new(Forwarder::new(proxy.clone()));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).keep_alive_interval(Some(HEAD));
    let graceful = GracefulShutdown::new();
    while let Some(Accepted { stream, peer, place }) = clients.recv().await {
        let stream = match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be served");
                continue;
            }
        };
        // Answers are often small: waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let forwarder = Arc::clone(&forwarder);
        let service = service_fn(move |request| {
            let forwarder = Arc::clone(&forwarder);
            async move { Ok::<_, Infallible>(forwarder.answer(request, peer).await) }
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
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests to services didn't finish in time");
    }
}
