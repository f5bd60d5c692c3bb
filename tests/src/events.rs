//! A reader of server-sent events.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use crate::client::Client;

/// An event as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
    /// Its id.
    pub id: Option<i64>,
    /// When to come back.
    pub retry: Option<u32>,
}

/// An open stream.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// Opens a stream, after the event `last` if there is one.
    ///
    /// # Errors
    /// When the answer is no stream of events.
    pub async fn open(client: &Client, path: &str, last: Option<i64>) -> anyhow::Result<Self> {
        let more: Vec<_> = last.map(|id| ("Last-Event-ID", id.to_string())).into_iter().collect();
        let answer = client.open(path, &more).await?;
        ensure!(answer.status() == 200, "{path}: {}", answer.status());
        for (name, value) in
            [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
        {
            let found = answer.headers().get(name).and_then(|v| v.to_str().ok());
            ensure!(found == Some(value), "{name}: {found:?}");
        }
        Ok(Self { body: answer.into_body(), text: String::new() })
    }

    /// The next event; `None` when the server ends the stream.
    ///
    /// # Errors
    /// When none comes within `patience`, or what comes is no event.
    pub async fn next(&mut self, patience: Duration) -> anyhow::Result<Option<Event>> {
        tokio::time::timeout(patience, self.read())
            .await
            .with_context(|| format!("no event; so far {:?}", self.text))?
    }

    /// The first event that fits; those before it are passed over.
    ///
    /// # Errors
    /// When it doesn't come within `patience`.
    pub async fn find(&mut self, patience: Duration, fits: impl Fn(&Event) -> bool) -> anyhow::Result<Event> {
        let search = async {
            while let Some(event) = self.read().await? {
                if fits(&event) {
                    return Ok(event);
                }
            }
            bail!("the stream ended")
        };
        tokio::time::timeout(patience, search).await.context("no such event")?
    }

    async fn read(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            while let Some((message, rest)) = self.text.split_once("\r\n\r\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.text = rest;
                if !message.starts_with(':') {
                    return parse(&message).map(Some);
                }
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                self.text.push_str(std::str::from_utf8(&data)?);
            }
        }
    }
}

fn parse(message: &str) -> anyhow::Result<Event> {
    let mut event = Event::default();
    for line in message.split("\r\n") {
        let (field, value) = line.split_once(": ").with_context(|| format!("no field: {line:?}"))?;
        match field {
            "event" => event.name = value.to_owned(),
            "data" => event.data = serde_json::from_str(value)?,
            "id" => event.id = Some(value.parse()?),
            "retry" => event.retry = Some(value.parse()?),
            _ => bail!("unknown field {field}"),
        }
    }
    Ok(event)
}
