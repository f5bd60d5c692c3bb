//! How a call between host and agent fails.

use tonic::{Code, Status};

/// Why a call between host and agent had no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection could be made: the other side never saw the call.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The other side can't be reached, or went away during the call: whether it acted is unknown.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The other side didn't answer in time: whether it acted is unknown.
    #[error("no answer in time")]
    Timeout,
    /// The other side doesn't accept the credential or token.
    #[error("not accepted: {0}")]
    Unauthenticated(String),
    /// The other side refuses or failed, and says why.
    #[error("{0}")]
    Refused(String),
    /// What the call is about doesn't exist there (for example the kernel, or the agent in that process).
    #[error("not found: {0}")]
    NotFound(String),
}

impl CallError {
    /// Whether the same call may succeed later without anything else changing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NoConnection(_) | Self::Unreachable(_) | Self::Timeout)
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            _ if never_connected(&status) => Self::NoConnection(cause(&status)),
            Code::Unavailable => Self::Unreachable(cause(&status)),
            Code::DeadlineExceeded => Self::Timeout,
            Code::Unauthenticated | Code::PermissionDenied => Self::Unauthenticated(message),
            Code::NotFound => Self::NotFound(message),
            // The transport's own failures have a source; refusals of the other side's code don't.
            Code::Unknown | Code::Cancelled | Code::Internal if std::error::Error::source(&status).is_some() => {
                Self::Unreachable(cause(&status))
            }
            _ => Self::Refused(message),
        }
    }
}

fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
