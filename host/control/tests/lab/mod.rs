//! A host with its loops on a database of its own, and agents that do what a test tells them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use quarterdeck_control::agents::{HostService, new_join_token};
use quarterdeck_control::enqueue::{self, CreateSession, Created, SessionConfig};
use quarterdeck_control::{Control, Principal, Settings, seed};
use quarterdeck_model::{Clock, ClusterMode, SessionId, SessionStatus, SessionType};
use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};
use quarterdeck_rpc::pb::agent_server::Agent;
use quarterdeck_rpc::pb::host_server::Host;
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_rpc::{metadata, pb};
use quarterdeck_store::testing::TestDb;
use quarterdeck_store::{Store, occupancy, sessions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

pub const USER: &str = "AKIACONFUSER00000003";
pub const ADMIN: &str = "AKIACONFADMIN0000001";

pub fn plugins() -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let options = || RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() };
    RUNTIME.get_or_init(|| Runtime::new(options()).unwrap()).clone()
}

pub fn settings() -> Settings {
    Settings {
        tick_interval: Duration::from_millis(100),
        reconcile_interval: Duration::from_millis(10),
        missing_patience: Duration::from_millis(50),
        start_attempts: 2,
        destroy_wait: Duration::from_secs(20),
        ..Settings::default()
    }
}

/// A host that runs.
pub struct Lab {
    pub control: Control,
    shutdown: CancellationToken,
    loops: TaskTracker,
}

impl Lab {
    /// On an empty database: with users, images and a scaling group.
    pub async fn new(db: &TestDb) -> Self {
        let seed: Value = serde_json::from_str(include_str!("../../../../tests/conformance/seed.json")).unwrap();
        seed::load(&db.store, &seed).await.unwrap();
        Self::on(&db.store, settings()).await
    }

    /// On a database that was used before.
    pub async fn on(store: &Store, settings: Settings) -> Self {
        Self::at(store, settings, Clock::System).await
    }

    /// As [`Lab::on`], by a clock of the test's.
    pub async fn at(store: &Store, settings: Settings, clock: Clock) -> Self {
        let control = Control::with_clock(store.clone(), plugins(), settings, clock).await.unwrap();
        let shutdown = CancellationToken::new();
        let loops = control.spawn_loops(shutdown.clone());
        Self { control, shutdown, loops }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.loops.wait().await;
    }

    pub async fn who(&self, access_key: &str) -> Arc<Principal> {
        Arc::clone(&self.control.identity().credential(access_key).await.unwrap().unwrap().principal)
    }

    pub async fn create(&self, request: CreateSession) -> Created {
        let caller = self.who(USER).await;
        enqueue::create(&self.control, &caller, request).await.unwrap()
    }

    pub async fn status(&self, id: SessionId) -> SessionStatus {
        sessions::status(&mut self.control.store().reader(), id).await.unwrap().unwrap()
    }

    /// Waits until the session has that status.
    pub async fn reaches(&self, id: SessionId, status: SessionStatus) {
        eventually(&format!("{id} to be {status}"), async || self.status(id).await == status).await;
    }

