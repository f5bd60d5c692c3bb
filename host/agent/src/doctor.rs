//! What this node offers to an agent, what is missing, and how to get it.

use std::path::Path;

use serde::Serialize;

use crate::docker::gpu::Gpus;
use crate::docker::{DockerOptions, engine};
use crate::process::ProcessOptions;
use crate::process::cgroup::ControlGroups;
use crate::process::interpreters::Interpreters;
use crate::process::services::finds;
use crate::sandbox::{Isolation, Network};
use crate::{Error, KERNEL_USER};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is there.
    Ok,
    /// It isn't, and kernels are less well off.
    Missing,
    /// It isn't, and kernels aren't safe from each other.
    Unsafe,
}

/// One thing that a node may offer.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Whether it is there.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What to do to get it.
    pub fix: Option<String>,
}

fn finding(
    name: &'static str,
    found: Result<String, String>,
    missing: Verdict,
    fix: impl FnOnce() -> String,
) -> Finding {
    match found {
        Ok(detail) => Finding { name, verdict: Verdict::Ok, detail, fix: None },
        Err(detail) => Finding { name, verdict: missing, detail, fix: Some(fix()) },
    }
}

/// Looks at the node as an agent with these options would. `scratch` is a directory on the agent's file system.
///
/// # Errors
/// When `scratch` can't be worked in.
pub async fn examine(options: &ProcessOptions, docker: &DockerOptions, scratch: &Path) -> Result<Vec<Finding>, Error> {
    let home = scratch.canonicalize().map_err(Error::io(format!("resolving {}", scratch.display())))?;
    let user = options.kernel_user.unwrap_or(KERNEL_USER);
    let isolation = Isolation::find(
        options.sandbox_program.clone(),
        &home,
        options.network,
        options.exposed.clone(),
        user,
        !options.all_system_calls,
    )
    .await;
    let none = || "kernels aren't isolated".to_owned();
    let (filter, sharing) = match &isolation {
        Ok(isolation) => (isolation.filter().map_err(str::to_owned), isolation.sharing().map_err(str::to_owned)),
        Err(_) => (Err(none()), Err(none())),
    };
    let isolation = isolation.map(|isolation| {
        let network = match isolation.network() {
            Network::None => "network",
            Network::Host => "but the node's network, as was asked for",
        };
        format!("namespaces for users, mounts, processes, IPC, names, {network}; a program was run in them")
    });
    let interpreters = Interpreters::find().await;
    let mut findings = vec![
        finding("isolation", isolation, Verdict::Unsafe, fix_namespaces),
        finding("seccomp", filter.map(|()| "kernels' system calls are filtered".into()), Verdict::Missing, || {
            "Linux with CONFIG_SECCOMP_FILTER on x86-64, ARM64 or RISC-V, and no --all-system-calls".into()
        }),
        finding(
            "cluster-network",
            sharing.map(|()| "kernels of a session share a network of their own".into()),
            Verdict::Missing,
            || {
                "isolation, --network none, and a system with bridges and pairs of interfaces (modprobe bridge veth). \
                 Until then kernels of a session don't reach each other by name, except over the node's network"
                    .into()
            },
        ),
        finding("user-namespaces", user_namespaces(), Verdict::Missing, fix_namespaces),
        Finding {
            name: "bubblewrap",
            verdict: Verdict::Ok,
            detail: match finds("bwrap") {
                Some(path) => format!("{} (not needed: the agent isolates kernels itself)", path.display()),
                None => "not installed, and not needed: the agent isolates kernels itself".into(),
            },
            fix: None,
        },
        finding(
            "cgroup-v2",
            ControlGroups::offered().map(|controllers| format!("controllers {}", controllers.join(", "))),
            Verdict::Missing,
            || {
                "give the agent a part of the tree: `systemd-run --scope -p Delegate=yes quarterdeck agent …`, or \
                 `Delegate=yes` in its unit; on systems with version 1, boot with `systemd.unified_cgroup_hierarchy=1`. \
                 Until then memory is looked after by the agent and processors are shared out by numbers"
                    .into()
            },
        ),
    ];
    for (name, interpreter) in interpreters.found() {
        let found = interpreter.map(|found| format!("{} {}", found.path.display(), found.version).trim().to_owned());
        let package = match name {
            "python" => "python3",
            "node" => "nodejs",
            _ => "bash",
        };
        let missing = || "kernels of this kind can't be run: none on the agent's PATH".to_owned();
        findings
            .push(finding(name, found.ok_or_else(missing), Verdict::Missing, || format!("apt-get install {package}")));
    }
    let mut jupyter = Vec::new();
    for module in ["jupyterlab", "notebook"] {
        if interpreters.python_has(module).await {
            jupyter.push(module);
        }
    }
    let jupyter =
        if jupyter.is_empty() { Err("the node's Python has none".to_owned()) } else { Ok(jupyter.join(", ")) };
    findings
        .push(finding("jupyter", jupyter, Verdict::Missing, || "pip install jupyterlab, for the Python above".into()));
    for (name, package) in [("sshd", "openssh-server"), ("ssh-keygen", "openssh-client"), ("ttyd", "ttyd")] {
        let found = finds(name).map(|path| path.display().to_string()).ok_or_else(|| "not installed".to_owned());
        findings.push(finding(name, found, Verdict::Missing, || format!("apt-get install {package}")));
    }
    findings.extend(self::docker(docker).await);
    Ok(findings)
}

