//! Who brings requests to services: our own app proxy, or a foreign one that is told of routes (`spec/services.md` §4).

use std::time::Duration;

use quarterdeck_model::EndpointId;
use quarterdeck_model::service::{RouteStatus, ServiceDefinition};
use quarterdeck_outgoing::{Certificates, Client, Reach, Request, Response, Url};
use quarterdeck_store::endpoints::{self, EndpointRow, Reached};
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::meta;
use quarterdeck_store::scaling_groups::{self, ScalingGroupRow};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{EMBEDDED, table};
use crate::Control;
use crate::error::{Error, Result};

/// How long a coordinator may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Its answers are no longer than this, in bytes.
const ANSWER: usize = 1 << 20;

/// Under which name the address of our own app proxy is kept, so that every host knows it.
pub(crate) const EMBEDDED_URL: &str = "app-proxy-url";

/// The coordinator of a scaling group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Coordinator {
    /// Our own app proxy, with the base of its addresses.
    Embedded {
        /// Without a slash at its end.
        base: String,
    },
    /// A foreign one.
    Foreign {
        /// Without a slash at its end.
        address: String,
        /// What it wants to see.
        token: Option<String>,
    },
}

impl Coordinator {
    /// Where a service is reached, if that is known beforehand.
    pub(super) fn url_of(&self, name: &str) -> Option<String> {
        match self {
            Self::Embedded { base } => Some(format!("{base}/e/{name}")),
            Self::Foreign { .. } => None,
        }
    }
}

/// The coordinator of a group.
///
/// # Errors
/// [`Error::Unavailable`] without one.
pub(crate) async fn of_group(control: &Control, group: &ScalingGroupRow) -> Result<Coordinator> {
    let address = group.wsproxy_addr.as_deref().map(str::trim).unwrap_or_default().trim_end_matches('/');
    if address.is_empty() {
        return Err(Error::Unavailable("No coordinator configured for this resource group".to_owned()));
    }
    let own = meta::get(&mut control.store().reader(), EMBEDDED_URL).await?;
    match own {
        Some(base) if address == EMBEDDED || address == base => Ok(Coordinator::Embedded { base }),
        None if address == EMBEDDED => {
            Err(Error::Unavailable("No server of this site runs the embedded app proxy".to_owned()))
        }
        _ => Ok(Coordinator::Foreign { address: address.to_owned(), token: group.wsproxy_api_token.clone() }),
    }
}

async fn of_service(control: &Control, row: &EndpointRow) -> Result<Coordinator> {
    let group = scaling_groups::get(&mut control.store().reader(), &row.scaling_group).await?;
    of_group(control, &group.ok_or_else(|| Error::not_found("scaling group"))?).await
}

/// Which version of the protocol a group's app proxy speaks; `v1` for groups without one.
///
/// # Errors
/// [`Error::Unavailable`] when it doesn't say.
pub async fn version(control: &Control, group: &ScalingGroupRow) -> Result<String> {
    match of_group(control, group).await {
        Ok(Coordinator::Embedded { .. }) => Ok("v2".to_owned()),
        _ => crate::scaling_groups::proxy::version(control, group.wsproxy_addr.as_deref()).await,
    }
}

fn unavailable(error: quarterdeck_outgoing::Error) -> Error {
    Error::Unavailable(format!("The coordinator can't be reached: {error}"))
}

fn url(address: &str, path: &str) -> Result<Url> {
    Url::parse(&format!("{address}{path}"))
        .map_err(|error| Error::Unavailable(format!("The coordinator's address {address} is malformed: {error}")))
}

async fn send(request: Request) -> Result<Response> {
    // Administrators configured it.
    let client = Client::new(Reach::Anywhere, Certificates::Checked);
    let response = client.send(request.within(PATIENCE).at_most(ANSWER)).await.map_err(unavailable)?;
    response.success().map_err(unavailable)
}

fn authorised(request: Request, token: Option<&str>) -> Result<Request> {
    match token {
        Some(token) => request.header("x-backendai-token", token).map_err(unavailable),
        None => Ok(request),
    }
}

async fn post(address: &str, path: &str, token: Option<&str>, body: &Json) -> Result<Json> {
    let request = Request::post(url(address, path)?, body.to_string()).map_err(unavailable)?;
    let request = request.header("content-type", "application/json").map_err(unavailable)?;
    send(authorised(request, token)?).await?.json().map_err(unavailable)
}

