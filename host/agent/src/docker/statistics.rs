//! What an engine says that a container used, as kernels' metrics have it.

use bollard::models::ContainerStatsResponse;

use crate::process::stats::Sample;

/// A measurement of a container.
pub(super) fn sample(stats: &ContainerStatsResponse) -> Sample {
    let cpu = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()).and_then(|usage| usage.total_usage);
    let memory = stats.memory_stats.as_ref();
    let used = memory.and_then(|memory| memory.usage).unwrap_or_default();
    // Pages of files that could go at once aren't what the kernel needs. Their name depends on the version of cgroups.
    let cached = memory.and_then(|memory| memory.stats.as_ref()).and_then(|stats| {
        let of = |name: &str| stats.get(name).copied();
        of("total_inactive_file").or_else(|| of("inactive_file"))
    });
    let mut io = [0; 2];
    let blocks = stats.blkio_stats.as_ref().and_then(|blocks| blocks.io_service_bytes_recursive.as_ref());
    for entry in blocks.into_iter().flatten() {
        let value = entry.value.unwrap_or_default();
        match entry.op.as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some("read") => io[0] += value,
            Some("write") => io[1] += value,
            _ => {}
        }
    }
    let net = stats.networks.as_ref().map(|networks| {
        networks.values().fold([0, 0], |sum: [u64; 2], network| {
            [sum[0] + network.rx_bytes.unwrap_or_default(), sum[1] + network.tx_bytes.unwrap_or_default()]
        })
    });
    Sample {
        cpu_ms: cpu.unwrap_or_default() / 1_000_000,
        memory: used.saturating_sub(cached.unwrap_or_default()),
        memory_most: memory.and_then(|memory| memory.max_usage).filter(|most| *most > 0),
        io,
        net,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_understood() {
        let first: ContainerStatsResponse = serde_json::from_value(json!({
            "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000_u64}},
            "memory_stats": {"usage": 1000, "max_usage": 1500, "stats": {"total_inactive_file": 300, "inactive_file": 1}},
            "blkio_stats": {"io_service_bytes_recursive": [
                {"major": 8, "minor": 0, "op": "Read", "value": 10},
                {"major": 8, "minor": 0, "op": "Write", "value": 20},
                {"major": 8, "minor": 0, "op": "Total", "value": 30},
                {"major": 8, "minor": 16, "op": "Read", "value": 5},
            ]},
            "networks": {"eth0": {"rx_bytes": 7, "tx_bytes": 8}, "eth1": {"rx_bytes": 1, "tx_bytes": 1}},
        }))
        .unwrap();
        let expected = Sample { cpu_ms: 2500, memory: 700, memory_most: Some(1500), io: [15, 20], net: Some([8, 9]) };
        assert_eq!(sample(&first), expected);

        let second: ContainerStatsResponse = serde_json::from_value(json!({
            "cpu_stats": {"cpu_usage": {"total_usage": 1_000_000}},
            "memory_stats": {"usage": 1000, "stats": {"inactive_file": 100}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 3}, {"op": "write", "value": 4}]},
        }))
        .unwrap();
        let expected = Sample { cpu_ms: 1, memory: 900, memory_most: None, io: [3, 4], net: None };
        assert_eq!(sample(&second), expected);
        assert_eq!(sample(&ContainerStatsResponse::default()), Sample::default());
    }
}
