//! What the kernels of a session know of each other: names, addresses, and the key pair by which they trust each other.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use quarterdeck_model::AgentId;
use quarterdeck_store::clusters as rows;
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::sessions::SessionRow;
use serde_json::{Value, json};

use crate::Control;
use crate::error::Result;
use crate::keypairs::SshKeypair;

/// Key pairs that were made ahead.
#[derive(Debug, Default)]
pub(crate) struct KeyStock(Mutex<Vec<SshKeypair>>);

impl KeyStock {
    /// One of the stock, or a new one.
    async fn take(&self) -> Result<SshKeypair> {
        let ahead = self.0.lock().pop();
        match ahead {
            Some(pair) => Ok(pair),
            None => SshKeypair::generate().await,
        }
    }

    /// Puts one into the stock.
    #[cfg(test)]
    pub(crate) fn put(&self, pair: SshKeypair) {
        self.0.lock().push(pair);
    }
}

/// The key pair of a session's kernels: the same for all of them, however often and by whichever host they are started.
/// (public, private)
pub(crate) async fn keys(control: &Control, session: &SessionRow) -> Result<(String, String)> {
    let mut reader = control.store().reader();
    if let Some(pair) = rows::keys(&mut reader, &[session.id]).await?.remove(&session.id) {
        return Ok(pair);
    }
    let made = control.key_stock().take().await?;
    Ok(rows::keep(&mut reader, session.id, &made.public, &made.private).await?)
}

/// Kernels by role.
pub(crate) fn replicas(all: &[KernelRow]) -> BTreeMap<&str, usize> {
    let mut replicas = BTreeMap::new();
    for kernel in all {
        *replicas.entry(kernel.cluster_role.as_str()).or_default() += 1;
    }
    replicas
}

/// Where each kernel of a session is reached from one that is on `here`: (host name, address). Those on the same agent
/// are on the same node.
pub(crate) fn addresses<'k>(
    all: &'k [KernelRow],
    here: Option<&AgentId>,
    addr_of: impl Fn(&AgentId) -> Option<String>,
) -> Vec<(&'k str, String)> {
    let address = |kernel: &KernelRow| match &kernel.agent_id {
        Some(agent) if Some(agent) != here => addr_of(agent).map(|addr| host_of(&addr).to_owned()),
        _ => Some("127.0.0.1".to_owned()),
    };
    all.iter().filter_map(|kernel| Some((kernel.cluster_hostname.as_str(), address(kernel)?))).collect()
}

/// The host of `http://host:port`.
fn host_of(addr: &str) -> &str {
    let rest = addr.split_once("://").map_or(addr, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// What an agent is told about a session of several kernels (`spec/lifecycle.md` §10, `cluster_info`).
pub(crate) fn info(
    session: &SessionRow,
    all: &[KernelRow],
    addresses: &[(&str, String)],
    (public, private): &(String, String),
) -> Value {
    let network = match session.cluster_mode {
        quarterdeck_model::ClusterMode::SingleNode => format!("bai-singlenode-{}", session.id),
        quarterdeck_model::ClusterMode::MultiNode => format!("bai-multinode-{}", session.id),
    };
    json!({
        "mode": session.cluster_mode,
        "size": session.cluster_size,
        "replicas": replicas(all),
        "network_name": network,
        "ssh_keypair": {"public_key": public, "private_key": private},
        "hosts": addresses.iter().map(|(name, at)| json!({"hostname": name, "address": at})).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_addresses() {
        for (addr, host) in [
            ("http://10.0.0.7:6001", "10.0.0.7"),
            ("https://agent.example.org:1/x", "agent.example.org"),
            ("http://[2001:db8::1]:6001", "2001:db8::1"),
            ("10.0.0.7", "10.0.0.7"),
        ] {
            assert_eq!(host_of(addr), host);
        }
    }
}
