//! From what the host wants to what an engine is asked for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig, ResourcesUlimits,
};

use crate::process::container::Wanted;
use crate::process::interpreters::RUNTIME_PATH;
use crate::sandbox;

/// The labels by which an agent knows its containers and networks again.
pub(super) const AGENT: &str = "quarterdeck.agent";
/// The agent's directory: agents of one name may share an engine.
pub(super) const HOME: &str = "quarterdeck.home";
pub(super) const SESSION: &str = "quarterdeck.session";
pub(super) const KERNEL: &str = "quarterdeck.kernel";
/// The devices that a kernel has, by their ids.
pub(super) const DEVICES: &str = "quarterdeck.devices";

/// Where a kernel that builds images finds the engine.
const ENGINE: &str = "/var/run/docker.sock";

/// The engine's own log of a container: the first process prints next to nothing.
const LOG_SIZE: &str = "1m";

/// What the agent adds to what the host wants.
#[derive(Clone, Debug, Default)]
pub(super) struct Ground {
    pub(super) labels: HashMap<String, String>,
    /// `uid:gid`
    pub(super) user: String,
    /// The engine's socket, for a kernel that builds images. Whoever has it can have everything on the node.
    pub(super) engine: Option<PathBuf>,
    /// `bridge`, `none`, `host`, or a network's name.
    pub(super) network: String,
    /// How many processors the engine has: it refuses to give more. 0 = unknown.
    pub(super) processors: u64,
    /// Ids of the devices it gets.
    pub(super) devices: Vec<String>,
    /// The image's own environment.
    pub(super) image_env: Vec<String>,
}

/// What the engine is asked for.
pub(super) fn body(wanted: &Wanted<'_>, ground: Ground) -> ContainerCreateBody {
    let spec = wanted.spec;
    let hostname = match spec.cluster_hostname.as_str() {
        "" => "main1",
        name => name,
    };
    let is_own = !matches!(ground.network.as_str(), "bridge" | "none" | "host");
    // Names are known on networks that were made for somebody only.
    let endpoint = EndpointSettings { aliases: Some(vec![hostname.to_owned()]), ..Default::default() };
    let networking = is_own
        .then(|| NetworkingConfig { endpoints_config: Some(HashMap::from([(ground.network.clone(), endpoint)])) });
    let image = spec.image.as_ref().map(|image| image.canonical.clone());
    let label = |name: &str| spec.image.as_ref().and_then(|image| image.labels.get(name)).map_or("", String::as_str);
    ContainerCreateBody {
        // A host's network comes with its name.
        hostname: (ground.network != "host").then(|| hostname.to_owned()),
        user: Some(ground.user.clone()),
        env: Some(environment(&ground.image_env, &wanted.env, label(RUNTIME_PATH))),
        entrypoint: Some(vec!["/bin/sh".into(), format!("{}/init.sh", sandbox::TOOLS)]),
        cmd: Some(Vec::new()),
        image,
        working_dir: Some(sandbox::WORK.into()),
        labels: Some(ground.labels.clone()),
        host_config: Some(limits(wanted, &ground)),
        networking_config: networking,
        ..Default::default()
    }
}

fn limits(wanted: &Wanted<'_>, ground: &Ground) -> HostConfig {
    let amount = |name: &str| wanted.spec.slots.iter().find(|slot| slot.name == name).map_or(0, |slot| slot.amount);
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let memory = Some(amount("mem")).filter(|bytes| *bytes > 0).map(whole);
    let most = if ground.processors > 0 { ground.processors.saturating_mul(1000) } else { u64::MAX };
    let millis = amount("cpu").min(most);
    let processors: Vec<String> = wanted.processors.iter().map(ToString::to_string).collect();
    let core = ResourcesUlimits { name: Some("core".into()), soft: Some(0), hard: Some(0) };
    let devices = DeviceRequest {
        driver: Some("nvidia".into()),
        device_ids: Some(ground.devices.clone()),
        capabilities: Some(vec![vec!["gpu".into()]]),
        ..Default::default()
    };
    HostConfig {
        // Thousandths of processors become billionths.
        nano_cpus: Some(millis).filter(|millis| *millis > 0).map(|millis| whole(millis.saturating_mul(1_000_000))),
        cpuset_cpus: Some(processors.join(",")).filter(|list| !list.is_empty()),
        memory,
        // Memory and swap together: none of the latter.
        memory_swap: memory,
        pids_limit: Some(whole(sandbox::PROCESSES)),
        shm_size: Some(whole(wanted.shared_memory)),
        // How many files are open is the engine's affair: it may not be allowed to allow more.
        ulimits: Some(vec![core]),
        // Taking rights from who has the engine would only be in the way of builds.
        cap_drop: ground.engine.is_none().then(|| vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        network_mode: Some(ground.network.clone()),
        mounts: Some(mounts(wanted, ground.engine.as_deref())),
        device_requests: (!ground.devices.is_empty()).then(|| vec![devices]),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([("max-size".into(), LOG_SIZE.into()), ("max-file".into(), "1".into())])),
        }),
        ..Default::default()
    }
}

