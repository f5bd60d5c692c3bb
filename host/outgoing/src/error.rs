//! What goes wrong with calls to others.

use std::time::Duration;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call has no usable answer. The texts are fit for whoever configured, or gave, the address.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The address is none that can be called.
    #[error("'{0}' is not an http or https URL")]
    Url(String),
    /// The address leads into a network that its giver has no business in.
    #[error("{0} does not lead to a public address")]
    Refused(String),
    /// Nobody answers there.
    #[error("{host} can't be reached: {reason}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// Why not.
        reason: String,
    },
    /// It took too long.
    #[error("no answer from {host} within {} s", .after.as_secs_f64())]
    Timeout {
        /// The host.
        host: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The answer is larger than anybody needs.
    #[error("the answer of {host} is larger than {limit} bytes")]
    TooLarge {
        /// The host.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// A header's value can't be sent.
    #[error("the value of the header {0} has characters that can't be sent")]
    Header(&'static str),
    /// The other side speaks something else, or badly.
    #[error("{host}: {reason}")]
    Protocol {
        /// The host.
        host: String,
        /// What it did.
        reason: String,
    },
    /// The other side says no.
    #[error("{url} answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer's status.
        status: u16,
    },
    /// A registry of a kind that can't be scanned.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    /// Whether another try may have more luck.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Protocol { .. } => true,
            Self::Status { status, .. } => matches!(status, 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}