/// The host and port at which a route's session serves: a service port that is for inference, or the one that the model's
/// definition names.
pub(crate) fn addresses<'r>(
    reached: &'r Reached,
    definition: Option<&ServiceDefinition>,
) -> Vec<(&'r str, String, u16)> {
    let host = host(reached.kernel_host.as_deref(), reached.agent_addr.as_deref());
    let Some(host) = host else { return Vec::new() };
    let ports = reached.service_ports.as_ref().and_then(Json::as_array).into_iter().flatten();
    let wanted = definition.map(|d| u64::from(d.port));
    let serving = ports.filter(|port| {
        let for_inference = port.get("is_inference").and_then(Json::as_bool).unwrap_or(false);
        let listens =
            port.get("container_ports").and_then(Json::as_array).and_then(|p| p.first()).and_then(Json::as_u64);
        for_inference || (wanted.is_some() && listens == wanted)
    });
    serving
        .filter_map(|port| {
            let name = port.get("name").and_then(Json::as_str)?;
            let first = port.get("host_ports").and_then(Json::as_array)?.first()?.as_u64()?;
            Some((name, host.clone(), u16::try_from(first).ok()?))
        })
        .collect()
}

/// Where a kernel is reached: at its own host, or its agent's.
fn host(kernel_host: Option<&str>, agent_addr: Option<&str>) -> Option<String> {
    if let Some(host) = kernel_host.filter(|host| !host.is_empty()) {
        return Some(host.to_owned());
    }
    // As agents tell it: `tcp://10.0.0.7:6001`.
    let address = agent_addr?;
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    (!host.is_empty()).then(|| host.to_owned())
}

/// `host:port`, also for IPv6 addresses.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn document(row: &EndpointRow, routes: &[Reached]) -> Json {
    let mut apps: Map<String, Json> = Map::new();
    for route in routes.iter().filter(|r| r.status == RouteStatus::Healthy) {
        for (name, host, port) in addresses(route, row.definition.as_ref()) {
            let entry = json!({
                "session_id": route.session, "kernel_host": host, "kernel_port": port,
                "traffic_ratio": route.traffic_ratio,
            });
            if let Some(list) = apps.entry(name).or_insert_with(|| json!([])).as_array_mut() {
                list.push(entry);
            }
        }
    }
    json!({ "service_name": row.name, "apps": apps, "open_to_public": row.open_to_public })
}

fn digest(text: &str) -> String {
    crate::hex::hex(&Sha256::digest(text))
}

/// Tells a service's coordinator of its routes, whether or not that is news.
///
/// # Errors
/// [`Error::Unavailable`] when it can't be told.
pub(super) async fn push(control: &Control, row: &EndpointRow) -> Result<()> {
    tell(control, row, true).await
}

/// Tells a service's coordinator of its routes if it doesn't know them yet.
///
/// # Errors
/// As [`push`].
pub(super) async fn tell(control: &Control, row: &EndpointRow, always: bool) -> Result<()> {
    let coordinator = of_service(control, row).await?;
    match &coordinator {
        Coordinator::Embedded { base } => {
            // It looks itself; only its address may have changed.
            let told = digest(base);
            if row.told.as_deref() == Some(&told) {
                return Ok(());
            }
            remember(control, row.id, &told, coordinator.url_of(&row.name).as_deref()).await
        }
        Coordinator::Foreign { address, token } => {
            let routes = endpoints::reached(&mut control.store().reader(), Some(row.id)).await?;
            let body = document(row, &routes);
            let told = digest(&format!("{address}\n{body}"));
            if !always && row.told.as_deref() == Some(&told) {
                return Ok(());
            }
            let answer = post(address, &format!("/v2/endpoints/{}", row.id), token.as_deref(), &body).await?;
            let url = answer.get("endpoint").and_then(Json::as_str);
            let url = url.ok_or_else(|| Error::Unavailable("The coordinator told no address".to_owned()))?;
            remember(control, row.id, &told, Some(url)).await
        }
    }
}

async fn remember(control: &Control, id: EndpointId, told: &str, url: Option<&str>) -> Result<()> {
    let mut tx = control.store().begin().await?;
    endpoints::set_told(&mut tx, id, told, url).await.map_err(crate::validate::integrity)?;
    Ok(tx.commit().await?)
}

/// Takes a service away from its coordinator.
///
/// # Errors
/// [`Error::Unavailable`] when it can't be told.
pub(super) async fn withdraw(control: &Control, row: &EndpointRow) -> Result<()> {
    let Coordinator::Foreign { address, token } = of_service(control, row).await? else { return Ok(()) };
    let request = Request::delete(url(&address, &format!("/v2/endpoints/{}", row.id))?).map_err(unavailable)?;
    send(authorised(request, token.as_deref())?).await.map(drop)
}

