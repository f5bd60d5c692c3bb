//! Agents that keep books only, and do nothing but what the world lets happen to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::agent_server::Agent;
use quarterdeck_rpc::pb::report::Event;
use tonic::{Request, Response, Status};

/// What an agent does when it is told to create kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Works,
    /// Reports that they can't start.
    Fails,
    /// Refuses the call.
    Refuses,
    /// Accepts and forgets.
    Forgets,
    /// Does it; its answer never arrives.
    AnswersNobody,
    /// The call is lost on its way.
    HearsNothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Preparing,
    Running,
    Ending,
}

#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) session: String,
    pub(super) stage: Stage,
    pub(super) reason: String,
    pub(super) batch: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) id: String,
    pub(super) cpus: u64,
    pub(super) boot: String,
    pub(super) boots: u64,
    pub(super) credential: String,
    pub(super) registered: bool,
    pub(super) connected: bool,
    pub(super) manner: Manner,
    pub(super) kernels: BTreeMap<String, Kernel>,
    /// Numbered, in order, and not acknowledged yet.
    pub(super) outbox: VecDeque<pb::Report>,
    seq: u64,
    /// Every kernel that ever was here.
    pub(super) ever: BTreeSet<String>,
}

impl State {
    pub(super) fn report(&mut self, kernel: &str, session: &str, event: Event) {
        self.seq += 1;
        self.outbox.push_back(pb::Report {
            seq: self.seq,
            at_us: 0,
            session_id: session.to_owned(),
            kernel_id: kernel.to_owned(),
            event: Some(event),
        });
    }

    /// Begins with kernels that aren't here yet.
    fn create(&mut self, request: &pb::CreateKernelsRequest) {
        for spec in &request.kernels {
            if self.kernels.contains_key(&spec.kernel_id) {
                continue;
            }
            self.ever.insert(spec.kernel_id.clone());
            self.report(&spec.kernel_id, &request.session_id, Event::Preparing(pb::Preparing {}));
            let kernel = Kernel {
                session: request.session_id.clone(),
                stage: Stage::Preparing,
                reason: String::new(),
                batch: !spec.startup_command.is_empty(),
            };
            self.kernels.insert(spec.kernel_id.clone(), kernel);
        }
    }

    /// A kernel is over, and the host is going to hear of it.
    pub(super) fn end(&mut self, kernel: &str, reason: &str) {
        let Some(known) = self.kernels.remove(kernel) else { return };
        let ended = pb::Terminated { reason: reason.to_owned(), exit_code: 137, ..pb::Terminated::default() };
        self.report(kernel, &known.session, Event::Terminated(ended));
    }

    /// Starts anew: nothing of what it ran is left. With `remembers` it tells the host what has ended.
    pub(super) fn reboot(&mut self, remembers: bool) {
        self.boots += 1;
        self.boot = format!("{}-boot-{}", self.id, self.boots);
        self.registered = false;
        self.outbox.clear();
        self.seq = 0;
        for (kernel, known) in std::mem::take(&mut self.kernels) {
            if remembers {
                let ended = pb::Terminated { reason: "agent-restart".to_owned(), exit_code: 137, ..Default::default() };
                self.report(&kernel, &known.session, Event::Terminated(ended));
            }
        }
    }

    pub(super) fn slots(&self) -> Vec<pb::Slot> {
        let slot = |name: &str, kind: &str, amount| pb::Slot { name: name.to_owned(), kind: kind.to_owned(), amount };
        vec![slot("cpu", "count", self.cpus * 1000), slot("mem", "bytes", 64 << 30)]
    }

    pub(super) fn registration(&self, token: &str) -> pb::RegisterRequest {
        pb::RegisterRequest {
            agent_id: self.id.clone(),
            join_token: token.to_owned(),
            addr: format!("http://{}.local:1", self.id),
            scaling_group: "default".to_owned(),
            architecture: "x86_64".to_owned(),
            version: "1".to_owned(),
            runtime: "synthetic".to_owned(),
            runtime_types: vec!["*".to_owned()],
            slots: self.slots(),
            boot_id: self.boot.clone(),
            host_secret: "secret".to_owned(),
            ..pb::RegisterRequest::default()
        }
    }

    pub(super) fn beat(&self) -> pb::HeartbeatRequest {
        let state = |(kernel_id, kernel): (&String, &Kernel)| pb::KernelState {
            kernel_id: kernel_id.clone(),
            session_id: kernel.session.clone(),
            state: match kernel.stage {
                Stage::Preparing => "preparing",
                Stage::Running => "running",
                Stage::Ending => "terminating",
            }
            .to_owned(),
        };
        pb::HeartbeatRequest {
            boot_id: self.boot.clone(),
            slots: self.slots(),
            kernels: self.kernels.iter().map(state).collect(),
            ..pb::HeartbeatRequest::default()
        }
    }
}

/// A handle of such an agent.
#[derive(Clone, Debug)]
pub(super) struct SimAgent(Arc<Mutex<State>>);

