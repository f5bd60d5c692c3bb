//! What calls to an agent travel on.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;
use tower::util::{BoxCloneSyncService, MapErr};

use crate::pb::agent_server::{Agent, AgentServer};

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A way to an agent. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Line {
    /// Over the network.
    Network(Channel),
    /// Within this process.
    Local(BoxCloneSyncService<Request, Response, BoxError>),
}

impl Line {
    /// A way to a service of this process.
    pub(crate) fn local<T: Agent>(service: AgentServer<T>) -> Self {
        let never = |never: std::convert::Infallible| -> BoxError { match never {} };
        Self::Local(BoxCloneSyncService::new(MapErr::new(service, never)))
    }
}

impl Line {
    /// A way that leads nowhere.
    pub(crate) fn cut() -> Self {
        let nobody = |_: Request| async {
            Err::<Response, BoxError>(Box::new(tonic::ConnectError("nothing listens there".into())))
        };
        Self::Local(BoxCloneSyncService::new(tower::service_fn(nobody)))
    }
}

impl Service<Request> for Line {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Network(channel) => channel.poll_ready(cx).map_err(Into::into),
            Self::Local(service) => service.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self {
            Self::Network(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
            Self::Local(service) => service.call(request),
        }
    }
}
