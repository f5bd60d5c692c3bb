//! What agents are told to create the kernels of a session.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use quarterdeck_model::dotfile::Dotfile;
use quarterdeck_model::slots::{SlotKind, SlotTypes};
use quarterdeck_model::vfolder::{FolderMount, FolderPermission};
use quarterdeck_model::{AccessKey, AgentId, SessionId, SessionType};
use quarterdeck_rpc::pb;
use quarterdeck_store::agents::{self as agent_rows, AgentRow};
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::sessions::SessionRow;
use quarterdeck_store::{dotfiles, sessions};
use serde_json::{Value, json};

use crate::error::Result;
use crate::registries::{self, Login};
use crate::{Control, clusters};

/// The runtime of agents that fetch images from registries.
const FETCHES: &str = "docker";
/// The rule by which they do.
const AUTO_PULL: &str = "config/docker/image/auto_pull";

/// What is common to the sessions of one pass.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) agents: HashMap<AgentId, Arc<AgentRow>>,
    ssh_keypairs: HashMap<AccessKey, (String, String)>,
    dotfiles: HashMap<SessionId, Vec<Dotfile>>,
    /// (canonical name, architecture) → (digest, local)
    images: HashMap<(String, String), (String, bool)>,
    /// Registry → what engines show to it; empty when no agent among these has an engine.
    logins: HashMap<String, Login>,
    slot_types: Arc<SlotTypes>,
}

impl Facts {
    /// What is to be known to start these sessions.
    ///
    /// # Errors
    /// [`Error::Store`](crate::error::Error::Store).
    pub(super) async fn gather(
        control: &Control,
        rows: &[SessionRow],
        kernels: &HashMap<SessionId, Vec<KernelRow>>,
    ) -> Result<Self> {
        let mut reader = control.store().reader();
        let mut agents: Vec<AgentId> = kernels.values().flatten().filter_map(|k| k.agent_id.clone()).collect();
        agents.sort();
        agents.dedup();
        let mut images: Vec<String> = kernels.values().flatten().map(|k| k.image.clone()).collect();
        images.sort();
        images.dedup();
        let mut keys: Vec<AccessKey> = rows.iter().map(|s| s.access_key.clone()).collect();
        keys.sort();
        keys.dedup();
        let agents = agent_rows::get_many(&mut reader, &agents).await?;
        let logins = match agents.iter().any(|row| row.runtime == FETCHES) {
            true => registries::logins(control).await,
            false => HashMap::new(),
        };
        let rule = control.config_tree().value(AUTO_PULL);
        Ok(Self {
            logins,
            slot_types: control.config_tree().slot_types(),
            agents: agents.into_iter().map(|row| (row.id.clone(), Arc::new(row))).collect(),
            ssh_keypairs: sessions::ssh_keypairs(&mut reader, &keys)
                .await?
                .into_iter()
                .map(|(key, public, private)| (key, (public, private)))
                .collect(),
            dotfiles: dotfiles::of_sessions(&mut reader, &rows.iter().map(|s| s.id).collect::<Vec<_>>()).await?,
            images: agent_rows::image_facts(&mut reader, &images)
                .await?
                .into_iter()
                .map(|(name, architecture, digest, local)| {
                    ((name, architecture), fetched(rule.as_deref(), digest, local))
                })
                .collect(),
        })
    }

    /// What an agent is asked for: these kernels of a session.
    pub(super) fn request(
        &self,
        session: &SessionRow,
        all: &[KernelRow],
        group: &[&KernelRow],
        trust: Option<&(String, String)>,
    ) -> pb::CreateKernelsRequest {
        pb::CreateKernelsRequest {
            session_id: session.id.to_string(),
            session_name: session.name.clone(),
            session_type: session.session_type.to_string(),
            cluster_mode: session.cluster_mode.to_string(),
            cluster_size: u32::try_from(session.cluster_size).unwrap_or(u32::MAX),
            access_key: session.access_key.to_string(),
            kernels: group.iter().map(|kernel| spec(self, session, all, kernel, trust)).collect(),
        }
    }
}

/// The digest that an image has to have on a node, and whether it is only looked for there: what agents are told, by when
/// images are to be fetched (`config/docker/image/auto_pull`).
fn fetched(rule: Option<&str>, digest: String, is_local: bool) -> (String, bool) {
    match rule {
        // Whatever has the name will do.
        Some("tag") => (String::new(), is_local),
        Some("none") => (digest, true),
        // `digest`, the default: an image that has changed is fetched anew.
        _ => (digest, is_local),
    }
}

/// The session's folders as agents see them. A list that can't be read comes from a release to come; nothing is mounted
/// that isn't understood.
fn mounts(session: &SessionRow) -> Vec<pb::Mount> {
    let folders: Vec<FolderMount> = serde_json::from_value(session.vfolder_mounts.clone()).unwrap_or_default();
    let mount = |folder: FolderMount| pb::Mount {
        read_only: folder.mount_perm == FolderPermission::ReadOnly,
        name: folder.name,
        source: folder.host_path,
        target: folder.kernel_path,
    };
    folders.into_iter().map(mount).collect()
}

