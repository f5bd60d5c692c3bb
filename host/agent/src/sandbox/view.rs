//! What a kernel sees of the node: which of its files, which users, which network.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::unistd::{getegid, geteuid};
use parking_lot::Mutex;

use super::network::{self, Seat, SharedNetwork};
use super::plan::{Entry, Plan, Shared, What};
use super::{Outside, SANDBOX_ARG, Sandbox, TOOLS, WORK, filter, init, wire};

/// Programs and libraries. What is a link on the node is one inside.
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store"];
/// Of `/etc`, only what programs need to work: it is where secrets are.
const ETC: [&str; 45] = [
    "ImageMagick-6",
    "OpenCL",
    "R",
    "X11",
    "alternatives",
    "bash.bashrc",
    "bash_completion.d",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "default/locale",
    "emacs",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "java-11-openjdk",
    "java-17-openjdk",
    "jupyter",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "lsb-release",
    "magic",
    "magic.mime",
    "mime.types",
    "nanorc",
    "nsswitch.conf",
    "os-release",
    "perl",
    "pki/ca-trust",
    "pki/tls/certs",
    "profile",
    "protocols",
    "python3",
    "redhat-release",
    "services",
    "shells",
    "ssl/certs",
    "terminfo",
    "timezone",
];
/// Devices that harm nobody.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What describes the processors; libraries look there.
const HARDWARE: [&str; 2] = ["/sys/devices/system/cpu", "/sys/devices/system/node"];
/// Programs and threads of one kernel, when the request doesn't say.
pub(crate) const PROCESSES: u64 = 16384;
/// Shared memory of a kernel, when the request doesn't say.
pub(crate) const SHARED_MEMORY: u64 = 64 << 20;
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// The network of kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// One of its own each, with a loopback and what the session's other kernels on this node share; service ports are
    /// reached through the agent.
    #[default]
    None,
    /// The node's.
    Host,
}

/// How this agent's kernels are kept apart from the node.
pub(crate) struct Isolation {
    program: PathBuf,
    network: Network,
    exposed: Vec<PathBuf>,
    /// The agent's own directory, which nobody sees.
    hidden: PathBuf,
    privileged: bool,
    outside: Outside,
    /// Owner on disk → the user namespace that makes it the kernel's user.
    owners: Mutex<HashMap<Outside, Arc<OwnedFd>>>,
    /// Whether system calls are filtered, or why they aren't.
    filter: Result<(), String>,
    /// Whether kernels of a session can share a network, or why they can't.
    sharing: Result<(), String>,
    /// Session → its network, while it has kernels here.
    networks: tokio::sync::Mutex<HashMap<String, Weak<SharedNetwork>>>,
}

/// A folder for a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// What one kernel sees.
pub(crate) struct View<'a> {
    /// The kernel's directory, with `work`, `tmp` and `run` in it.
    pub(crate) dir: &'a Path,
    pub(crate) hostname: &'a str,
    pub(crate) env: Vec<(String, String)>,
    /// Where its interpreter is.
    pub(crate) programs: &'a [PathBuf],
    pub(crate) binds: &'a [Bind],
    /// Bytes of shared memory.
    pub(crate) shared_memory: u64,
    /// Processors it may use; empty = all.
    pub(crate) processors: Vec<usize>,
    /// Its place in the network of its session.
    pub(crate) seat: Option<Seat>,
}

impl std::hash::Hash for Outside {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.uid, self.gid).hash(state);
    }
}

