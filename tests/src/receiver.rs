//! An HTTP server that notes what it hears and answers as a test wants: who is called back, or leads to applications.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::Value;
use tokio_rustls::TlsAcceptor;

/// What it heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// When it had all of it.
    pub at: Instant,
}

impl Heard {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's text; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A status with a body; `None`: no answer ever comes.
pub type Reply = Option<(StatusCode, String)>;

/// A running receiver; it ends with its runtime.
#[derive(Debug)]
pub struct Receiver {
    /// `http://127.0.0.1:PORT`, or `https`.
    pub url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Receiver {
    /// Starts one on a free port. `answer` is asked once for each request.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(answer: impl Fn(&Heard) -> Reply + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::listen(None, answer).await
    }

    /// As [`Receiver::start`], over TLS.
    ///
    /// # Errors
    /// As [`Receiver::start`].
    pub async fn start_tls(
        tls: TlsAcceptor,
        answer: impl Fn(&Heard) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::listen(Some(tls), answer).await
    }

    async fn listen(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Heard) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http{}://{}", if tls.is_some() { "s" } else { "" }, listener.local_addr()?);
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let (notes, answer) = (Arc::clone(&heard), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (notes, answer) = (Arc::clone(&notes), Arc::clone(&answer));
                let service = hyper::service::service_fn(move |request| {
                    let (notes, answer) = (Arc::clone(&notes), Arc::clone(&answer));
                    async move { Ok::<_, Infallible>(hear(request, &notes, &*answer).await) }
                });
                let tls = tls.clone();
                tokio::spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    let Some(tls) = tls else {
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                        return;
                    };
                    // Whoever doesn't trust it goes away here.
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        Ok(Self { url, heard })
    }

    /// Everything that it heard so far, in order.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn hear(
    request: Request<Incoming>,
    notes: &Mutex<Vec<Heard>>,
    answer: &(dyn Fn(&Heard) -> Reply + Send + Sync),
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let heard = Heard { method: parts.method, path, headers: parts.headers, body, at: Instant::now() };
    let reply = answer(&heard);
    notes.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
    let Some((status, body)) = reply else { return std::future::pending().await };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