fn mounts(wanted: &Wanted<'_>, engine: Option<&Path>) -> Vec<Mount> {
    let bind = |source: String, target: String, read_only: bool| Mount {
        target: Some(target),
        source: Some(source),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Default::default()
    };
    let part = |name: &str| wanted.dir.join(name).display().to_string();
    let mut mounts = vec![
        bind(part("work"), sandbox::WORK.into(), false),
        bind(part("tmp"), "/tmp".into(), false),
        bind(part("run"), sandbox::TOOLS.into(), true),
    ];
    let folders = wanted
        .binds
        .iter()
        .map(|folder| bind(folder.source.display().to_string(), folder.target.display().to_string(), folder.read_only));
    mounts.extend(folders);
    mounts.extend(engine.map(|socket| bind(socket.display().to_string(), ENGINE.into(), false)));
    mounts
}

/// What the kernel's programs have in their environment besides the image's: its interpreter comes first on their path.
fn environment(image: &[String], wanted: &[(String, String)], interpreter: &str) -> Vec<String> {
    let mut env: Vec<String> = wanted.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let first = std::path::Path::new(interpreter).parent().filter(|dir| dir.is_absolute());
    if let Some(first) = first
        && !wanted.iter().any(|(name, _)| name == "PATH")
    {
        let path = image.iter().find_map(|pair| pair.strip_prefix("PATH="));
        let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        env.push(format!("PATH={}:{path}", first.display()));
    }
    env
}

