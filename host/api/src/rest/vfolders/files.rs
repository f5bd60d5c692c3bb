//! Files inside folders, and tickets for their transfer.

use http::Method;
use quarterdeck_control::storage::Entry;
use quarterdeck_control::vfolders::files::{self, Ticket};
use quarterdeck_model::file_mode;
use quarterdeck_model::vfolder::FolderPermission;
use serde_json::json;

use super::{empty, named};
use crate::call::{Answer, Call, ok};
use crate::params::kinds::{any_text, boolish, coerced_int, list, text};
use crate::route::Access::Auth;
use crate::route::Gate::Reads;
use crate::route::{Route, get, post};
use crate::storage;

pub(super) fn routes() -> Vec<Route> {
    let mut routes = vec![
        post("/folders/{name}/mkdir", Auth, Reads, mkdir),
        post("/folders/{name}/request-upload", Auth, Reads, request_upload),
        post("/folders/{name}/request-download", Auth, Reads, request_download),
        post("/folders/{name}/move-file", Auth, Reads, move_file),
        get("/folders/{name}/files", Auth, Reads, list_files),
    ];
    for path in ["/folders/{name}/rename-file", "/folders/{name}/rename_file"] {
        routes.push(Route::new(Method::POST, path, Auth, Reads, rename_file));
    }
    for path in ["/folders/{name}/delete-files", "/folders/{name}/delete_files"] {
        routes.push(Route::new(Method::DELETE, path, Auth, Reads, delete_files));
    }
    routes
}

async fn mkdir(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadWrite).await?;
    let mut params = call.params().await?;
    let path = params.required(&["path"], text);
    let parents = params.optional(&["parents"], true, boolish);
    let exist_ok = params.optional(&["exist_ok"], false, boolish);
    params.finish()?;
    files::mkdir(call.control(), &seen, &path, parents, exist_ok).await?;
    empty()
}

fn ticket(call: &Call, ticket: &Ticket, deed: &str) -> Answer {
    let base = match &ticket.base {
        Some(base) => base.trim_end_matches('/').to_owned(),
        None => storage::base_of(call),
    };
    ok(&json!({ "token": ticket.token, "url": format!("{base}/{deed}") }))
}

async fn request_upload(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadWrite).await?;
    let mut params = call.params().await?;
    let path = params.required(&["path"], text);
    let size = params.required(&["size"], coerced_int(0..=i64::MAX));
    params.finish()?;
    let size = u64::try_from(size).unwrap_or_default();
    let granted = files::request_upload(call.control(), &*call.caller()?, &seen, &path, size).await?;
    ticket(&call, &granted, "upload")
}

async fn request_download(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadOnly).await?;
    let mut params = call.params().await?;
    let path = params.required(&["path", "file"], text);
    let archive = params.optional(&["archive"], false, boolish);
    params.finish()?;
    let granted = files::request_download(call.control(), &*call.caller()?, &seen, &path, archive).await?;
    ticket(&call, &granted, "download")
}

async fn move_file(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadWrite).await?;
    let mut params = call.params().await?;
    let (from, to) = (params.required(&["src"], text), params.required(&["dst"], text));
    params.finish()?;
    files::move_file(call.control(), &seen, &from, &to).await?;
    ok(&json!({}))
}

async fn rename_file(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadWrite).await?;
    let mut params = call.params().await?;
    let path = params.required(&["target_path"], text);
    let new_name = params.required(&["new_name"], text);
    params.optional(&["is_dir"], false, boolish);
    params.finish()?;
    files::rename(call.control(), &*call.caller()?, &seen, &path, &new_name).await?;
    ok(&json!({}))
}

async fn delete_files(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadWrite).await?;
    let mut params = call.params().await?;
    let paths = params.required(&["files"], list(text));
    let recursive = params.optional(&["recursive"], false, boolish);
    params.finish()?;
    files::remove(call.control(), &seen, &paths, recursive).await?;
    ok(&json!({}))
}

async fn list_files(mut call: Call) -> Answer {
    let seen = named(&mut call, FolderPermission::ReadOnly).await?;
    let mut params = call.params().await?;
    let path = params.optional(&["path"], String::new(), any_text);
    params.finish()?;
    let entries = files::list(call.control(), &seen, &path).await?;
    let item = |e: &Entry| {
        json!({
            "name": e.name,
            "type": e.kind,
            "size": e.stat.size,
            "mode": format!("{:03o}", e.stat.mode & 0o777),
            "created": e.stat.created,
            "modified": e.stat.modified,
        })
    };
    let legacy = |e: &Entry| {
        json!({
            "filename": e.name,
            "size": e.stat.size,
            "mode": file_mode::text(e.stat.mode),
            "ctime": epoch(&e.stat.created),
            "atime": 0,
            "mtime": epoch(&e.stat.modified),
        })
    };
    let files = serde_json::Value::Array(entries.iter().map(legacy).collect()).to_string();
    ok(&json!({ "items": entries.iter().map(item).collect::<Vec<_>>(), "files": files }))
}

/// Seconds since the Unix epoch of an ISO 8601 text.
fn epoch(text: &str) -> f64 {
    chrono::DateTime::parse_from_rfc3339(text).map_or(0.0, |at| at.timestamp_micros() as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times() {
        assert_eq!(epoch("1970-01-01T00:00:01.500000+00:00").to_string(), "1.5");
    }
}
