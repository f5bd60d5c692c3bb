//! What a storage answers when it can't.

use serde_json::{Map, Value as Json, json};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What every problem's type starts with.
const PROBLEMS: &str = "https://api.backend.ai/probs/storage/";

/// A refusal that clients can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status that goes with it.
    pub status: u16,
    /// A sentence for the user.
    pub msg: Option<String>,
    /// The other members of the document.
    pub data: Map<String, Json>,
}

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage said no, and why.
    #[error("the storage refused: {0:?}")]
    Refused(Problem),
    /// The storage failed without saying how; the text has its status.
    #[error("{0}")]
    Failed(String),
    /// The storage can't be reached.
    #[error("the storage can't be reached: {0}")]
    Unreachable(String),
}

impl Error {
    /// A problem document of a kind.
    fn problem(status: u16, slug: &str, title: &str, data: Option<Json>) -> Self {
        let mut document = Map::new();
        document.insert("type".to_owned(), format!("{PROBLEMS}{slug}").into());
        document.insert("title".to_owned(), title.into());
        if let Some(data) = data {
            document.insert("data".to_owned(), data);
        }
        Self::Refused(Problem { status, msg: None, data: document })
    }

    /// A parameter is wrong.
    pub(crate) fn parameter(name: &str, fault: &str) -> Self {
        Self::problem(400, "invalid-api-params", "Invalid API parameters", Some(json!({ name: fault })))
    }

    /// There is no such volume.
    pub(crate) fn no_volume(name: &str) -> Self {
        Self::problem(404, "volume-not-found", "No such volume", Some(json!({ "volume": name })))
    }

    /// There is no such folder.
    pub(crate) fn no_folder() -> Self {
        Self::problem(404, "vfolder-not-found", "No such vfolder", None)
    }

    /// There is such a folder already.
    pub(crate) fn folder_exists() -> Self {
        Self::problem(409, "vfolder-exists", "The vfolder already exists", None)
    }

    /// The volume can't do that.
    pub(crate) fn unsupported() -> Self {
        Self::problem(400, "unsupported-operation", "Unsupported operation by the storage backend", None)
    }

    /// There is no such file.
    pub(crate) fn no_file() -> Self {
        Self::problem(404, "file-not-found", "File not found", None)
    }

    /// A download of a directory that doesn't say that it wants an archive.
    pub(crate) fn not_a_file() -> Self {
        Self::problem(400, "invalid-api-params", "Invalid API parameters (The file is not a regular file.)", None)
    }

    /// There is no such upload, or none any more.
    pub(crate) fn no_session() -> Self {
        Self::problem(404, "no-such-upload-session", "No such upload session", None)
    }

    /// Something would become too large.
    pub(crate) fn too_large(title: &str) -> Self {
        Self::problem(413, "too-large", title, None)
    }

    /// What the operating system answered about some paths of a folder.
    pub(crate) fn os(error: &std::io::Error, paths: &[&str]) -> Self {
        match error.raw_os_error() {
            Some(code) => {
                // As the system says it, without the number that Rust adds.
                let text = error.to_string();
                let text = text.split(" (os error").next().unwrap_or_default().to_owned();
                let mut data = Map::new();
                data.insert("errno".to_owned(), code.into());
                data.insert("paths".to_owned(), json!(paths));
                Self::Refused(Problem { status: 400, msg: Some(text), data })
            }
            // The file system was never asked: the path leads out of its folder.
            None if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::parameter("relpath", "the path leads out of the folder")
            }
            None => Self::Failed(error.to_string()),
        }
    }

    /// Something else went wrong on this host's disk.
    pub(crate) fn io(error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(_) => Self::os(error, &[]),
            None => Self::Failed(error.to_string()),
        }
    }
}

impl Problem {
    /// The document.
    pub fn document(&self) -> Json {
        let mut document = Map::new();
        if let Some(msg) = &self.msg {
            document.insert("msg".to_owned(), msg.as_str().into());
        }
        document.extend(self.data.clone());
        Json::Object(document)
    }
}
