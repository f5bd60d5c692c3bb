//! NVIDIA's devices: which the node has, and which kernel has which.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use parking_lot::Mutex;
use serde_json::{Value, json};

/// The slot that counts devices.
pub(super) const SLOT: &str = "cuda.device";
const DRIVER: &str = "/proc/driver/nvidia/gpus";

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gpu {
    /// As the driver names it: `GPU-…`.
    pub(super) id: String,
    pub(super) model: String,
}

/// The node's devices.
#[derive(Default)]
pub(crate) struct Gpus {
    all: Vec<Gpu>,
    /// Kernel → what it has.
    given: Mutex<HashMap<String, Vec<String>>>,
}

impl Gpus {
    /// The devices that the driver tells of.
    pub(crate) fn find() -> Self {
        Self::among(listed(Path::new(DRIVER)))
    }

    pub(super) fn among(all: Vec<Gpu>) -> Self {
        Self { all, given: Mutex::default() }
    }

    pub(super) fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// What they are, for people.
    pub(crate) fn models(&self) -> Vec<&str> {
        self.all.iter().map(|gpu| gpu.model.as_str()).collect()
    }

    /// Gives a kernel that many devices.
    pub(super) fn take(&self, kernel_id: &str, count: usize) -> Result<Vec<String>, String> {
        let mut given = self.given.lock();
        given.remove(kernel_id);
        let free = self.all.iter().filter(|gpu| !given.values().flatten().any(|id| *id == gpu.id));
        let taken: Vec<String> = free.take(count).map(|gpu| gpu.id.clone()).collect();
        if taken.len() < count {
            return Err(format!("{count} devices were asked for ({SLOT}), and {} are free", taken.len()));
        }
        if count > 0 {
            given.insert(kernel_id.to_owned(), taken.clone());
        }
        Ok(taken)
    }

    /// A kernel has those already.
    pub(super) fn restore(&self, kernel_id: &str, ids: Vec<String>) {
        if !ids.is_empty() {
            self.given.lock().insert(kernel_id.to_owned(), ids);
        }
    }

    /// A kernel ended.
    pub(super) fn release(&self, kernel_id: &str) {
        self.given.lock().remove(kernel_id);
    }

    /// Devices as reports have them.
    pub(super) fn attached(&self, ids: &[String]) -> Value {
        if ids.is_empty() {
            return json!({});
        }
        let model = |id: &String| self.all.iter().find(|gpu| gpu.id == *id).map_or("", |gpu| gpu.model.as_str());
        let list: Vec<Value> =
            ids.iter().map(|id| json!({"device_id": id, "model_name": model(id), "data": {}})).collect();
        json!({"cuda": list})
    }
}

fn listed(dir: &Path) -> Vec<Gpu> {
    let mut found: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path().join("information")).collect();
    found.sort();
    found.iter().filter_map(|path| described(&fs::read_to_string(path).ok()?)).collect()
}

fn described(text: &str) -> Option<Gpu> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':')).map(|value| value.trim())
    };
    Some(Gpu { id: field("GPU UUID")?.to_owned(), model: field("Model").unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_drivers_words_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("0000:17:00.0")).unwrap();
        let text = "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 48\nGPU UUID: \t GPU-0f1e\nVideo BIOS: x\n";
        fs::write(dir.path().join("0000:17:00.0/information"), text).unwrap();
        let expected = Gpu { id: "GPU-0f1e".into(), model: "NVIDIA A100-SXM4-40GB".into() };
        assert_eq!(listed(dir.path()), [expected]);
        assert!(listed(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn a_device_has_one_kernel() {
        let gpu = |id: &str| Gpu { id: id.into(), model: "m".into() };
        let gpus = Gpus::among(vec![gpu("a"), gpu("b"), gpu("c")]);
        gpus.restore("old", vec!["b".into()]);
        assert_eq!(gpus.take("k", 2).unwrap(), ["a", "c"]);
        assert!(gpus.take("l", 1).unwrap_err().contains("0 are free"));
        assert_eq!(gpus.attached(&["a".into()])["cuda"][0]["device_id"], "a");
        gpus.release("old");
        assert_eq!(gpus.take("l", 1).unwrap(), ["b"]);
        assert!(gpus.take("m", 0).unwrap().is_empty());
    }
}
