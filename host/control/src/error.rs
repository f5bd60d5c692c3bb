//! What a use case answers when it can't do what was asked.
//!
//! Each variant is one class of problem that clients can tell apart; `api` maps them to the wire
//! in one place and adds nothing.

use serde_json::Value;

use quarterdeck_model::{SessionId, SessionStatus, Timestamp};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One live session that a reference matched.
#[derive(Clone, Debug)]
pub struct SessionMatch {
    /// Its id.
    pub id: SessionId,
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: SessionStatus,
    /// When it was enqueued.
    pub created_at: Timestamp,
}

/// What the host asked an agent to do when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentOperation {
    /// Creating kernels.
    Create,
    /// Restarting kernels.
    Restart,
    /// Destroying kernels.
    Destroy,
    /// Executing code, and everything else that happens inside a running kernel.
    Execute,
}

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such thing, or not visible to the caller. `object` completes the title `No such …`.
    #[error("no such {object}")]
    NotFound {
        /// What it is, as the title says it (`session`, `environment image`, …).
        object: &'static str,
        /// More for the user.
        msg: Option<String>,
        /// More for programs.
        data: Option<Value>,
    },
    /// A parameter is missing or wrong.
    #[error("{msg}")]
    InvalidParams {
        /// For the user.
        msg: String,
        /// Field → what is wrong with it.
        data: Option<Value>,
    },
    /// The request makes no sense in another way.
    #[error("{0}")]
    BadRequest(String),
    /// Something doesn't fit together in a way that has no class of its own.
    #[error("{0}")]
    General(String),
    /// Bad request under a title of its own (dotfiles).
    #[error("{title}")]
    BadRequestTitled {
        /// The problem's title.
        title: &'static str,
        /// For the user.
        msg: Option<String>,
    },
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The caller's role is too low for this.
    #[error("{0}")]
    InsufficientPrivilege(String),
    /// Not, or not rightly, authenticated; or the role is too low for the whole endpoint.
    #[error("{0}")]
    AuthFailed(String),
    /// The date, the `Authorization` header or the client's address make no sense.
    #[error("{0}")]
    InvalidAuthParams(String),
    /// The password is too old to log in with.
    #[error("{0}")]
    PasswordExpired(String),
    /// A hook refused.
    #[error("rejected by hook {plugin}: {reason}")]
    RejectedByHook {
        /// The hook plugin's name.
        plugin: String,
        /// Its reason, for the user.
        reason: String,
    },
    /// A live session of that name exists and may not, or can't, be reused.
    #[error("the session {0} already exists")]
    SessionAlreadyExists(SessionId),
    /// A reference matched several sessions where one is needed.
    #[error("too many sessions matched")]
    TooManySessionsMatched(Vec<SessionMatch>),
    /// A reference matched several kernels where one is needed.
    #[error("too many kernels matched")]
    TooManyKernels,
    /// A limit of the caller's policy.
    #[error("{0}")]
    QuotaExceeded(String),
    /// The server is frozen for maintenance.
    #[error("the server is frozen")]
    ServerFrozen,
    /// Something that this needs is not there (now).
    #[error("{0}")]
    Unavailable(String),
    /// Too many ask for this at once; another try may have more luck soon.
    #[error("{0}")]
    Overloaded(&'static str),
    /// Too many wrong passwords for one account from one address.
    #[error("Too many wrong passwords.")]
    TooManyGuesses {
        /// When another try may succeed at the latest, in seconds.
        retry_after_s: u64,
    },
    /// An agent failed.
    #[error("agent: {message}")]
    Agent {
        /// What it was asked to do.
        operation: AgentOperation,
        /// It didn't answer in time.
        timeout: bool,
        /// What it said.
        message: String,
    },
    /// A service of a session can't be started, and why.
    #[error("the service can't be started: {0}")]
    LaunchFailed(String),
    /// The folder's status forbids what is wanted.
    #[error("the folder's status forbids this")]
    FolderStatus,
    /// A folder of that name is there already.
    #[error("the folder exists already")]
    FolderExists(Option<String>),
    /// A name matched several folders where one is needed.
    #[error("{0}")]
    TooManyFolders(String),
    /// A folder can't be treated so.
    #[error("{0}")]
    FolderOperation(String),
    /// The storage refused or failed.
    #[error(transparent)]
    Storage(#[from] quarterdeck_storage::Error),
    /// A rule of the schema was broken by the request (GraphQL answers `integrity error: …`).
    #[error("integrity error: {0}")]
    Integrity(String),
    /// Answered as plain JSON `{"error_msg": …}` with status 400, as two old endpoints do.
    #[error("{0}")]
    PlainBadRequest(&'static str),
    /// The database failed.
    #[error(transparent)]
    Store(quarterdeck_store::Error),
    /// A bug or a broken environment. Logged in full, shown with an id only.
    #[error("{0}")]
    Internal(String),
}

impl From<quarterdeck_store::Error> for Error {
    fn from(error: quarterdeck_store::Error) -> Self {
        match error {
            quarterdeck_store::Error::NulInText => Self::BadRequest(error.to_string()),
            error => Self::Store(error),
        }
    }
}

impl Error {
    /// `No such {object}.` without more.
    pub fn not_found(object: &'static str) -> Self {
        Self::NotFound { object, msg: None, data: None }
    }
    /// `No such {object}.` with a message.
    pub fn not_found_msg(object: &'static str, msg: impl Into<String>) -> Self {
        Self::NotFound { object, msg: Some(msg.into()), data: None }
    }
    /// A wrong parameter, told in one sentence.
    pub fn invalid(msg: impl Into<String>) -> Self {
        Self::InvalidParams { msg: msg.into(), data: None }
    }
}
