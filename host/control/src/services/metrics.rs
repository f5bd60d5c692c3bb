//! What the app proxy counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use quarterdeck_proxy::Observe;

use crate::Metrics;

/// Labels of answered requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    service: String,
    /// `2xx`, `5xx` …
    class: String,
}

/// Counts what services answer.
#[derive(Debug)]
pub struct ProxyMetrics {
    answers: Family<Answered, Counter>,
    seconds: Histogram,
}

impl ProxyMetrics {
    /// Registers them among the host's.
    pub fn new(metrics: &Metrics) -> Self {
        let answers = Family::default();
        let seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 18));
        metrics.register(|registry| {
            registry.register(
                "service_answers",
                "Requests that services answered, by class of status",
                answers.clone(),
            );
            registry.register("service_answer_begin_seconds", "Time until services' answers began", seconds.clone());
        });
        Self { answers, seconds }
    }
}

impl Observe for ProxyMetrics {
    fn answered(&self, service: &str, status: u16, elapsed: Duration) {
        let labels = Answered { service: service.to_owned(), class: format!("{}xx", status / 100) };
        self.answers.get_or_create(&labels).inc();
        self.seconds.observe(elapsed.as_secs_f64());
    }
}
