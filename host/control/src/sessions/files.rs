//! Files of a session's users: up, down and listed. They are those of the main kernel's work directory.

use futures::future::try_join_all;
use quarterdeck_rpc::{limits, pb};
use serde_json::{Value, json};

use super::{failed, main_kernel};
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

pub use quarterdeck_rpc::Download;

/// Files taken in with one request (`spec/session.md` §8.3).
pub const MAX_FILES: usize = 20;
/// Each of them is smaller than this many bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Archives sent with one answer (`spec/session.md` §8.4).
pub const MAX_ARCHIVES: usize = 5;
/// Bytes of the files in one archive.
const MAX_ARCHIVE: u64 = 1 << 20;
/// What an archive may have besides the files: names, modes and padding.
const MAX_AROUND: u64 = 32 << 20;

/// A file to be taken in.
#[derive(Clone, Debug)]
pub struct UserFile {
    /// Where it goes, relative to the work directory or below `/home/work`.
    pub path: String,
    /// What it holds.
    pub data: Vec<u8>,
}

/// Takes files into a session, one after the other. Directories on their way are made.
///
/// # Errors
/// [`Error::InvalidParams`] when they are too many or too large, and before the session is placed; [`Error::NotFound`];
/// [`Error::Agent`], when files before the one that failed are there.
pub async fn upload(control: &Control, caller: &Principal, reference: &str, files: &[UserFile]) -> Result<()> {
    if files.len() > MAX_FILES {
        return Err(Error::invalid("Too many files"));
    }
    if files.iter().any(|file| file.data.len() >= MAX_FILE) {
        return Err(Error::invalid("Too large file"));
    }
    let (_, kernel, agent) = main_kernel(control, caller, reference).await?;
    let kernel = kernel.id.to_string();
    for file in files {
        agent.upload(&kernel, &file.path, &file.data).await.map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Uncompressed archives (tar) of files or directories, in order.
///
/// # Errors
/// [`Error::InvalidParams`] when they are too many, and before the session is placed; [`Error::NotFound`];
/// [`Error::Agent`] when one isn't there, is too large or lies elsewhere.
pub async fn download(
    control: &Control,
    caller: &Principal,
    reference: &str,
    paths: &[String],
) -> Result<Vec<Vec<u8>>> {
    if paths.len() > MAX_ARCHIVES {
        return Err(Error::invalid("Too many files"));
    }
    let (_, kernel, agent) = main_kernel(control, caller, reference).await?;
    let archives = paths.iter().map(|path| async {
        let request = pb::DownloadFileRequest {
            kernel_id: kernel.id.to_string(),
            path: path.clone(),
            archive: true,
            limit: MAX_ARCHIVE,
        };
        agent.download(request).await?.whole(MAX_ARCHIVE + MAX_AROUND).await
    });
    try_join_all(archives).await.map_err(|error| failed(&error))
}

/// One file as it is, in parts.
///
/// # Errors
/// As [`download`].
pub async fn download_single(control: &Control, caller: &Principal, reference: &str, path: &str) -> Result<Download> {
    let (_, kernel, agent) = main_kernel(control, caller, reference).await?;
    let request = pb::DownloadFileRequest {
        kernel_id: kernel.id.to_string(),
        path: path.to_owned(),
        archive: false,
        limit: limits::MAX_DOWNLOAD,
    };
    agent.download(request).await.map_err(|error| failed(&error))
}

/// What lies in a directory: `{"files": <JSON text>, "errors": <text for people>, "abspath": <path as asked>}`.
///
/// # Errors
/// [`Error::NotFound`], [`Error::InvalidParams`] before the session is placed, [`Error::Agent`].
pub async fn list_files(control: &Control, caller: &Principal, reference: &str, path: &str) -> Result<Value> {
    let (_, kernel, agent) = main_kernel(control, caller, reference).await?;
    let listed = agent.list_files(&kernel.id.to_string(), path).await.map_err(|error| failed(&error))?;
    Ok(json!({ "files": listed.files, "errors": listed.errors, "abspath": path }))
}
