//! A host that only listens and remembers, and an agent that talks to it.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarterdeck_agent::{AgentOptions, Error, IsolationMode, RuntimeKind};
use quarterdeck_rpc::pb::host_server::Host;
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_rpc::{AgentClient, AgentHandle, CallError, host_service, metadata, pb};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Waits until a condition holds. The limit is only there so that a broken test ends.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "{what} never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Default)]
pub struct Notes {
    pub registers: Vec<pb::RegisterRequest>,
    pub heartbeats: Vec<(String, pb::HeartbeatRequest)>,
    pub reports: Vec<pb::Report>,
    pub left: Vec<String>,
    last_seq: HashMap<String, u64>,
}

#[derive(Default)]
pub struct FakeHost {
    pub notes: Mutex<Notes>,
    /// How many report calls fail before one is heard.
    pub deaf_calls: AtomicU32,
    /// How many report calls are heard, but not answered.
    pub dumb_calls: AtomicU32,
    pub register_again: AtomicBool,
    pub refuse: AtomicBool,
}

pub const TOKEN: &str = "join";

#[derive(Clone)]
struct Service(Arc<FakeHost>);

impl Service {
    #[allow(clippy::result_large_err)]
    fn check(&self, metadata: &tonic::metadata::MetadataMap) -> Result<String, Status> {
        let caller = metadata::caller(metadata)?;
        match caller.bearer == format!("credential of {}", caller.agent_id) {
            true => Ok(caller.agent_id),
            false => Err(Status::unauthenticated("wrong credential")),
        }
    }
}

