//! The clients against a real server: metadata arrives, errors are typed.
#![allow(clippy::unwrap_used)]

use quarterdeck_rpc::pb::agent_server::Agent;
use quarterdeck_rpc::{AgentClient, CallError, agent_service, metadata, pb, tunnel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

struct Fake;

#[tonic::async_trait]
impl Agent for Fake {
    async fn create_kernels(
        &self,
        _: Request<pb::CreateKernelsRequest>,
    ) -> Result<Response<pb::CreateKernelsResponse>, Status> {
        Err(Status::failed_precondition("no room"))
    }
    async fn create_several(
        &self,
        request: Request<pb::CreateSeveralRequest>,
    ) -> Result<Response<pb::CreateSeveralResponse>, Status> {
        let sessions = request.into_inner().sessions;
        if sessions.len() == 3 {
            return Err(Status::unimplemented("an older agent"));
        }
        let refuse =
            |s: &pb::CreateKernelsRequest| pb::Refusal { session_id: s.session_id.clone(), reason: "no".into() };
        let refused = sessions.iter().filter(|s| s.session_id == "b").map(refuse).collect();
        Ok(Response::new(pb::CreateSeveralResponse { refused }))
    }
    async fn destroy_kernels(
        &self,
        request: Request<pb::DestroyKernelsRequest>,
    ) -> Result<Response<pb::DestroyKernelsResponse>, Status> {
        Ok(Response::new(pb::DestroyKernelsResponse { gone: request.into_inner().kernel_ids }))
    }
    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Result<Response<pb::ExecuteResponse>, Status> {
        let caller = metadata::caller(request.metadata())?;
        Ok(Response::new(pb::ExecuteResponse { result: format!("{}:{}", caller.agent_id, caller.bearer) }))
    }
    async fn interrupt(&self, _: Request<pb::InterruptRequest>) -> Result<Response<pb::InterruptResponse>, Status> {
        Err(Status::unauthenticated("who are you"))
    }
    async fn complete(&self, _: Request<pb::CompleteRequest>) -> Result<Response<pb::CompleteResponse>, Status> {
        Err(Status::not_found("no such kernel"))
    }
    async fn logs(&self, _: Request<pb::LogsRequest>) -> Result<Response<pb::LogsResponse>, Status> {
        Ok(Response::new(pb::LogsResponse { log: vec![b'x'; quarterdeck_rpc::limits::MAX_LOG] }))
    }
    async fn start_service(
        &self,
        request: Request<pb::StartServiceRequest>,
    ) -> Result<Response<pb::StartServiceResponse>, Status> {
        let error = request.into_inner().service;
        Ok(Response::new(pb::StartServiceResponse { status: "failed".into(), error }))
    }
    async fn shutdown_service(
        &self,
        _: Request<pb::ShutdownServiceRequest>,
    ) -> Result<Response<pb::ShutdownServiceResponse>, Status> {
        Ok(Response::new(pb::ShutdownServiceResponse {}))
    }
    type ConnectPortStream = ReceiverStream<Result<pb::PortData, Status>>;
    async fn connect_port(
        &self,
        request: Request<Streaming<pb::PortData>>,
    ) -> Result<Response<Self::ConnectPortStream>, Status> {
        let mut incoming = request.into_inner();
        let (kernel_id, port) = tunnel::opened(&mut incoming).await?;
        assert_eq!(kernel_id, "k");
        let connection = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(tunnel::carry(connection, incoming)))
    }
    async fn upload_file(
        &self,
        request: Request<Streaming<pb::UploadFileRequest>>,
    ) -> Result<Response<pb::UploadFileResponse>, Status> {
        use pb::upload_file_request::Part;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|first| first.part);
        let Some(Part::Head(head)) = first else { return Err(Status::invalid_argument("no head")) };
        let mut size = 0;
        while let Some(pb::UploadFileRequest { part: Some(Part::Data(data)) }) = parts.message().await? {
            size += data.len() as u64;
        }
        match size == head.size {
            true => Ok(Response::new(pb::UploadFileResponse {})),
            false => Err(Status::failed_precondition("broke off")),
        }
    }
    type DownloadFileStream = ReceiverStream<Result<pb::DownloadFileResponse, Status>>;
    async fn download_file(
        &self,
        request: Request<pb::DownloadFileRequest>,
    ) -> Result<Response<Self::DownloadFileStream>, Status> {
        // The path says how many bytes come of how many.
        let path = request.into_inner().path;
        let numbers: Vec<u64> = path.split('/').map(|number| number.parse().unwrap()).collect();
        let (to, answers) = tokio::sync::mpsc::channel(8);
        to.send(Ok(pb::DownloadFileResponse { size: numbers[1], data: Vec::new() })).await.unwrap();
        for _ in 0..numbers[0] {
            to.send(Ok(pb::DownloadFileResponse { size: 0, data: vec![b'x'] })).await.unwrap();
        }
        Ok(Response::new(ReceiverStream::new(answers)))
    }
    async fn list_files(&self, _: Request<pb::ListFilesRequest>) -> Result<Response<pb::ListFilesResponse>, Status> {
        Ok(Response::new(pb::ListFilesResponse { files: "[]".into(), errors: String::new() }))
    }
    type CommitStream = ReceiverStream<Result<pb::CommitResponse, Status>>;
    async fn commit(&self, _: Request<pb::CommitRequest>) -> Result<Response<Self::CommitStream>, Status> {
        Err(Status::failed_precondition("being committed"))
    }
    type TerminalStream = ReceiverStream<Result<pb::TerminalResponse, Status>>;
    async fn terminal(
        &self,
        _: Request<Streaming<pb::TerminalRequest>>,
    ) -> Result<Response<Self::TerminalStream>, Status> {
        Err(Status::failed_precondition("no terminal"))
    }
}

