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
const SESSIONS: &[Row] = &[
    (POST, "/session/_/sync-agent-registry", Superadmin, Writes),
    (POST, "/session/{session}/commit", Auth, Writes),
    (GET, "/session/{session}/commit", Auth, Writes),
];

const FOLDERS: &[Row] = &[(POST, "/folders/{name}/clone", Auth, Writes)];

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

const STREAMS: &[Row] = &[(GET, "/events/session", Auth, Reads), (GET, "/events/background-task", Auth, Reads)];

const RESOURCES: &[Row] = &[
    (GET, "/resource/usage/month", Superadmin, Reads),
    (GET, "/resource/usage/period", Superadmin, Reads),
    (GET, "/resource/stats/user/month", Auth, Reads),
    (GET, "/resource/stats/admin/month", Superadmin, Reads),
    (GET, "/resource/watcher", Superadmin, Reads),
    (POST, "/resource/watcher/agent/start", Superadmin, Reads),
    (POST, "/resource/watcher/agent/stop", Superadmin, Reads),
    (POST, "/resource/watcher/agent/restart", Superadmin, Reads),
];

const OTHERS: &[Row] = &[(GET, "/image/import", Admin, Reads), (POST, "/image/import", Admin, Writes)];

/// The rows of the table.
pub(crate) fn routes() -> Vec<Route> {
    let families = [SESSIONS, FOLDERS, SERVICES, STREAMS, RESOURCES, OTHERS];
    families
        .into_iter()
        .flatten()
        .map(|(method, path, access, gate)| {
            Route::new(method.clone(), path, *access, *gate, |_| async { Err(Problem::new(NOT_IMPLEMENTED)) })
        })
        .collect()
}
