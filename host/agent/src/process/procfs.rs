//! Processes as `/proc` shows them: which belong to a kernel, and how to end them all.

use std::collections::{HashMap, HashSet};
use std::path::{Component, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;

/// Each process of a kernel has this in its environment, also one that left the kernel's process groups.
pub(super) const MARK: &str = "BACKENDAI_KERNEL_ID";
/// `/proc` counts processor time in hundredths of a second on every architecture.
const TICK_MS: u64 = 10;
/// Younger processes may still be on their way to their final environment.
const SETTLED: Duration = Duration::from_secs(5);

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    zombie: bool,
    /// Somebody may sit in front of it.
    has_terminal: bool,
    /// Processor time, that of children it waited for included.
    pub(super) cpu_ms: u64,
    /// When it started, in ticks since boot: with the pid, its identity.
    pub(super) start: u64,
}

impl Process {
    pub(super) fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name stands in parentheses and may hold anything.
        let rest = text.get(text.rfind(')')? + 2..)?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |index: usize| fields.get(index - 3)?.parse::<u64>().ok();
        Some(Self {
            pid,
            zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            has_terminal: *fields.get(4)? != "0",
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            cpu_ms: (number(14)? + number(15)? + number(16)? + number(17)?) * TICK_MS,
            start: number(22)?,
        })
    }

    /// Resident memory in bytes.
    pub(super) fn resident(&self) -> u64 {
        field_kib(&format!("/proc/{}/status", self.pid), "VmRSS:")
    }

    /// Bytes read from and written to devices; nothing where that isn't told.
    pub(super) fn io(&self) -> [u64; 2] {
        let text = std::fs::read_to_string(format!("/proc/{}/io", self.pid)).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        [field("read_bytes:").unwrap_or_default(), field("write_bytes:").unwrap_or_default()]
    }

    /// Memory in bytes with shared pages divided among those who share them; slower to find out.
    pub(super) fn proportional(&self) -> u64 {
        field_kib(&format!("/proc/{}/smaps_rollup", self.pid), "Pss:")
    }

    fn mark(&self) -> Option<String> {
        let environ = std::fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        environ.split(|byte| *byte == 0).find_map(|entry| {
            let value = entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
            String::from_utf8(value.to_vec()).ok()
        })
    }
}

pub(super) fn field_kib(path: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// Looks at all processes and remembers whose they are.
#[derive(Default)]
pub(super) struct Scanner {
    /// Where the kernels' directories are, each named by its kernel.
    kernels: PathBuf,
    marks: HashMap<(i32, u64), (Option<String>, Instant)>,
}

impl Scanner {
    /// One that knows kernels by their directories, too.
    pub(super) fn new(kernels: PathBuf) -> Self {
        Self { kernels, marks: HashMap::new() }
    }

    /// The kernel that a process belongs to: by the mark in its environment, else by the directory that it works in.
    /// People at a terminal may look around there.
    fn mark(&self, process: &Process) -> Option<String> {
        process.mark().or_else(|| {
            if process.has_terminal || self.kernels.as_os_str().is_empty() {
                return None;
            }
            let dir = std::fs::read_link(format!("/proc/{}/cwd", process.pid)).ok()?;
            match dir.strip_prefix(&self.kernels).ok()?.components().next()? {
                Component::Normal(name) => name.to_str().map(str::to_owned),
                _ => None,
            }
        })
    }

    /// All processes that run, each with the kernel that it belongs to by its mark, its directory or its descent. What
    /// once belonged to a kernel does so until it ends, whatever it throws away.
    pub(super) fn scan(&mut self) -> Vec<(Process, Option<String>)> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut found: Vec<Process> = pids.filter_map(Process::read).filter(|process| !process.zombie).collect();
        let mut marks: HashMap<(i32, u64), (Option<String>, Instant)> = HashMap::with_capacity(found.len());
        let mut seen = Vec::with_capacity(found.len());
        let starts: HashMap<i32, u64> = found.iter().map(|process| (process.pid, process.start)).collect();
        // Parents before their children.
        found.sort_by_key(|process| process.start);
        for process in found {
            let key = (process.pid, process.start);
            let known = self.marks.remove(&key);
            let (mark, since) = match known {
                Some((Some(mark), since)) => (Some(mark), since),
                Some((None, since)) if since.elapsed() > SETTLED => (None, since),
                Some((None, since)) => (self.mark(&process), since),
                None => (self.mark(&process), Instant::now()),
            };
            let mark = mark.or_else(|| {
                let start = *starts.get(&process.parent).filter(|start| **start <= process.start)?;
                marks.get(&(process.parent, start))?.0.clone()
            });
            marks.insert(key, (mark.clone(), since));
            seen.push((process, mark));
        }
        self.marks = marks;
        seen
    }

    /// The processes of one kernel: by mark, by process group, by session.
    /// Groups that are over are forgotten.
    pub(super) fn members(&mut self, kernel_id: &str, groups: &mut Vec<Group>) -> Vec<Process> {
        let all = self.scan();
        groups.retain(|group| group.lives(&all));
        all.into_iter()
            .filter(|(process, mark)| belongs(process, mark.as_deref(), kernel_id, groups))
            .map(|p| p.0)
            .collect()
    }
}

