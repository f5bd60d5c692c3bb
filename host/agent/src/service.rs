//! The agent service of the process: finds the agent that a call is for, checks the host's secret, hands on.

use std::collections::HashMap;
use std::sync::Arc;

use quarterdeck_rpc::pb::agent_server::Agent;
use quarterdeck_rpc::{credentials, metadata, pb, tunnel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::member::Member;
use crate::runtime::{Runtime, SessionSpec};
use crate::transfer::{self, Answers};

/// One service for all agents of the process.
pub(crate) struct Dispatcher {
    members: HashMap<String, Arc<Member>>,
}

impl Dispatcher {
    pub(crate) fn new(members: &[Arc<Member>]) -> Self {
        Self { members: members.iter().map(|member| (member.id.clone(), member.clone())).collect() }
    }

    #[allow(clippy::result_large_err, reason = "it is the error type of tonic's services")]
    fn member(&self, metadata: &MetadataMap) -> Result<&Member, Status> {
        let caller = metadata::caller(metadata)?;
        let member = self.members.get(&caller.agent_id);
        // An unknown agent and a wrong secret look alike to someone who guesses.
        let expected = member.map_or("", |member| member.host_secret.as_str());
        let right = credentials::same(&caller.bearer, expected);
        match member {
            Some(member) if right => Ok(member),
            _ => Err(Status::unauthenticated("unknown agent or wrong secret")),
        }
    }

    #[allow(clippy::result_large_err, reason = "it is the error type of tonic's services")]
    fn runtime(&self, metadata: &MetadataMap) -> Result<&Arc<dyn Runtime>, Status> {
        self.member(metadata).map(|member| &member.runtime)
    }
}

/// Accepts the kernels of a session, or says why none of them.
fn create(runtime: &dyn Runtime, request: pb::CreateKernelsRequest) -> Result<(), String> {
    let (session, kernels) = SessionSpec::of(request);
    let session = Arc::new(session);
    // Ids become names of directories.
    let ids = kernels.iter().map(|kernel| &kernel.kernel_id).chain([&session.session_id]);
    if let Some(bad) = ids.into_iter().find(|id| uuid::Uuid::parse_str(id).is_err()) {
        return Err(format!("{bad:?} is no id"));
    }
    for kernel in kernels {
        runtime.create(session.clone(), kernel);
    }
    Ok(())
}

#[async_trait]
impl Agent for Dispatcher {
    async fn create_kernels(
        &self,
        request: Request<pb::CreateKernelsRequest>,
    ) -> Result<Response<pb::CreateKernelsResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        create(&*runtime, request.into_inner()).map_err(Status::invalid_argument)?;
        Ok(Response::new(pb::CreateKernelsResponse {}))
    }

    async fn create_several(
        &self,
        request: Request<pb::CreateSeveralRequest>,
    ) -> Result<Response<pb::CreateSeveralResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        let refused = request.into_inner().sessions.into_iter().filter_map(|session| {
            let session_id = session.session_id.clone();
            create(&*runtime, session).err().map(|reason| pb::Refusal { session_id, reason })
        });
        Ok(Response::new(pb::CreateSeveralResponse { refused: refused.collect() }))
    }

    async fn destroy_kernels(
        &self,
        request: Request<pb::DestroyKernelsRequest>,
    ) -> Result<Response<pb::DestroyKernelsResponse>, Status> {
        let runtime = self.runtime(request.metadata())?;
        let request = request.get_ref();
        let gone = request.kernel_ids.iter().filter(|id| !runtime.destroy(id, &request.reason)).cloned().collect();
        Ok(Response::new(pb::DestroyKernelsResponse { gone }))
    }

    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Result<Response<pb::ExecuteResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        let result = runtime.execute(request.into_inner()).await?;
        Ok(Response::new(pb::ExecuteResponse { result: result.to_string() }))
    }

    async fn interrupt(
        &self,
        request: Request<pb::InterruptRequest>,
    ) -> Result<Response<pb::InterruptResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        runtime.interrupt(&request.get_ref().kernel_id).await?;
        Ok(Response::new(pb::InterruptResponse {}))
    }

    async fn complete(&self, request: Request<pb::CompleteRequest>) -> Result<Response<pb::CompleteResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        let result = runtime.complete(request.into_inner()).await?;
        Ok(Response::new(pb::CompleteResponse { result: result.to_string() }))
    }

    async fn logs(&self, request: Request<pb::LogsRequest>) -> Result<Response<pb::LogsResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        let log = runtime.logs(&request.get_ref().kernel_id).await?;
        Ok(Response::new(pb::LogsResponse { log }))
    }

    async fn start_service(
        &self,
        request: Request<pb::StartServiceRequest>,
    ) -> Result<Response<pb::StartServiceResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        Ok(Response::new(runtime.start_service(request.into_inner()).await?))
    }

    async fn shutdown_service(
        &self,
        request: Request<pb::ShutdownServiceRequest>,
    ) -> Result<Response<pb::ShutdownServiceResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        let request = request.into_inner();
        runtime.shutdown_service(&request.kernel_id, &request.service).await?;
        Ok(Response::new(pb::ShutdownServiceResponse {}))
    }

    type ConnectPortStream = ReceiverStream<Result<pb::PortData, Status>>;

    async fn connect_port(
        &self,
        request: Request<Streaming<pb::PortData>>,
    ) -> Result<Response<Self::ConnectPortStream>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        let mut incoming = request.into_inner();
        let (kernel_id, port) = tunnel::opened(&mut incoming).await?;
        let connection = runtime.connect_port(&kernel_id, port).await?;
        Ok(Response::new(tunnel::carry(connection, incoming)))
    }

    async fn upload_file(
        &self,
        request: Request<Streaming<pb::UploadFileRequest>>,
    ) -> Result<Response<pb::UploadFileResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        transfer::upload(&*runtime, request.into_inner()).await?;
        Ok(Response::new(pb::UploadFileResponse {}))
    }

    type DownloadFileStream = Answers<pb::DownloadFileResponse>;

    async fn download_file(
        &self,
        request: Request<pb::DownloadFileRequest>,
    ) -> Result<Response<Self::DownloadFileStream>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        transfer::download(&*runtime, request.into_inner()).await.map(Response::new)
    }

    async fn list_files(
        &self,
        request: Request<pb::ListFilesRequest>,
    ) -> Result<Response<pb::ListFilesResponse>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        transfer::list(&*runtime, request.into_inner()).await.map(Response::new)
    }

    type CommitStream = Answers<pb::CommitResponse>;

    async fn commit(&self, request: Request<pb::CommitRequest>) -> Result<Response<Self::CommitStream>, Status> {
        let member = self.member(request.metadata())?;
        member.commits.commit(&*member.runtime, request.into_inner()).map(Response::new)
    }

    type TerminalStream = Answers<pb::TerminalResponse>;

    async fn terminal(
        &self,
        request: Request<Streaming<pb::TerminalRequest>>,
    ) -> Result<Response<Self::TerminalStream>, Status> {
        let runtime = self.runtime(request.metadata())?.clone();
        transfer::terminal(&*runtime, request.into_inner()).await.map(Response::new)
    }
}
