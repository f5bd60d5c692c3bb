//! `/folders`: virtual folders. Routes that name a folder look it up before anything else about the request is judged.

mod files;
mod folders;
mod hosts;
mod sharing;

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use quarterdeck_control::vfolders::{self, Seen};
use quarterdeck_model::vfolder::{FolderPermission, is_name};
use serde_json::Value;

use crate::call::{Answer, Call};
use crate::params::Fault;
use crate::params::kinds::text;
use crate::route::Route;
use crate::wire::Problem;

pub(crate) fn routes() -> Vec<Route> {
    // Paths of fixed words come before those with a folder's name in the same place.
    let families = [hosts::routes(), sharing::routes(), folders::routes(), files::routes()];
    families.into_iter().flatten().collect()
}

/// The folder that the path names.
async fn named(call: &mut Call, need: FolderPermission) -> Result<Seen, Problem> {
    Ok(vfolders::find(call.control(), &*call.caller()?, call.arg(0), need).await?)
}

/// 201 with nothing.
fn empty() -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// A folder's name.
fn slug(value: Value) -> Result<String, Fault> {
    let text = text(value)?;
    if text.chars().count() > quarterdeck_model::vfolder::MAX_NAME {
        return Err("value is too long".into());
    }
    // Reserved names begin with a slash, too, and are told as such.
    if is_name(&text) || quarterdeck_model::vfolder::is_reserved_name(&text) {
        Ok(text)
    } else {
        Err("value must be a valid slug.".into())
    }
}

/// An id as answers about folders have it.
fn hex(id: quarterdeck_model::VfolderId) -> String {
    id.0.simple().to_string()
}