#[tokio::test]
async fn files_come_whole_or_are_an_error() {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = incoming.local_addr().unwrap();
    tokio::spawn(Server::builder().add_service(agent_service(Fake)).serve_with_incoming(incoming));
    let agent = AgentClient::new().agent(&format!("http://{addr}"), "i-1", "secret").unwrap();
    for size in [0, 1, quarterdeck_rpc::limits::CHUNK, 3 * quarterdeck_rpc::limits::CHUNK + 1] {
        agent.upload("k", "path", &vec![7; size]).await.unwrap();
    }
    let download = async |path: &str| {
        let request = pb::DownloadFileRequest { path: path.into(), ..Default::default() };
        agent.download(request).await?.whole(5).await
    };
    assert_eq!(download("3/3").await.unwrap(), b"xxx");
    assert_eq!(download("0/0").await.unwrap(), b"");
    assert!(matches!(download("2/3").await, Err(CallError::Unreachable(_))));
    assert!(matches!(download("6/6").await, Err(CallError::Refused(_))));
}

#[tokio::test]
async fn calls_carry_metadata_and_errors_are_typed() {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = incoming.local_addr().unwrap();
    let server = tokio::spawn(Server::builder().add_service(agent_service(Fake)).serve_with_incoming(incoming));

    let client = AgentClient::new();
    let agent = client.agent(&format!("http://{addr}"), "i-1", "secret").unwrap();
    assert_eq!(agent.execute(pb::ExecuteRequest::default()).await.unwrap(), "i-1:secret");
    let gone = agent
        .destroy_kernels(pb::DestroyKernelsRequest { kernel_ids: vec!["k".into()], ..Default::default() })
        .await
        .unwrap();
    assert_eq!(gone, ["k"]);
    assert_eq!(agent.logs("k").await.unwrap().len(), quarterdeck_rpc::limits::MAX_LOG);
    let order = |id: &str| pb::CreateKernelsRequest { session_id: id.to_owned(), ..Default::default() };
    let answers = agent.create_several(vec![order("a"), order("b")]).await;
    assert_eq!(answers, [Ok(()), Err(CallError::Refused("no".into()))]);
    let answers = agent.create_several(vec![order("a"), order("b"), order("c")]).await;
    assert_eq!(answers, vec![Err(CallError::Refused("no room".into())); 3], "one by one");
    let refused = agent.create_kernels(pb::CreateKernelsRequest::default()).await.unwrap_err();
    assert_eq!(refused, CallError::Refused("no room".into()));
    assert!(matches!(agent.interrupt("k").await, Err(CallError::Unauthenticated(_))));
    assert!(matches!(agent.complete(pb::CompleteRequest::default()).await, Err(CallError::NotFound(_))));

    server.abort();
    let _ = server.await;
    let fresh = AgentClient::new().agent(&addr.to_string(), "i-1", "secret").unwrap();
    let error = fresh.interrupt("k").await.unwrap_err();
    assert!(matches!(error, CallError::NoConnection(_)), "{error:?}");
    assert!(error.is_transient());
    assert!(AgentClient::new().agent("not an address", "i-1", "").is_err());
}

#[tokio::test]
async fn a_port_is_reached_through_a_call() {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = incoming.local_addr().unwrap();
    tokio::spawn(Server::builder().add_service(agent_service(Fake)).serve_with_incoming(incoming));
    let agent = AgentClient::new().agent(&format!("http://{addr}"), "i-1", "secret").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();

    // Closing one side leaves the other open: the answer comes after the caller's end.
    let echo = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        connection.read_to_end(&mut all).await.unwrap();
        connection.write_all(&all).await.unwrap();
        drop(connection);
        // What was written before the caller went away arrives; then both sides are closed.
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        connection.read_to_end(&mut all).await.unwrap();
        all
    });
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut stream = agent.connect_port("k", port).await.unwrap();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, sent);

    let mut stream = agent.connect_port("k", port).await.unwrap();
    stream.write_all(b"good-bye").await.unwrap();
    drop(stream);
    assert_eq!(echo.await.unwrap(), b"good-bye");
    let error = agent.connect_port("k", port).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error:?}");
}
