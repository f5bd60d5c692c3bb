//! Which processors a kernel may use, where nothing else limits their share.

use std::collections::HashMap;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use parking_lot::Mutex;

/// The processors of the node, and which kernels were told to keep to which.
#[derive(Default)]
pub(super) struct Processors {
    all: Vec<usize>,
    given: Mutex<HashMap<String, Vec<usize>>>,
}

impl Processors {
    /// The processors that this process may use.
    pub(super) fn find() -> Self {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_else(|_| CpuSet::new());
        let all = (0..CpuSet::count()).filter(|processor| set.is_set(*processor).unwrap_or_default()).collect();
        Self { all, given: Mutex::default() }
    }

    /// Gives a kernel as many processors as it has cores, those with the fewest kernels; all of them is nothing special
    /// (empty), and so is a kernel without a limit.
    pub(super) fn assign(&self, kernel_id: &str, cores: f64) -> Vec<usize> {
        let count = cores.ceil() as usize;
        if count == 0 || count >= self.all.len() {
            return Vec::new();
        }
        let mut given = self.given.lock();
        let load = |processor: usize| given.values().filter(|taken| taken.contains(&processor)).count();
        let mut order: Vec<(usize, usize)> = self.all.iter().map(|processor| (load(*processor), *processor)).collect();
        order.sort_unstable();
        let chosen: Vec<usize> = order.into_iter().take(count).map(|(_, processor)| processor).collect();
        given.insert(kernel_id.to_owned(), chosen.clone());
        chosen
    }

    /// A kernel ended.
    pub(super) fn release(&self, kernel_id: &str) {
        self.given.lock().remove(kernel_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_are_given() {
        let processors = Processors { all: vec![0, 1, 2, 3], given: Mutex::default() };
        assert_eq!(processors.assign("a", 1.5), [0, 1]);
        assert_eq!(processors.assign("b", 1.0), [2]);
        assert_eq!(processors.assign("c", 1.0), [3]);
        processors.release("a");
        assert_eq!(processors.assign("d", 2.0), [0, 1]);
        assert!(processors.assign("e", 4.0).is_empty() && processors.assign("f", 0.0).is_empty());
    }
}
