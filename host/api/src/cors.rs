//! Pages of any origin may call, without cookies.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::route::{Found, Table};
use crate::wire::{BAD_REQUEST, Problem};

/// Answers a browser that asks whether it may call.
///
/// # Errors
/// A problem when it doesn't say what, or when no route has that method.
pub fn preflight(table: &Table, path: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let refused = || Problem::new(BAD_REQUEST);
    let origin = headers.get(ORIGIN).ok_or_else(refused)?;
    let wanted = headers.get(ACCESS_CONTROL_REQUEST_METHOD).ok_or_else(refused)?;
    let method = Method::from_bytes(wanted.as_bytes()).map_err(|_| refused())?;
    if !matches!(table.find(&method, path), Found::Route(..)) {
        return Err(refused());
    }
    let mut response = Response::new(Body::empty());
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, wanted.clone());
    if let Some(names) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|names| names.to_str().ok()) {
        let names: Vec<_> = names.split(',').map(|name| name.trim().to_ascii_uppercase()).collect();
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_str(&names.join(",")).map_err(|_| refused())?);
    }
    Ok(response)
}

/// Lets the page of `origin` see an answer and all its headers.
pub fn expose(headers: &mut HeaderMap, origin: HeaderValue) {
    let names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(",")) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}
