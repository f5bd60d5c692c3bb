//! What operators and their machines ask: alive, ready, how much.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use quarterdeck_control::health;
use serde_json::json;

use crate::call::{Answer, Call, json};
use crate::route::Access::Anonymous;
use crate::route::Gate::Open;
use crate::route::{Route, get};
use crate::wire::{Problem, URL_NOT_FOUND};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/healthz", Anonymous, Open, alive),
        get("/readyz", Anonymous, Open, ready),
        get("/metrics", Anonymous, Open, metrics),
    ]
}

/// This process answers: restarting it wouldn't help.
async fn alive(_: Call) -> Answer {
    json(StatusCode::OK, &json!({ "alive": true }))
}

/// Whether to send requests here; and which plugins don't serve as they should, which by itself keeps no host from
/// its work: others have taken over.
async fn ready(call: Call) -> Answer {
    let faults = health::faults(call.control()).await;
    let status = if faults.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let plugins: Vec<_> = call
        .control()
        .policies()
        .troubles()
        .into_iter()
        .map(|t| {
            json!({
                "plugin": t.plugin,
                "version": t.version,
                "digest": t.digest,
                "target": {"kind": t.target.kind, "name": t.target.name},
                "instead": t.instead,
                // Everybody may ask; the whole story is under `/plugins`.
                "reason": t.reason.chars().take(300).collect::<String>(),
                "blocks": t.blocks,
            })
        })
        .collect();
    json(status, &json!({ "ready": faults.is_empty(), "faults": faults, "plugins": plugins }))
}

async fn metrics(call: Call) -> Answer {
    if !call.app().settings.metrics {
        return Err(Problem::new(URL_NOT_FOUND).data("/metrics".into()));
    }
    let mut response = Response::new(Body::from(call.control().metrics().encode()));
    response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
    Ok(response)
}
