//! Control groups (version 2): limits that the system itself keeps, and what a kernel used by its own account.
//!
//! The agent needs a part of the tree for itself: as root anywhere, else one that was delegated to it (by systemd, with
//! `Delegate=yes`). Where it has none, kernels are measured from `/proc` and their memory is looked after.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What is mounted where, as this process sees it.
const MOUNTS: &str = "/proc/self/mounts";
/// What the agent wants to control; it takes what there is.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// The period of the processor's limit, in microseconds.
const PERIOD: u64 = 100_000;

/// The agent's part of the tree.
#[derive(Debug)]
pub(crate) struct ControlGroups {
    kernels: PathBuf,
    controllers: Vec<String>,
}

/// One kernel's group.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    dir: PathBuf,
}

/// What a kernel may use; 0 = no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Thousandths of a processor.
    pub(crate) millicores: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Processes and threads.
    pub(crate) processes: u64,
}

/// What a group used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) memory: Option<u64>,
    pub(crate) memory_most: Option<u64>,
    pub(crate) io: Option<[u64; 2]>,
    /// Times that the system ended a process for want of memory.
    pub(crate) out_of_memory: u64,
}

impl ControlGroups {
    /// Finds (and arranges) a part of the tree for the kernels of the agent with this home, or tells what is missing.
    pub(crate) fn find(home: &Path) -> Result<Self, String> {
        let (tree, own) = place()?;
        Self::at(&tree, &own, &name_of(home)?, std::process::id())
    }

    /// Which controllers an agent started here could use, without arranging anything; else what is missing.
    pub(crate) fn offered() -> Result<Vec<String>, String> {
        let (tree, own) = place()?;
        let base = tree.join(own.trim_start_matches('/'));
        let controllers = controllers(&tree, &base)?;
        let control = base.join("cgroup.subtree_control");
        match nix::unistd::access(&control, nix::unistd::AccessFlags::W_OK) {
            Ok(()) => Ok(controllers),
            Err(error) => Err(format!("{} can't be written: {error}", control.display())),
        }
    }

    /// As [`ControlGroups::find`], in a given tree, for a process in the group `own` of it. `name`: of the agent's part.
    fn at(tree: &Path, own: &str, name: &str, pid: u32) -> Result<Self, String> {
        let base = tree.join(own.trim_start_matches('/'));
        let controllers = controllers(tree, &base)?;
        let denied = |what: &'static str| {
            let base = base.display().to_string();
            move |error: io::Error| format!("{base} isn't the agent's to arrange ({what}: {error})")
        };
        // Groups with processes in them can't have groups with limits below: the agent goes to one of its own.
        if !own.trim_matches('/').is_empty() {
            let mine = base.join("agent");
            fs::create_dir_all(&mine).map_err(denied("making a group"))?;
            fs::write(mine.join("cgroup.procs"), pid.to_string()).map_err(denied("moving into it"))?;
        }
        let wanted: String = controllers.iter().map(|name| format!("+{name} ")).collect();
        fs::write(base.join("cgroup.subtree_control"), wanted.trim_end()).map_err(denied("giving controllers on"))?;
        let kernels = base.join(name);
        fs::create_dir_all(&kernels).map_err(denied("making a group"))?;
        fs::write(kernels.join("cgroup.subtree_control"), wanted.trim_end())
            .map_err(denied("giving controllers on"))?;
        // What an earlier start of the agent left: its processes are gone.
        for left in fs::read_dir(&kernels).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            ControlGroup { dir: left.path() }.end();
        }
        Ok(Self { kernels, controllers })
    }

    /// Removes the agent's part of the tree, unless there are kernels in it.
    pub(crate) fn give_back(&self) {
        let _ = fs::remove_dir(&self.kernels);
    }

    /// The controllers that kernels have.
    pub(crate) fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Whether kernels have that controller.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }

    /// Makes the group of a kernel.
    pub(crate) fn make(&self, kernel_id: &str, limits: Limits) -> io::Result<ControlGroup> {
        let group = ControlGroup { dir: self.kernels.join(kernel_id) };
        fs::create_dir_all(&group.dir)?;
        if self.has("cpu") && limits.millicores > 0 {
            group.set("cpu.max", &format!("{} {PERIOD}", limits.millicores.saturating_mul(PERIOD) / 1000))?;
        }
        if self.has("memory") && limits.memory > 0 {
            group.set("memory.max", &limits.memory.to_string())?;
            // Whole, or not at all: half a kernel is of no use. Not every system knows these.
            let _ = group.set("memory.oom.group", "1");
            let _ = group.set("memory.swap.max", "0");
        }
        if self.has("pids") && limits.processes > 0 {
            group.set("pids.max", &limits.processes.to_string())?;
        }
        Ok(group)
    }
}

