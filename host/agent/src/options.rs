//! What an agent process is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use quarterdeck_rpc::pb;

use crate::docker::DockerOptions;
use crate::error::Error;
use crate::process::ProcessOptions;

/// Which runtime an agent has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeKind {
    /// Kernels are process trees of this node.
    Process,
    /// Kernels are containers of an engine on this node.
    Docker,
    /// Kernels are entries in a book; nothing runs.
    Synthetic,
}

impl RuntimeKind {
    /// The name on the command line and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Synthetic => "synthetic",
        }
    }
}

impl std::fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RuntimeKind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "process" => Ok(Self::Process),
            "docker" => Ok(Self::Docker),
            "synthetic" => Ok(Self::Synthetic),
            _ => Err(Error::Option(format!("no runtime is called {text:?}: process, docker, synthetic"))),
        }
    }
}

/// What an agent process is told when it starts.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Where the host's agent service listens, e.g. `http://10.0.0.1:6000`.
    pub server: String,
    /// Where this process listens for the host's calls.
    pub listen: SocketAddr,
    /// Under which address the host reaches it, when that isn't the one it listens on.
    pub advertise: Option<String>,
    /// What kernels are made of.
    pub runtime: RuntimeKind,
    /// How many agents this process plays.
    pub count: u32,
    /// What each agent offers, as [`parse_slots`] reads it; none = what the node has.
    pub slots: Option<Vec<(String, String)>>,
    /// The scaling group to join.
    pub scaling_group: String,
    /// The join token.
    pub token: String,
    /// The agent's id; none = `i-<hostname>`. With `count` above 1, `-1`, `-2`, … is appended.
    pub id: Option<String>,
    /// Where the agent keeps its kernels' directories.
    pub state_dir: PathBuf,
    /// Where archives of work directories go; none = `commits` beside the kernels' directories.
    pub commit_dir: Option<PathBuf>,
    /// The region it says it is in.
    pub region: String,
    /// The host name under which users reach its kernels; none = the host of its address.
    pub public_host: Option<String>,
    /// `process` only: how kernels are kept apart, and what they see.
    pub process: ProcessOptions,
    /// `docker` only: the engine, and what containers get of the node.
    pub docker: DockerOptions,
    /// `synthetic` only: how long a kernel takes to start.
    pub start_delay: Duration,
}

impl Default for AgentOptions {
    /// What a command line leaves out. A server and a token have to be given.
    fn default() -> Self {
        Self::new("", "", RuntimeKind::Process, PathBuf::from("agent"))
    }
}

impl AgentOptions {
    /// Options with defaults: one agent in the group `default`, on a free local port.
    pub fn new(server: impl Into<String>, token: impl Into<String>, runtime: RuntimeKind, state_dir: PathBuf) -> Self {
        Self {
            server: server.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            runtime,
            count: 1,
            slots: None,
            scaling_group: "default".into(),
            token: token.into(),
            id: None,
            state_dir,
            commit_dir: None,
            region: "local".into(),
            public_host: None,
            process: ProcessOptions::default(),
            docker: DockerOptions::default(),
            start_delay: Duration::ZERO,
        }
    }

    /// The ids of the agents that this process plays.
    pub(crate) fn ids(&self) -> Result<Vec<String>, Error> {
        let base = match &self.id {
            Some(id) => id.clone(),
            None => format!("i-{}", hostname()),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if base.is_empty() || base.len() > 56 || base.starts_with('.') || !base.chars().all(fits) {
            let message = format!("{base:?} can't be an agent id: letters, digits, '-', '_' and '.', at most 56");
            return Err(Error::Option(message));
        }
        match self.count {
            0 => Err(Error::Option("an agent process plays at least one agent".into())),
            1 => Ok(vec![base]),
            count => Ok((1..=count).map(|n| format!("{base}-{n}")).collect()),
        }
    }

    /// The slots that the operator gave, in contract units.
    pub(crate) fn given_slots(&self) -> Result<Option<Vec<pb::Slot>>, Error> {
        let Some(given) = &self.slots else { return Ok(None) };
        given.iter().map(|(name, text)| slot(name, text)).collect::<Result<Vec<_>, _>>().map(Some)
    }
}

/// Reads `cpu=4,mem=8g`.
pub fn parse_slots(text: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, amount) =
            pair.split_once('=').ok_or_else(|| Error::Option(format!("{pair:?} isn't of the form NAME=AMOUNT")))?;
        let (name, amount) = (name.trim(), amount.trim());
        slot(name, amount)?;
        Ok((name.to_owned(), amount.to_owned()))
    });
    pairs.collect()
}

fn slot(name: &str, text: &str) -> Result<pb::Slot, Error> {
    let bad = || Error::Option(format!("{text:?} is no amount of {name:?}"));
    if name.is_empty() {
        return Err(Error::Option("a slot without a name".into()));
    }
    let (kind, unit) = if name == "mem" { ("bytes", 1.0) } else { ("count", 1000.0) };
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let number: f64 = digits.parse().map_err(|_| bad())?;
    let suffix = suffix.trim().to_ascii_lowercase();
    let factor = match (kind, suffix.trim_end_matches('b').trim_end_matches('i')) {
        (_, "") if suffix.is_empty() || (kind == "bytes" && suffix == "b") => 1.0,
        ("bytes", "k") => 1024.0,
        ("bytes", "m") => 1024.0 * 1024.0,
        ("bytes", "g") => 1024.0 * 1024.0 * 1024.0,
        ("bytes", "t") => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    let amount = (number * factor * unit).round();
    if !amount.is_finite() || !(0.0..9e18).contains(&amount) {
        return Err(bad());
    }
    Ok(pb::Slot { name: name.to_owned(), kind: kind.to_owned(), amount: amount as u64 })
}

pub(crate) fn count_slot(name: &str, count: u64) -> pb::Slot {
    pb::Slot { name: name.to_owned(), kind: "count".into(), amount: count.saturating_mul(1000) }
}

pub(crate) fn memory_slot(bytes: u64) -> pb::Slot {
    pb::Slot { name: "mem".into(), kind: "bytes".into(), amount: bytes }
}

pub(crate) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "node".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slots_are_read_in_contract_units() {
        let mut options = AgentOptions::new("http://h", "t", RuntimeKind::Synthetic, PathBuf::from("/nowhere"));
        options.slots = Some(parse_slots("cpu=4, mem=8g,cuda.shares=0.5").unwrap());
        let slots = options.given_slots().unwrap().unwrap();
        let seen: Vec<_> = slots.iter().map(|s| (s.name.as_str(), s.kind.as_str(), s.amount)).collect();
        assert_eq!(seen, [("cpu", "count", 4000), ("mem", "bytes", 8 << 30), ("cuda.shares", "count", 500)]);
        assert_eq!(slot("mem", "512MiB").unwrap().amount, 512 << 20);
        for bad in ["cpu", "cpu=", "cpu=x", "cpu=4g", "mem=1x", "=4", "cpu=-1"] {
            assert!(parse_slots(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_numbered_when_there_are_many() {
        let mut options = AgentOptions::new("http://h", "t", RuntimeKind::Synthetic, PathBuf::from("/nowhere"));
        options.id = Some("i-x".into());
        assert_eq!(options.ids().unwrap(), ["i-x"]);
        options.count = 2;
        assert_eq!(options.ids().unwrap(), ["i-x-1", "i-x-2"]);
        options.id = Some("../x".into());
        assert!(options.ids().is_err());
    }
}
