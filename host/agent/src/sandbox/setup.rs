//! How a process puts itself in a sandbox: namespaces, file tree, rights.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, setgroups, sethostname, setresgid, setresuid};

use super::netlink::{LOOPBACK, Netlink};
use super::network::INTERFACE;
use super::plan::{Entry, Plan, WORKER, What};
use super::{filter, sys};

/// What went wrong, and at what.
pub(super) type Outcome<T> = Result<T, String>;

/// For `map_err`: names what was tried.
pub(super) fn at<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Open files, for each program.
const OPEN_FILES: u64 = 65536;
/// Kernels yield to the agent.
const NICENESS: i32 = 5;
/// When memory runs out, kernels go before the agent does.
const OUT_OF_MEMORY_SCORE: &str = "500";
/// Room for the directories, links and small files of the tree itself.
const TREE_SIZE: &std::ffi::CStr = c"8m";
/// Where the tree is put together. It covers what is there in this sandbox alone.
const STAGE: [&str; 3] = ["/tmp", "/mnt", "/var"];

/// The mounts of the node's own tree, opened: one for each [`What::Bind`] in the plan's order.
pub(super) fn open_binds(plan: &Plan, maps: &[OwnedFd]) -> Outcome<Vec<OwnedFd>> {
    let mut binds = Vec::new();
    for entry in &plan.entries {
        let What::Bind { source, read_only, mapped_by, devices } = &entry.what else { continue };
        let name = source.display();
        let path = c_path(source)?;
        // Below a mount of a user namespace, what is mounted inside can't be left out. Owners are translated on one.
        let deep = mapped_by.is_none();
        let fd = sys::open_tree(&path, deep).map_err(at(format!("opening {name}")))?;
        let mut attributes = sys::NO_SUID;
        if *read_only {
            attributes |= sys::READ_ONLY;
        }
        if !devices {
            attributes |= sys::NO_DEVICES;
        }
        let userns = match mapped_by {
            Some(index) => Some(maps.get(*index).ok_or_else(|| format!("no map for {name}"))?.as_fd()),
            None => None,
        };
        sys::set_mount(fd.as_fd(), attributes, deep, userns).map_err(at(format!("restricting {name}")))?;
        binds.push(fd);
    }
    Ok(binds)
}

/// Leaves the node's namespaces. The process ids of children are new ones; this process keeps its own.
pub(super) fn leave(own_network: bool) -> Outcome<()> {
    let mut flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if own_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(at("new namespaces"))
}

/// Goes to a user namespace that is there already: the next one is made inside it.
pub(super) fn enter_users(users: &OwnedFd) -> Outcome<()> {
    setns(users, CloneFlags::CLONE_NEWUSER).map_err(at("entering the session's namespace"))
}

/// In a namespace that was made by the user that programs run as: stays that user.
pub(super) fn stay_worker() -> Outcome<()> {
    let line = format!("{WORKER} {WORKER} 1\n");
    for (map, text) in [("setgroups", "deny"), ("gid_map", line.as_str()), ("uid_map", line.as_str())] {
        fs::write(format!("/proc/self/{map}"), text).map_err(at(format!("mapping users ({map})")))?;
    }
    Ok(())
}

/// Becomes the user that programs run as. Rights in the new namespaces stay for now.
pub(super) fn become_worker() -> Outcome<()> {
    prctl::set_keepcaps(true).map_err(at("keeping capabilities"))?;
    // Refused where the agent is an ordinary user: it can't give up groups.
    let _ = setgroups(&[]);
    let (uid, gid) = (Uid::from_raw(WORKER), Gid::from_raw(WORKER));
    setresgid(gid, gid, gid).map_err(at("the group"))?;
    setresuid(uid, uid, uid).map_err(at("the user"))?;
    // Another user's process is closed to itself, else.
    prctl::set_dumpable(true).map_err(at("opening itself"))
}

/// Puts the file tree together and makes it the root.
pub(super) fn build(plan: &Plan, binds: &[OwnedFd]) -> Outcome<()> {
    umask(Mode::from_bits_truncate(0o022));
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(at("taking mounts apart"))?;
    // The system shows a process list only to those who can see one already: before the old tree goes.
    let safe = sys::NO_SUID | sys::NO_DEVICES | sys::NO_EXEC;
    let processes = sys::new_mount(c"proc", &[], safe).map_err(at("mounting the process list"))?;
    let tree = sys::new_mount(c"tmpfs", &[(c"mode", c"0755"), (c"size", TREE_SIZE)], sys::NO_SUID | sys::NO_DEVICES)
        .map_err(at("mounting memory"))?;
    let stage = STAGE.into_iter().find(|path| Path::new(path).is_dir()).ok_or("no place to build a tree at")?;
    sys::move_mount(tree.as_fd(), &c_path(Path::new(stage))?).map_err(at("attaching the tree"))?;
    std::env::set_current_dir(stage).map_err(at("entering the tree"))?;
    rustix::process::pivot_root(".", ".").map_err(at("changing the root"))?;
    // Both stand at the same place now, the old one on top.
    umount2(".", MntFlags::MNT_DETACH).map_err(at("leaving the old root"))?;
    std::env::set_current_dir("/").map_err(at("entering the root"))?;

    let mut binds = binds.iter();
    for entry in &plan.entries {
        let place = || format!("making {}", entry.target.display());
        put(entry, &mut binds, processes.as_fd()).map_err(at(place()))?;
    }
    // Only what was mounted can be written to.
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(at("protecting the root"))
}

