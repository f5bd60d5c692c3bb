//! Uploads: TUS 1.0.0, its core alone. They are created by the API, which hands out their tokens.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, CONTENT_LENGTH, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use quarterdeck_control::storage::{Embedded, Receipt, Upload, UploadError};

use super::{parameters, problem, refused, token};
use crate::params::kinds::{nullable, text};

const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
const ANY: HeaderValue = HeaderValue::from_static("*");
const NAMES: HeaderValue =
    HeaderValue::from_static("Tus-Resumable, Upload-Length, Upload-Metadata, Upload-Offset, Content-Type");
/// A sender that is silent for longer than this has gone; what it sent stays.
const SILENCE: Duration = Duration::from_secs(60);

/// The headers of all answers.
fn shared(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, ANY);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, NAMES);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, NAMES);
    headers.insert(RESUMABLE, VERSION);
    response
}

/// What can be done here.
pub(super) fn options(storage: &Embedded) -> Response {
    let mut response = shared(Response::new(Body::empty()));
    let headers = response.headers_mut();
    headers.insert(TUS_VERSION, VERSION);
    headers.insert(MAX_SIZE, HeaderValue::from(storage.settings().max_upload_size));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn receipt(response: Response, receipt: Receipt) -> Response {
    let mut response = shared(response);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(OFFSET, HeaderValue::from(receipt.offset));
    headers.insert(LENGTH, HeaderValue::from(receipt.length));
    response
}

fn failed(error: UploadError) -> Response {
    match error {
        UploadError::Offset(at) => {
            let title = "The upload is at another offset";
            receipt(problem(StatusCode::CONFLICT, "offset-mismatch", title), at)
        }
        UploadError::TooLong(at) => {
            let title = "The upload is longer than declared";
            receipt(problem(StatusCode::PAYLOAD_TOO_LARGE, "upload-too-long", title), at)
        }
        UploadError::Busy => {
            shared(problem(StatusCode::LOCKED, "upload-in-progress", "Another part of the upload is being received"))
        }
        UploadError::Storage(error) => shared(refused(error)),
    }
}

/// How far an upload is.
pub(super) async fn head(storage: &Embedded, parts: &Parts) -> Response {
    let mut params = parameters(parts);
    params.optional(&["dst_dir"], None, nullable(text));
    let claims = match token(storage, params, Embedded::read_upload_token) {
        Ok(claims) => claims,
        Err(response) => return shared(*response),
    };
    match storage.receipt(&claims).await {
        Ok(at) => receipt(Response::new(Body::empty()), at),
        Err(error) => shared(refused(error)),
    }
}

/// Takes the next piece of an upload.
pub(super) async fn patch(storage: &Embedded, parts: &Parts, body: Body) -> Response {
    let mut params = parameters(parts);
    let directory = params.optional(&["dst_dir"], None, nullable(text));
    let claims = match token(storage, params, Embedded::read_upload_token) {
        Ok(claims) => claims,
        Err(response) => return shared(*response),
    };
    let number =
        |name: HeaderName| parts.headers.get(name).map(|v| v.to_str().ok().and_then(|v| v.trim().parse::<u64>().ok()));
    let offset = match number(OFFSET) {
        None => None,
        Some(Some(offset)) => Some(offset),
        Some(None) => return shared(problem(StatusCode::BAD_REQUEST, "invalid-offset", "Upload-Offset is no number")),
    };
    let length = number(CONTENT_LENGTH).flatten();
    let taken = async {
        let upload = storage.upload(claims, directory.as_deref(), offset, length).await?;
        receive(upload, body).await
    };
    match taken.await {
        Ok(at) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            receipt(response, at)
        }
        Err(error) => failed(error),
    }
}

async fn receive(mut upload: Upload, mut body: Body) -> Result<Receipt, UploadError> {
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        match frame {
            Ok(None) => return upload.finish().await,
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    upload.write(bytes).await?;
                }
            }
            // Cut off: what came stays, and the sender goes on from there.
            Ok(Some(Err(_))) | Err(_) => {
                upload.break_off().await?;
                return Err(UploadError::Busy);
            }
        }
    }
}