/// The programs of a sandbox whose outer process is `root`: all that descends from it but the two processes of the agent's
/// own that hold it. Nothing leaves a sandbox: this is all of it.
pub(super) fn programs(root: i32, seen: &[(Process, Option<String>)]) -> Vec<&Process> {
    let mut family = HashSet::from([root]);
    let mut programs = Vec::new();
    // Parents come before their children.
    for (process, _) in seen {
        if family.contains(&process.parent) && family.insert(process.pid) && process.parent != root {
            programs.push(process);
        }
    }
    programs
}

pub(super) fn belongs(process: &Process, mark: Option<&str>, kernel_id: &str, groups: &[Group]) -> bool {
    mark == Some(kernel_id) || groups.iter().any(|group| group.has(process))
}

/// A process group, and the session of the same number, that the agent started. Numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The leader's pid.
    pub(super) id: i32,
    /// When the leader started.
    pub(super) start: u64,
}

impl Group {
    fn has(&self, process: &Process) -> bool {
        self.id == process.group || self.id == process.session
    }

    /// Whether the number still means this group: no other process has it as its pid, and the group never was empty
    /// (the system gives no number away that a group or session still bears). To be asked at each scan.
    pub(super) fn lives(&self, seen: &[(Process, Option<String>)]) -> bool {
        let mut members = seen.iter().map(|(process, _)| process).filter(|process| self.has(process)).peekable();
        members.peek().is_some() && members.all(|process| process.pid != self.id || process.start == self.start)
    }

    /// Signals the group as long as its leader is there.
    pub(super) fn signal(&self, signal: Signal) {
        if Process::read(self.id).is_some_and(|leader| leader.start == self.start) {
            let _ = killpg(Pid::from_raw(self.id), signal);
        }
    }
}

/// Ends all processes of a kernel: asks first, kills what is left after `grace`, returns when none is left.
/// Reads `/proc` again and again: not for an async worker.
pub(super) fn end_all(kernel_id: &str, mut groups: Vec<Group>, grace: Duration, scanner: &Mutex<Scanner>) {
    if scanner.lock().members(kernel_id, &mut groups).is_empty() {
        return;
    }
    for group in &groups {
        // Interactive shells ignore the first and heed the second.
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
            let _ = killpg(Pid::from_raw(group.id), signal);
        }
    }
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    while start.elapsed() < grace {
        if scanner.lock().members(kernel_id, &mut groups).is_empty() {
            return;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    // What forks faster than it is killed has the same limit on processes as everybody.
    for _ in 0..500 {
        let left = scanner.lock().members(kernel_id, &mut groups);
        if left.is_empty() {
            return;
        }
        for group in &groups {
            let _ = killpg(Pid::from_raw(group.id), Signal::SIGKILL);
        }
        for process in left {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    tracing::error!(kernel = kernel_id, "processes of a kernel don't end");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_number_used_again_is_another_group() {
        let me = i32::try_from(std::process::id()).unwrap();
        let process = Process { group: me, ..Process::read(me).unwrap() };
        let group = Group { id: me, start: process.start };
        let (older, other) = (Group { start: 1, ..group }, Group { id: -1, ..group });
        let member = Process { pid: -2, start: 7, ..process.clone() };
        let seen = [(member.clone(), None), (process, None)];
        assert!(group.lives(&seen) && !older.lives(&seen) && !other.lives(&seen));
        assert!(older.lives(&[(member, None)]), "the leader may be gone");
    }

    #[test]
    fn the_programs_of_a_sandbox_descend_from_it() {
        let me = Process::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        let process = |pid, parent| (Process { pid, parent, ..me.clone() }, None);
        let seen = [process(10, 1), process(11, 10), process(20, 1), process(12, 11), process(13, 12), process(21, 20)];
        let pids: Vec<i32> = programs(10, &seen).into_iter().map(|process| process.pid).collect();
        assert_eq!(pids, [12, 13]);
    }

    #[test]
    fn this_process_is_seen() {
        let me = i32::try_from(std::process::id()).unwrap();
        let process = Process::read(me).unwrap();
        assert!(process.start > 0 && process.resident() > 0 && process.proportional() > 0);
        assert!(Scanner::default().scan().iter().any(|(process, mark)| process.pid == me && mark.is_none()));
    }
}
