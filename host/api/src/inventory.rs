//! Routes whose family isn't served by this release.
//!
//! They are in the table all the same: with the right methods, roles and status gates, so that
//! clients, browsers and proxies meet the answers they expect (401, 405, preflights, maintenance) and,
//! at the end, an honest 503 `not-implemented`.

use http::Method;

use crate::route::Access::{Admin, Auth, Superadmin};
use crate::route::Gate::{Reads, Writes};
use crate::route::{Access, Gate, Route};
use crate::wire::{NOT_IMPLEMENTED, Problem};

type Row = (Method, &'static str, Access, Gate);

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// Sessions: files, services' insides, templates, reports.
const SESSIONS: &[Row] =
    &[(POST, "/session/{session}/commit", Auth, Writes), (GET, "/session/{session}/commit", Auth, Writes)];

const FOLDERS: &[Row] = &[
    (POST, "/folders", Auth, Writes),
    (GET, "/folders", Auth, Reads),
    (DELETE, "/folders", Superadmin, Writes),
    (GET, "/folders/_/hosts", Auth, Reads),
    (GET, "/folders/_/all-hosts", Superadmin, Reads),
    (GET, "/folders/_/all_hosts", Superadmin, Reads),
    (GET, "/folders/_/allowed-types", Auth, Reads),
    (GET, "/folders/_/allowed_types", Auth, Reads),
    (GET, "/folders/_/perf-metric", Superadmin, Reads),
    (GET, "/folders/_/shared", Auth, Reads),
    (POST, "/folders/_/shared", Auth, Writes),
    (POST, "/folders/_/change-ownership", Superadmin, Writes),
    (GET, "/folders/_/quota", Auth, Reads),
    (POST, "/folders/_/quota", Auth, Writes),
    (GET, "/folders/_/usage", Superadmin, Reads),
    (GET, "/folders/_/used-bytes", Superadmin, Reads),
    (GET, "/folders/_/fstab", Superadmin, Reads),
    (GET, "/folders/_/mounts", Superadmin, Reads),
    (POST, "/folders/_/mounts", Superadmin, Writes),
    (DELETE, "/folders/_/mounts", Superadmin, Writes),
    (GET, "/folders/invitations/list", Auth, Reads),
    (GET, "/folders/invitations/list-sent", Auth, Reads),
    (GET, "/folders/invitations/list_sent", Auth, Reads),
    (POST, "/folders/invitations/update/{invitation}", Auth, Writes),
    (POST, "/folders/invitations/accept", Auth, Writes),
    (DELETE, "/folders/invitations/delete", Auth, Writes),
    (GET, "/folders/{name}", Auth, Reads),
    (DELETE, "/folders/{name}", Auth, Writes),
    (POST, "/folders/{name}/rename", Auth, Writes),
    (POST, "/folders/{name}/update-options", Auth, Writes),
    (POST, "/folders/{name}/clone", Auth, Writes),
    (POST, "/folders/{name}/mkdir", Auth, Reads),
    (POST, "/folders/{name}/request-upload", Auth, Reads),
    (POST, "/folders/{name}/request-download", Auth, Reads),
    (POST, "/folders/{name}/move-file", Auth, Reads),
    (POST, "/folders/{name}/rename-file", Auth, Reads),
    (POST, "/folders/{name}/rename_file", Auth, Reads),
    (DELETE, "/folders/{name}/delete-files", Auth, Reads),
    (DELETE, "/folders/{name}/delete_files", Auth, Reads),
    (GET, "/folders/{name}/files", Auth, Reads),
    (POST, "/folders/{name}/invite", Auth, Writes),
    (POST, "/folders/{name}/leave", Auth, Writes),
    (POST, "/folders/{name}/share", Admin, Writes),
    (DELETE, "/folders/{name}/unshare", Admin, Writes),
];

const SERVICES: &[Row] = &[
    (GET, "/services", Auth, Reads),
    (POST, "/services", Auth, Writes),
    (GET, "/services/{service}", Auth, Reads),
    (DELETE, "/services/{service}", Auth, Reads),
    (POST, "/services/{service}/scale", Auth, Reads),
    (POST, "/services/{service}/sync", Auth, Reads),
    (PUT, "/services/{service}/routings/{route}", Auth, Reads),
    (DELETE, "/services/{service}/routings/{route}", Auth, Reads),
    (POST, "/services/{service}/token", Auth, Reads),
];

const STREAMS: &[Row] = &[
    (GET, "/stream/session/{session}/httpproxy", Auth, Reads),
    (GET, "/stream/session/{session}/tcpproxy", Auth, Reads),
];

/// The rows of the table.
pub(crate) fn routes() -> Vec<Route> {
    let families = [SESSIONS, FOLDERS, SERVICES, STREAMS];
    families
        .into_iter()
        .flatten()
        .map(|(method, path, access, gate)| {
            Route::new(method.clone(), path, *access, *gate, |_| async { Err(Problem::new(NOT_IMPLEMENTED)) })
        })
        .collect()
}
