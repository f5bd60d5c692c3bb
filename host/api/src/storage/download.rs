//! Downloads: files with ranges and conditions, directories as archives.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::response::Response;
use chrono::{DateTime, Utc};
use http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, ORIGIN, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quarterdeck_control::storage::{Archive, Embedded, OpenFile, Opened};

use super::{parameters, refused, text, token};
use crate::cors;
use crate::params::kinds::{boolish, nullable, text as word};

/// What stands for itself in a header's `filename*`.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Lets the page of any origin see an answer, with credentials.
fn exposed(parts: &Parts, mut response: Response) -> Response {
    if let Some(origin) = parts.headers.get(ORIGIN) {
        cors::expose(response.headers_mut(), origin.clone());
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    response
}

/// Answers a browser that asks whether it may.
pub(super) fn preflight(parts: &Parts) -> Response {
    let Some(origin) = parts.headers.get(ORIGIN) else {
        return text(StatusCode::FORBIDDEN, "403: Forbidden: CORS preflight request failed: origin header is missing");
    };
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
    let wanted = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|names| names.to_str().ok());
    if let Some(names) = wanted.and_then(|names| HeaderValue::from_str(&names.to_ascii_uppercase()).ok()) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    response
}

/// Answers with a file or an archive.
pub(super) async fn get(storage: &Embedded, parts: &Parts) -> Response {
    let mut params = parameters(parts);
    let directory = params.optional(&["dst_dir"], None, nullable(word));
    let archive = params.optional(&["archive"], false, boolish);
    let no_cache = params.optional(&["no_cache"], false, boolish);
    let claims = match token(storage, params, Embedded::read_download_token) {
        Ok(claims) => claims,
        Err(response) => return exposed(parts, *response),
    };
    let mut response = match storage.open_download(&claims, directory.as_deref(), archive).await {
        Ok(Opened::File(file)) => whole_or_part(&parts.headers, file),
        Ok(Opened::Archive(archive)) => packed(archive),
        Err(error) => refused(error),
    };
    if no_cache {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    exposed(parts, response)
}

fn disposition(name: &str) -> HeaderValue {
    let ascii: String = name.chars().filter(|c| matches!(c, ' '..='~')).collect();
    let quoted = ascii.replace('\\', "\\\\").replace('"', "\\\"");
    let encoded = utf8_percent_encode(name, PLAIN);
    let text = format!("attachment;filename=\"{quoted}\"; filename*=UTF-8''{encoded}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"))
}

fn packed(archive: Archive) -> Response {
    let disposition = disposition(&archive.name);
    let mut response = Response::new(Body::from_stream(archive.stream()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    response.headers_mut().insert(CONTENT_DISPOSITION, disposition);
    response
}

/// A file's time in whole seconds, rounded up: a client that sends it back gets what it asks for.
fn seconds(modified: SystemTime) -> i64 {
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX).saturating_add(i64::from(since.subsec_nanos() > 0))
}

fn date(seconds: i64) -> HeaderValue {
    let at = DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or_default();
    let text = at.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// The seconds of a date in a header; nothing for what is no date.
fn moment(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    Some(DateTime::parse_from_rfc2822(header(headers, name)?).ok()?.timestamp())
}

/// Whether a list of entity tags has this one.
fn lists(tags: &str, tag: &str) -> bool {
    tags == "*" || tags.split(',').any(|t| t.trim().trim_start_matches("W/") == tag)
}

/// The status that the request's conditions come to, when the file isn't to be sent.
fn conditions(headers: &HeaderMap, tag: &str, modified: i64) -> Option<StatusCode> {
    match header(headers, &IF_MATCH) {
        Some(tags) if !lists(tags, tag) => return Some(StatusCode::PRECONDITION_FAILED),
        Some(_) => {}
        None if moment(headers, &IF_UNMODIFIED_SINCE).is_some_and(|at| modified > at) => {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        None => {}
    }
    match header(headers, &IF_NONE_MATCH) {
        Some(tags) if lists(tags, tag) => Some(StatusCode::NOT_MODIFIED),
        Some(_) => None,
        None if moment(headers, &IF_MODIFIED_SINCE).is_some_and(|at| modified <= at) => Some(StatusCode::NOT_MODIFIED),
        None => None,
    }
}

/// Which bytes are wanted.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// From here on, so many.
    Part(u64, u64),
    /// None that there are.
    Nothing,
}

/// Reads a `Range` of one part; anything else is as none.
fn wanted(range: &str, size: u64) -> Wanted {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|spec| spec.split_once('-')) else {
        return Wanted::All;
    };
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.len() < 20;
    if !is_number(first) || !is_number(last) || (first.is_empty() && last.is_empty()) {
        return Wanted::All;
    }
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) => (start, end.min(size.saturating_sub(1))),
        (Ok(start), Err(_)) => (start, size.saturating_sub(1)),
        (Err(_), Ok(0)) => return Wanted::Nothing,
        (Err(_), Ok(count)) => (size.saturating_sub(count), size.saturating_sub(1)),
        (Err(_), Err(_)) => return Wanted::All,
    };
    if start >= size || start > end { Wanted::Nothing } else { Wanted::Part(start, end - start + 1) }
}