/// A token that opens a service until `exp`, in seconds since the Unix epoch.
///
/// # Errors
/// [`Error::Unavailable`] when there is no coordinator, or it makes none.
pub(super) async fn token(control: &Control, row: &EndpointRow, exp: i64) -> Result<String> {
    match of_service(control, row).await? {
        Coordinator::Embedded { .. } => {
            let secret = table::secret(control).await?;
            let claims =
                quarterdeck_proxy::token::Claims { endpoint_id: row.id.0, user_uuid: row.session_owner.0, exp };
            Ok(quarterdeck_proxy::token::issue(secret.as_bytes(), &claims))
        }
        Coordinator::Foreign { address, token } => {
            let body = json!({ "user_uuid": row.session_owner, "exp": exp });
            let answer = post(&address, &format!("/v2/endpoints/{}/token", row.id), token.as_deref(), &body).await?;
            let token = answer.get("token").and_then(Json::as_str);
            token.map(str::to_owned).ok_or_else(|| Error::Unavailable("The coordinator made no token".to_owned()))
        }
    }
}

/// A foreign coordinator through which applications of sessions are reached (`spec/session.md` §8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entrance {
    address: String,
    /// Where clients reach it.
    pub(crate) shown: String,
}

/// The coordinator that leads to applications of a group's sessions.
///
/// # Errors
/// [`Error::Unavailable`] without one, when it is our own app proxy, which leads to model services alone, and when it can't
/// be reached.
pub(crate) async fn entrance(control: &Control, group: &ScalingGroupRow) -> Result<Entrance> {
    match of_group(control, group).await? {
        Coordinator::Embedded { .. } => Err(Error::Unavailable(
            "The embedded app proxy serves models; applications of sessions are reached by tunnels (httpproxy, tcpproxy)"
                .to_owned(),
        )),
        Coordinator::Foreign { address, .. } => {
            let status = crate::scaling_groups::proxy::status(control, &address).await?;
            Ok(Entrance { shown: status.shown(&address).to_owned(), address })
        }
    }
}

impl Entrance {
    /// Tells it of a kernel's port; the token that lets a client through to it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can't be told, or makes no token.
    pub(crate) async fn open(&self, login_token: Option<&str>, host: &str, port: u16) -> Result<String> {
        let body = json!({ "login_session_token": login_token, "kernel_host": host, "kernel_port": port });
        let answer = post(&self.address, "/v2/conf", None, &body).await?;
        let token = answer.get("token").and_then(Json::as_str);
        token.map(str::to_owned).ok_or_else(|| Error::Unavailable("The coordinator made no token".to_owned()))
    }
}

/// Where a kernel is reached by a coordinator.
pub(crate) fn host_of(kernel: &KernelRow) -> Option<String> {
    host(kernel.kernel_host.as_deref(), kernel.agent_addr.as_deref())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_model::service::StartCommand;
    use quarterdeck_model::{RouteId, SessionId};

    use super::*;

    fn reached(host: Option<&str>, addr: Option<&str>, ports: Json) -> Reached {
        Reached {
            route: RouteId::new(),
            endpoint: EndpointId::new(),
            session: SessionId::new(),
            status: RouteStatus::Healthy,
            traffic_ratio: 1.0,
            kernel_host: host.map(str::to_owned),
            agent_addr: addr.map(str::to_owned),
            agent: None,
            service_ports: Some(ports),
        }
    }

    #[test]
    fn sessions_serve_at_inference_ports_and_where_the_definition_says() {
        let ports = json!([
            {"name": "jupyter", "protocol": "http", "container_ports": [8080], "host_ports": [30001], "is_inference": false},
            {"name": "api", "protocol": "http", "container_ports": [9000], "host_ports": [30002], "is_inference": true},
            {"name": "8000", "protocol": "preopen", "container_ports": [8000], "host_ports": [30003]},
        ]);
        let kernel = reached(Some("10.0.0.1"), None, ports.clone());
        assert_eq!(addresses(&kernel, None), [("api", "10.0.0.1".to_owned(), 30002)]);
        let definition = ServiceDefinition {
            start_command: StartCommand::Line("x".to_owned()),
            port: 8000,
            environ: Default::default(),
            health_check: None,
        };
        let both: Vec<_> = addresses(&kernel, Some(&definition)).into_iter().map(|a| a.2).collect();
        assert_eq!(both, [30002, 30003]);
        let kernel = reached(None, Some("tcp://[fd00::1]:6001"), ports.clone());
        assert_eq!(addresses(&kernel, None)[0].1, "[fd00::1]");
        let kernel = reached(Some(""), Some("http://node7:6001"), ports.clone());
        assert_eq!(addresses(&kernel, None)[0].1, "node7");
        assert!(addresses(&reached(None, None, ports), None).is_empty());
        assert_eq!((authority("fd00::1", 1), authority("h", 2)), ("[fd00::1]:1".to_owned(), "h:2".to_owned()));
    }
}
