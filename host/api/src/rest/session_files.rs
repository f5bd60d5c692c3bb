//! `/session/{s}/upload`, `/download`, `/download_single`, `/files`: files of a session's users.

use axum::body::Body;
use axum::response::Response;
use futures::stream;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use multer::{Constraints, Multipart, SizeLimit};
use percent_encoding::percent_decode_str;
use quarterdeck_control::{Error, sessions};
use serde_json::Value;
use uuid::Uuid;

use crate::call::{Answer, Call, no_content, ok};
use crate::params::kinds::{any_text, list, text};
use crate::params::{Fault, malformed};
use crate::wire::Problem;

/// What one upload may have besides its files: headers and boundaries.
const AROUND_FILES: u64 = 256 << 10;
const RAW: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Takes up to 20 files of a multipart form into the session.
pub(super) async fn upload(mut call: Call) -> Answer {
    let files = files(&mut call).await?;
    let caller = call.caller()?;
    sessions::upload(call.control(), &caller, call.arg(0), &files).await?;
    no_content()
}

/// The files of a multipart body. Every part is one, under the name of its file.
async fn files(call: &mut Call) -> Result<Vec<sessions::UserFile>, Problem> {
    let boundary = multer::parse_boundary(call.header("content-type")).map_err(|_| malformed())?;
    let body = std::mem::replace(&mut call.body, Body::empty());
    // One more of each than is allowed: then the answer says which of both it was.
    let whole = (sessions::MAX_FILES as u64 + 1) * sessions::MAX_FILE as u64 + AROUND_FILES;
    let limits = SizeLimit::new().whole_stream(whole).per_field(sessions::MAX_FILE as u64);
    let mut parts =
        Multipart::with_constraints(body.into_data_stream(), boundary, Constraints::new().size_limit(limits));
    let mut files = Vec::new();
    while let Some(mut part) = parts.next_field().await.map_err(broken)? {
        if files.len() == sessions::MAX_FILES {
            return Err(Error::invalid("Too many files").into());
        }
        let name = part.file_name().ok_or_else(|| Problem::from(Error::invalid("A part has no file name")))?;
        // Clients write what isn't plain in a name as URLs do.
        let path = percent_decode_str(name).decode_utf8().map_err(|_| malformed())?.into_owned();
        let mut data = Vec::new();
        while let Some(chunk) = part.chunk().await.map_err(broken)? {
            data.extend_from_slice(&chunk);
            if data.len() >= sessions::MAX_FILE {
                return Err(too_large());
            }
        }
        files.push(sessions::UserFile { path, data });
    }
    Ok(files)
}

fn too_large() -> Problem {
    Error::invalid("Too large file").into()
}

fn broken(error: multer::Error) -> Problem {
    match error {
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => too_large(),
        error => {
            tracing::debug!(%error, "a form can't be read");
            malformed()
        }
    }
}

/// One file's name, or a list of them.
fn names(value: Value) -> Result<Vec<String>, Fault> {
    match value {
        Value::String(_) => text(value).map(|name| vec![name]),
        value => list(text)(value),
    }
}

/// Up to five files or directories, each as a tar in its part.
pub(super) async fn download(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let paths = params.required(&["files"], names);
    params.optional(&["owner_access_key"], None, |v| any_text(v).map(Some));
    params.finish()?;
    let caller = call.caller()?;
    let archives = sessions::download(call.control(), &caller, call.arg(0), &paths).await?;
    let boundary = Uuid::new_v4().simple().to_string();
    let mut body = Vec::with_capacity(archives.iter().map(|tar| tar.len() + 256).sum());
    for tar in archives {
        let head = format!(
            "--{boundary}\r\nContent-Type: application/x-tar\r\nContent-Encoding: identity\r\nContent-Length: {}\r\n\r\n",
            tar.len()
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&tar);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let content_type = HeaderValue::from_str(&format!("multipart/mixed; boundary={boundary}"));
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, content_type.map_err(|e| Problem::internal(e.to_string()))?);
    Ok(response)
}

/// One file as it is.
pub(super) async fn download_single(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let path = params.required(&["file"], text);
    params.optional(&["owner_access_key"], None, |v| any_text(v).map(Some));
    params.finish()?;
    let caller = call.caller()?;
    let file = sessions::download_single(call.control(), &caller, call.arg(0), &path).await?;
    let size = file.size;
    let parts = stream::unfold(file, |mut file| async move {
        match file.next().await {
            Ok(part) => part.map(|part| (Ok(part), file)),
            Err(error) => Some((Err(std::io::Error::other(error.to_string())), file)),
        }
    });
    let mut response = Response::new(Body::from_stream(parts));
    response.headers_mut().insert(CONTENT_TYPE, RAW);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    Ok(response)
}

/// What lies in a directory.
pub(super) async fn list_files(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let path = params.required(&["path"], text);
    params.allow_extra();
    params.finish()?;
    let caller = call.caller()?;
    ok(&sessions::list_files(call.control(), &caller, call.arg(0), &path).await?)
}