    /// Checks that all counters are what the rows add up to.
    pub async fn check_books(&self) {
        let before = self.books().await;
        let mut tx = self.control.store().begin().await.unwrap();
        occupancy::recalculate(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(before, self.books().await, "counters differ from what the rows add up to");
    }

    /// All counters that aren't zero.
    pub async fn books(&self) -> Vec<String> {
        books(self.control.store()).await
    }

    /// Registers an agent with that many processors; it serves the default group.
    pub async fn agent(&self, id: &str, cpus: u64) -> FakeAgent {
        FakeAgent::join(&self.control, id, cpus, "synthetic", true).await
    }

    /// Registers an agent as [`Lab::agent`] does, but nobody listens at its address.
    pub async fn crashed_agent(&self, id: &str, cpus: u64) -> FakeAgent {
        FakeAgent::join(&self.control, id, cpus, "synthetic", false).await
    }

    /// Registers an agent as [`Lab::agent`] does, which says that it has a container engine.
    pub async fn contained_agent(&self, id: &str, cpus: u64) -> FakeAgent {
        FakeAgent::join(&self.control, id, cpus, "docker", true).await
    }
}

/// All counters that aren't zero.
pub async fn books(store: &Store) -> Vec<String> {
    use quarterdeck_store::{Sql, Stmt};
    let mut reader = store.reader();
    let mut lines = Vec::new();
    for slot in occupancy::agent_slots(&mut reader, None).await.unwrap() {
        if slot.occupied != 0 {
            lines.push(format!("agent {} {} {}", slot.agent, slot.slot, slot.occupied));
        }
    }
    let rows = reader
        .fetch_all(Stmt::new(
            "SELECT scope, holder, slot, amount FROM occupancy WHERE amount <> 0 ORDER BY scope, holder, slot",
        ))
        .await
        .unwrap();
    for row in rows {
        let text = |name: &str| row.get::<String>(name).unwrap();
        lines.push(format!(
            "{} {} {} {}",
            text("scope"),
            text("holder"),
            text("slot"),
            row.get::<i64>("amount").unwrap()
        ));
    }
    let rows = reader
        .fetch_all(Stmt::new(
            "SELECT access_key, sessions, private_sessions FROM concurrency WHERE sessions <> 0 OR private_sessions <> 0",
        ))
        .await
        .unwrap();
    for row in rows {
        let count = |name: &str| row.get::<i64>(name).unwrap();
        let key = row.get::<String>("access_key").unwrap();
        lines.push(format!("sessions {key} {} {}", count("sessions"), count("private_sessions")));
    }
    lines
}

/// Waits for a condition, patiently: machines may be busy.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A request for an ordinary session.
pub fn request(name: &str) -> CreateSession {
    CreateSession {
        name: name.to_owned(),
        image: "python".to_owned(),
        architecture: Some("x86_64".to_owned()),
        kind: SessionType::Interactive,
        project: "default".to_owned(),
        domain: "default".to_owned(),
        cluster_size: 1,
        cluster_mode: ClusterMode::SingleNode,
        config: SessionConfig { resources: Some(json!({"cpu": 1, "mem": "512m"})), ..SessionConfig::default() },
        tag: None,
        enqueue_only: false,
        max_wait_s: 60,
        starts_at: None,
        reuse: true,
        startup_command: None,
        bootstrap_script: None,
        dependencies: Vec::new(),
        callback_url: None,
        owner_access_key: None,
        priority: None,
        expected_duration_s: None,
        timeout_s: None,
        builds_images: false,
        nodes: Vec::new(),
        endpoint: None,
    }
}

/// What an agent does when it is told to create kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Reports that they run.
    Works,
    /// Accepts and forgets.
    Forgets,
    /// Refuses the call.
    Refuses,
    /// Reports that they can't start.
    Fails,
}

/// An agent that keeps books only.
#[derive(Clone)]
pub struct FakeAgent {
    inner: Arc<Inner>,
}

/// A kernel's session and environment.
type Known = (String, HashMap<String, String>);

struct Inner {
    id: String,
    cpus: u64,
    runtime: &'static str,
    token: String,
    addr: String,
    boot: Mutex<String>,
    credential: Mutex<String>,
    host: Mutex<HostService>,
    seq: AtomicU64,
    /// Reports are numbered and sent one call after the other, as agents promise.
    line: tokio::sync::Mutex<()>,
    manner: Mutex<Manner>,
    ends: AtomicBool,
    /// kernel → (session, environment)
    kernels: Mutex<HashMap<String, Known>>,
    created: Mutex<Vec<String>>,
    /// kernel → what only its agent is told
    internal: Mutex<HashMap<String, String>>,
}

impl FakeAgent {
    async fn join(control: &Control, id: &str, cpus: u64, runtime: &'static str, listens: bool) -> Self {
        let token = new_join_token(control.store(), None, None).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = format!("http://{}", listener.local_addr().unwrap());
        let agent = Self {
            inner: Arc::new(Inner {
                id: id.to_owned(),
                cpus,
                runtime,
                token,
                addr,
                boot: Mutex::new(String::new()),
                credential: Mutex::new(String::new()),
                host: Mutex::new(HostService::new(control.clone())),
                seq: AtomicU64::new(0),
                line: tokio::sync::Mutex::new(()),
                manner: Mutex::new(Manner::Works),
                ends: AtomicBool::new(true),
                kernels: Mutex::default(),
                created: Mutex::default(),
                internal: Mutex::default(),
            }),
        };
        if listens {
            let service = quarterdeck_rpc::agent_service(agent.clone());
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        }
        agent.boot().await;
        agent
    }

