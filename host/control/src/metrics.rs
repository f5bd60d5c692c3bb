//! Counters and gauges, as `/metrics` shows them.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use quarterdeck_model::{KernelId, Timestamp};
use serde_json::Value;

/// Labels of a call into a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PluginCall {
    /// The plugin's name.
    pub plugin: String,
    /// `scheduler`, `idle-checker` or `hook`.
    pub kind: String,
    /// `ok`, or the failure's label.
    pub outcome: String,
}

/// Labels of how long calls into a plugin take.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByPlugin {
    /// The plugin's name.
    pub plugin: String,
    /// `scheduler`, `idle-checker` or `hook`.
    pub kind: String,
}

/// Label of a status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByStatus {
    /// The status.
    pub status: String,
}

/// Labels of a scheduling round.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByGroup {
    /// The scaling group.
    pub scaling_group: String,
}

/// Labels of a fact told by its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    /// How it ended.
    pub outcome: String,
}

/// Label of a loop.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByLoop {
    /// The loop's name.
    pub name: String,
}

/// Labels of a measurement of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByKernel {
    /// The kernel's id.
    pub kernel: String,
    /// The metric, as `live_stat` calls it.
    pub metric: String,
}

/// Label of a metric over all kernels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByMetric {
    /// The metric, as `live_stat` calls it.
    pub metric: String,
}

/// Kernels that are shown one by one; the others are in the sums. Each series costs whoever stores it.
pub const KERNELS_SHOWN: usize = 500;
/// Metrics of one kernel that are shown.
const METRICS_SHOWN: usize = 32;

/// Everything that is counted. Other crates add theirs by [`Metrics::register`].
#[derive(Debug)]
pub struct Metrics {
    registry: RwLock<Registry>,
    /// Scheduling rounds, by group.
    pub rounds: Family<ByGroup, Counter>,
    /// Wall time of scheduling rounds.
    pub round_seconds: Histogram,
    /// Sessions placed, by group.
    pub placements: Family<ByGroup, Counter>,
    /// Calls into plugins.
    pub plugin_calls: Family<PluginCall, Counter>,
    /// How long those calls took that went well.
    pub plugin_seconds: Family<ByPlugin, Histogram>,
    /// Rounds that the built-in policy had to take over.
    pub plugin_fallbacks: Family<PluginCall, Counter>,
    /// Sessions, by status; set when scraped.
    pub sessions: Family<ByStatus, Gauge>,
    /// Agents, by status; set when scraped.
    pub agents: Family<ByStatus, Gauge>,
    /// Transactions that took in agents' reports.
    pub report_batches: Counter,
    /// Reports of agents.
    pub reports: Counter,
    /// Heartbeats of agents.
    pub heartbeats: Counter,
    /// Sessions enqueued.
    pub enqueued: Counter,
    /// Calls that start kernels, by outcome.
    pub starts: Family<ByOutcome, Counter>,
    /// Calls that end kernels, by outcome.
    pub destroys: Family<ByOutcome, Counter>,
    /// Calls to those who want to know of sessions' lives: `delivered`, `retried`, or `failed` for good.
    pub callbacks: Family<ByOutcome, Counter>,
    /// Such calls that are still to be made; on the host that makes them.
    pub callbacks_pending: Gauge,
    /// Recordings of rounds that were not kept: too many at once, too large, or the database failed.
    pub lost_recordings: Counter,
    /// What single kernels use now; set when scraped.
    pub kernel_usage: Family<ByKernel, Gauge<f64, AtomicU64>>,
    /// What all kernels use together; set when scraped.
    pub usage: Family<ByMetric, Gauge<f64, AtomicU64>>,
    /// When each of this host's loops last finished a pass, in Unix seconds.
    pub loop_passes: Family<ByLoop, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("quarterdeck");
        let rounds = Family::default();
        registry.register("schedule_rounds", "Scheduling rounds", rounds.clone());
        let round_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        registry.register("schedule_round_duration_seconds", "Wall time of scheduling rounds", round_seconds.clone());
        let placements = Family::default();
        registry.register("schedule_placements", "Sessions placed on agents", placements.clone());
        let plugin_calls = Family::default();
        registry.register("plugin_calls", "Calls into plugins by outcome", plugin_calls.clone());
        let plugin_seconds = Family::new_with_constructor(
            (|| Histogram::new(exponential_buckets(0.000_05, 4.0, 9))) as fn() -> Histogram,
        );
        registry.register("plugin_call_seconds", "Time of calls into plugins that went well", plugin_seconds.clone());
        let plugin_fallbacks = Family::default();
        registry.register("plugin_fallbacks", "Rounds that the built-in policy took over", plugin_fallbacks.clone());
        let sessions = Family::default();
        registry.register("session_open", "Sessions that have not ended, by status", sessions.clone());
        let agents = Family::default();
        registry.register("agent_known", "Agents by status", agents.clone());
        let report_batches = Counter::default();
        registry.register("agent_report_batches", "Transactions that took in reports", report_batches.clone());
        let reports = Counter::default();
        registry.register("agent_reports", "Reports taken in", reports.clone());
        let heartbeats = Counter::default();
        registry.register("agent_heartbeats", "Heartbeats received", heartbeats.clone());
        let enqueued = Counter::default();
        registry.register("session_enqueued", "Sessions enqueued", enqueued.clone());
        let starts = Family::default();
        registry.register("agent_starts", "Calls to agents that start kernels, by outcome", starts.clone());
        let destroys = Family::default();
        registry.register("agent_destroys", "Calls to agents that end kernels, by outcome", destroys.clone());
        let callbacks = Family::default();
        registry.register("callbacks", "Call-backs of sessions, by outcome", callbacks.clone());
        let callbacks_pending = Gauge::default();
        registry.register("callbacks_pending", "Call-backs still to be made", callbacks_pending.clone());
        let lost_recordings = Counter::default();
        registry.register("schedule_lost_recordings", "Recordings of rounds not kept", lost_recordings.clone());
        let kernel_usage = Family::default();
        registry.register("kernel_usage", "What a kernel uses, by metric of live_stat", kernel_usage.clone());
        let usage = Family::default();
        registry.register("kernels_usage", "What all kernels heard of use together, by metric", usage.clone());
        let loop_passes = Family::default();
        registry.register("loop_last_pass_timestamp_seconds", "When a loop last finished a pass", loop_passes.clone());
        Self {
            registry: RwLock::new(registry),
            rounds,
            round_seconds,
            placements,
            plugin_calls,
            plugin_seconds,
            plugin_fallbacks,
            sessions,
            agents,
            report_batches,
            reports,
            heartbeats,
            enqueued,
            starts,
            destroys,
            callbacks,
            callbacks_pending,
            lost_recordings,
            kernel_usage,
            usage,
            loop_passes,
        }
    }
}

