//! Watchers: what runs beside an agent and can start and stop it (`spec/config.md` §3.8).

use std::time::Duration;

use quarterdeck_model::AgentId;
use quarterdeck_outgoing::{Certificates, Client, Reach, Request, Url};
use quarterdeck_store::agents;
use serde_json::Value as Json;

use crate::Control;
use crate::config::quote;
use crate::error::{Error, Result};

const TOKEN_KEY: &str = "config/watcher/token";
/// What watchers are told when nobody configured a token.
const NO_TOKEN: &str = "insecure";
const PORT: u16 = 6099;
/// How long a watcher may take to say how it is.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to start or stop its agent.
const ACTION_PATIENCE: Duration = Duration::from_secs(20);

/// What a watcher is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// How it is.
    Status,
    /// To start its agent.
    Start,
    /// To stop it.
    Stop,
    /// Both.
    Restart,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done; the document.
    Done(Json),
    /// Not done: its status, and its words.
    Refused(u16, String),
}

/// Asks an agent's watcher.
///
/// # Errors
/// [`Error::NotFound`] for an unknown agent; [`Error::Unavailable`] when its watcher can't be asked.
pub async fn ask(control: &Control, id: &AgentId, order: Order) -> Result<Answer> {
    let row =
        agents::get(&mut control.store().reader(), id).await?.ok_or_else(|| Error::not_found("agent instance"))?;
    let tree = control.config_tree();
    let entry = |name: &str| {
        tree.value(&format!("nodes/agents/{}/{name}", quote(id.as_str()))).filter(|v| !v.trim().is_empty())
    };
    let port = match entry("watcher_port") {
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| Error::Unavailable(format!("nodes/agents/{id}/watcher_port: '{text}' is no port")))?,
        None => PORT,
    };
    let host = entry("ip")
        .or_else(|| host(&row.addr))
        .ok_or_else(|| Error::Unavailable(format!("The address of the agent {id} is not known.")))?;
    let token = tree.value(TOKEN_KEY).filter(|token| !token.is_empty()).unwrap_or_else(|| NO_TOKEN.to_owned());
    let unavailable = |error: quarterdeck_outgoing::Error| Error::Unavailable(format!("The agent's watcher: {error}"));
    let at = |path: &str| {
        let host =
            if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.trim().to_owned() };
        Url::parse(&format!("http://{host}:{port}{path}"))
            .map_err(|_| Error::Unavailable(format!("nodes/agents/{id}/ip: '{host}' is no address")))
    };
    let request = match order {
        Order::Status => Request::get(at("/")?).map(|request| request.within(STATUS_PATIENCE)),
        Order::Start => Request::post(at("/agent/start")?, "").map(|request| request.within(ACTION_PATIENCE)),
        Order::Stop => Request::post(at("/agent/stop")?, "").map(|request| request.within(ACTION_PATIENCE)),
        Order::Restart => Request::post(at("/agent/restart")?, "").map(|request| request.within(ACTION_PATIENCE)),
    };
    let request =
        request.and_then(|request| request.header("x-backendai-watcher-token", &token)).map_err(unavailable)?;
    // Agents and administrators say where watchers are.
    let client = Client::new(Reach::Anywhere, Certificates::Checked);
    let answer = client.send(request).await.map_err(unavailable)?;
    if answer.status() == 200 {
        return answer.json().map(Answer::Done).map_err(unavailable);
    }
    Ok(Answer::Refused(answer.status(), answer.text()))
}

/// The host of an agent's address, e.g. `http://10.0.0.7:6001`.
fn host(addr: &str) -> Option<String> {
    let place = addr.split_once("://").map_or(addr, |(_, rest)| rest);
    let place = place.split('/').next().unwrap_or_default();
    let host = match place.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => place.rsplit_once(':').map_or(Some(place), |(host, _)| Some(host)),
    };
    host.filter(|host| !host.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_addresses_have_hosts() {
        for (addr, expected) in [
            ("http://10.0.0.7:6001", Some("10.0.0.7")),
            ("http://[fd00::7]:6001", Some("fd00::7")),
            ("tcp://agent.example.org:6001/x", Some("agent.example.org")),
            ("agent", Some("agent")),
            ("http://", None),
        ] {
            assert_eq!(host(addr).as_deref(), expected, "{addr}");
        }
    }
}