impl SimAgent {
    pub(super) fn new(number: usize, cpus: u64) -> Self {
        let mut state = State {
            id: format!("i-{number}"),
            cpus,
            boot: String::new(),
            boots: 0,
            credential: String::new(),
            registered: false,
            connected: true,
            manner: Manner::Works,
            kernels: BTreeMap::new(),
            outbox: VecDeque::new(),
            seq: 0,
            ever: BTreeSet::new(),
        };
        state.reboot(false);
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    pub(super) fn addr(&self) -> String {
        format!("http://{}.local:1", self.state().id)
    }
}

fn unused() -> Status {
    Status::unimplemented("no step of the simulation asks for this")
}

#[tonic::async_trait]
impl Agent for SimAgent {
    async fn create_kernels(
        &self,
        request: Request<pb::CreateKernelsRequest>,
    ) -> Result<Response<pb::CreateKernelsResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        match state.manner {
            Manner::Refuses => return Err(Status::resource_exhausted("no")),
            Manner::HearsNothing => return Err(Status::unavailable("lost")),
            Manner::Forgets => return Ok(Response::new(pb::CreateKernelsResponse {})),
            Manner::Works | Manner::Fails | Manner::AnswersNobody => {}
        }
        state.create(&request);
        if state.manner == Manner::AnswersNobody {
            return Err(Status::deadline_exceeded("lost"));
        }
        Ok(Response::new(pb::CreateKernelsResponse {}))
    }

    async fn create_several(
        &self,
        request: Request<pb::CreateSeveralRequest>,
    ) -> Result<Response<pb::CreateSeveralResponse>, Status> {
        let mut state = self.state();
        let mut refused = Vec::new();
        for session in request.into_inner().sessions {
            match state.manner {
                Manner::Refuses => {
                    refused.push(pb::Refusal { session_id: session.session_id, reason: "no".to_owned() });
                }
                Manner::HearsNothing => return Err(Status::unavailable("lost")),
                Manner::Forgets => {}
                Manner::Works | Manner::Fails | Manner::AnswersNobody => state.create(&session),
            }
        }
        if state.manner == Manner::AnswersNobody {
            return Err(Status::deadline_exceeded("lost"));
        }
        Ok(Response::new(pb::CreateSeveralResponse { refused }))
    }

    async fn destroy_kernels(
        &self,
        request: Request<pb::DestroyKernelsRequest>,
    ) -> Result<Response<pb::DestroyKernelsResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        if state.manner == Manner::HearsNothing {
            return Err(Status::unavailable("lost"));
        }
        let mut gone = Vec::new();
        for id in request.kernel_ids {
            match state.kernels.get_mut(&id) {
                Some(kernel) => {
                    kernel.stage = Stage::Ending;
                    if kernel.reason.is_empty() {
                        kernel.reason.clone_from(&request.reason);
                    }
                }
                None => gone.push(id),
            }
        }
        if state.manner == Manner::AnswersNobody {
            return Err(Status::deadline_exceeded("lost"));
        }
        Ok(Response::new(pb::DestroyKernelsResponse { gone }))
    }

    async fn execute(&self, _: Request<pb::ExecuteRequest>) -> Result<Response<pb::ExecuteResponse>, Status> {
        Err(unused())
    }

    async fn interrupt(&self, _: Request<pb::InterruptRequest>) -> Result<Response<pb::InterruptResponse>, Status> {
        Err(unused())
    }

    async fn complete(&self, _: Request<pb::CompleteRequest>) -> Result<Response<pb::CompleteResponse>, Status> {
        Err(unused())
    }

    async fn logs(&self, _: Request<pb::LogsRequest>) -> Result<Response<pb::LogsResponse>, Status> {
        Err(unused())
    }

    async fn start_service(
        &self,
        _: Request<pb::StartServiceRequest>,
    ) -> Result<Response<pb::StartServiceResponse>, Status> {
        Err(unused())
    }

    async fn shutdown_service(
        &self,
        _: Request<pb::ShutdownServiceRequest>,
    ) -> Result<Response<pb::ShutdownServiceResponse>, Status> {
        Err(unused())
    }

    type ConnectPortStream = tokio_stream::Empty<Result<pb::PortData, Status>>;

    async fn connect_port(
        &self,
        _: Request<tonic::Streaming<pb::PortData>>,
    ) -> Result<Response<Self::ConnectPortStream>, Status> {
        Err(unused())
    }

    async fn upload_file(
        &self,
        _: Request<tonic::Streaming<pb::UploadFileRequest>>,
    ) -> Result<Response<pb::UploadFileResponse>, Status> {
        Err(unused())
    }

    type DownloadFileStream = tokio_stream::Empty<Result<pb::DownloadFileResponse, Status>>;

    async fn download_file(
        &self,
        _: Request<pb::DownloadFileRequest>,
    ) -> Result<Response<Self::DownloadFileStream>, Status> {
        Err(unused())
    }

    async fn list_files(&self, _: Request<pb::ListFilesRequest>) -> Result<Response<pb::ListFilesResponse>, Status> {
        Err(unused())
    }

    type CommitStream = tokio_stream::Empty<Result<pb::CommitResponse, Status>>;

    async fn commit(&self, _: Request<pb::CommitRequest>) -> Result<Response<Self::CommitStream>, Status> {
        Err(unused())
    }

    type TerminalStream = tokio_stream::Empty<Result<pb::TerminalResponse, Status>>;

    async fn terminal(
        &self,
        _: Request<tonic::Streaming<pb::TerminalRequest>>,
    ) -> Result<Response<Self::TerminalStream>, Status> {
        Err(unused())
    }
}
