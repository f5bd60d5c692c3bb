//! What kernels and the node use, measured from `/proc`.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::procfs::{Process, field_kib};

/// What a kernel used up to a moment, as far as the node tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) cpu_ms: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// The most bytes ever, where the system keeps count.
    pub(crate) memory_most: Option<u64>,
    /// Bytes read from and written to devices.
    pub(crate) io: [u64; 2],
    /// Bytes received and sent, where the kernel has a network of its own.
    pub(crate) net: Option<[u64; 2]>,
}

/// What processes use at a moment.
#[derive(Debug, Default)]
pub(super) struct Found {
    cpu_ms: u64,
    memory: u64,
    /// Process and when it started → bytes that it read and wrote.
    io: HashMap<(i32, u64), [u64; 2]>,
}

impl Found {
    /// Looks at them.
    pub(super) fn of(members: &[&Process]) -> Self {
        Self {
            cpu_ms: members.iter().map(|process| process.cpu_ms).sum(),
            memory: members.iter().map(|process| process.resident()).sum(),
            io: members.iter().map(|process| ((process.pid, process.start), process.io())).collect(),
        }
    }
}

/// A number over time.
#[derive(Clone, Copy, Debug, Default)]
struct Series {
    current: f64,
    most: f64,
    sum: f64,
    count: f64,
    /// How much it grew by the second, at last.
    rate: f64,
}

impl Series {
    fn take(&mut self, value: f64, seconds: f64) {
        if seconds > 0.0 {
            self.rate = (value - self.current).max(0.0) / seconds;
        }
        self.current = value;
        self.most = self.most.max(value);
        self.sum += value;
        self.count += 1.0;
    }

    fn mean(&self) -> f64 {
        if self.count > 0.0 { self.sum / self.count } else { 0.0 }
    }
}

/// The measurements of one kernel.
#[derive(Debug)]
pub(super) struct Usage {
    cores: f64,
    memory_limit: u64,
    taken: Instant,
    cpu_ms: u64,
    cpu_pct: Series,
    memory: Series,
    io: [Series; 2],
    net: Option<[Series; 2]>,
    scratch: Series,
    /// Bytes that processes read and wrote: what each had when it was last seen, and the sum of all.
    seen_io: HashMap<(i32, u64), [u64; 2]>,
    io_sum: [u64; 2],
}

impl Usage {
    /// Nothing measured yet; what the kernel may use: cores, and bytes of memory (0 = no limit).
    pub(super) fn new(cores: f64, memory_limit: u64) -> Self {
        Self {
            cores,
            memory_limit,
            taken: Instant::now(),
            cpu_ms: 0,
            cpu_pct: Series::default(),
            memory: Series::default(),
            io: Default::default(),
            net: None,
            scratch: Series::default(),
            seen_io: HashMap::new(),
            io_sum: [0; 2],
        }
    }

    /// How many cores it may use; 0 = no limit.
    pub(super) fn cores(&self) -> f64 {
        self.cores
    }

    /// Bytes of memory that it may use; 0 = no limit.
    pub(super) fn memory_limit(&self) -> u64 {
        self.memory_limit
    }

    /// What its processes use. Those that began and ended between two looks aren't seen.
    pub(super) fn sample(&mut self, found: Found, net: Option<[u64; 2]>) -> Sample {
        for (process, now) in &found.io {
            let before = self.seen_io.get(process).copied().unwrap_or_default();
            for side in 0..2 {
                self.io_sum[side] += now[side].saturating_sub(before[side]);
            }
        }
        self.seen_io = found.io;
        Sample { cpu_ms: found.cpu_ms, memory: found.memory, memory_most: None, io: self.io_sum, net }
    }

    /// Takes a measurement.
    pub(super) fn take(&mut self, sample: Sample) {
        let seconds = self.taken.elapsed().as_secs_f64();
        // Processes that ended without being waited for take their time with them: never count backwards.
        let cpu_ms = sample.cpu_ms.max(self.cpu_ms);
        if seconds >= 0.001 {
            self.cpu_pct.take((cpu_ms - self.cpu_ms) as f64 / seconds / 10.0, seconds);
        }
        self.cpu_ms = cpu_ms;
        self.taken = Instant::now();
        self.memory.take(sample.memory as f64, seconds);
        if let Some(most) = sample.memory_most {
            self.memory.most = self.memory.most.max(most as f64);
        }
        for (series, value) in self.io.iter_mut().zip(sample.io) {
            series.take((value as f64).max(series.current), seconds);
        }
        if let Some(net) = sample.net {
            for (series, value) in self.net.get_or_insert_default().iter_mut().zip(net) {
                series.take((value as f64).max(series.current), seconds);
            }
        }
    }

    /// Whether it had more memory than it may when it was last measured.
    pub(super) fn seems_to_exceed(&self) -> bool {
        self.memory_limit > 0 && self.memory.current > self.memory_limit as f64
    }

    /// Notes how many bytes its files have.
    pub(super) fn note_scratch(&mut self, bytes: u64) {
        self.scratch.take(bytes as f64, 0.0);
    }