    /// Starts anew, with what it has.
    pub async fn boot(&self) {
        *self.inner.boot.lock().unwrap() = uuid::Uuid::new_v4().to_string();
        self.inner.seq.store(0, Ordering::SeqCst);
        let request = self.registration("default");
        let credential = self.inner.credential.lock().unwrap().clone();
        let request = metadata::request(request, &self.inner.id, &credential).unwrap();
        let answer = self.host().register(request).await.unwrap();
        *self.inner.credential.lock().unwrap() = answer.into_inner().credential;
    }

    pub fn registration(&self, group: &str) -> pb::RegisterRequest {
        pb::RegisterRequest {
            agent_id: self.inner.id.clone(),
            join_token: self.inner.token.clone(),
            addr: self.inner.addr.clone(),
            scaling_group: group.to_owned(),
            architecture: "x86_64".to_owned(),
            version: "1".to_owned(),
            runtime: self.inner.runtime.to_owned(),
            runtime_types: vec!["*".to_owned()],
            slots: self.slots(),
            boot_id: self.boot_id(),
            host_secret: "secret".to_owned(),
            ..pb::RegisterRequest::default()
        }
    }

    pub fn boot_id(&self) -> String {
        self.inner.boot.lock().unwrap().clone()
    }

    fn slots(&self) -> Vec<pb::Slot> {
        let slot = |name: &str, kind: &str, amount| pb::Slot { name: name.to_owned(), kind: kind.to_owned(), amount };
        vec![slot("cpu", "count", self.inner.cpus * 1000), slot("mem", "bytes", 64 << 30)]
    }

    pub fn host(&self) -> HostService {
        self.inner.host.lock().unwrap().clone()
    }

    /// Talks to another host from now on.
    pub fn moves_to(&self, lab: &Lab) {
        *self.inner.host.lock().unwrap() = HostService::new(lab.control.clone());
    }

    pub fn behaves(&self, manner: Manner) {
        *self.inner.manner.lock().unwrap() = manner;
    }

    /// Whether it reports the end of kernels that it is told to end.
    pub fn ends(&self, ends: bool) {
        self.inner.ends.store(ends, Ordering::SeqCst);
    }

    /// The kernels that it has.
    pub fn kernels(&self) -> Vec<String> {
        self.inner.kernels.lock().unwrap().keys().cloned().collect()
    }

    /// A kernel's environment.
    pub fn environ(&self, kernel: &str) -> HashMap<String, String> {
        self.inner.kernels.lock().unwrap()[kernel].1.clone()
    }

    /// What only a kernel's agent is told.
    pub fn internal(&self, kernel: &str) -> Value {
        serde_json::from_str(&self.inner.internal.lock().unwrap()[kernel]).unwrap()
    }

    /// Every kernel that it was ever told to create, with repetitions.
    pub fn created(&self) -> Vec<String> {
        self.inner.created.lock().unwrap().clone()
    }

    /// Has a kernel that it wasn't told to create.
    pub fn adopt(&self, kernel: &str, session: &str) {
        self.inner.kernels.lock().unwrap().insert(kernel.to_owned(), (session.to_owned(), HashMap::new()));
    }

    /// Its kernels are gone.
    pub fn forgets_all(&self) {
        self.inner.kernels.lock().unwrap().clear();
    }

    fn authorized<T>(&self, message: T) -> Request<T> {
        let credential = self.inner.credential.lock().unwrap().clone();
        metadata::request(message, &self.inner.id, &credential).unwrap()
    }

    pub async fn heartbeat(&self) -> pb::HeartbeatResponse {
        self.heartbeat_with(Vec::new()).await
    }

    /// A heartbeat that tells how kernels do.
    pub async fn heartbeat_with(&self, kernel_stats: Vec<pb::KernelStat>) -> pb::HeartbeatResponse {
        let state = |(kernel_id, (session_id, _)): (&String, &Known)| pb::KernelState {
            kernel_id: kernel_id.clone(),
            session_id: session_id.clone(),
            state: "running".to_owned(),
        };
        let kernels = self.inner.kernels.lock().unwrap().iter().map(state).collect();
        let beat = pb::HeartbeatRequest {
            boot_id: self.boot_id(),
            slots: self.slots(),
            kernels,
            kernel_stats,
            ..pb::HeartbeatRequest::default()
        };
        self.host().heartbeat(self.authorized(beat)).await.unwrap().into_inner()
    }

