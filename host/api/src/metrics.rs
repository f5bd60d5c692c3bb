//! Requests counted by route and status class, and how long they took.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use quarterdeck_control::Control;

use crate::route::{Route, Table};

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: String,
    route: String,
    status: String,
}

/// One route's counters, each looked up at its first use so that later counting takes no lock.
type Counters = [OnceLock<Counter>; CLASSES.len()];

pub(crate) struct HttpMetrics {
    requests: Family<Labels, Counter>,
    seconds: Histogram,
    routes: Vec<Counters>,
    unrouted: Counters,
}

impl HttpMetrics {
    /// Registers the counters.
    pub(crate) fn new(control: &Control, table: &Table) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.000_1, 4.0, 9)),
            routes: table.routes().iter().map(|_| Counters::default()).collect(),
            unrouted: Counters::default(),
        };
        control.metrics().register(|registry| {
            registry.register("http_requests", "Requests answered", metrics.requests.clone());
            registry.register("http_request_seconds", "Time until an answer's head", metrics.seconds.clone());
        });
        metrics
    }

    /// Counts one answer.
    pub(crate) fn count(&self, route: Option<(usize, &Route)>, status: StatusCode, took: Duration) {
        let counters = route.and_then(|(index, _)| self.routes.get(index)).unwrap_or(&self.unrouted);
        let class = usize::from(status.as_u16() / 100).saturating_sub(2).min(CLASSES.len() - 1);
        let counter = counters[class].get_or_init(|| {
            let (method, path) = route.map_or(("", ""), |(_, route)| (route.method.as_str(), route.path));
            let labels =
                Labels { method: method.to_owned(), route: path.to_owned(), status: CLASSES[class].to_owned() };
            self.requests.get_or_create_owned(&labels)
        });
        counter.inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
