//! What a kernel has to do with the others of its session.

use std::sync::Arc;

use quarterdeck_rpc::pb;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::super::cluster::Neighbours;
use super::super::log::KernelLog;
use super::super::services::{Attach, Services, finds};
use super::Task;
use crate::error::Failure;
use crate::sandbox::{Isolation, Network};

impl Task {
    /// The others of its session that the kernel shares a network with, when it does.
    pub(super) fn neighbours(&self) -> Option<Neighbours> {
        self.neighbours_in_place().filter(|_| self.isolation().is_some_and(|isolation| isolation.sharing().is_ok()))
    }

    /// Whether it has others here, and the node can't give them a network.
    pub(super) fn lacks_network(&self) -> bool {
        self.neighbours_in_place().is_some() && self.neighbours().is_none()
    }

    fn neighbours_in_place(&self) -> Option<Neighbours> {
        self.isolation().filter(|isolation| isolation.network() == Network::None)?;
        let internal: Value = serde_json::from_str(&self.spec.internal_data).unwrap_or_default();
        let names = self.spec.environ.get("BACKENDAI_CLUSTER_HOSTS").map_or("", String::as_str);
        Neighbours::find(&internal, names, &self.spec.cluster_hostname)
    }

    /// How its sandbox is made; containers have their own ways.
    fn isolation(&self) -> Option<&Isolation> {
        self.inner.isolation.as_ref().ok().filter(|_| self.inner.containers.is_none())
    }

    /// Lets the session's other kernels come in by SSH, where the node has a server.
    pub(super) fn open_ssh(&self, services: &Arc<Services>, log: &Arc<KernelLog>) -> JoinHandle<()> {
        let (services, log) = (services.clone(), log.clone());
        let request = pb::StartServiceRequest { service: "sshd".into(), ..Default::default() };
        tokio::spawn(async move {
            if finds("sshd").is_none() {
                return log.note("the session's kernels have no SSH: this node has no server");
            }
            match services.start(&request).await {
                Ok(answer) if answer.status != "failed" => {}
                Ok(answer) => log.note(&format!("the session's kernels have no SSH: {}", answer.error)),
                Err(failure) => log.note(&format!("the session's kernels have no SSH: {failure}")),
            }
        })
    }

    /// What attaches services to the kernel's terminal.
    pub(super) fn terminal(&self) -> Attach {
        let (handle, shell) = (Arc::downgrade(&self.handle), self.inner.shell());
        Arc::new(move || {
            let (handle, shell) = (handle.upgrade(), shell.clone());
            Box::pin(async move {
                let refused = |why: &str| Failure::Refused(why.to_owned());
                let handle = handle.ok_or_else(|| refused("the kernel is gone"))?;
                let shell = shell.ok_or_else(|| refused("this node has no shell"))?;
                Ok(handle.terminal(&shell).await?.attach())
            })
        })
    }
}