fn count_down(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[tonic::async_trait]
impl Host for Service {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Result<Response<pb::RegisterResponse>, Status> {
        let request = request.into_inner();
        if request.join_token != TOKEN || self.0.refuse.load(Ordering::SeqCst) {
            return Err(Status::unauthenticated("wrong join token"));
        }
        let credential = format!("credential of {}", request.agent_id);
        self.0.notes.lock().registers.push(request);
        Ok(Response::new(pb::RegisterResponse { credential, heartbeat_interval_ms: 200 }))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let id = self.check(request.metadata())?;
        self.0.notes.lock().heartbeats.push((id, request.into_inner()));
        let register_again = self.0.register_again.swap(false, Ordering::SeqCst);
        Ok(Response::new(pb::HeartbeatResponse { heartbeat_interval_ms: 200, register_again }))
    }

    async fn report(&self, request: Request<pb::ReportRequest>) -> Result<Response<pb::ReportResponse>, Status> {
        self.check(request.metadata())?;
        if count_down(&self.0.deaf_calls) {
            return Err(Status::unavailable("deaf"));
        }
        let request = request.into_inner();
        let mut notes = self.0.notes.lock();
        let last = *notes.last_seq.get(&request.boot_id).unwrap_or(&0);
        let mut acknowledged = last;
        for report in request.reports {
            if report.seq == acknowledged + 1 {
                acknowledged = report.seq;
                notes.reports.push(report);
            }
        }
        notes.last_seq.insert(request.boot_id, acknowledged);
        if count_down(&self.0.dumb_calls) {
            return Err(Status::unavailable("dumb"));
        }
        Ok(Response::new(pb::ReportResponse { acknowledged, register_again: false }))
    }

    async fn leave(&self, request: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveResponse>, Status> {
        let id = self.check(request.metadata())?;
        self.0.notes.lock().left.push(id);
        Ok(Response::new(pb::LeaveResponse {}))
    }
}

pub struct Rig {
    pub host: Arc<FakeHost>,
    pub server: String,
    pub state: tempfile::TempDir,
    client: AgentClient,
    agent: Option<(CancellationToken, JoinHandle<Result<(), Error>>)>,
    _host_task: JoinHandle<()>,
}

impl Rig {
    pub async fn without_agent() -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = format!("http://{}", incoming.local_addr().unwrap());
        let host = Arc::new(FakeHost::default());
        let service = host_service(Service(host.clone()));
        let task = tokio::spawn(async move {
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        let state = tempfile::tempdir().unwrap();
        Self { host, server, state, client: AgentClient::new(), agent: None, _host_task: task }
    }

    pub fn options(&self, runtime: RuntimeKind) -> AgentOptions {
        let mut options = AgentOptions::new(&self.server, TOKEN, runtime, self.state.path().to_owned());
        options.id = Some("i-test".into());
        options.process.sandbox_program = Some(env!("CARGO_BIN_EXE_quarterdeck-sandbox").into());
        options
    }

    pub async fn start(runtime: RuntimeKind) -> Self {
        let mut rig = Self::without_agent().await;
        let options = rig.options(runtime);
        rig.run(options).await;
        rig
    }

    /// An agent of the runtime `process` whose kernels aren't isolated: their processes have the node's numbers.
    pub async fn open() -> Self {
        let mut rig = Self::without_agent().await;
        let mut options = rig.options(RuntimeKind::Process);
        options.process.isolation = IsolationMode::None;
        rig.run(options).await;
        rig
    }

    pub async fn run(&mut self, options: AgentOptions) {
        let stop = CancellationToken::new();
        let task = tokio::spawn(quarterdeck_agent::run(options, stop.clone()));
        self.agent = Some((stop, task));
        self.registered(1).await;
    }

    pub async fn registered(&self, count: usize) {
        until("a registration", || (self.host.notes.lock().registers.len() >= count).then_some(())).await;
    }

    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.agent.take() {
            stop.cancel();
            task.await.unwrap().unwrap();
        }
    }

    /// The agent that registered last.
    pub fn agent(&self) -> AgentHandle {
        let notes = self.host.notes.lock();
        let about = notes.registers.last().unwrap();
        self.client.agent(&about.addr, &about.agent_id, &about.host_secret).unwrap()
    }

    pub async fn create(&self, kernel: pb::KernelSpec, kind: &str) {
        let request = pb::CreateKernelsRequest {
            session_id: session_of(&kernel.kernel_id),
            session_name: "a-session".into(),
            session_type: kind.into(),
            cluster_mode: "single-node".into(),
            cluster_size: 1,
            access_key: "AKIATEST".into(),
            kernels: vec![kernel],
        };
        self.agent().create_kernels(request).await.unwrap();
    }

    /// Creates an interactive kernel and waits until it runs; answers its id.
    pub async fn kernel(&self, runtime_type: &str) -> String {
        let spec = spec(runtime_type);
        let id = spec.kernel_id.clone();
        self.create(spec, "INTERACTIVE").await;
        self.event(&id, |event| match event {
            Event::Started(_) => Some(()),
            Event::StartFailed(failed) => panic!("{failed:?}"),
            _ => None,
        })
        .await;
        id
    }

    /// The first report of a kernel that fits.
    pub async fn event<T>(&self, kernel_id: &str, mut fits: impl FnMut(&Event) -> Option<T>) -> T {
        until("a report", || {
            let notes = self.host.notes.lock();
            let mut events = notes.reports.iter().filter(|report| report.kernel_id == kernel_id);
            events.find_map(|report| fits(report.event.as_ref()?))
        })
        .await
    }

    pub async fn terminated(&self, kernel_id: &str) -> pb::Terminated {
        self.event(kernel_id, |event| match event {
            Event::Terminated(end) => Some(end.clone()),
            _ => None,
        })
        .await
    }

    pub async fn batch_finished(&self, kernel_id: &str) -> (String, i32) {
        self.event(kernel_id, |event| match event {
            Event::BatchFinished(end) => Some((end.reason.clone(), end.exit_code)),
            _ => None,
        })
        .await
    }

    pub async fn execute(&self, kernel_id: &str, run_id: &str, mode: &str, code: &str, flush_ms: u32) -> Value {
        self.execute_with(kernel_id, run_id, mode, code, flush_ms, json!({})).await.unwrap()
    }

    pub async fn execute_with(
        &self,
        kernel_id: &str,
        run_id: &str,
        mode: &str,
        code: &str,
        flush_ms: u32,
        options: Value,
    ) -> Result<Value, CallError> {
        let request = pb::ExecuteRequest {
            kernel_id: kernel_id.into(),
            session_id: session_of(kernel_id),
            api_major: 6,
            run_id: run_id.into(),
            mode: mode.into(),
            code: code.into(),
            options: options.to_string(),
            flush_ms,
        };
        Ok(serde_json::from_str(&self.agent().execute(request).await?).unwrap())
    }

    /// Runs code to its end; answers the last document with the whole console.
    pub async fn run_code(&self, kernel_id: &str, code: &str) -> Value {
        let mut result = self.execute(kernel_id, "", "query", code, 2000).await;
        let mut console = result["console"].as_array().unwrap().clone();
        while result["status"] == "continued" {
            let id = result["runId"].as_str().unwrap().to_owned();
            result = self.execute(kernel_id, &id, "continue", "", 2000).await;
            console.extend(result["console"].as_array().unwrap().clone());
        }
        result["console"] = console.into();
        result
    }

    pub async fn destroy(&self, kernel_id: &str) -> Vec<String> {
        let request = pb::DestroyKernelsRequest {
            session_id: session_of(kernel_id),
            kernel_ids: vec![kernel_id.into()],
            reason: "user-requested".into(),
        };
        self.agent().destroy_kernels(request).await.unwrap()
    }

    pub async fn log(&self, kernel_id: &str) -> String {
        String::from_utf8(self.agent().logs(kernel_id).await.unwrap()).unwrap()
    }
}

/// What is told when a kernel has started.
pub async fn started(rig: &Rig, kernel: &str) -> pb::Started {
    rig.event(kernel, |event| match event {
        Event::Started(started) => Some(started.clone()),
        Event::StartFailed(failed) => panic!("{failed:?}"),
        _ => None,
    })
    .await
}

/// An agent whose kernels are isolated; nothing where the node doesn't allow it.
pub async fn isolated() -> Option<Rig> {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("shell").await;
    let info: Value = serde_json::from_str(&started(&rig, &kernel).await.runtime_info).unwrap();
    if let Some(reason) = info["isolation"]["missing"].as_str() {
        eprintln!("skipped: this node doesn't isolate kernels: {reason}");
        rig.stop().await;
        return None;
    }
    Some(rig)
}

/// All of one stream.
pub fn text(result: &Value, stream: &str) -> String {
    let parts = result["console"].as_array().unwrap().iter().filter(|part| part[0] == stream);
    parts.map(|part| part[1].as_str().unwrap()).collect()
}

fn session_of(kernel_id: &str) -> String {
    let id: uuid::Uuid = kernel_id.parse().unwrap();
    uuid::Uuid::from_u128(!id.as_u128()).to_string()
}

pub fn spec(runtime_type: &str) -> pb::KernelSpec {
    let labels = [("ai.backend.runtime-type".to_owned(), runtime_type.to_owned())];
    pb::KernelSpec {
        kernel_id: uuid::Uuid::new_v4().to_string(),
        cluster_role: "main".into(),
        cluster_hostname: "main1".into(),
        image: Some(pb::Image { canonical: "cr/x:1".into(), labels: labels.into(), ..Default::default() }),
        slots: vec![pb::Slot { name: "cpu".into(), kind: "count".into(), amount: 1000 }],
        ..Default::default()
    }
}

/// Whether a process runs (a zombie doesn't).
pub fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}
