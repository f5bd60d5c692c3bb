//! Looking after kernels in containers: what they use, and whether they are still there.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use super::{Inner, stats};

/// How often containers are measured: their engine is asked for each.
const MEASURE: Duration = Duration::from_secs(2);
/// How many looks in a row a container must be missing before its kernel ends: an engine may be starting.
const MISSING: u32 = 2;

/// How a container is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Condition {
    /// It runs, and used that much.
    Runs(stats::Sample),
    /// Programs of it were ended because it has no more memory.
    OutOfMemory,
    /// It doesn't run.
    Gone,
    /// Its engine doesn't say.
    Unknown,
}

/// Measures all kernels of a runtime for as long as it exists.
pub(super) async fn measure(runtime: Weak<Inner>) {
    let mut missing: HashMap<String, u32> = HashMap::new();
    loop {
        tokio::time::sleep(MEASURE).await;
        let Some(inner) = runtime.upgrade() else { return };
        let Some(containers) = inner.containers.clone() else { return };
        let mut kernels = inner.all();
        kernels.retain(|(_, kernel)| kernel.state() == "running");
        missing.retain(|id, _| kernels.iter().any(|(known, _)| known == id));
        for (id, kernel) in kernels {
            match containers.condition(&id).await {
                Condition::Gone => {
                    let looks = missing.entry(id.clone()).or_default();
                    *looks += 1;
                    if *looks >= MISSING {
                        tracing::warn!(kernel = id, "a kernel's container ended");
                        kernel.end("self-terminated");
                    }
                    continue;
                }
                Condition::Runs(sample) => kernel.usage.lock().take(sample),
                Condition::OutOfMemory => {
                    let limit = kernel.usage.lock().memory_limit();
                    kernel.out_of_memory(limit);
                }
                Condition::Unknown => {}
            }
            missing.remove(&id);
        }
    }
}
