//! What kernels and the node use, measured from `/proc`.

use std::time::Instant;

use serde_json::{Value, json};

use super::procfs::{Process, field_kib};

/// The measurements of one kernel.
#[derive(Debug)]
pub(super) struct Usage {
    cores: f64,
    memory_limit: u64,
    taken: Instant,
    cpu_ms: u64,
    cpu_pct: f64,
    cpu_pct_most: f64,
    resident: u64,
    resident_most: u64,
}

impl Usage {
    /// Nothing measured yet; what the kernel may use: cores, and bytes of memory (0 = no limit).
    pub(super) fn new(cores: f64, memory_limit: u64) -> Self {
        let taken = Instant::now();
        Self { cores, memory_limit, taken, cpu_ms: 0, cpu_pct: 0.0, cpu_pct_most: 0.0, resident: 0, resident_most: 0 }
    }

    /// Takes a measurement. Answers how many bytes the kernel really uses when that is too much.
    pub(super) fn take(&mut self, members: &[&Process]) -> Option<u64> {
        // Processes that ended without being waited for take their time with them: never count backwards.
        let cpu_ms = members.iter().map(|process| process.cpu_ms).sum::<u64>().max(self.cpu_ms);
        let elapsed = self.taken.elapsed().as_secs_f64() * 1000.0;
        if elapsed >= 1.0 {
            self.cpu_pct = (cpu_ms - self.cpu_ms) as f64 / elapsed * 100.0;
            self.cpu_pct_most = self.cpu_pct_most.max(self.cpu_pct);
        }
        self.cpu_ms = cpu_ms;
        self.taken = Instant::now();
        self.resident = members.iter().map(|process| process.resident()).sum();
        self.resident_most = self.resident_most.max(self.resident);
        if self.memory_limit == 0 || self.resident <= self.memory_limit {
            return None;
        }
        // Pages shared between processes were counted for each of them: look closer before it costs a kernel its life.
        let used = members.iter().map(|process| process.proportional()).sum::<u64>();
        (used > self.memory_limit).then_some(used)
    }

    /// The metrics as the API shows them: numbers as texts.
    pub(super) fn to_json(&self) -> Value {
        let capacity = (self.memory_limit > 0).then(|| self.memory_limit.to_string());
        let pct = (self.memory_limit > 0).then(|| percent(self.resident, self.memory_limit));
        let cores = if self.cores > 0.0 { self.cores } else { 1.0 };
        json!({
            "cpu_used": {"current": self.cpu_ms.to_string(), "capacity": null, "pct": null, "unit_hint": "msec"},
            "cpu_util": {
                "current": format!("{:.2}", self.cpu_pct),
                "capacity": format!("{:.0}", cores * 100.0),
                "pct": format!("{:.2}", self.cpu_pct / cores),
                "unit_hint": "percent",
                "stats.max": format!("{:.2}", self.cpu_pct_most),
            },
            "mem": {
                "current": self.resident.to_string(),
                "capacity": capacity,
                "pct": pct,
                "unit_hint": "bytes",
                "stats.max": self.resident_most.to_string(),
            },
        })
    }
}

/// The measurements of the node.
#[derive(Debug, Default)]
pub(super) struct Node {
    busy: u64,
    total: u64,
    cpu_pct: f64,
}

impl Node {
    /// Takes a measurement.
    pub(super) fn take(&mut self) {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let total: u64 = ticks.iter().take(8).sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        let busy = total.saturating_sub(idle);
        if total > self.total {
            self.cpu_pct = busy.saturating_sub(self.busy) as f64 / (total - self.total) as f64 * 100.0 * cores() as f64;
        }
        (self.busy, self.total) = (busy, total);
    }

    /// The metrics as the API shows them.
    pub(super) fn to_json(&self) -> Value {
        let (total, free) = (memory(), field_kib("/proc/meminfo", "MemAvailable:"));
        let used = total.saturating_sub(free);
        json!({
            "node": {
                "cpu_util": {
                    "current": format!("{:.2}", self.cpu_pct),
                    "capacity": (cores() * 100).to_string(),
                    "pct": format!("{:.2}", self.cpu_pct / cores() as f64),
                    "unit_hint": "percent",
                },
                "mem": {
                    "current": used.to_string(),
                    "capacity": total.to_string(),
                    "pct": percent(used, total),
                    "unit_hint": "bytes",
                },
            },
            "devices": {},
        })
    }
}

/// How many processors this process may use.
pub(super) fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

/// The node's memory in bytes.
pub(super) fn memory() -> u64 {
    field_kib("/proc/meminfo", "MemTotal:")
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.2}", if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 })
}
