//! Kernels that are only entries in a book: for tests of scale. It runs nothing, and says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::async_trait;

use crate::error::Failure;
use crate::options::{count_slot, memory_slot};
use crate::reporter::Reporter;
use crate::runtime::{Attachment, Runtime, SessionSpec, Statistics};
use crate::user_files::UserFiles;

/// The runtime `synthetic`.
pub struct SyntheticRuntime {
    reporter: Arc<Reporter>,
    kernel_host: String,
    start_delay: Duration,
    kernels: Arc<Mutex<HashMap<String, Entry>>>,
}

struct Entry {
    session_id: String,
    state: &'static str,
}

impl SyntheticRuntime {
    /// A runtime without kernels. Each kernel takes `start_delay` to start.
    pub fn new(reporter: Arc<Reporter>, kernel_host: String, start_delay: Duration) -> Self {
        Self { reporter, kernel_host, start_delay, kernels: Arc::default() }
    }

    fn refusal(&self, kernel_id: &str) -> Failure {
        if self.kernels.lock().contains_key(kernel_id) {
            Failure::Refused("this kernel is synthetic: its agent keeps books only and runs nothing".into())
        } else {
            Failure::NotFound(kernel_id.to_owned())
        }
    }
}

#[async_trait]
impl Runtime for SyntheticRuntime {
    fn name(&self) -> &'static str {
        "synthetic"
    }

    fn runtime_types(&self) -> Vec<String> {
        vec!["*".into()]
    }

    fn compute_plugins(&self) -> Value {
        json!({"synthetic": {"version": env!("CARGO_PKG_VERSION")}})
    }

    fn slots(&self) -> Vec<pb::Slot> {
        vec![count_slot("cpu", 16), memory_slot(64 << 30)]
    }

    fn create(&self, session: Arc<SessionSpec>, kernel: pb::KernelSpec) {
        let entry = Entry { session_id: session.session_id.clone(), state: "preparing" };
        {
            let mut kernels = self.kernels.lock();
            if kernels.contains_key(&kernel.kernel_id) {
                return;
            }
            kernels.insert(kernel.kernel_id.clone(), entry);
        }
        let started = Event::Started(pb::Started {
            container_id: kernel.kernel_id.replace('-', ""),
            kernel_host: self.kernel_host.clone(),
            service_ports: "[]".into(),
            allocated: kernel.slots,
            runtime_info: json!({"runtime": "synthetic", "isolation": "none: nothing runs"}).to_string(),
            attached_devices: "{}".into(),
        });
        let (reporter, kernels, id) = (self.reporter.clone(), self.kernels.clone(), kernel.kernel_id);
        let start = move || {
            // The report is queued under the lock, so that it can't follow the one of the kernel's end.
            let mut kernels = kernels.lock();
            if let Some(entry) = kernels.get_mut(&id).filter(|entry| entry.state == "preparing") {
                entry.state = "running";
                reporter.send(&session.session_id, &id, started);
            }
        };
        if self.start_delay.is_zero() {
            start();
        } else {
            let delay = self.start_delay;
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                start();
            });
        }
    }

    fn destroy(&self, kernel_id: &str, reason: &str) -> bool {
        let mut kernels = self.kernels.lock();
        let Some(entry) = kernels.get_mut(kernel_id) else { return false };
        if entry.state != "terminating" {
            entry.state = "terminating";
            let end = pb::Terminated { reason: reason.to_owned(), ..Default::default() };
            self.reporter.ended(&entry.session_id, kernel_id, end, None);
        }
        true
    }

    async fn execute(&self, request: pb::ExecuteRequest) -> Result<Value, Failure> {
        Err(self.refusal(&request.kernel_id))
    }

    async fn interrupt(&self, kernel_id: &str) -> Result<(), Failure> {
        Err(self.refusal(kernel_id))
    }

    async fn complete(&self, request: pb::CompleteRequest) -> Result<Value, Failure> {
        Err(self.refusal(&request.kernel_id))
    }

    fn files(&self, kernel_id: &str) -> Result<UserFiles, Failure> {
        Err(self.refusal(kernel_id))
    }

    async fn terminal(&self, kernel_id: &str) -> Result<Attachment, Failure> {
        Err(self.refusal(kernel_id))
    }

    async fn logs(&self, kernel_id: &str) -> Result<Vec<u8>, Failure> {
        match self.kernels.lock().contains_key(kernel_id) {
            true => Ok(Vec::new()),
            false => Err(Failure::NotFound(kernel_id.to_owned())),
        }
    }

    async fn start_service(&self, request: pb::StartServiceRequest) -> Result<pb::StartServiceResponse, Failure> {
        Err(self.refusal(&request.kernel_id))
    }

    async fn shutdown_service(&self, kernel_id: &str, _service: &str) -> Result<(), Failure> {
        Err(self.refusal(kernel_id))
    }

    async fn connect_port(&self, kernel_id: &str, _port: u16) -> Result<TcpStream, Failure> {
        Err(self.refusal(kernel_id))
    }

    fn kernels(&self) -> Vec<pb::KernelState> {
        let kernels = self.kernels.lock();
        kernels
            .iter()
            .map(|(id, entry)| pb::KernelState {
                kernel_id: id.clone(),
                session_id: entry.session_id.clone(),
                state: entry.state.to_owned(),
            })
            .collect()
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    fn forget(&self, kernel_id: &str) {
        let mut kernels = self.kernels.lock();
        if kernels.get(kernel_id).is_some_and(|entry| entry.state == "terminating") {
            kernels.remove(kernel_id);
        }
    }

    async fn shutdown(&self, reason: &str) {
        let ids: Vec<String> = self.kernels.lock().keys().cloned().collect();
        for id in ids {
            self.destroy(&id, reason);
        }
    }
}
