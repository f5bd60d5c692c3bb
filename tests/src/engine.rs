//! A private container engine, from Debian's `docker.io` package, and an image to run in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::root;

/// The variable that names the socket of an engine where tests may make images, containers and networks.
pub const SOCKET_VARIABLE: &str = "QUARTERDECK_TEST_DOCKER";

/// How long an engine may take to come up, and to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the engine's own program is.
pub fn daemon() -> Option<PathBuf> {
    ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"].iter().map(PathBuf::from).find(|p| p.exists())
}

/// An engine of our own; stopped when dropped, and all that it kept deleted.
#[derive(Debug)]
pub struct Engine {
    dir: tempfile::TempDir,
    child: Child,
}

impl Engine {
    /// Starts one, a swarm of its own if it can. It has no network: agents make those that their kernels need.
    ///
    /// # Errors
    /// Without root's rights or the program, and when it doesn't come up; the message has the end of its log.
    pub fn start() -> anyhow::Result<Self> {
        ensure!(Uid::effective().is_root(), "only root starts a container engine");
        let program = daemon().context("dockerd is missing: apt-get install docker.io")?;
        let dir = tempfile::Builder::new().prefix("quarterdeck-engine-").tempdir()?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = Command::new(program)
            .arg("--data-root")
            .arg(dir.path().join("data"))
            .arg("--exec-root")
            .arg(dir.path().join("run"))
            .arg("--pidfile")
            .arg(dir.path().join("pid"))
            .args(["--bridge", "none", "--host"])
            .arg(format!("unix://{}", dir.path().join("engine.sock").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut engine = Self { dir, child };
        let deadline = Instant::now() + PATIENCE;
        while docker(&engine.socket(), &["version"]).is_err() {
            let ended = engine.child.try_wait()?;
            ensure!(ended.is_none() && Instant::now() < deadline, "the engine doesn't come up: {}", engine.tail());
            std::thread::sleep(Duration::from_millis(100));
        }
        // For networks over several nodes; where its ports are taken there are none.
        let swarm = ["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:0"];
        if let Err(error) = docker(&engine.socket(), &swarm) {
            eprintln!("the engine is no swarm: {error:#}");
        }
        Ok(engine)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("engine.sock")
    }

    fn tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        if pid.is_ok_and(|pid| kill(pid, Signal::SIGTERM).is_ok()) {
            let deadline = Instant::now() + PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Networks that containers were in stay mounted there, and keep the directory from going.
        for entry in std::fs::read_dir(self.dir.path().join("run/netns")).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// The socket of an engine that tests may use: the one that was named, else the usual one if somebody answers there.
pub fn found() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
        return Some(named.into());
    }
    let usual = PathBuf::from("/var/run/docker.sock");
    std::os::unix::net::UnixStream::connect(&usual).is_ok().then_some(usual)
}

/// As [`found`], for a test, which is skipped without one and says so.
pub fn socket() -> Option<PathBuf> {
    let found = found();
    if found.is_none() {
        eprintln!("SKIPPED: there is no container engine ({SOCKET_VARIABLE}=socket)");
    }
    found
}

/// Runs the engine's command line client; what it printed.
///
/// # Errors
/// When it fails; the message has its standard error.
pub fn docker(socket: &Path, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("docker")
        .arg("--host")
        .arg(format!("unix://{}", socket.display()))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("docker")?;
    if !output.status.success() {
        bail!("docker {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Tries with the engine's own client whether containers with that image find each other on an overlay network, by name.
/// That takes a swarm whose ports are its own, and a kernel that has such networks.
///
/// # Errors
/// Why they don't.
pub fn try_overlay(socket: &Path, image: &str) -> anyhow::Result<()> {
    let name = format!("quarterdeck-trial-{}", std::process::id());
    let sleep = "import time; time.sleep(120)";
    let find = format!(
        "import socket, time\nend = time.time() + 20\nwhile True:\n    try:\n        socket.gethostbyname('{name}')\n        \
         break\n    except OSError:\n        if time.time() > end: raise\n        time.sleep(0.1)"
    );
    let tried = docker(socket, &["network", "create", "--driver", "overlay", "--attachable", &name])
        .and_then(|_| {
            docker(socket, &["run", "--detach", "--name", &name, "--network", &name, image, "python3", "-c", sleep])
        })
        .and_then(|_| docker(socket, &["run", "--rm", "--network", &name, image, "python3", "-c", &find]));
    // Whatever was made goes.
    let _ = docker(socket, &["rm", "--force", &name]);
    let _ = docker(socket, &["network", "rm", &name]);
    tried.map(drop)
}

/// Makes an image with Python and a shell, under each of these names, unless it is there already.
///
/// # Errors
/// When it can't be made.
pub fn make_image(socket: &Path, python: &Path, names: &[&str]) -> anyhow::Result<()> {
    make_image_with(socket, python, names, &[], &[])
}

/// As [`make_image`], with labels, and with programs: where they are in the image, and the files that they come from.
///
/// # Errors
/// When it can't be made.
pub fn make_image_with(
    socket: &Path,
    python: &Path,
    names: &[&str],
    labels: &[(&str, &str)],
    programs: &[(&str, &Path)],
) -> anyhow::Result<()> {
    let [first, others @ ..] = names else { return Ok(()) };
    if docker(socket, &["image", "inspect", first]).is_err() {
        let mut archive = Command::new(python)
            .arg(root().join("tests/images/root.py"))
            .args(programs.iter().map(|(at, file)| format!("{at}={}", file.display())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("root.py")?;
        let host = format!("unix://{}", socket.display());
        let taken = Command::new("docker")
            .args(["--host", &host, "import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin FROM_IMAGE=yes"])
            .args(labels.iter().flat_map(|(name, value)| ["--change".to_owned(), format!("LABEL {name}={value:?}")]))
            .args(["-", first])
            .stdin(archive.stdout.take().context("standard output is piped")?)
            .output()
            .context("docker")?;
        ensure!(archive.wait()?.success(), "root.py failed");
        ensure!(taken.status.success(), "docker import: {}", String::from_utf8_lossy(&taken.stderr).trim());
    }
    others.iter().try_for_each(|name| docker(socket, &["tag", first, name]).map(drop))
}
