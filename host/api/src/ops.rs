//! What operators and their machines ask: alive, ready, how much.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use quarterdeck_control::health;
use serde_json::json;

use crate::call::{Answer, Call, json, ok};
use crate::openapi::{self, about, documents};
use crate::route::Access::Anonymous;
use crate::route::Gate::Open;
use crate::route::{Route, get};
use crate::wire::{Problem, URL_NOT_FOUND};

const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OPEN_METRICS: HeaderValue = HeaderValue::from_static(OPEN_METRICS_TYPE);

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/healthz", Anonymous, Open, alive).documented(
            about("Whether the process answers: restarting it wouldn't help if it does")
                .answers::<documents::Alive>(200, "It does."),
        ),
        get("/readyz", Anonymous, Open, ready).documented(
            about("Whether to send requests to this host")
                .answers::<documents::Ready>(200, "It is ready.")
                .answers::<documents::Ready>(503, "It isn't, and why."),
        ),
        get("/metrics", Anonymous, Open, metrics).documented(about("Counters and gauges for Prometheus").answers_with(
            200,
            OPEN_METRICS_TYPE,
            "In the OpenMetrics format.",
        )),
        get("/openapi.json", Anonymous, Open, description).documented(about("This document").answers_with(
            200,
            "application/json",
            "In the OpenAPI format.",
        )),
    ]
}

/// What our own API looks like.
async fn description(call: Call) -> Answer {
    ok(&openapi::document(call.app().table.routes()))
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
    let control = call.control();
    control.metrics().show_kernels(control.live().kernel_stats());
    let mut response = Response::new(Body::from(control.metrics().encode()));
    response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
    Ok(response)
}