fn sysctl(name: &str) -> Option<u64> {
    std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

fn user_namespaces() -> Result<String, String> {
    let most = sysctl("user/max_user_namespaces").ok_or("the system has none")?;
    if most == 0 {
        return Err("user.max_user_namespaces is 0".into());
    }
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root && sysctl("kernel/unprivileged_userns_clone") == Some(0) {
        return Err("kernel.unprivileged_userns_clone is 0".into());
    }
    if !is_root && sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Err("kernel.apparmor_restrict_unprivileged_userns is 1".into());
    }
    Ok(format!("at most {most}"))
}

fn fix_namespaces() -> String {
    let is_root = nix::unistd::geteuid().is_root();
    if sysctl("user/max_user_namespaces").is_none_or(|most| most == 0) {
        "sysctl -w user.max_user_namespaces=15000".into()
    } else if !is_root && sysctl("kernel/unprivileged_userns_clone") == Some(0) {
        "sysctl -w kernel.unprivileged_userns_clone=1".into()
    } else if !is_root && sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,` for the agent"
            .into()
    } else {
        "Linux 5.12 or newer, an agent outside of containers (or in one that may make namespaces and mount /proc), and a \
         state directory on a file system whose owners can be mapped (ext4, xfs, btrfs)"
            .into()
    }
}

/// The engine, and its devices.
async fn docker(options: &DockerOptions) -> [Finding; 2] {
    let docker_host = std::env::var("DOCKER_HOST").ok();
    let found = match engine::socket(options.socket.as_deref(), docker_host.as_deref()) {
        Ok(socket) => engine::connect(&socket).await.map(|(_, facts)| (socket, facts)),
        Err(missing) => Err(missing),
    };
    let gpus = found.as_ref().map_or_else(
        |_| "no engine".into(),
        |(_, facts)| match (facts.nvidia, Gpus::find().models()) {
            (true, models) if models.is_empty() => "the engine has NVIDIA's runtime, the node no device".into(),
            (true, models) => models.join(", "),
            (false, models) if models.is_empty() => "none".into(),
            (false, models) => {
                format!("{}, but the engine has no NVIDIA runtime: nvidia-ctk runtime configure", models.join(", "))
            }
        },
    );
    let engine = found.map(|(socket, facts)| {
        let swarm = if facts.swarm { ", manages a swarm" } else { "" };
        format!("{} {}, cgroup version {}{swarm}", socket.display(), facts.version, facts.cgroup_version)
    });
    let fix =
        || "only needed for --runtime docker: apt-get install docker.io, and let the agent's user write to its socket";
    [
        finding("docker", engine, Verdict::Missing, || fix().into()),
        Finding { name: "gpus", verdict: Verdict::Ok, detail: gpus, fix: None },
    ]
}
