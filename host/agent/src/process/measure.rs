//! Looks at kernels while they run: what they use, whether that is more than they may, and how large their files are.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use super::cgroup::Used;
use super::kernel::Handle;
use super::procfs::{Process, belongs, programs};
use super::stats;
use crate::sandbox::Network;

/// How often kernels are measured (and their memory limit looked after).
const WATCH: Duration = Duration::from_millis(500);
/// How often the files of kernels are added up.
const WEIGH: Duration = Duration::from_secs(15);
/// How many files such a sum looks at.
const FILES: usize = 200_000;

/// Measures all kernels of a runtime for as long as it exists.
pub(super) async fn watch(runtime: Weak<Inner>) {
    loop {
        tokio::time::sleep(WATCH).await;
        let Some(inner) = runtime.upgrade() else { return };
        let kernels = inner.all();
        if !kernels.is_empty() && tokio::task::spawn_blocking(move || look(&inner, kernels)).await.is_err() {
            return;
        }
    }
}

/// Adds up the files of all kernels for as long as the runtime exists. A disk may be slow: nothing else waits for it.
pub(super) async fn weigh(runtime: Weak<Inner>) {
    loop {
        let Some(inner) = runtime.upgrade() else { return };
        let kernels = inner.all();
        let sum = move || {
            for (id, kernel) in kernels {
                let dir = inner.home.kernel(&id);
                let size = stats::size_of(&dir.join("work"), FILES) + stats::size_of(&dir.join("tmp"), FILES);
                kernel.usage.lock().note_scratch(size);
            }
        };
        if tokio::task::spawn_blocking(sum).await.is_err() {
            return;
        }
        tokio::time::sleep(WEIGH).await;
    }
}

/// One look at all kernels. Where the account of a control group has everything, the list of processes isn't read.
fn look(inner: &Inner, kernels: Vec<(String, Arc<Handle>)>) {
    let mut others = Vec::new();
    for (id, kernel) in kernels {
        let used = kernel.control_group().map(|group| group.used());
        match used {
            Some(used) if inner.accounts_for_all(&used) => measure(inner, &kernel, Some(used), &[]),
            used => others.push((id, kernel, used)),
        }
    }
    if others.is_empty() {
        return;
    }
    // Groups that start after this are not in what is seen.
    let groups: Vec<_> = others.iter().map(|(_, kernel, _)| kernel.groups()).collect();
    let seen = inner.scanner.lock().scan();
    for ((id, kernel, used), groups) in others.into_iter().zip(groups) {
        let (groups, over): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.lives(&seen));
        kernel.forget_groups(&over);
        let belongs = |(process, mark): &&(Process, Option<String>)| belongs(process, mark.as_deref(), &id, &groups);
        let members: Vec<&Process> = match kernel.root() {
            Some(root) => programs(root, &seen),
            None => seen.iter().filter(belongs).map(|(process, _)| process).collect(),
        };
        measure(inner, &kernel, used, &members);
    }
}

impl Inner {
    /// Whether nothing has to be found out from the processes themselves.
    fn accounts_for_all(&self, used: &Used) -> bool {
        let has_memory = self.groups.as_ref().is_ok_and(|groups| groups.has("memory"));
        has_memory && used.cpu_ms.is_some() && used.memory.is_some() && used.io.is_some()
    }
}

/// Measures one kernel, and ends it when it has more memory than it may. The system is asked before anything is locked:
/// whoever wants to know what was measured doesn't wait for it.
fn measure(inner: &Inner, kernel: &Handle, used: Option<Used>, members: &[&Process]) {
    let has_network = inner.isolation.as_ref().is_ok_and(|isolation| isolation.network() == Network::None);
    let net = kernel.root().filter(|_| has_network).and_then(stats::network_of);
    let found = stats::Found::of(members);
    let (limit, seems_to_exceed) = {
        let mut usage = kernel.usage.lock();
        let mut sample = usage.sample(found, net);
        if let Some(used) = &used {
            sample.cpu_ms = used.cpu_ms.unwrap_or(sample.cpu_ms);
            sample.memory = used.memory.unwrap_or(sample.memory);
            sample.memory_most = used.memory_most;
            sample.io = used.io.unwrap_or(sample.io);
        }
        usage.take(sample);
        (usage.memory_limit(), usage.seems_to_exceed())
    };
    if used.is_some_and(|used| used.out_of_memory > 0) {
        return kernel.out_of_memory(limit);
    }
    let limited = used.is_some() && inner.groups.as_ref().is_ok_and(|groups| groups.has("memory"));
    if seems_to_exceed && !limited {
        // Pages shared between processes were counted for each of them: look closer before it costs a kernel its life.
        let really = members.iter().map(|process| process.proportional()).sum::<u64>();
        if really > limit {
            kernel.out_of_memory(really);
        }
    }
}