    pub fn next_report(&self, session_id: &str, kernel_id: &str, event: Event) -> pb::Report {
        pb::Report {
            seq: self.inner.seq.fetch_add(1, Ordering::SeqCst) + 1,
            at_us: 0,
            session_id: session_id.to_owned(),
            kernel_id: kernel_id.to_owned(),
            event: Some(event),
        }
    }

    pub async fn send(&self, reports: Vec<pb::Report>) -> pb::ReportResponse {
        self.send_as(&self.boot_id(), reports).await.unwrap()
    }

    pub async fn send_as(&self, boot: &str, reports: Vec<pb::Report>) -> Result<pb::ReportResponse, Status> {
        let request = pb::ReportRequest { boot_id: boot.to_owned(), reports };
        Ok(self.host().report(self.authorized(request)).await?.into_inner())
    }

    pub async fn report(&self, session: &str, kernel: &str, event: Event) {
        let _turn = self.inner.line.lock().await;
        self.send(vec![self.next_report(session, kernel, event)]).await;
    }

    pub fn started_event() -> Event {
        Event::Started(pb::Started {
            container_id: "c-1".to_owned(),
            kernel_host: "127.0.0.1".to_owned(),
            service_ports:
                r#"[{"name":"sshd","protocol":"tcp","container_ports":[2200],"host_ports":[30000],"is_inference":false},
                    {"name":"repl","protocol":"internal","container_ports":[2000],"host_ports":[30001],"is_inference":false}]"#
                    .to_owned(),
            runtime_info: r#"{"runtime":"synthetic","version":"0"}"#.to_owned(),
            ..pb::Started::default()
        })
    }
}

#[tonic::async_trait]
impl Agent for FakeAgent {
    async fn create_kernels(
        &self,
        request: Request<pb::CreateKernelsRequest>,
    ) -> Result<Response<pb::CreateKernelsResponse>, Status> {
        let request = request.into_inner();
        let manner = *self.inner.manner.lock().unwrap();
        if manner == Manner::Refuses {
            return Err(Status::resource_exhausted("no"));
        }
        for kernel in request.kernels {
            let id = kernel.kernel_id.clone();
            self.inner.created.lock().unwrap().push(id.clone());
            self.inner.internal.lock().unwrap().insert(id.clone(), kernel.internal_data.clone());
            if manner == Manner::Forgets {
                continue;
            }
            let known = (request.session_id.clone(), kernel.environ.into_iter().collect());
            if self.inner.kernels.lock().unwrap().insert(id.clone(), known).is_some() {
                continue;
            }
            let (agent, session) = (self.clone(), request.session_id.clone());
            tokio::spawn(async move {
                let event = if manner == Manner::Works {
                    Self::started_event()
                } else {
                    agent.inner.kernels.lock().unwrap().remove(&id);
                    Event::StartFailed(pb::StartFailed { name: "NoInterpreter".to_owned(), message: "none".to_owned() })
                };
                let _turn = agent.inner.line.lock().await;
                let first = agent.next_report(&session, &id, Event::Preparing(pb::Preparing {}));
                let second = agent.next_report(&session, &id, event);
                // Hosts that are being stopped don't hear it.
                let _ = agent.send_as(&agent.boot_id(), vec![first, second]).await;
            });
        }
        Ok(Response::new(pb::CreateKernelsResponse {}))
    }

    async fn create_several(
        &self,
        request: Request<pb::CreateSeveralRequest>,
    ) -> Result<Response<pb::CreateSeveralResponse>, Status> {
        let mut refused = Vec::new();
        for session in request.into_inner().sessions {
            let session_id = session.session_id.clone();
            if let Err(status) = self.create_kernels(Request::new(session)).await {
                refused.push(pb::Refusal { session_id, reason: status.message().to_owned() });
            }
        }
        Ok(Response::new(pb::CreateSeveralResponse { refused }))
    }