fn whole_or_part(headers: &HeaderMap, file: OpenFile) -> Response {
    let modified = seconds(file.modified);
    let nanos = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let tag = format!("\"{nanos:x}-{:x}\"", file.size);
    let size = file.size;
    let mut facts = HeaderMap::new();
    facts.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    facts.insert(LAST_MODIFIED, date(modified));
    facts.extend(HeaderValue::from_str(&tag).ok().map(|tag| (ETAG, tag)));
    let bare = |status: StatusCode, facts: HeaderMap| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response.headers_mut().extend(facts);
        response
    };
    if let Some(status) = conditions(headers, &tag, modified) {
        return bare(status, facts);
    }
    let still_that = match header(headers, &IF_RANGE) {
        None => true,
        Some(given) if given.starts_with('"') => given == tag,
        Some(_) => moment(headers, &IF_RANGE).is_some_and(|at| modified <= at),
    };
    let range = header(headers, &RANGE).filter(|_| still_that);
    let (status, start, length) = match range.map_or(Wanted::All, |range| wanted(range, size)) {
        Wanted::All => (StatusCode::OK, 0, size),
        Wanted::Part(start, length) => {
            let text = format!("bytes {start}-{}/{size}", start + length - 1);
            facts.extend(HeaderValue::from_str(&text).ok().map(|text| (CONTENT_RANGE, text)));
            (StatusCode::PARTIAL_CONTENT, start, length)
        }
        Wanted::Nothing => {
            facts.extend(HeaderValue::from_str(&format!("bytes */{size}")).ok().map(|text| (CONTENT_RANGE, text)));
            return bare(StatusCode::RANGE_NOT_SATISFIABLE, facts);
        }
    };
    facts.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    facts.insert(CONTENT_DISPOSITION, disposition(&file.name));
    facts.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let mut response = Response::new(Body::from_stream(file.stream(start, length)));
    *response.status_mut() = status;
    response.headers_mut().extend(facts);
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges() {
        for (range, expected) in [
            ("bytes=3-6", Wanted::Part(3, 4)),
            ("bytes=3-", Wanted::Part(3, 7)),
            ("bytes=-4", Wanted::Part(6, 4)),
            ("bytes=-40", Wanted::Part(0, 10)),
            ("bytes=3-600", Wanted::Part(3, 7)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=6-3", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=-", Wanted::All),
            ("bytes=1-2,4-5", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            assert_eq!(wanted(range, 10), expected, "{range}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn names_survive() {
        assert_eq!(disposition("a b.txt"), "attachment;filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt");
        assert_eq!(disposition("ä\".txt"), "attachment;filename=\"\\\".txt\"; filename*=UTF-8''%C3%A4%22.txt");
    }

    #[test]
    fn conditions_are_kept() {
        let with =
            |name: HeaderName, value: &'static str| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let at = |headers: HeaderMap| conditions(&headers, "\"t\"", 784_111_777);
        assert_eq!(at(HeaderMap::new()), None);
        assert_eq!(at(with(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT")), Some(StatusCode::NOT_MODIFIED));
        assert_eq!(at(with(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT")), None);
        assert_eq!(
            at(with(IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT")),
            Some(StatusCode::PRECONDITION_FAILED)
        );
        assert_eq!(at(with(IF_NONE_MATCH, "\"x\", W/\"t\"")), Some(StatusCode::NOT_MODIFIED));
        assert_eq!(at(with(IF_MATCH, "\"x\"")), Some(StatusCode::PRECONDITION_FAILED));
    }
}
