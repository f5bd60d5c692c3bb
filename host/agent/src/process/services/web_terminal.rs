//! A terminal in a browser, which the agent itself serves where the node has no `ttyd`.
//!
//! `/` is a page, `/ws` a web socket: binary messages are bytes that the terminal shows or that are typed; a text of the
//! browser is `{"resize": {"rows": 24, "columns": 80}}` or `{"input": "ls\r"}`. Everybody sees the kernel's one terminal.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::programs::{LABEL, finds};
use super::{Attach, Running, Services, What};
use crate::runtime::{Attachment, TerminalInput};

const PAGE: &str = include_str!("terminal.html");
const SCRIPT: &str = include_str!("terminal.js");
/// What the page may do: run its own script and speak to where it came from.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self' ws: wss:";
/// People before one kernel's terminal.
const VIEWERS: usize = 32;
/// Bytes of a message: what is pasted at once.
const LARGEST: usize = 1 << 20;

#[derive(Clone)]
struct Site {
    terminal: Attach,
    turns: Arc<Semaphore>,
    stop: CancellationToken,
}

/// What a browser says, besides keys.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Resize { rows: u16, columns: u16 },
    Input(String),
}

impl Services {
    /// Whether the agent itself serves that service: a terminal, when neither the image nor the node has a program for it.
    pub(super) fn is_web_terminal(&self, name: &str) -> bool {
        matches!(name, "ttyd" | "terminal")
            && !self.ground.labels.contains_key(&format!("{LABEL}{name}"))
            && (self.ground.launcher.container().is_some() || finds("ttyd").is_none())
    }

    /// Serves the kernel's terminal on a port of its loopback.
    pub(super) async fn serve_terminal(&self, port: u16) -> io::Result<Running> {
        let launcher = &self.ground.launcher;
        let listener = match (launcher.sandbox(), launcher.container()) {
            (Some(sandbox), _) if self.ground.own_network => {
                let listener = std::net::TcpListener::from(sandbox.listen(port).await?);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)?
            }
            (_, Some(container)) if self.ground.own_network => container.listen(port).await?,
            _ => TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?,
        };
        let stop = self.closed.child_token();
        let (terminal, turns) = (self.ground.terminal.clone(), Arc::new(Semaphore::new(VIEWERS)));
        let site = Site { terminal, turns, stop: stop.clone() };
        let app = Router::new()
            .route("/", get(async || text("text/html; charset=utf-8", PAGE)))
            .route("/terminal.js", get(async || text("text/javascript; charset=utf-8", SCRIPT)))
            .route("/ws", get(attach))
            .with_state(site);
        let (tell, ended) = watch::channel(None);
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
                tracing::warn!(%error, "a web terminal ended");
            }
            let _ = tell.send(Some(0));
        });
        Ok(Running { what: What::Own(stop), ended })
    }
}

fn text(kind: &'static str, body: &'static str) -> Response {
    let headers = [(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, POLICY), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, body).into_response()
}

/// Whether no page of another site asks. Browsers let any page open a web socket anywhere, and tell where it came from.
fn is_own_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default();
    let from = origin.split_once("://").map_or(origin, |(_, host)| host);
    let known = ["x-forwarded-host", HOST.as_str()].into_iter().filter_map(|name| headers.get(name)?.to_str().ok());
    !from.is_empty() && known.into_iter().any(|host| host.eq_ignore_ascii_case(from))
}

async fn attach(State(site): State<Site>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    if !is_own_page(&headers) {
        return (StatusCode::FORBIDDEN, "this terminal is for its own page").into_response();
    }
    let Ok(turn) = site.turns.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many people are before this terminal").into_response();
    };
    let attachment = match (site.terminal)().await {
        Ok(attachment) => attachment,
        Err(failure) => return (StatusCode::CONFLICT, failure.to_string()).into_response(),
    };
    upgrade.max_message_size(LARGEST).on_upgrade(async move |socket| {
        carry(socket, attachment, &site.stop).await;
        drop(turn);
    })
}

/// Carries keys one way and what is shown the other, until either side has enough.
async fn carry(socket: WebSocket, attachment: Attachment, stop: &CancellationToken) {
    let Attachment { input, mut output } = attachment;
    let (mut browser, mut said) = socket.split();
    let show = async {
        while let Some(bytes) = output.recv().await {
            if browser.send(Message::Binary(bytes.into())).await.is_err() {
                return;
            }
        }
        // The shell ended: the page offers to begin again.
        let _ = browser.send(Message::Close(None)).await;
    };
    let take = async {
        while let Some(Ok(message)) = said.next().await {
            let word = match message {
                Message::Binary(bytes) => TerminalInput::Data(bytes.to_vec()),
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(Said::Resize { rows, columns }) => TerminalInput::Resize { rows, columns },
                    Ok(Said::Input(text)) => TerminalInput::Data(text.into_bytes()),
                    Err(_) => continue,
                },
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Close(_) => return,
            };
            if input.send(word).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = show => {}
        () = take => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_of_other_sites_are_refused() {
        let asks = |headers: &[(&'static str, &str)]| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            is_own_page(&headers.collect())
        };
        assert!(asks(&[("host", "127.0.0.1:30000")]));
        assert!(asks(&[("host", "127.0.0.1:30000"), ("origin", "http://127.0.0.1:30000")]));
        assert!(asks(&[("host", "inner"), ("x-forwarded-host", "a.example"), ("origin", "https://A.example")]));
        assert!(!asks(&[("host", "127.0.0.1:30000"), ("origin", "http://evil.example")]));
        assert!(!asks(&[("host", "127.0.0.1:30000"), ("origin", "null")]));
        assert!(!asks(&[("host", ""), ("origin", "file://")]));
    }
}
