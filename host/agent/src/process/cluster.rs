//! What a kernel knows about the others of its session: their names and addresses, and the key pair by which they trust
//! each other.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::sandbox;

/// Where the host says a kernel is that is on the same node.
const HERE: &str = "127.0.0.1";
/// Where each kernel's own SSH listens, when it has a network of its own.
const SSH: u16 = 2200;

/// The kernels of a session, seen by one that shares a network with some of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Neighbours {
    /// The kernel's own address in that network.
    pub(super) own: Ipv4Addr,
    hosts: Vec<Host>,
}

#[derive(Debug, PartialEq, Eq)]
struct Host {
    name: String,
    address: String,
    /// It is on the network that is shared.
    shares: bool,
}

impl Neighbours {
    /// The kernels of the session that the host tells of, for the one of that name. `names` are all of the session, in an
    /// order that every agent is told: each kernel has the address of its place in it. Nothing when it is alone here.
    pub(super) fn find(internal: &Value, names: &str, own: &str) -> Option<Self> {
        let names: Vec<&str> = names.split(',').collect();
        let mut hosts = Vec::new();
        for (name, address) in told(internal) {
            let place = names.iter().position(|known| *known == name);
            let shared = place.filter(|_| address == HERE).and_then(sandbox::address);
            hosts.push(Host {
                name: name.to_owned(),
                address: shared.map_or_else(|| address.to_owned(), |address| address.to_string()),
                shares: shared.is_some(),
            });
        }
        if hosts.iter().filter(|host| host.shares).count() < 2 {
            return None;
        }
        let own = hosts.iter().find(|host| host.shares && host.name == own)?.address.parse().ok()?;
        Some(Self { own, hosts })
    }

    /// Name and address of each.
    pub(super) fn names(&self) -> Vec<(String, String)> {
        self.hosts.iter().map(|host| (host.name.clone(), host.address.clone())).collect()
    }
}

/// Names and addresses, as the host tells them.
fn told(internal: &Value) -> impl Iterator<Item = (&str, &str)> {
    let hosts = internal["cluster"]["hosts"].as_array().into_iter().flatten();
    let pairs = hosts.filter_map(|host| Some((host["hostname"].as_str()?, host["address"].as_str()?)));
    pairs.filter(|(name, address)| is_word(name) && is_word(address))
}

/// Path, contents and mode of each file in a kernel's home. Empty for a session of one kernel.
pub(super) fn files(internal: &Value, neighbours: Option<&Neighbours>) -> Vec<(&'static str, String, u32)> {
    let key = |half: &str| internal["cluster"]["ssh_keypair"][half].as_str().filter(|text| !text.is_empty());
    let (Some(private), Some(public)) = (key("private_key"), key("public_key")) else { return Vec::new() };
    let host = |name: &str, address: &str| Host { name: name.to_owned(), address: address.to_owned(), shares: false };
    let apart: Vec<Host>;
    let hosts = match neighbours {
        Some(neighbours) => &neighbours.hosts,
        None => {
            apart = told(internal).map(|(name, address)| host(name, address)).collect();
            &apart
        }
    };
    let (mut config, mut list) = (String::new(), String::new());
    for Host { name, address, shares } in hosts {
        let port = if *shares { format!("    Port {SSH}\n") } else { String::new() };
        config.push_str(&format!(
            "Host {name}\n    HostName {address}\n{port}    User work\n    IdentityFile ~/.ssh/id_cluster\n    \
             StrictHostKeyChecking no\n    UserKnownHostsFile /dev/null\n"
        ));
        list.push_str(&format!("{address} {name}\n"));
    }
    vec![
        (".ssh/id_cluster", private.to_owned(), 0o600),
        (".ssh/id_cluster.pub", public.to_owned(), 0o644),
        (".ssh/authorized_keys", public.to_owned(), 0o600),
        (".ssh/config", config, 0o600),
        (".cluster/hosts", list, 0o644),
    ]
}

/// What may stand in such a file without ending a line or a word.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-_".contains(&b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn internal() -> Value {
        json!({"cluster": {
            "ssh_keypair": {"public_key": "pub", "private_key": "priv"},
            "hosts": [
                {"hostname": "main1", "address": "127.0.0.1"},
                {"hostname": "sub1", "address": "10.0.0.7"},
                {"hostname": "sub2", "address": "127.0.0.1"},
                {"hostname": "bad\nProxyCommand x", "address": "10.0.0.8"},
            ],
        }})
    }

    fn text(files: &[(&'static str, String, u32)], path: &str) -> String {
        files.iter().find(|(p, ..)| *p == path).unwrap().1.clone()
    }

    #[test]
    fn kernels_of_a_cluster_know_each_other() {
        let files = files(&internal(), None);
        assert_eq!(text(&files, ".ssh/id_cluster"), "priv");
        assert_eq!(text(&files, ".cluster/hosts"), "127.0.0.1 main1\n10.0.0.7 sub1\n127.0.0.1 sub2\n");
        let config = text(&files, ".ssh/config");
        assert!(config.contains("HostName 10.0.0.7") && !config.contains("Proxy") && !config.contains("Port"));
    }

    #[test]
    fn those_on_a_node_share_a_network() {
        let names = "main1,sub1,sub2";
        let neighbours = Neighbours::find(&internal(), names, "sub2").unwrap();
        assert_eq!(neighbours.own, Ipv4Addr::new(10, 83, 0, 3));
        let files = files(&internal(), Some(&neighbours));
        assert_eq!(text(&files, ".cluster/hosts"), "10.83.0.1 main1\n10.0.0.7 sub1\n10.83.0.3 sub2\n");
        let config = text(&files, ".ssh/config");
        assert!(config.contains("HostName 10.83.0.1\n    Port 2200\n"), "{config}");
        assert!(config.contains("HostName 10.0.0.7\n    User work\n"), "{config}");
        // One that is on another node, one that nobody knows, and one that is alone.
        assert_eq!(Neighbours::find(&internal(), names, "sub1"), None);
        assert_eq!(Neighbours::find(&internal(), names, "other"), None);
        assert_eq!(Neighbours::find(&internal(), "main1,sub1", "main1"), None);
        assert_eq!(Neighbours::find(&json!({"cluster": null}), "", ""), None);
    }

    #[test]
    fn a_kernel_alone_gets_none_of_it() {
        assert!(files(&json!({"cluster": null, "ssh_keypair": null}), None).is_empty());
    }
}