    /// The metrics as the API shows them: numbers as texts.
    pub(super) fn to_json(&self) -> Value {
        let whole = |number: f64| format!("{number:.0}");
        let fine = |number: f64| format!("{number:.2}");
        let capacity = (self.memory_limit > 0).then(|| self.memory_limit.to_string());
        let pct = (self.memory_limit > 0).then(|| percent(self.memory.current as u64, self.memory_limit));
        let cores = if self.cores > 0.0 { self.cores } else { 1.0 };
        let flow = |series: &Series| {
            json!({
                "current": whole(series.current),
                "capacity": null,
                "pct": null,
                "unit_hint": "bytes",
                "stats.rate": fine(series.rate),
            })
        };
        let mut metrics = json!({
            "cpu_used": {"current": self.cpu_ms.to_string(), "capacity": null, "pct": null, "unit_hint": "msec"},
            "cpu_util": {
                "current": fine(self.cpu_pct.current),
                "capacity": whole(cores * 100.0),
                "pct": fine(self.cpu_pct.current / cores),
                "unit_hint": "percent",
                "stats.avg": fine(self.cpu_pct.mean()),
                "stats.max": fine(self.cpu_pct.most),
            },
            "mem": {
                "current": whole(self.memory.current),
                "capacity": capacity,
                "pct": pct,
                "unit_hint": "bytes",
                "stats.avg": whole(self.memory.mean()),
                "stats.max": whole(self.memory.most),
            },
            "io_read": flow(&self.io[0]),
            "io_write": flow(&self.io[1]),
            "io_scratch_size": {
                "current": whole(self.scratch.current),
                "capacity": null,
                "pct": null,
                "unit_hint": "bytes",
                "stats.max": whole(self.scratch.most),
            },
        });
        if let Some([received, sent]) = &self.net {
            metrics["net_rx"] = flow(received);
            metrics["net_tx"] = flow(sent);
        }
        metrics
    }
}

/// Bytes received and sent in the network of a process.
pub(super) fn network_of(pid: i32) -> Option<[u64; 2]> {
    Some(traffic(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?))
}

/// Adds up the interfaces of a `/proc/net/dev`.
fn traffic(text: &str) -> [u64; 2] {
    let mut sum = [0; 2];
    for line in text.lines().filter_map(|line| line.split_once(':')) {
        let numbers: Vec<u64> = line.1.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        sum[0] += numbers.first().copied().unwrap_or_default();
        sum[1] += numbers.get(8).copied().unwrap_or_default();
    }
    sum
}

/// Bytes of the files below a directory, as the disk holds them; at most so many files are looked at.
pub(super) fn size_of(dir: &Path, most: usize) -> u64 {
    let (mut size, mut left, mut dirs) = (0, most, vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if left == 0 {
                return size;
            }
            left -= 1;
            // Links aren't followed: what they lead to isn't the kernel's.
            let Ok(meta) = entry.metadata() else { continue };
            size += meta.blocks() * 512;
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    size
}

/// The measurements of the node.
#[derive(Debug, Default)]
pub(super) struct Node {
    busy: u64,
    total: u64,
    cpu_pct: f64,
    taken: Option<Instant>,
    net: [Series; 2],
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
        let seconds = self.taken.map_or(0.0, |taken| taken.elapsed().as_secs_f64());
        self.taken = Some(Instant::now());
        // Without the loopback: that is no traffic of the node.
        let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("lo:")).collect();
        for (series, value) in self.net.iter_mut().zip(traffic(&lines.join("\n"))) {
            series.take(value as f64, seconds);
        }
    }

    fn flow(&self, side: usize) -> Value {
        let series = &self.net[side];
        json!({
            "current": format!("{:.0}", series.current),
            "capacity": null,
            "pct": null,
            "unit_hint": "bytes",
            "stats.rate": format!("{:.2}", series.rate),
        })
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
                "net_rx": self.flow(0),
                "net_tx": self.flow(1),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_told_as_texts_and_never_run_backwards() {
        let mut usage = Usage::new(2.0, 1000);
        usage.taken = Instant::now().checked_sub(std::time::Duration::from_secs(1)).unwrap();
        let sample = Sample { cpu_ms: 500, memory: 800, memory_most: Some(900), io: [10, 20], net: Some([1, 2]) };
        usage.take(sample);
        usage.take(Sample { cpu_ms: 400, memory: 200, io: [5, 5], net: Some([0, 0]), ..sample });
        usage.note_scratch(4096);
        usage.note_scratch(512);
        let told = usage.to_json();
        assert_eq!(told["cpu_used"]["current"], "500");
        assert_eq!((&told["mem"]["current"], &told["mem"]["pct"]), (&json!("200"), &json!("20.00")));
        assert_eq!((&told["mem"]["stats.max"], &told["mem"]["stats.avg"]), (&json!("900"), &json!("500")));
        assert_eq!((&told["io_write"]["current"], &told["net_tx"]["current"]), (&json!("20"), &json!("2")));
        assert_eq!(told["io_scratch_size"]["stats.max"], "4096");
        assert!(told["cpu_util"]["stats.max"].as_str().unwrap().parse::<f64>().unwrap() > 45.0, "{told}");
        for metric in told.as_object().unwrap().values() {
            assert!(metric["unit_hint"].is_string() && metric["current"].is_string());
        }
    }

    #[test]
    fn interfaces_and_files_are_added_up() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 10 1 0 0 0 0 0 0 20 1 0\n  eth0: 5 1 0 0 0 0 0 0 7 1 0\n";
        assert_eq!(traffic(text), [15, 27]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![b'x'; 100_000]).unwrap();
        assert!(size_of(dir.path(), 100) >= 100_000);
        assert!(size_of(dir.path(), 1) < 100_000);
    }
}