    async fn destroy_kernels(
        &self,
        request: Request<pb::DestroyKernelsRequest>,
    ) -> Result<Response<pb::DestroyKernelsResponse>, Status> {
        let request = request.into_inner();
        if !self.inner.ends.load(Ordering::SeqCst) {
            return Err(Status::unavailable("busy"));
        }
        let mut gone = Vec::new();
        for kernel in request.kernel_ids {
            if self.inner.kernels.lock().unwrap().remove(&kernel).is_none() {
                gone.push(kernel);
                continue;
            }
            let (agent, session, reason) = (self.clone(), request.session_id.clone(), request.reason.clone());
            tokio::spawn(async move {
                let event = Event::Terminated(pb::Terminated {
                    reason,
                    exit_code: 137,
                    log: b"hello\0\n".to_vec(),
                    last_stat: r#"{"mem":{"current":"1","unit_hint":"bytes"}}"#.to_owned(),
                });
                let _turn = agent.inner.line.lock().await;
                let report = agent.next_report(&session, &kernel, event);
                let _ = agent.send_as(&agent.boot_id(), vec![report]).await;
            });
        }
        Ok(Response::new(pb::DestroyKernelsResponse { gone }))
    }

    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Result<Response<pb::ExecuteResponse>, Status> {
        let request = request.into_inner();
        let result = json!({"status": "finished", "runId": "r-1", "exitCode": 0, "options": null,
                            "console": [["stdout", request.code]]});
        Ok(Response::new(pb::ExecuteResponse { result: result.to_string() }))
    }

    async fn interrupt(&self, _: Request<pb::InterruptRequest>) -> Result<Response<pb::InterruptResponse>, Status> {
        Ok(Response::new(pb::InterruptResponse {}))
    }

    async fn complete(&self, _: Request<pb::CompleteRequest>) -> Result<Response<pb::CompleteResponse>, Status> {
        Ok(Response::new(pb::CompleteResponse { result: r#"{"status":"finished","completions":["x"]}"#.to_owned() }))
    }

    async fn logs(&self, _: Request<pb::LogsRequest>) -> Result<Response<pb::LogsResponse>, Status> {
        Ok(Response::new(pb::LogsResponse { log: b"so far".to_vec() }))
    }

    async fn start_service(
        &self,
        _: Request<pb::StartServiceRequest>,
    ) -> Result<Response<pb::StartServiceResponse>, Status> {
        Ok(Response::new(pb::StartServiceResponse { status: "started".to_owned(), error: String::new() }))
    }

    async fn shutdown_service(
        &self,
        _: Request<pb::ShutdownServiceRequest>,
    ) -> Result<Response<pb::ShutdownServiceResponse>, Status> {
        Ok(Response::new(pb::ShutdownServiceResponse {}))
    }

    type ConnectPortStream = tokio_stream::Empty<Result<pb::PortData, Status>>;

    async fn connect_port(
        &self,
        _: Request<tonic::Streaming<pb::PortData>>,
    ) -> Result<Response<Self::ConnectPortStream>, Status> {
        Err(Status::failed_precondition("it listens on nothing"))
    }

    async fn upload_file(
        &self,
        _: Request<tonic::Streaming<pb::UploadFileRequest>>,
    ) -> Result<Response<pb::UploadFileResponse>, Status> {
        Err(Status::failed_precondition("it has no files"))
    }

    type DownloadFileStream = tokio_stream::Empty<Result<pb::DownloadFileResponse, Status>>;

    async fn download_file(
        &self,
        _: Request<pb::DownloadFileRequest>,
    ) -> Result<Response<Self::DownloadFileStream>, Status> {
        Err(Status::failed_precondition("it has no files"))
    }

    async fn list_files(&self, _: Request<pb::ListFilesRequest>) -> Result<Response<pb::ListFilesResponse>, Status> {
        Err(Status::failed_precondition("it has no files"))
    }

    type CommitStream = tokio_stream::Empty<Result<pb::CommitResponse, Status>>;

    async fn commit(&self, _: Request<pb::CommitRequest>) -> Result<Response<Self::CommitStream>, Status> {
        Err(Status::failed_precondition("it has no files"))
    }

    type TerminalStream = tokio_stream::Empty<Result<pb::TerminalResponse, Status>>;

    async fn terminal(
        &self,
        _: Request<tonic::Streaming<pb::TerminalRequest>>,
    ) -> Result<Response<Self::TerminalStream>, Status> {
        Err(Status::failed_precondition("it has no terminal"))
    }
}