/// A `passwd` in which the kernel's user has a name and a home; none when it has them already.
pub(super) fn with_user(passwd: &str, (uid, gid): (u32, u32)) -> Option<String> {
    let field = |line: &str, index: usize| line.split(':').nth(index).map(str::to_owned);
    let uid = uid.to_string();
    if passwd.lines().any(|line| field(line, 2).as_deref() == Some(uid.as_str())) {
        return None;
    }
    let name = match passwd.lines().any(|line| field(line, 0).as_deref() == Some("work")) {
        true => format!("work{uid}"),
        false => "work".into(),
    };
    let end = if passwd.is_empty() || passwd.ends_with('\n') { "" } else { "\n" };
    Some(format!("{passwd}{end}{name}:x:{uid}:{gid}::{}:/bin/sh\n", sandbox::WORK))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_rpc::pb;

    use super::*;
    use crate::process::log::KernelLog;
    use crate::runtime::SessionSpec;
    use crate::sandbox::Bind;

    fn asked(spec: &pb::KernelSpec, binds: &[Bind], processors: Vec<usize>, ground: Ground) -> ContainerCreateBody {
        let dir = tempfile::tempdir().unwrap();
        let log = KernelLog::create(dir.path()).unwrap();
        let wanted = Wanted {
            session: &SessionSpec::default(),
            spec,
            dir: Path::new("/state/k"),
            log: &log,
            binds,
            env: vec![("HOME".into(), "/home/work".into())],
            processors,
            shared_memory: 64 << 20,
        };
        body(&wanted, ground)
    }

    fn slot(name: &str, amount: u64) -> pb::Slot {
        pb::Slot { name: name.into(), kind: "count".into(), amount }
    }

    #[test]
    fn limits_rights_and_mounts() {
        let labels = [(RUNTIME_PATH.to_owned(), "/opt/py/bin/python".to_owned())];
        let spec = pb::KernelSpec {
            cluster_hostname: "sub1".into(),
            image: Some(pb::Image { canonical: "cr/x:1".into(), labels: labels.into(), ..Default::default() }),
            slots: vec![slot("cpu", 1500), slot("mem", 1 << 30), slot("cuda.device", 2000)],
            ..Default::default()
        };
        let folder = Bind { source: "/vol/a:b".into(), target: "/home/work/data".into(), read_only: true };
        let ground = Ground {
            user: "1000:1000".into(),
            network: "quarterdeck-s".into(),
            processors: 4,
            devices: vec!["GPU-1".into(), "GPU-2".into()],
            image_env: vec!["PATH=/bin".into()],
            engine: None,
            labels: HashMap::from([(KERNEL.into(), "k".into())]),
        };
        let body = asked(&spec, &[folder], vec![0, 3], ground);
        assert_eq!((body.image.as_deref(), body.hostname.as_deref()), (Some("cr/x:1"), Some("sub1")));
        assert_eq!(body.env.unwrap(), ["HOME=/home/work", "PATH=/opt/py/bin:/bin"]);
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
        let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
        assert_eq!(endpoints["quarterdeck-s"].aliases.as_deref(), Some(&["sub1".to_owned()][..]));
        let host = body.host_config.unwrap();
        assert_eq!((host.nano_cpus, host.cpuset_cpus.as_deref()), (Some(1_500_000_000), Some("0,3")));
        assert_eq!((host.memory, host.memory_swap, host.shm_size), (Some(1 << 30), Some(1 << 30), Some(64 << 20)));
        assert!(host.pids_limit.unwrap() > 0 && host.privileged.is_none());
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        let devices = host.device_requests.unwrap().remove(0);
        assert_eq!(devices.device_ids.unwrap(), ["GPU-1", "GPU-2"]);
        let mounts = host.mounts.unwrap();
        let seen: Vec<_> = mounts.iter().map(|m| (m.source.as_deref().unwrap(), m.read_only.unwrap())).collect();
        let expected = [("/state/k/work", false), ("/state/k/tmp", false), ("/state/k/run", true), ("/vol/a:b", true)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn who_builds_images_has_the_engine() {
        let ground = |engine| Ground { engine, network: "bridge".into(), ..Default::default() };
        let host = |ground| asked(&pb::KernelSpec::default(), &[], Vec::new(), ground).host_config.unwrap();
        let has_engine = |host: &HostConfig| {
            host.mounts.iter().flatten().any(|mount| mount.target.as_deref() == Some("/var/run/docker.sock"))
        };
        let builder = host(ground(Some("/run/engine.sock".into())));
        assert!(has_engine(&builder) && builder.cap_drop.is_none());
        let other = host(ground(None));
        assert!(!has_engine(&other) && other.cap_drop.is_some());
    }

    #[test]
    fn what_isnt_asked_for_isnt_limited() {
        let ground = Ground { network: "host".into(), processors: 2, ..Default::default() };
        let greedy = pb::KernelSpec { slots: vec![slot("cpu", 64_000)], ..Default::default() };
        assert_eq!(asked(&greedy, &[], Vec::new(), ground.clone()).host_config.unwrap().nano_cpus, Some(2_000_000_000));
        let body = asked(&pb::KernelSpec::default(), &[], Vec::new(), ground);
        assert!(body.hostname.is_none() && body.networking_config.is_none());
        let host = body.host_config.unwrap();
        assert!(host.memory.is_none() && host.nano_cpus.is_none() && host.cpuset_cpus.is_none());
        assert!(host.device_requests.is_none());
        assert_eq!(body.env.unwrap(), ["HOME=/home/work"]);
    }

    #[test]
    fn users_get_a_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash";
        let with = with_user(passwd, (1000, 1001)).unwrap();
        assert_eq!(with, format!("{passwd}\nwork:x:1000:1001::/home/work:/bin/sh\n"));
        assert!(with_user(&with, (1000, 1001)).is_none());
        assert!(with_user(&with, (7, 7)).unwrap().ends_with("work7:x:7:7::/home/work:/bin/sh\n"));
    }
}
