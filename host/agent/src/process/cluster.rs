//! What a kernel finds in its home about the others of its session: their names and addresses, and the key pair by which
//! they trust each other.

use serde_json::Value;

/// Path, contents and mode of each file. Empty for a session of one kernel.
pub(super) fn files(internal: &Value) -> Vec<(&'static str, String, u32)> {
    let cluster = &internal["cluster"];
    let key = |half: &str| cluster["ssh_keypair"][half].as_str().filter(|text| !text.is_empty());
    let (Some(private), Some(public)) = (key("private_key"), key("public_key")) else { return Vec::new() };
    let hosts: Vec<(&str, &str)> = cluster["hosts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|host| Some((host["hostname"].as_str()?, host["address"].as_str()?)))
        .filter(|(name, address)| is_word(name) && is_word(address))
        .collect();
    let mut config = String::new();
    for (name, address) in &hosts {
        config.push_str(&format!(
            "Host {name}\n    HostName {address}\n    User work\n    IdentityFile ~/.ssh/id_cluster\n    \
             StrictHostKeyChecking no\n    UserKnownHostsFile /dev/null\n"
        ));
    }
    vec![
        (".ssh/id_cluster", private.to_owned(), 0o600),
        (".ssh/id_cluster.pub", public.to_owned(), 0o644),
        (".ssh/authorized_keys", public.to_owned(), 0o600),
        (".ssh/config", config, 0o600),
        (".cluster/hosts", hosts.iter().map(|(name, address)| format!("{address} {name}\n")).collect(), 0o644),
    ]
}

/// What may stand in such a file without ending a line or a word.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-_".contains(&b))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kernels_of_a_cluster_know_each_other() {
        let internal = json!({"cluster": {
            "ssh_keypair": {"public_key": "pub", "private_key": "priv"},
            "hosts": [
                {"hostname": "main1", "address": "127.0.0.1"},
                {"hostname": "sub1", "address": "10.0.0.7"},
                {"hostname": "bad\nProxyCommand x", "address": "10.0.0.8"},
            ],
        }});
        let files = files(&internal);
        let of = |path: &str| files.iter().find(|(p, ..)| *p == path).map(|(_, text, _)| text.as_str());
        assert_eq!(of(".ssh/id_cluster"), Some("priv"));
        assert_eq!(of(".cluster/hosts"), Some("127.0.0.1 main1\n10.0.0.7 sub1\n"));
        assert!(of(".ssh/config").is_some_and(|text| text.contains("HostName 10.0.0.7") && !text.contains("Proxy")));
    }

    #[test]
    fn a_kernel_alone_gets_none_of_it() {
        assert!(files(&json!({"cluster": null, "ssh_keypair": null})).is_empty());
    }
}
