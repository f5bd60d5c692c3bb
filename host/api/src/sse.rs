//! Server-sent events on the wire (`spec/events-streams.md` §1).

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName};
use serde_json::Value;

/// How often a silent stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const PING: Bytes = Bytes::from_static(b": ping\r\n\r\n");
/// Keeps proxies from holding events back.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// One event.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its name.
    pub event: String,
    /// What it says.
    pub data: Value,
    /// Where a client that comes back goes on.
    pub id: Option<i64>,
    /// Seconds after which the client is to come back when the stream breaks off.
    pub retry: Option<u32>,
}

impl Message {
    /// An event with its data alone.
    pub fn new(event: impl Into<String>, data: Value) -> Self {
        Self { event: event.into(), data, id: None, retry: None }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(id) = self.id {
            let _ = write!(text, "id: {id}\r\n");
        }
        // JSON on one line has no line breaks: they are escaped in its texts.
        let _ = write!(text, "event: {}\r\ndata: {}\r\n", self.event, self.data);
        if let Some(retry) = self.retry {
            let _ = write!(text, "retry: {retry}\r\n");
        }
        text.push_str("\r\n");
        text
    }
}

/// An answer that lasts as long as its stream. The stream's items may be waited for in pieces.
pub fn response(messages: impl Stream<Item = Message> + Send + 'static) -> Response {
    alive(messages, KEEP_ALIVE)
}

fn alive(messages: impl Stream<Item = Message> + Send + 'static, every: Duration) -> Response {
    let chunks = futures::stream::unfold(Box::pin(messages), move |mut messages| async move {
        let chunk = match tokio::time::timeout(every, messages.next()).await {
            Ok(Some(message)) => Bytes::from(message.text()),
            Ok(None) => return None,
            Err(_) => PING,
        };
        Some((Ok::<_, Infallible>(chunk), messages))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::json;

    #[test]
    fn messages_have_one_line_of_data() {
        let mut message = Message::new("session_started", json!({"reason": "a\nb"}));
        assert_eq!(message.text(), "event: session_started\r\ndata: {\"reason\":\"a\\nb\"}\r\n\r\n");
        message.id = Some(7);
        message.retry = Some(5);
        assert_eq!(
            message.text(),
            "id: 7\r\nevent: session_started\r\ndata: {\"reason\":\"a\\nb\"}\r\nretry: 5\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn silence_is_broken_by_pings() {
        let later = futures::stream::once(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Message::new("server_close", json!({}))
        });
        let body = alive(later, Duration::from_millis(10)).into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        let rest = text.trim_start_matches(": ping\r\n\r\n");
        assert!(rest.len() < text.len(), "{text:?}");
        assert_eq!(rest, "event: server_close\r\ndata: {}\r\n\r\n");
    }
}
