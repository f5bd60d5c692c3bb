//! What a sandbox is to look like, as the agent tells its first process.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The user and group of a kernel's programs, as they see themselves.
pub(super) const WORKER: u32 = 1000;

/// A sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The name of the machine that programs see.
    pub(super) hostname: String,
    /// Whether it gets a network of its own, with nothing in it but a loopback.
    pub(super) own_network: bool,
    /// Its place in a network that it shares with others.
    pub(super) shared: Option<Shared>,
    /// The sources of mounts are opened with the agent's own rights, before they are given up: it is root.
    pub(super) privileged: bool,
    /// The file tree, in the order in which it is put together.
    pub(super) entries: Vec<Entry>,
    /// Where programs begin.
    pub(super) dir: PathBuf,
    /// The environment of all programs.
    pub(super) env: Vec<(String, String)>,
    /// The most processes and threads at a time; 0 = no limit.
    pub(super) processes: u64,
    /// Processors that programs may use; empty = all.
    pub(super) processors: Vec<usize>,
    /// System calls that programs have no business with are refused.
    pub(super) filtered: bool,
}

/// A place in a network that several sandboxes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shared {
    pub(super) address: Ipv4Addr,
    /// Bits that all addresses of the network have in common.
    pub(super) prefix: u8,
    /// Which of the descriptors that come with the message that begins is the user namespace around it.
    pub(super) users: usize,
}

/// One part of the file tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Where; an absolute path.
    pub(super) target: PathBuf,
    /// What.
    pub(super) what: What,
}

/// What there is at a place of the file tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    /// A part of the node's own tree.
    Bind {
        source: PathBuf,
        read_only: bool,
        /// Carried with the message that begins: the descriptor of the user namespace that translates owners.
        mapped_by: Option<usize>,
        /// Device nodes in it work.
        devices: bool,
    },
    /// Memory.
    Memory { bytes: u64 },
    /// A small file.
    File { text: String },
    /// An empty directory.
    Directory,
    /// A symbolic link.
    Link { to: PathBuf },
    /// The sandbox's own processes.
    Processes,
    /// The sandbox's own terminals.
    Terminals,
}

impl Entry {
    pub(super) fn new(target: impl Into<PathBuf>, what: What) -> Self {
        Self { target: target.into(), what }
    }

    /// A part of the node's tree that programs may read.
    pub(super) fn system(path: impl Into<PathBuf>) -> Self {
        let source: PathBuf = path.into();
        let target = source.clone();
        Self { target, what: What::Bind { source, read_only: true, mapped_by: None, devices: false } }
    }
}