impl Isolation {
    /// Finds out whether kernels can be kept apart here: sets a sandbox up and works in it. `kernel_user` is who kernels
    /// are on the node when the agent is root; `filtered`: their system calls are to be filtered, where that can be.
    pub(crate) async fn find(
        program: Option<PathBuf>,
        home: &Path,
        network: Network,
        exposed: Vec<PathBuf>,
        kernel_user: u32,
        filtered: bool,
    ) -> Result<Self, String> {
        let privileged = geteuid().is_root();
        let outside = match privileged {
            true => Outside { uid: kernel_user, gid: kernel_user },
            false => Outside { uid: geteuid().as_raw(), gid: getegid().as_raw() },
        };
        let mut isolation = Self {
            // This very program, also when its file was replaced since it started.
            program: program.unwrap_or_else(|| "/proc/self/exe".into()),
            network,
            exposed,
            hidden: home.to_owned(),
            privileged,
            outside,
            owners: Mutex::default(),
            filter: if filtered { filter::offered() } else { Err("the operator wants none".into()) },
            sharing: Ok(()),
            networks: tokio::sync::Mutex::default(),
        };
        isolation.probe(home, None).await?;
        isolation.sharing = match network {
            Network::Host => Err("kernels have the node's network, as was asked for".into()),
            Network::None => isolation.probe_sharing(home).await,
        };
        Ok(isolation)
    }

    /// Tries whether two kernels can share a network.
    async fn probe_sharing(&self, home: &Path) -> Result<(), String> {
        let network = Arc::new(SharedNetwork::start(&self.program, self.outside, self.privileged).await?);
        let address = network::address(0).ok_or("no address")?;
        self.probe(home, Some(Seat { network, address, names: Vec::new() })).await
    }