/// What an agent's part of the tree is called. The node may have agents of several servers under one name, and what an
/// agent finds in its part when it starts it ends.
fn name_of(home: &Path) -> Result<String, String> {
    let id = home.file_name().and_then(|name| name.to_str()).ok_or("the agent has no name")?;
    let found = fs::metadata(home).map_err(|error| format!("{}: {error}", home.display()))?;
    Ok(format!("quarterdeck-{id}-{:x}-{:x}", found.dev(), found.ino()))
}

/// Where the tree is mounted, and which group of it this process is in.
fn place() -> Result<(PathBuf, String), String> {
    const NONE: &str = "the system has no control groups 2";
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path} can't be read: {error}"));
    let own = read("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or(NONE)?;
    Ok((mounted(&read(MOUNTS)?).ok_or(NONE)?, own.to_owned()))
}

/// The first tree among mounts. Systems that have both versions mount this one beside the others of the first.
fn mounted(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

fn controllers(tree: &Path, base: &Path) -> Result<Vec<String>, String> {
    let available = fs::read_to_string(base.join("cgroup.controllers"))
        .map_err(|_| format!("no control groups of version 2 at {}", tree.display()))?;
    let has = |name: &&str| available.split_whitespace().any(|one| one == *name);
    let controllers: Vec<String> = CONTROLLERS.into_iter().filter(has).map(str::to_owned).collect();
    match controllers.is_empty() {
        true => Err(format!("no controller may be used in {}", base.display())),
        false => Ok(controllers),
    }
}

impl ControlGroup {
    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        fs::write(self.dir.join(name), value)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(name)).ok()
    }

    /// Takes a process in.
    pub(crate) fn join(&self, pid: i32) -> io::Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// What it used so far.
    pub(crate) fn used(&self) -> Used {
        let field = |name: &str, field: &str| -> Option<u64> {
            let text = self.read(name)?;
            text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(' ')?.trim().parse().ok())
        };
        let number = |name: &str| self.read(name)?.trim().parse::<u64>().ok();
        // Files that were read and may go at any time aren't what a kernel needs.
        let cached = field("memory.stat", "inactive_file").unwrap_or_default();
        let io = self.read("io.stat").map(|text| {
            let sum = |key: &str| {
                let words = text.split_whitespace();
                words.filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum::<u64>()
            };
            [sum("rbytes="), sum("wbytes=")]
        });
        Used {
            cpu_ms: field("cpu.stat", "usage_usec").map(|micros| micros / 1000),
            memory: number("memory.current").map(|bytes| bytes.saturating_sub(cached)),
            memory_most: number("memory.peak"),
            io,
            out_of_memory: field("memory.events", "oom_kill").unwrap_or_default(),
        }
    }

    /// Ends all processes in it and removes it.
    pub(crate) fn end(&self) {
        // Not every system has this; whoever made the group has ended its processes in another way, too.
        let _ = self.set("cgroup.kill", "1");
        for _ in 0..50 {
            match fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
        tracing::warn!(group = %self.dir.display(), "a control group can't be removed");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(controllers: &str) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("unit.service")).unwrap();
        fs::write(tree.path().join("unit.service/cgroup.controllers"), controllers).unwrap();
        tree
    }

    #[test]
    fn limits_are_written_as_the_system_reads_them() {
        let tree = tree("cpuset cpu io memory pids\n");
        let groups = ControlGroups::at(tree.path(), "/unit.service", "quarterdeck-i-1", 77).unwrap();
        let read = |path: &str| fs::read_to_string(tree.path().join("unit.service").join(path)).unwrap();
        assert_eq!(groups.controllers(), ["cpu", "memory", "pids", "io"]);
        assert_eq!(read("agent/cgroup.procs"), "77");
        assert_eq!(read("cgroup.subtree_control"), "+cpu +memory +pids +io");
        assert_eq!(read("quarterdeck-i-1/cgroup.subtree_control"), "+cpu +memory +pids +io");
        let limits = Limits { millicores: 1500, memory: 64 << 20, processes: 100 };
        let group = groups.make("k", limits).unwrap();
        group.join(4242).unwrap();
        for (file, text) in [
            ("cpu.max", "150000 100000"),
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("pids.max", "100"),
            ("cgroup.procs", "4242"),
        ] {
            assert_eq!(read(&format!("quarterdeck-i-1/k/{file}")), text, "{file}");
        }
        let unlimited = groups.make("free", Limits::default()).unwrap();
        assert!(!unlimited.dir.join("cpu.max").exists() && !unlimited.dir.join("memory.max").exists());
    }

    #[test]
    fn usage_is_read() {
        let tree = tree("cpu memory io");
        let groups = ControlGroups::at(tree.path(), "/unit.service", "quarterdeck-i-1", 77).unwrap();
        let group = groups.make("k", Limits::default()).unwrap();
        assert_eq!(group.used(), Used::default());
        for (file, text) in [
            ("cpu.stat", "usage_usec 2500000\nuser_usec 2000000\n"),
            ("memory.current", "1000000\n"),
            ("memory.peak", "3000000\n"),
            ("memory.stat", "anon 5\ninactive_file 400000\n"),
            ("memory.events", "low 0\noom 1\noom_kill 2\n"),
            ("io.stat", "8:0 rbytes=100 wbytes=20 rios=1\n253:0 rbytes=11 wbytes=3\n"),
        ] {
            fs::write(group.dir.join(file), text).unwrap();
        }
        let wanted = Used {
            cpu_ms: Some(2500),
            memory: Some(600_000),
            memory_most: Some(3_000_000),
            io: Some([111, 23]),
            out_of_memory: 2,
        };
        assert_eq!(group.used(), wanted);
    }

    #[test]
    fn agents_of_one_name_have_parts_of_their_own() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let home = |server: &tempfile::TempDir| {
            let home = server.path().join("i-1");
            fs::create_dir_all(&home).unwrap();
            name_of(&home).unwrap()
        };
        assert!(home(&one).starts_with("quarterdeck-i-1-"), "{}", home(&one));
        assert_eq!(home(&one), home(&one));
        assert_ne!(home(&one), home(&other));
        assert!(name_of(Path::new("/")).is_err());
    }

    #[test]
    fn an_empty_part_is_given_back() {
        let tree = tree("cpu");
        let part = tree.path().join("unit.service/quarterdeck-i-1");
        let groups = ControlGroups::at(tree.path(), "/unit.service", "quarterdeck-i-1", 77).unwrap();
        assert!(part.is_dir());
        // Elsewhere the system's own files are in it, which go by themselves.
        fs::remove_file(part.join("cgroup.subtree_control")).unwrap();
        groups.give_back();
        assert!(!part.exists());
    }

    #[test]
    fn the_tree_is_where_it_is_mounted() {
        let old = "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        assert_eq!(mounted(old), None);
        let both = format!("{old}cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n");
        assert_eq!(mounted(&both), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn what_is_missing_is_told() {
        let bare = tempfile::tempdir().unwrap();
        assert!(ControlGroups::at(bare.path(), "/", "quarterdeck-i", 1).unwrap_err().contains("version 2"));
        let empty = tree("\n");
        assert!(
            ControlGroups::at(empty.path(), "/unit.service", "quarterdeck-i", 1).unwrap_err().contains("no controller")
        );
        let tree = tree("cpu");
        fs::create_dir(tree.path().join("unit.service/cgroup.subtree_control")).unwrap();
        let error = ControlGroups::at(tree.path(), "/unit.service", "quarterdeck-i", 1).unwrap_err();
        assert!(error.contains("isn't the agent's to arrange"), "{error}");
    }
}
