//! How problems look on the wire. The only place that knows which error of `control` becomes which
//! problem document.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use quarterdeck_control::{AgentOperation, Error, storage};
use serde_json::{Map, Value, json};

/// What every problem's type starts with.
const PROBLEMS: &str = "https://api.backend.ai/probs/";
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json; charset=utf-8");
/// When to come back to a host that had too much to do.
const OVERLOADED_SECONDS: u64 = 5;
const PLAIN_JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// One class of problems: status, the last part of its type, and its usual title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
}

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $slug:literal, $title:literal;)+) => {
        $($(#[$doc])* pub const $name: Class = Class { status: StatusCode::$status, slug: $slug, title: $title };)+
    };
}
classes! {
    /// No route has this path.
    URL_NOT_FOUND = NOT_FOUND, "url-not-found", "Unknown URL path.";
    /// Something that the request names isn't there. Comes with a title of its own.
    OBJECT_NOT_FOUND = NOT_FOUND, "object-not-found", "No such object.";
    /// The request makes no sense.
    BAD_REQUEST = BAD_REQUEST, "generic-bad-request", "Bad request.";
    /// Something doesn't fit together.
    GENERAL_ERROR = BAD_REQUEST, "general-error", "General Backend API Error.";
    /// A hook plugin said no.
    REJECTED_BY_HOOK = BAD_REQUEST, "rejected-by-hook", "Operation rejected by a hook plugin.";
    /// Not for this caller.
    FORBIDDEN = FORBIDDEN, "generic-forbidden", "Forbidden operation.";
    /// The caller's role is too low.
    INSUFFICIENT_PRIVILEGE = FORBIDDEN, "insufficient-privilege", "Insufficient privilege.";
    /// The path exists, the method doesn't.
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED, "method-not-allowed", "HTTP Method Not Allowed.";
    /// A bug or a broken environment.
    INTERNAL = INTERNAL_SERVER_ERROR, "internal-server-error", "Internal server error.";
    /// Something is missing (now). The title's spelling is what clients know.
    UNAVAILABLE = SERVICE_UNAVAILABLE, "service-unavailable", "Serivce unavailable.";
    /// The request's signature can't even be checked.
    INVALID_AUTH_PARAMS = BAD_REQUEST, "invalid-auth-params", "Missing or invalid authorization parameters.";
    /// Not, or not rightly, authenticated.
    AUTH_FAILED = UNAUTHORIZED, "auth-failed", "Credential/signature mismatch.";
    /// The password is too old.
    PASSWORD_EXPIRED = UNAUTHORIZED, "password-expired", "Password has expired.";
    /// A parameter is missing or wrong.
    INVALID_API_PARAMS = BAD_REQUEST, "invalid-api-params", "Missing or invalid API parameters.";
    /// A GraphQL operation failed (legacy endpoint only).
    GRAPHQL_ERROR = BAD_REQUEST, "graphql-error", "GraphQL-generated error.";
    /// A reference matched several sessions.
    TOO_MANY_SESSIONS = NOT_FOUND, "too-many-sessions-matched", "Too many sessions matched.";
    /// A session has several main kernels.
    TOO_MANY_KERNELS = NOT_FOUND, "too-many-kernels", "There are two or more matching kernels.";
    /// The name is taken by a live session.
    SESSION_EXISTS = BAD_REQUEST, "session-already-exists",
        "The session already exists but you requested not to reuse existing one.";
    /// A name matched several folders.
    TOO_MANY_VFOLDERS = NOT_FOUND, "too-many-vfolders", "There are two or more matching vfolders.";
    /// A folder of that name is there already.
    VFOLDER_EXISTS = BAD_REQUEST, "vfolder-already-exists",
        "The virtual folder already exists with the same name.";
    /// A folder can't be treated so.
    VFOLDER_OPERATION_FAILED = BAD_REQUEST, "vfolder-operation-failed", "Virtual folder operation has failed.";
    /// A folder's status forbids what is wanted.
    VFOLDER_STATUS = BAD_REQUEST, "vfolder-filter-status-failed", "Virtual folder status filtering has failed.";
    /// What a storage said no to, where that is passed on. Comes with the storage's own status.
    STORAGE_PROXY_ERROR = BAD_GATEWAY, "storage-proxy-error", "The storage proxy returned an error.";
    /// A limit of the caller's policy.
    QUOTA_EXCEEDED = PRECONDITION_FAILED, "quota-exceeded", "You have reached your resource limit.";
    /// Too many requests.
    RATE_LIMIT_EXCEEDED = TOO_MANY_REQUESTS, "rate-limit-exceeded", "You have reached your API query rate limit.";
    /// Maintenance.
    SERVER_FROZEN = SERVICE_UNAVAILABLE, "server-frozen",
        "The server is frozen due to maintenance. Please try again later.";
    /// An agent couldn't create kernels.
    KERNEL_CREATION_FAILED = INTERNAL_SERVER_ERROR, "kernel-creation-failed", "Kernel creation has failed.";
    /// An agent couldn't destroy kernels.
    KERNEL_DESTRUCTION_FAILED = INTERNAL_SERVER_ERROR, "kernel-destruction-failed", "Kernel destruction has failed.";
    /// An agent couldn't restart kernels.
    KERNEL_RESTART_FAILED = INTERNAL_SERVER_ERROR, "kernel-restart-failed", "Kernel restart has failed.";
    /// An agent couldn't do something inside a kernel.
    KERNEL_EXECUTION_FAILED = INTERNAL_SERVER_ERROR, "kernel-execution-failed",
        "Executing user code in the kernel has failed.";
}

/// What the answer's body looks like.
#[derive(Debug)]
enum Shape {
    /// A problem document with `msg` and `data`.
    Document,
    /// A problem document with `agent-details`.
    Agent(Value),
    /// `{"error_msg": …}`, as two old endpoints answer.
    Plain(&'static str),
}

#[derive(Debug)]
struct Inner {
    class: Class,
    title: Option<Cow<'static, str>>,
    msg: Option<Cow<'static, str>>,
    data: Option<Value>,
    shape: Shape,
    allow: Option<String>,
    /// Seconds.
    retry_after: Option<u64>,
    cause: Option<String>,
}

/// An answer that says what went wrong.
#[derive(Debug)]
pub struct Problem(Box<Inner>);

impl Problem {
    /// A problem of a class, without details.
    pub fn new(class: Class) -> Self {
        let inner = Inner {
            class,
            title: None,
            msg: None,
            data: None,
            shape: Shape::Document,
            allow: None,
            retry_after: None,
            cause: None,
        };
        Self(Box::new(inner))
    }

    /// With a sentence for the user.
    #[must_use]
    pub fn msg(mut self, msg: impl Into<Cow<'static, str>>) -> Self {
        self.0.msg = Some(msg.into());
        self
    }

    /// With details for programs.
    #[must_use]
    pub fn data(mut self, data: Value) -> Self {
        self.0.data = Some(data);
        self
    }

    /// With a title of its own.
    #[must_use]
    pub fn title(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.0.title = Some(title.into());
        self
    }

    /// With the seconds after which another try may succeed.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// A known path, but not for this method.
    pub fn method_not_allowed(allow: String) -> Self {
        let mut problem = Self::new(METHOD_NOT_ALLOWED);
        problem.0.allow = Some(allow);
        problem
    }

    /// A storage's refusal as it is.
    pub fn of_storage(refusal: storage::Problem) -> Self {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(STORAGE_PROXY_ERROR.status);
        let mut problem = Self::new(Class { status, ..STORAGE_PROXY_ERROR });
        problem.0.msg = refusal.msg.map(Cow::Owned);
        problem.0.data = (!refusal.data.is_empty()).then_some(Value::Object(refusal.data));
        problem
    }

    /// Something that only the log may know in full.
    pub fn internal(cause: impl Into<String>) -> Self {
        let mut problem = Self::new(INTERNAL);
        problem.0.cause = Some(cause.into());
        problem
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        self.0.class.status
    }

    /// The last part of the problem's type.
    pub fn slug(&self) -> &'static str {
        self.0.class.slug
    }

    /// `<title>` or `<title> (<msg>)`: how GraphQL errors tell a problem.
    pub fn sentence(&self) -> String {
        let title = self.0.title.as_deref().unwrap_or(self.0.class.title);
        match &self.0.msg {
            Some(msg) => format!("{title} ({msg})"),
            None => title.to_owned(),
        }
    }

    /// The answer. What must stay inside goes to the log under `request_id`, which is all that the
    /// client learns about it.
    pub fn into_response(mut self, request_id: &str) -> Response {
        if let Some(cause) = self.0.cause.take() {
            tracing::error!(request_id, cause, "a request failed");
            self.0.msg = Some(format!("See the server's log under the request id {request_id}.").into());
        }
        let (content_type, document) = match self.0.shape {
            Shape::Plain(text) => (PLAIN_JSON, json!({ "error_msg": text })),
            _ => (PROBLEM_JSON, self.document()),
        };
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = self.0.class.status;
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        if let Some(allow) = self.0.allow.take().and_then(|a| HeaderValue::from_str(&a).ok()) {
            response.headers_mut().insert(ALLOW, allow);
        }
        if let Some(seconds) = self.0.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The problem document.
    fn document(&mut self) -> Value {
        let inner = &mut *self.0;
        let mut document = Map::new();
        document.insert("type".to_owned(), format!("{PROBLEMS}{}", inner.class.slug).into());
        document.insert("title".to_owned(), inner.title.as_deref().unwrap_or(inner.class.title).into());
        if let Some(msg) = &inner.msg {
            document.insert("msg".to_owned(), msg.as_ref().into());
        }
        if let Some(data) = inner.data.take() {
            document.insert("data".to_owned(), data);
        }
        if let Shape::Agent(details) = &mut inner.shape {
            document.insert("agent-details".to_owned(), details.take());
        }
        Value::Object(document)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { object, msg, data } => {
                let mut problem = Self::new(OBJECT_NOT_FOUND).title(format!("No such {object}."));
                problem.0.msg = msg.map(Cow::Owned);
                problem.0.data = data;
                problem
            }
            Error::InvalidParams { msg, data } => {
                let mut problem = Self::new(INVALID_API_PARAMS).msg(msg);
                problem.0.data = data;
                problem
            }
            Error::General(msg) => Self::new(GENERAL_ERROR).msg(msg),
            Error::FolderStatus => Self::new(VFOLDER_STATUS),
            Error::FolderExists(name) => {
                let mut problem = Self::new(VFOLDER_EXISTS);
                problem.0.data = name.map(Value::String);
                problem
            }
            Error::TooManyFolders(msg) => Self::new(TOO_MANY_VFOLDERS).msg(msg),
            Error::FolderOperation(msg) | Error::Storage(storage::Error::Failed(msg)) => {
                Self::new(VFOLDER_OPERATION_FAILED).msg(msg)
            }
            Error::Storage(storage::Error::Refused(refusal)) => {
                let mut problem = Self::new(INVALID_API_PARAMS);
                problem.0.msg = refusal.msg.map(Cow::Owned);
                problem.0.data = (!refusal.data.is_empty()).then_some(Value::Object(refusal.data));
                problem
            }
            Error::Storage(error @ storage::Error::Unreachable(_)) => Self::internal(error.to_string()),
            Error::BadRequest(msg) => Self::new(BAD_REQUEST).msg(msg),
            Error::BadRequestTitled { title, msg } => {
                let mut problem = Self::new(BAD_REQUEST).title(title);
                problem.0.msg = msg.map(Cow::Owned);
                problem
            }
            Error::Forbidden(msg) => Self::new(FORBIDDEN).msg(msg),
            Error::InsufficientPrivilege(msg) => Self::new(INSUFFICIENT_PRIVILEGE).msg(msg),
            Error::AuthFailed(msg) => Self::new(AUTH_FAILED).msg(msg),
            Error::InvalidAuthParams(msg) => Self::new(INVALID_AUTH_PARAMS).msg(msg),
            Error::PasswordExpired(msg) => Self::new(PASSWORD_EXPIRED).msg(msg),
            Error::RejectedByHook { plugin, reason } => {
                Self::new(REJECTED_BY_HOOK).msg(reason).data(json!({ "plugins": plugin }))
            }
            Error::SessionAlreadyExists(id) => {
                Self::new(SESSION_EXISTS).data(json!({ "existingSessionId": id.to_string() }))
            }
            Error::TooManySessionsMatched(matches) => {
                let matches: Vec<_> = matches
                    .iter()
                    .map(|m| {
                        json!({
                            "id": m.id.to_string(),
                            "name": m.name,
                            "status": m.status.as_str(),
                            "created_at": m.created_at.iso(),
                        })
                    })
                    .collect();
                Self::new(TOO_MANY_SESSIONS).data(json!({ "matches": matches }))
            }
            Error::TooManyKernels => Self::new(TOO_MANY_KERNELS),
            Error::QuotaExceeded(msg) => Self::new(QUOTA_EXCEEDED).msg(msg),
            Error::ServerFrozen => Self::new(SERVER_FROZEN),
            Error::Unavailable(msg) => Self::new(UNAVAILABLE).msg(msg),
            Error::TooManyGuesses { retry_after_s } => {
                Self::new(RATE_LIMIT_EXCEEDED).msg("Too many wrong passwords.").retry_after(retry_after_s)
            }
            Error::Overloaded(msg) => Self::new(UNAVAILABLE).msg(msg).retry_after(OVERLOADED_SECONDS),
            Error::Agent { operation, timeout, message } => Self::agent(operation, timeout, &message),
            Error::LaunchFailed(why) => {
                Self::new(INTERNAL).msg("Failed to launch the app service").data(Value::String(why))
            }
            Error::Integrity(msg) => Self::new(BAD_REQUEST).msg(msg),
            Error::PlainBadRequest(text) => {
                let mut problem = Self::new(BAD_REQUEST);
                problem.0.shape = Shape::Plain(text);
                problem
            }
            Error::Store(error) if error.is_transient() => {
                tracing::warn!(%error, "the database is busy or away");
                Self::new(UNAVAILABLE).msg("The database can't answer now. Please try again.")
            }
            Error::Store(error) => Self::internal(error.to_string()),
            Error::Internal(cause) => Self::internal(cause),
        }
    }
}

impl Problem {
    fn agent(operation: AgentOperation, timeout: bool, message: &str) -> Self {
        let class = match operation {
            AgentOperation::Create => KERNEL_CREATION_FAILED,
            AgentOperation::Restart => KERNEL_RESTART_FAILED,
            AgentOperation::Destroy => KERNEL_DESTRUCTION_FAILED,
            AgentOperation::Execute => KERNEL_EXECUTION_FAILED,
        };
        let details = if timeout {
            json!({ "type": format!("{PROBLEMS}agent-timeout"), "title": null })
        } else {
            json!({
                "type": format!("{PROBLEMS}agent-failure"),
                "title": "Agent-side exception occurred.",
                "exception": message,
            })
        };
        let mut problem = Self::new(class);
        problem.0.shape = Shape::Agent(details);
        problem
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt;

    async fn read(problem: Problem) -> (StatusCode, HeaderValue, Value) {
        let response = problem.into_response("r-1");
        let status = response.status();
        let kind = response.headers()[CONTENT_TYPE].clone();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn documents_carry_only_what_was_supplied() {
        let (status, kind, body) = read(Problem::new(AUTH_FAILED)).await;
        assert_eq!((status, kind), (StatusCode::UNAUTHORIZED, PROBLEM_JSON));
        assert_eq!(
            body,
            json!({"type": "https://api.backend.ai/probs/auth-failed", "title": "Credential/signature mismatch."})
        );
        let (_, _, body) = read(Error::not_found_msg("session", "Session (id=x) does not exist.").into()).await;
        assert_eq!(body["title"], "No such session.");
        assert_eq!(body["msg"], "Session (id=x) does not exist.");
        assert!(body.get("data").is_none());
    }

    #[tokio::test]
    async fn rejections_by_hooks_look_as_the_vectors_say() {
        let all: Value = serde_json::from_str(include_str!("../../../tests/vectors/hooks-vectors.json")).unwrap();
        let rejected = all["vectors"].as_array().unwrap().iter().filter(|v| v["out"]["status"] == "REJECTED");
        // That no hook exists is no rejection here.
        let rejected: Vec<_> = rejected.filter(|v| v["out"]["plugin"].is_string()).collect();
        assert_eq!(rejected.len(), 3);
        for vector in rejected {
            let (out, want) = (&vector["out"], &vector["out"]["response"]);
            let text = |key: &str| out[key].as_str().unwrap().to_owned();
            let (status, kind, body) =
                read(Error::RejectedByHook { plugin: text("plugin"), reason: text("reason") }.into()).await;
            assert_eq!(u64::from(status.as_u16()), want["status"].as_u64().unwrap(), "{}", vector["id"]);
            assert!(kind.to_str().unwrap().starts_with(want["content_type"].as_str().unwrap()), "{}", vector["id"]);
            assert_eq!(body, want["body"], "{}", vector["id"]);
        }
    }

    #[tokio::test]
    async fn causes_stay_in_the_log() {
        let (status, _, body) = read(Error::Internal("password of root is 42".to_owned()).into()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!body.to_string().contains("42"));
        assert!(body["msg"].as_str().unwrap().contains("r-1"));
    }

    #[tokio::test]
    async fn agents_problems_have_details_instead_of_a_message() {
        let error = Error::Agent { operation: AgentOperation::Execute, timeout: true, message: "late".to_owned() };
        let (status, _, body) = read(error.into()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["type"], "https://api.backend.ai/probs/kernel-execution-failed");
        assert_eq!(body["agent-details"], json!({"type": "https://api.backend.ai/probs/agent-timeout", "title": null}));
        assert!(body.get("msg").is_none());
    }

    #[tokio::test]
    async fn who_comes_at_a_bad_time_learns_when_to_come_back() {
        let response = Problem::from(Error::Overloaded("later")).into_response("r-1");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "5");
    }

    #[tokio::test]
    async fn two_old_endpoints_answer_plainly() {
        let (status, kind, body) = read(Error::PlainBadRequest("new password mismatch").into()).await;
        assert_eq!((status, kind), (StatusCode::BAD_REQUEST, PLAIN_JSON));
        assert_eq!(body, json!({"error_msg": "new password mismatch"}));
    }

    #[test]
    fn graphql_tells_problems_in_one_sentence() {
        let problem: Problem = Error::Forbidden("superadmin privilege required".to_owned()).into();
        assert_eq!(problem.sentence(), "Forbidden operation. (superadmin privilege required)");
        assert_eq!(Problem::from(Error::not_found("domain")).sentence(), "No such domain.");
    }
}