    /// Runs a program in a sandbox, and looks whose its files are.
    async fn probe(&self, home: &Path, seat: Option<Seat>) -> Result<(), String> {
        let probe = tempfile::Builder::new().prefix("probe-").tempdir_in(home).map_err(|error| error.to_string())?;
        for part in ["work", "tmp", "run"] {
            std::fs::create_dir(probe.path().join(part)).map_err(|error| error.to_string())?;
        }
        let view = View {
            dir: probe.path(),
            hostname: "probe",
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
            programs: &[],
            binds: &[],
            shared_memory: SHARED_MEMORY,
            processors: Vec::new(),
            seat,
        };
        let sandbox = self.enter(view, |_| Ok(())).await?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| error.to_string())?;
        let write = ["/bin/sh", "-c", "echo here >written && cat /proc/1/comm >/dev/null"].map(std::ffi::OsStr::new);
        let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
        let tried = async {
            let program = sandbox.spawn(&write, &[], stdio).await.map_err(|error| error.to_string())?;
            match program.end.await {
                Ok(0) => Ok(()),
                ended => Err(format!("a program can't work there ({ended:?})")),
            }
        };
        let tried = tokio::time::timeout(PROBE_TIMEOUT, tried).await;
        sandbox.end(Duration::ZERO).await;
        tried.unwrap_or_else(|_| Err("a program doesn't end there".into()))?;
        match std::fs::metadata(probe.path().join("work/written")) {
            Ok(written) if written.uid() == geteuid().as_raw() => Ok(()),
            Ok(_) => Err("what kernels write belongs to somebody else".into()),
            Err(error) => Err(format!("what kernels write isn't there: {error}")),
        }
    }

    /// Whether kernels have a network of their own.
    pub(crate) fn network(&self) -> Network {
        self.network
    }

    /// Whether system calls are filtered, or why they aren't.
    pub(crate) fn filter(&self) -> Result<(), &str> {
        refer(&self.filter)
    }

    /// Whether kernels of a session can share a network, or why they can't.
    pub(crate) fn sharing(&self) -> Result<(), &str> {
        refer(&self.sharing)
    }

    /// The network of a session, which is made when it has none here. It is there for as long as somebody holds it.
    pub(crate) async fn network_of(&self, session_id: &str) -> Result<Arc<SharedNetwork>, String> {
        let mut networks = self.networks.lock().await;
        networks.retain(|_, network| network.strong_count() > 0);
        let there = networks.get(session_id).and_then(Weak::upgrade);
        if let Some(network) = there.filter(|network| !network.is_broken()) {
            return Ok(network);
        }
        let made = Arc::new(SharedNetwork::start(&self.program, self.outside, self.privileged).await?);
        networks.insert(session_id.to_owned(), Arc::downgrade(&made));
        Ok(made)
    }

    /// Who a kernel's user is on the node.
    pub(crate) fn outside(&self) -> Outside {
        self.outside
    }

    /// Sets up a sandbox with that view. `join` is called with the id of its process before that does anything.
    pub(crate) async fn enter(
        &self,
        view: View<'_>,
        join: impl FnOnce(i32) -> io::Result<()>,
    ) -> Result<Sandbox, String> {
        let mut maps = Vec::new();
        let network = view.seat.as_ref().map(|seat| seat.network.clone());
        let plan = self.plan(view, &mut maps).await?;
        let mut fds: Vec<_> = maps.iter().map(|map| map.as_fd()).collect();
        fds.extend(network.iter().map(|network| network.users().as_fd()));
        if fds.len() > wire::DESCRIPTORS {
            return Err("the folders belong to too many owners".into());
        }
        Sandbox::start(&self.program, plan, &fds, self.outside, network.clone(), join).await
    }

    async fn plan(&self, view: View<'_>, maps: &mut Vec<Arc<OwnedFd>>) -> Result<Plan, String> {
        let mut entries = Vec::new();
        for path in SYSTEM {
            match std::fs::read_link(path) {
                Ok(to) => entries.push(Entry::new(path, What::Link { to })),
                Err(_) if Path::new(path).is_dir() => entries.push(Entry::system(path)),
                Err(_) => {}
            }
        }
        let mut shown: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        for path in view.programs.iter().chain(&self.exposed) {
            let is_shown = shown.iter().any(|shown| path.starts_with(shown));
            if is_shown || !path.is_absolute() || !path.exists() {
                continue;
            }
            if self.hidden.starts_with(path) || path.starts_with(&self.hidden) || path == Path::new("/") {
                return Err(format!("{} would show the agent's own directory", path.display()));
            }
            entries.push(Entry::system(path));
            shown.push(path.clone());
        }
        if shown.iter().any(|shown| self.hidden.starts_with(shown)) && self.hidden.is_dir() {
            entries.push(Entry::new(&self.hidden, What::Memory { bytes: 4096 }));
        }
        for name in ETC {
            let path = Path::new("/etc").join(name);
            // A link may lead to what isn't shown: its target is.
            if let Ok(source) = path.canonicalize() {
                let what = What::Bind { source, read_only: true, mapped_by: None, devices: false };
                entries.push(Entry::new(path, what));
            }
        }
        let names = self.names(&view);
        for (path, text) in [
            ("/etc/passwd", format!("work:x:{0}:{0}:work:{WORK}:{1}\n", super::plan::WORKER, login_shell())),
            ("/etc/group", format!("work:x:{}:\n", super::plan::WORKER)),
            ("/etc/hostname", format!("{}\n", view.hostname)),
            ("/etc/hosts", names),
        ] {
            entries.push(Entry::new(path, What::File { text }));
        }
        if self.network == Network::Host {
            let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            entries.push(Entry::new("/etc/resolv.conf", What::File { text }));
        }
        entries.push(Entry::new("/proc", What::Processes));
        for name in DEVICES {
            let source = Path::new("/dev").join(name);
            if source.exists() {
                let what = What::Bind { source: source.clone(), read_only: false, mapped_by: None, devices: true };
                entries.push(Entry::new(source, what));
            }
        }
        entries.push(Entry::new("/dev/pts", What::Terminals));
        for (link, to) in [
            ("/dev/ptmx", "pts/ptmx"),
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "fd/0"),
            ("/dev/stdout", "fd/1"),
            ("/dev/stderr", "fd/2"),
        ] {
            entries.push(Entry::new(link, What::Link { to: to.into() }));
        }
        entries.push(Entry::new("/dev/shm", What::Memory { bytes: view.shared_memory.max(1 << 20) }));
        entries.extend(HARDWARE.into_iter().filter(|path| Path::new(path).is_dir()).map(Entry::system));
        for path in ["/run", "/var/tmp", "/mnt", "/srv", "/root"] {
            entries.push(Entry::new(path, What::Directory));
        }
        for (part, target, read_only) in [("work", WORK, false), ("tmp", "/tmp", false), ("run", TOOLS, true)] {
            let source = view.dir.join(part);
            entries.push(self.mapped(source, target.into(), read_only, maps).await?);
        }
        for bind in view.binds {
            entries.push(self.mapped(bind.source.clone(), bind.target.clone(), bind.read_only, maps).await?);
        }
        Ok(Plan {
            hostname: view.hostname.to_owned(),
            own_network: self.network == Network::None,
            // It comes after the others.
            shared: view.seat.as_ref().map(|seat| Shared {
                address: seat.address,
                prefix: network::PREFIX,
                users: maps.len(),
            }),
            privileged: self.privileged,
            entries,
            dir: WORK.into(),
            env: view.env,
            processes: PROCESSES,
            processors: view.processors,
            filtered: self.filter.is_ok(),
        })
    }

    /// The names that a kernel knows: its own, and those of the others of its session that it reaches.
    fn names(&self, view: &View<'_>) -> String {
        let variable = |name: &str| view.env.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
        if let Some(seat) = &view.seat {
            let names = seat.names.iter().map(|(name, address)| format!("{address} {name}\n"));
            return ["127.0.0.1 localhost\n::1 localhost ip6-localhost\n".to_owned()]
                .into_iter()
                .chain(names)
                .collect();
        }
        let mut names = format!("127.0.0.1 localhost {0}\n::1 localhost ip6-localhost\n", view.hostname);
        if self.network == Network::Host && variable("BACKENDAI_CLUSTER_MODE") == "single-node" {
            let fits = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            let others =
                variable("BACKENDAI_CLUSTER_HOSTS").split(',').filter(fits).filter(|name| *name != view.hostname);
            names.extend(others.map(|name| format!("127.0.0.1 {name}\n")));
        }
        names
    }

    /// A mount whose owner on disk is the kernel's user inside.
    async fn mapped(
        &self,
        source: PathBuf,
        target: PathBuf,
        read_only: bool,
        maps: &mut Vec<Arc<OwnedFd>>,
    ) -> Result<Entry, String> {
        let mapped_by = if self.privileged {
            let owner = std::fs::metadata(&source).map_err(|error| format!("{}: {error}", source.display()))?;
            let map = self.owner(Outside { uid: owner.uid(), gid: owner.gid() }).await?;
            let known = maps.iter().position(|known| Arc::ptr_eq(known, &map));
            Some(known.unwrap_or_else(|| {
                maps.push(map);
                maps.len() - 1
            }))
        } else {
            None
        };
        Ok(Entry::new(target, What::Bind { source, read_only, mapped_by, devices: false }))
    }

    /// The user namespace in which that owner is the kernel's user.
    async fn owner(&self, owner: Outside) -> Result<Arc<OwnedFd>, String> {
        if let Some(known) = self.owners.lock().get(&owner) {
            return Ok(known.clone());
        }
        let (program, outside) = (self.program.clone(), self.outside);
        let made = tokio::task::spawn_blocking(move || users(&program, owner, outside));
        let made = made.await.map_err(|panic| panic.to_string())?;
        let made = Arc::new(made.map_err(|error| format!("no namespace for users: {error}"))?);
        self.owners.lock().insert(owner, made.clone());
        Ok(made)
    }
}

fn users(program: &Path, owner: Outside, outside: Outside) -> io::Result<OwnedFd> {
    let mut command = std::process::Command::new(program);
    command.args([SANDBOX_ARG, init::USERS]).env_clear().current_dir("/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut made = || {
        let mut ready = [0; 1];
        child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?.read_exact(&mut ready)?;
        let pid = child.id();
        std::fs::write(format!("/proc/{pid}/gid_map"), format!("{} {} 1\n", owner.gid, outside.gid))?;
        std::fs::write(format!("/proc/{pid}/uid_map"), format!("{} {} 1\n", owner.uid, outside.uid))?;
        Ok(OwnedFd::from(std::fs::File::open(format!("/proc/{pid}/ns/user"))?))
    };
    let made = made();
    drop(child.stdin.take());
    let _ = child.kill();
    let _ = child.wait();
    made
}

fn refer(outcome: &Result<(), String>) -> Result<(), &str> {
    match outcome {
        Ok(()) => Ok(()),
        Err(reason) => Err(reason),
    }
}

fn login_shell() -> &'static str {
    if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}