fn put<'a>(
    entry: &Entry,
    binds: &mut impl Iterator<Item = &'a OwnedFd>,
    processes: BorrowedFd<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let target = entry.target.as_path();
    match &entry.what {
        What::Bind { .. } => {
            let bind = binds.next().ok_or("no such mount")?;
            if is_dir(bind)? {
                directory(target)?
            } else {
                file(target, "")?
            };
            sys::move_mount(bind.as_fd(), &c_path(target)?)?;
        }
        What::Memory { bytes } => {
            directory(target)?;
            let size = CString::new(bytes.to_string())?;
            let options = [(c"mode", c"1777"), (c"size", size.as_c_str())];
            let memory = sys::new_mount(c"tmpfs", &options, sys::NO_SUID | sys::NO_DEVICES)?;
            sys::move_mount(memory.as_fd(), &c_path(target)?)?;
        }
        What::File { text } => file(target, text)?,
        What::Directory => directory(target)?,
        What::Link { to } => {
            if let Some(parent) = target.parent() {
                directory(parent)?;
            }
            std::os::unix::fs::symlink(to, target)?;
        }
        What::Processes => {
            directory(target)?;
            sys::move_mount(processes, &c_path(target)?)?;
        }
        What::Terminals => {
            directory(target)?;
            let options = [(c"ptmxmode", c"0666"), (c"mode", c"0620")];
            let terminals = sys::new_mount(c"devpts", &options, sys::NO_SUID | sys::NO_EXEC)?;
            sys::move_mount(terminals.as_fd(), &c_path(target)?)?;
        }
    }
    Ok(())
}

fn is_dir(mount: &OwnedFd) -> io::Result<bool> {
    let stat = nix::sys::stat::fstat(mount)?;
    Ok(stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR)
}

fn directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// A file with that text; one that is there stays as it is when there is nothing to write.
fn file(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        directory(parent)?;
    }
    if text.is_empty() && path.exists() {
        return Ok(());
    }
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())
}

fn c_path(path: &Path) -> Outcome<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(at(path.display()))
}

/// Limits, names, the loopback; then nothing of the rights is left.
pub(super) fn settle(plan: &Plan) -> Outcome<()> {
    sethostname(&plan.hostname).map_err(at("the host's name"))?;
    if plan.own_network {
        connect(plan).map_err(at("raising the network"))?;
    }
    // Nobody inside gets rights over namespaces of their own: most ways out of a sandbox begin there.
    fs::write("/proc/sys/user/max_user_namespaces", "0").map_err(at("forbidding user namespaces"))?;
    fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE).map_err(at("the score for memory"))?;
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(OPEN_FILES, |(_, hard)| hard.min(OPEN_FILES));
    setrlimit(Resource::RLIMIT_NOFILE, files, files).map_err(at("the limit of files"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(at("the limit of dumps"))?;
    if plan.processes > 0 {
        let most = getrlimit(Resource::RLIMIT_NPROC).map_or(plan.processes, |(_, hard)| hard.min(plan.processes));
        setrlimit(Resource::RLIMIT_NPROC, most, most).map_err(at("the limit of processes"))?;
    }
    if !plan.processors.is_empty() {
        let mut set = CpuSet::new();
        for processor in &plan.processors {
            set.set(*processor).map_err(at("processors"))?;
        }
        sched_setaffinity(Pid::from_raw(0), &set).map_err(at("processors"))?;
    }
    let _ = rustix::process::nice(NICENESS);
    std::env::set_current_dir(&plan.dir).map_err(at(plan.dir.display()))?;
    prctl::set_no_new_privs().map_err(at("no new privileges"))?;
    sys::drop_capabilities().map_err(at("giving up capabilities"))?;
    if plan.filtered {
        filter::apply()?;
    }
    // Programs have the same user: they must not look into this process, or hold it.
    prctl::set_dumpable(false).map_err(at("protecting itself"))
}

/// A new network has a loopback that is down, and the end of a cable when others share it.
fn connect(plan: &Plan) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    netlink.raise(LOOPBACK)?;
    if let Some(shared) = &plan.shared {
        let index = if_nametoindex(INTERFACE)?;
        netlink.add_address(index, shared.address, shared.prefix)?;
        netlink.raise(index)?;
    }
    Ok(())
}
