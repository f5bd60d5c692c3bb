//! Routes whose family isn't served by this release.
//!
//! They are in the table all the same: with the right methods, roles and status gates, so that
//! clients, browsers and proxies meet the answers they expect (401, 405, preflights, maintenance) and,
//! at the end, an honest 503 `not-implemented`.

use http::Method;

use crate::route::Access::Auth;
use crate::route::Gate::Writes;
use crate::route::{Access, Gate, Route};
use crate::wire::{NOT_IMPLEMENTED, Problem};

type Row = (Method, &'static str, Access, Gate);

const GET: Method = Method::GET;
const POST: Method = Method::POST;

/// Sessions: files, services' insides, templates, reports.
const SESSIONS: &[Row] =
    &[(POST, "/session/{session}/commit", Auth, Writes), (GET, "/session/{session}/commit", Auth, Writes)];

/// The rows of the table.
pub(crate) fn routes() -> Vec<Route> {
    let families = [SESSIONS];
    families
        .into_iter()
        .flatten()
        .map(|(method, path, access, gate)| {
            Route::new(method.clone(), path, *access, *gate, |_| async { Err(Problem::new(NOT_IMPLEMENTED)) })
        })
        .collect()
}