impl Metrics {
    /// Adds metrics of others to what is shown.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.write());
    }

    /// Shows what kernels use: the first [`KERNELS_SHOWN`] by id one by one, all of them in sums. Agents say what they
    /// like in statistics: only numbers, and only so many a kernel, are taken.
    pub fn show_kernels(&self, mut stats: Vec<(KernelId, Value)>) {
        stats.sort_by_key(|(id, _)| *id);
        self.kernel_usage.clear();
        self.usage.clear();
        for (index, (id, stat)) in stats.iter().enumerate() {
            for (metric, value) in stat.as_object().into_iter().flatten().take(METRICS_SHOWN) {
                let Some(number) = value["current"].as_str().and_then(|text| text.parse::<f64>().ok()) else {
                    continue;
                };
                if !number.is_finite() || metric.len() > 64 {
                    continue;
                }
                self.usage.get_or_create(&ByMetric { metric: metric.clone() }).inc_by(number);
                if index < KERNELS_SHOWN {
                    let labels = ByKernel { kernel: id.to_string(), metric: metric.clone() };
                    self.kernel_usage.get_or_create(&labels).set(number);
                }
            }
        }
    }

    /// Notes that a loop finished a pass.
    pub fn passed(&self, name: &str, at: Timestamp) {
        self.loop_passes.get_or_create(&ByLoop { name: name.to_owned() }).set(at.micros().div_euclid(1_000_000));
    }

    /// When a loop of this host last finished a pass, in Unix seconds.
    pub fn last_pass(&self, name: &str) -> Option<i64> {
        self.loop_passes.get(&ByLoop { name: name.to_owned() }).map(|gauge| gauge.get())
    }

    /// Counts calls to those who want to know of sessions' lives.
    pub fn callbacks_ended(&self, outcome: &str, count: u64) {
        self.callbacks.get_or_create(&ByOutcome { outcome: outcome.to_owned() }).inc_by(count);
    }

    /// Counts a call into a plugin.
    pub fn plugin_call(&self, plugin: &str, kind: &str, outcome: &str) {
        let labels = PluginCall { plugin: plugin.to_owned(), kind: kind.to_owned(), outcome: outcome.to_owned() };
        self.plugin_calls.get_or_create(&labels).inc();
    }

    /// Counts a call into a plugin that went well.
    pub fn plugin_call_ok(&self, plugin: &str, kind: &str, took: Duration) {
        self.plugin_call(plugin, kind, "ok");
        let labels = ByPlugin { plugin: plugin.to_owned(), kind: kind.to_owned() };
        self.plugin_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Shows what plugins count themselves.
    pub fn show_counters_of(&self, runtime: quarterdeck_plugin::Runtime) {
        self.registry.write().register_collector(Box::new(PluginCounters(runtime)));
    }

    /// The text of OpenMetrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.read());
        text
    }
}

/// What plugins count by `host.count`. The runtime bounds how many counters there are.
#[derive(Debug)]
struct PluginCounters(quarterdeck_plugin::Runtime);

impl Collector for PluginCounters {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let counters = self.0.counters();
        if counters.is_empty() {
            return Ok(());
        }
        let help = "What plugins count themselves";
        let mut family = encoder.encode_descriptor("plugin_counted", help, None, MetricType::Counter)?;
        for (plugin, metric, value) in &counters {
            let labels = [("plugin", plugin.as_str()), ("metric", metric.as_str())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kernels_are_shown_up_to_a_number_and_summed_beyond() {
        let metrics = Metrics::default();
        let stat = json!({"mem": {"current": "2"}, "odd": {"current": "NaN"}, "none": {"current": null}});
        let kernels: Vec<_> = (0..KERNELS_SHOWN + 10).map(|_| (KernelId::new(), stat.clone())).collect();
        metrics.show_kernels(kernels.clone());
        let text = metrics.encode();
        assert_eq!(text.matches("quarterdeck_kernel_usage{").count(), KERNELS_SHOWN);
        assert!(text.contains(r#"quarterdeck_kernels_usage{metric="mem"} 1020.0"#), "{text}");
        assert!(!text.contains("odd") && !text.contains("none"));
        metrics.show_kernels(Vec::new());
        assert!(!metrics.encode().contains("quarterdeck_kernel_usage{"));
    }
}
