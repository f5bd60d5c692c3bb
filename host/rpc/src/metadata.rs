//! The two metadata entries that accompany each call: which agent, and what proves it.

use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::error::CallError;

/// Names the agent that calls or is called.
pub const AGENT: &str = "x-quarterdeck-agent";
/// Carries the credential, as a bearer token.
pub const AUTHORIZATION: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// What a call's metadata says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The agent's id.
    pub agent_id: String,
    /// The bearer token; empty when there is none.
    pub bearer: String,
}

/// Makes a request that carries the agent's id and, unless empty, the bearer token.
pub fn request<T>(message: T, agent_id: &str, bearer: &str) -> Result<Request<T>, CallError> {
    let mut request = Request::new(message);
    let id = agent_id.parse().map_err(|_| CallError::Refused("agent id can't be sent as metadata".into()))?;
    request.metadata_mut().insert(AGENT, id);
    if !bearer.is_empty() {
        let mut value: tonic::metadata::AsciiMetadataValue = format!("{SCHEME}{bearer}")
            .parse()
            .map_err(|_| CallError::Refused("credential can't be sent as metadata".into()))?;
        value.set_sensitive(true);
        request.metadata_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// Reads what [`request`] attached. An absent agent id is an error of the caller.
#[allow(clippy::result_large_err, reason = "it is the error type of tonic's services")]
pub fn caller(metadata: &MetadataMap) -> Result<Caller, Status> {
    let text = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok());
    let agent_id = text(AGENT).filter(|id| !id.is_empty()).ok_or_else(|| Status::invalid_argument("no agent id"))?;
    let bearer = text(AUTHORIZATION).and_then(|value| value.strip_prefix(SCHEME)).unwrap_or_default();
    Ok(Caller { agent_id: agent_id.to_owned(), bearer: bearer.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_attached_is_read() {
        let call = request((), "i-1", "secret").unwrap();
        assert_eq!(caller(call.metadata()).unwrap(), Caller { agent_id: "i-1".into(), bearer: "secret".into() });
        let call = request((), "i-1", "").unwrap();
        assert_eq!(caller(call.metadata()).unwrap().bearer, "");
        assert!(caller(&MetadataMap::new()).is_err());
        assert!(request((), "i\n1", "").is_err());
    }
}