fn spec(
    facts: &Facts,
    session: &SessionRow,
    all: &[KernelRow],
    kernel: &KernelRow,
    trust: Option<&(String, String)>,
) -> pb::KernelSpec {
    let addr_of = |id: &AgentId| facts.agents.get(id).map(|row| row.addr.clone());
    let addresses = clusters::addresses(all, kernel.agent_id.as_ref(), addr_of);
    let (digest, is_local) =
        facts.images.get(&(kernel.image.clone(), kernel.architecture.clone())).cloned().unwrap_or_default();
    let labels = kernel.image_labels.as_object().into_iter().flatten();
    let is_main = kernel.cluster_role == "main";
    let is_batch = session.session_type == SessionType::Batch;
    let runs_command = is_batch || session.session_type == SessionType::Inference;
    let ssh = facts.ssh_keypairs.get(&session.access_key);
    let agent = kernel.agent_id.as_ref().and_then(|id| facts.agents.get(id));
    let fetches = !is_local && agent.is_some_and(|row| row.runtime == FETCHES);
    let login = facts.logins.get(&kernel.registry).filter(|_| fetches);
    let internal = json!({
        "dotfiles": facts.dotfiles.get(&session.id).map_or(&[][..], Vec::as_slice),
        "ssh_keypair": ssh.map(|(public, private)| json!({"public_key": public, "private_key": private})),
        "cluster": trust.map(|pair| clusters::info(session, all, &addresses, pair)),
        "registry": login.map(Login::document),
        "builds_images": session.builds_images,
    });
    pb::KernelSpec {
        kernel_id: kernel.id.to_string(),
        cluster_role: kernel.cluster_role.clone(),
        cluster_idx: u32::try_from(kernel.cluster_idx).unwrap_or_default(),
        local_rank: u32::try_from(kernel.local_rank).unwrap_or_default(),
        cluster_hostname: kernel.cluster_hostname.clone(),
        image: Some(pb::Image {
            canonical: kernel.image.clone(),
            architecture: kernel.architecture.clone(),
            registry: kernel.registry.clone(),
            digest,
            labels: labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
            is_local,
        }),
        slots: slots(facts, kernel),
        resource_opts: kernel.resource_opts.to_string(),
        environ: environment(session, all, kernel, &addresses).into_iter().collect(),
        mounts: mounts(session),
        bootstrap_script: kernel.bootstrap_script.clone().unwrap_or_default(),
        startup_command: session.startup_command.clone().filter(|_| runs_command && is_main).unwrap_or_default(),
        preopen_ports: if is_main { ports(&kernel.preopen_ports) } else { Vec::new() },
        internal_data: internal.to_string(),
        timeout_ms: session
            .timeout_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .filter(|_| is_batch && is_main)
            .unwrap_or_default(),
    }
}

/// What the kernel asked for, in the units of the books.
fn slots(facts: &Facts, kernel: &KernelRow) -> Vec<pb::Slot> {
    let slot = |(name, amount): (&String, &i64)| {
        let kind = facts.slot_types.get(name).copied().unwrap_or(SlotKind::Count);
        Some(pb::Slot { name: name.clone(), kind: kind.to_string(), amount: u64::try_from(*amount).ok()? })
    };
    kernel.held.iter().filter_map(slot).collect()
}

fn ports(list: &Value) -> Vec<u32> {
    list.as_array().into_iter().flatten().filter_map(|p| u32::try_from(p.as_u64()?).ok()).collect()
}

/// The variables of a kernel: its owner's, overridden by what the system says.
fn environment(
    session: &SessionRow,
    all: &[KernelRow],
    kernel: &KernelRow,
    addresses: &[(&str, String)],
) -> BTreeMap<String, String> {
    let own = kernel.environ.as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut environ: BTreeMap<String, String> =
        own.filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let replicas: Vec<_> = clusters::replicas(all).into_iter().map(|(role, n)| format!("{role}:{n}")).collect();
    if all.len() > 1 {
        let list: Vec<_> = addresses.iter().map(|(name, address)| format!("{name}={address}")).collect();
        environ.insert("QUARTERDECK_CLUSTER_ADDRESSES".to_owned(), list.join(","));
    }
    let hosts: Vec<_> = all.iter().map(|k| k.cluster_hostname.as_str()).collect();
    let preopen: Vec<_> = ports(&kernel.preopen_ports).iter().map(ToString::to_string).collect();
    let service_ports = kernel.image_labels.get("ai.backend.service-ports").and_then(Value::as_str).unwrap_or("None");
    for (name, value) in [
        ("BACKENDAI_SESSION_ID", session.id.to_string()),
        ("BACKENDAI_SESSION_NAME", session.name.clone()),
        ("BACKENDAI_CLUSTER_SIZE", session.cluster_size.to_string()),
        ("BACKENDAI_CLUSTER_REPLICAS", replicas.join(",")),
        ("BACKENDAI_CLUSTER_HOSTS", hosts.join(",")),
        ("BACKENDAI_ACCESS_KEY", session.access_key.to_string()),
        ("BACKENDAI_PREOPEN_PORTS", preopen.join(",")),
        ("BACKENDAI_KERNEL_ID", kernel.id.to_string()),
        ("BACKENDAI_KERNEL_IMAGE", kernel.image.clone()),
        ("BACKENDAI_CLUSTER_ROLE", kernel.cluster_role.clone()),
        ("BACKENDAI_CLUSTER_IDX", kernel.cluster_idx.to_string()),
        ("BACKENDAI_CLUSTER_LOCAL_RANK", kernel.local_rank.to_string()),
        ("BACKENDAI_CLUSTER_HOST", kernel.cluster_hostname.clone()),
        ("BACKENDAI_SERVICE_PORTS", service_ports.to_owned()),
    ] {
        environ.insert(name.to_owned(), value);
    }
    environ
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_fetched_by_the_rule() {
        let told = |rule, is_local| fetched(rule, "sha256:1".to_owned(), is_local);
        for rule in [None, Some("digest")] {
            assert_eq!(told(rule, false), ("sha256:1".to_owned(), false));
            assert_eq!(told(rule, true), ("sha256:1".to_owned(), true));
        }
        assert_eq!(told(Some("tag"), false), (String::new(), false));
        assert!(told(Some("tag"), true).1 && told(Some("none"), false).1);
    }
}
