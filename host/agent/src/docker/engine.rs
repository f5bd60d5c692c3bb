//! The connection to an engine, and what it says of itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::LocalNodeState;
use bollard::{API_DEFAULT_VERSION, Docker};

/// Where engines listen when nobody says otherwise.
const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];
/// Seconds for an engine to begin its answer: removing containers and unpacking images takes time.
const TIMEOUT: u64 = 120;
/// How long an engine has to say that it is there.
const HELLO: Duration = Duration::from_secs(10);

/// What an engine says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// Its version.
    pub(crate) version: String,
    /// Processors.
    pub(crate) processors: u64,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// It can hand out NVIDIA's devices.
    pub(crate) nvidia: bool,
    /// It is part of a swarm, and may make networks for all of it.
    pub(crate) swarm: bool,
    /// `1` or `2`.
    pub(crate) cgroup_version: String,
}

/// The socket of the engine: the one given, that of `DOCKER_HOST`, or the first usual one that exists.
///
/// # Errors
/// When there is none, or when `DOCKER_HOST` names one that isn't on this node.
pub(crate) fn socket(given: Option<&Path>, docker_host: Option<&str>) -> Result<PathBuf, String> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    match docker_host.filter(|host| !host.is_empty()) {
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => Ok(path.into()),
            // Kernels' directories are mounted from this node.
            None => Err(format!("DOCKER_HOST is {host}, but kernels need an engine of this node: unix:///…")),
        },
        None => SOCKETS
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .ok_or_else(|| format!("no engine listens at {} (--docker-socket, DOCKER_HOST)", SOCKETS[0])),
    }
}

/// Connects to the engine at a socket, and asks what it is.
pub(crate) async fn connect(socket: &Path) -> Result<(Docker, Facts), String> {
    let at = socket.display();
    let path = socket.to_str().ok_or("the socket's path isn't UTF-8")?;
    let hello = async {
        let docker = Docker::connect_with_unix(path, TIMEOUT, API_DEFAULT_VERSION)?.negotiate_version().await?;
        let facts = facts(&docker).await?;
        Ok::<_, bollard::errors::Error>((docker, facts))
    };
    match tokio::time::timeout(HELLO, hello).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(format!("the engine at {at}: {}", plain(&error))),
        Err(_) => Err(format!("the engine at {at} doesn't answer")),
    }
}

async fn facts(docker: &Docker) -> Result<Facts, bollard::errors::Error> {
    let info = docker.info().await?;
    let swarm = info.swarm.unwrap_or_default();
    Ok(Facts {
        version: info.server_version.unwrap_or_default(),
        processors: info.ncpu.and_then(|count| u64::try_from(count).ok()).unwrap_or(1),
        memory: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
        nvidia: info.runtimes.is_some_and(|runtimes| runtimes.contains_key("nvidia")),
        swarm: swarm.local_node_state == Some(LocalNodeState::ACTIVE) && swarm.control_available == Some(true),
        cgroup_version: info.cgroup_version.map(|version| version.to_string()).unwrap_or_default(),
    })
}

/// An engine's error without the words of the library.
pub(crate) fn plain(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        other => other.to_string(),
    }
}

/// Whether the engine says that there is no such thing.
pub(crate) fn is_missing(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_given_or_found() {
        let given = Path::new("/x/engine.sock");
        assert_eq!(socket(Some(given), Some("tcp://h:1")).as_deref(), Ok(given));
        assert_eq!(socket(None, Some("unix:///y.sock")).as_deref(), Ok(Path::new("/y.sock")));
        assert!(socket(None, Some("tcp://h:2375")).is_err_and(|error| error.contains("tcp://h:2375")));
    }
}
