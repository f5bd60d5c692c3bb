//! `GET /`: what this is.

use serde_json::json;

use crate::call::{Answer, Call, ok};
use crate::route::{Access, Gate, Route, get};
use crate::version::{LATEST, MANAGER};

pub(crate) fn routes() -> Vec<Route> {
    vec![get("/", Access::Anonymous, Gate::Open, version)]
}

async fn version(_: Call) -> Answer {
    ok(&json!({ "version": LATEST, "manager": MANAGER }))
}
