//! Services of a session: found among its ports, started, reached through a tunnel or a coordinator.

use quarterdeck_model::SessionId;
use quarterdeck_rpc::{AgentHandle, CallError, PortStream, pb};
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::scaling_groups;
use serde_json::{Map, Value};

use super::streams::service_ports;
use super::{agent_of, failed, find, main_kernel};
use crate::connections::{self, Connection};
use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::services::coordinator;
use crate::{AgentOperation, Control};

/// Which service of a session is asked for, and how it is to be started.
#[derive(Clone, Debug, Default)]
pub struct ServiceRequest {
    /// The name of the service port.
    pub app: String,
    /// Which of the port numbers that it has in the kernel; `None` = its first.
    pub port: Option<u16>,
    /// Options of its command.
    pub arguments: Option<Map<String, Value>>,
    /// Variables of its environment.
    pub envs: Option<Map<String, Value>>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ServicePort {
    protocol: String,
    /// Its number in the kernel.
    number: u16,
    /// Its number on the node, where it has one.
    on_host: Option<u16>,
}

/// Finds the port of a service (`spec/session.md` §8.1).
fn find_port(kernel: &KernelRow, reference: &str, asked: &ServiceRequest) -> Result<ServicePort> {
    let app = &asked.app;
    let unknown = || Error::not_found_msg("app service", format!("{reference}:{app}"));
    let of_name = |port: &&Map<String, Value>| port.get("name").and_then(Value::as_str) == Some(app);
    let port = service_ports(kernel).find(of_name).ok_or_else(unknown)?;
    if port.get("is_inference").and_then(Value::as_bool) == Some(true) {
        return Err(Error::invalid(format!("{app} serves a model: it is reached through its service's endpoint.")));
    }
    let list = |name: &str| port.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let as_port = |number: &Value| u16::try_from(number.as_u64()?).ok();
    let mut numbers = list("container_ports").iter().map(as_port).enumerate();
    let (index, number) = match asked.port {
        None => numbers.find_map(|(index, number)| Some((index, number?))).ok_or_else(unknown)?,
        Some(wanted) => numbers
            .find(|(_, number)| *number == Some(wanted))
            .map(|(index, _)| (index, wanted))
            .ok_or_else(|| Error::invalid(format!("Service {app} does not open the port number {wanted}.")))?,
    };
    let on_host = list("host_ports").get(index).and_then(as_port);
    let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("tcp").to_owned();
    Ok(ServicePort { protocol, number, on_host })
}

/// A service that can be started.
pub struct Service {
    /// The session.
    pub session: SessionId,
    kernel: KernelRow,
    agent: AgentHandle,
    port: ServicePort,
    asked: ServiceRequest,
}

/// Finds a service to be reached through a tunnel.
///
/// # Errors
/// [`Error::NotFound`] for unknown sessions and services; [`Error::InvalidParams`] for ports that it hasn't, and for
/// protocols that no tunnel carries.
pub async fn find_service(
    control: &Control,
    caller: &Principal,
    reference: &str,
    asked: ServiceRequest,
) -> Result<Service> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let kernel = found.main()?.clone();
    let port = find_port(&kernel, reference, &asked)?;
    if !matches!(port.protocol.as_str(), "tcp" | "http" | "preopen") {
        return Err(Error::invalid(format!("Unsupported service protocol: {}", port.protocol)));
    }
    let agent = agent_of(control, &kernel, AgentOperation::Execute).await?;
    Ok(Service { session: found.session.id, kernel, agent, port, asked })
}

impl Service {
    /// Has the service started, and notes that somebody is connected to it.
    ///
    /// # Errors
    /// [`Error::LaunchFailed`]; [`Error::Agent`]; [`Error::Overloaded`] when the session has too many connections.
    pub async fn start(&self, control: &Control) -> Result<Connection> {
        let connection = connections::open(control, self.session, self.kernel.id, &self.asked.app).await?;
        start(&self.agent, &self.kernel, &self.port, &self.asked).await?;
        Ok(connection)
    }

    /// Connects to it.
    ///
    /// # Errors
    /// [`CallError::Refused`] when nothing listens there.
    pub async fn connect(&self) -> std::result::Result<PortStream, CallError> {
        self.agent.connect_port(&self.kernel.id.to_string(), self.port.number).await
    }
}

/// Has a service started. Ports that were opened beforehand have no command: whoever is inside starts what listens there.
async fn start(agent: &AgentHandle, kernel: &KernelRow, port: &ServicePort, asked: &ServiceRequest) -> Result<()> {
    if port.protocol == "preopen" {
        return Ok(());
    }
    let text = |map: &Option<Map<String, Value>>| match map {
        Some(map) => Value::Object(map.clone()).to_string(),
        None => String::new(),
    };
    let request = pb::StartServiceRequest {
        kernel_id: kernel.id.to_string(),
        service: asked.app.clone(),
        arguments: text(&asked.arguments),
        envs: text(&asked.envs),
    };
    let answer = agent.start_service(request).await.map_err(|error| failed(&error))?;
    match answer.status.as_str() {
        "failed" => Err(Error::LaunchFailed(answer.error)),
        _ => Ok(()),
    }
}

/// Where a client reaches a service through a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// What it shows there.
    pub token: String,
    /// The coordinator's address.
    pub address: String,
}

/// Starts a service of a session, and has the coordinator of its scaling group lead there (`spec/session.md` §8.1).
/// `login_token` is what the coordinator knows the client by.
///
/// # Errors
/// [`Error::NotFound`] for unknown sessions and services; [`Error::Unavailable`] without a coordinator, when it can't be
/// reached, and when nothing reaches the service from outside; [`Error::InvalidParams`] for ports that the service hasn't;
/// [`Error::LaunchFailed`]; [`Error::Agent`].
pub async fn start_service(
    control: &Control,
    caller: &Principal,
    reference: &str,
    login_token: Option<&str>,
    asked: ServiceRequest,
) -> Result<Admission> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let kernel = found.main()?;
    let group = scaling_groups::get(&mut control.store().reader(), &found.session.scaling_group).await?;
    let group = group.ok_or_else(|| Error::not_found("scaling group"))?;
    let entrance = coordinator::entrance(control, &group).await?;
    let port = find_port(kernel, reference, &asked)?;
    let unreachable = || Error::Unavailable(format!("The node opens no port for {} to others.", asked.app));
    let on_host = port.on_host.ok_or_else(unreachable)?;
    let host = coordinator::host_of(kernel).ok_or_else(unreachable)?;
    let agent = agent_of(control, kernel, AgentOperation::Execute).await?;
    start(&agent, kernel, &port, &asked).await?;
    let token = entrance.open(login_token, &host, on_host).await?;
    Ok(Admission { token, address: entrance.shown })
}

/// Ends a service of a session; one that it hasn't is none to end.
///
/// # Errors
/// [`Error::NotFound`], [`Error::InvalidParams`] before the session is placed, [`Error::Agent`].
pub async fn shutdown_service(control: &Control, caller: &Principal, reference: &str, name: &str) -> Result<()> {
    let (_, kernel, agent) = main_kernel(control, caller, reference).await?;
    if service_ports(&kernel).any(|port| port.get("name").and_then(Value::as_str) == Some(name)) {
        agent.shutdown_service(&kernel.id.to_string(), name).await.map_err(|error| failed(&error))?;
    }
    Ok(())
}
