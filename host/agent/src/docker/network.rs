//! The networks of kernels.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};
use tokio::sync::Mutex;

use super::ContainerNetwork;
use super::engine::{Facts, is_missing, plain};
use super::spec::{AGENT, HOME, SESSION};
use crate::runtime::SessionSpec;

/// The networks that one agent makes.
pub(super) struct Networks {
    kind: ContainerNetwork,
    agent: String,
    home: String,
    /// Engines make two networks of one name: one makes and removes them at a time.
    turn: Mutex<()>,
}

impl Networks {
    pub(super) fn new(kind: ContainerNetwork, agent: String, home: String) -> Self {
        Self { kind, agent, home, turn: Mutex::default() }
    }

    /// The name of the network that a kernel of the session is in; it is made when it isn't there.
    pub(super) async fn enter(&self, docker: &Docker, facts: &Facts, session: &SessionSpec) -> Result<String, String> {
        let spans_nodes = session.cluster_mode == "multi-node" && !session.all_here;
        match self.kind {
            ContainerNetwork::None if session.cluster_size <= 1 => return Ok("none".into()),
            ContainerNetwork::Host => return Ok("host".into()),
            // Kernels of one session reach each other, and only each other.
            ContainerNetwork::None | ContainerNetwork::Bridge => {}
        }
        if spans_nodes && !facts.swarm {
            return Err(
                "the session spans nodes, and this node's engine manages no swarm: `docker swarm init` on one \
                        node, `docker swarm join` as managers on the others, or --container-network host"
                    .into(),
            );
        }
        let _turn = self.turn.lock().await;
        let wanted = self.wanted(session, spans_nodes);
        let name = wanted.name.clone();
        match docker.inspect_network(&name, None::<InspectNetworkOptions>).await {
            Ok(_) => return Ok(name),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(format!("the network {name}: {}", plain(&error))),
        }
        match docker.create_network(wanted).await {
            Ok(_) => Ok(name),
            Err(error) => match docker.inspect_network(&name, None::<InspectNetworkOptions>).await {
                // Another node was first.
                Ok(_) if spans_nodes => Ok(name),
                _ => Err(format!("the network {name} can't be made: {}", plain(&error))),
            },
        }
    }

    fn wanted(&self, session: &SessionSpec, spans_nodes: bool) -> NetworkCreateRequest {
        let is_cluster = session.cluster_size > 1;
        let mut labels = HashMap::from([(AGENT.to_owned(), self.agent.clone()), (HOME.to_owned(), self.home.clone())]);
        if is_cluster {
            labels.insert(SESSION.into(), session.session_id.clone());
        }
        let apart = HashMap::from([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())]);
        NetworkCreateRequest {
            // Agents of one name may share an engine: their kernels may share the network of those who are alone.
            name: match is_cluster {
                true => of(&session.session_id),
                false => format!("quarterdeck-{}", self.agent),
            },
            driver: Some(if spans_nodes { "overlay" } else { "bridge" }.into()),
            attachable: spans_nodes.then_some(true),
            internal: (self.kind == ContainerNetwork::None).then_some(true),
            // Kernels of different sessions don't reach each other.
            options: (!is_cluster).then_some(apart),
            labels: Some(labels),
            ..Default::default()
        }
    }

    /// Removes the network of a session, unless somebody is still in it.
    pub(super) async fn leave(&self, docker: &Docker, session_id: &str) {
        let _turn = self.turn.lock().await;
        match docker.remove_network(&of(session_id)).await {
            Ok(()) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => tracing::debug!(session = session_id, error = plain(&error), "a network stays for now"),
        }
    }

    /// The agent leaves: nobody is in its own network any more.
    pub(super) async fn close(&self, docker: &Docker) {
        let _turn = self.turn.lock().await;
        let _ = docker.remove_network(&format!("quarterdeck-{}", self.agent)).await;
    }

    /// Removes this agent's networks of sessions that nobody is in.
    pub(super) async fn sweep(&self, docker: &Docker) {
        let labels = vec![format!("{AGENT}={}", self.agent), format!("{HOME}={}", self.home)];
        let options = ListNetworksOptions { filters: Some(HashMap::from([("label".to_owned(), labels)])) };
        for network in docker.list_networks(Some(options)).await.unwrap_or_default() {
            let is_sessions = network.labels.as_ref().is_some_and(|labels| labels.contains_key(SESSION));
            if let Some(name) = network.name.filter(|_| is_sessions) {
                let _turn = self.turn.lock().await;
                let _ = docker.remove_network(&name).await;
            }
        }
    }
}

/// The name of a session's network.
fn of(session_id: &str) -> String {
    format!("quarterdeck-{session_id}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kernels_share_a_network_with_their_session_only() {
        let networks = Networks::new(ContainerNetwork::Bridge, "i-a".into(), "/h".into());
        let mut session = SessionSpec { session_id: "s".into(), cluster_size: 1, ..Default::default() };
        let alone = networks.wanted(&session, false);
        assert_eq!((alone.name.as_str(), alone.driver.as_deref()), ("quarterdeck-i-a", Some("bridge")));
        assert_eq!(alone.options.unwrap()["com.docker.network.bridge.enable_icc"], "false");
        assert!(!alone.labels.unwrap().contains_key(SESSION));
        session.cluster_size = 2;
        let together = networks.wanted(&session, false);
        assert_eq!((together.name.as_str(), together.options), ("quarterdeck-s", None));
        assert_eq!(together.labels.unwrap()[SESSION], "s");
        let wide = networks.wanted(&session, true);
        assert_eq!((wide.driver.as_deref(), wide.attachable), (Some("overlay"), Some(true)));
        let closed = Networks::new(ContainerNetwork::None, "i-a".into(), "/h".into());
        assert_eq!(closed.wanted(&session, false).internal, Some(true));
    }
}
