//! The clients against a real server: metadata arrives, errors are typed.
#![allow(clippy::unwrap_used)]

use quarterdeck_rpc::pb::agent_server::Agent;
use quarterdeck_rpc::{AgentClient, CallError, agent_service, metadata, pb};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

struct Fake;

#[tonic::async_trait]
impl Agent for Fake {
    async fn create_kernels(
        &self,
        _: Request<pb::CreateKernelsRequest>,
    ) -> Result<Response<pb::CreateKernelsResponse>, Status> {
        Err(Status::failed_precondition("no room"))
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
