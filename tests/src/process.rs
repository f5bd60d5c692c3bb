//! Real server and agent processes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::Client;
use crate::database::Database;
use crate::{KeyPair, seed_file};

static BINARY: std::sync::Mutex<Option<PathBuf>> = std::sync::Mutex::new(None);

/// Runs another build of the binary from here on.
pub fn use_binary(path: &Path) {
    *BINARY.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(path.to_owned());
}

/// The `quarterdeck` binary under test: the one set by [`use_binary`], `QUARTERDECK_BIN`, else the debug build.
///
/// # Errors
/// When it isn't there.
pub fn binary() -> anyhow::Result<PathBuf> {
    let chosen = BINARY.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let path = match chosen.map(PathBuf::into_os_string).or_else(|| std::env::var_os("QUARTERDECK_BIN")) {
        Some(path) => PathBuf::from(path),
        None => {
            let target =
                std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from);
            target.join("debug/quarterdeck")
        }
    };
    ensure!(path.exists(), "{} is missing: cargo build -p quarterdeck", path.display());
    Ok(path)
}

/// Runs the binary to its end; its standard output.
///
/// # Errors
/// When it fails; the message has its standard error.
pub fn quarterdeck(args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<String> {
    let output = Command::new(binary()?).args(args).envs(env.iter().copied()).stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "quarterdeck {}: {}",
        args.first().unwrap_or(&""),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A child process that dies with its handle.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where its log goes.
    pub log: PathBuf,
}

impl Process {
    fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stderr(file);
        Ok(Self { child: command.spawn().context("starting the process under test")?, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it ever had, in bytes; pages of files that it has mapped are counted.
    ///
    /// # Errors
    /// When it is gone.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib << 10)
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop and waits.
    ///
    /// # Errors
    /// When it doesn't end within 20 seconds, or with a failure.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "it ended with {status}; log: {}", self.tail());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill9()?;
        anyhow::bail!("it didn't stop in time; log: {}", self.tail())
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub process: Process,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    /// Where agents call.
    pub rpc: String,
    /// Where its app proxy is, if it was told to run one (`QUARTERDECK_APP_PROXY_LISTEN`).
    pub apps: Option<String>,
    /// Its data directory.
    pub data_dir: PathBuf,
    database: Database,
    env: Vec<(String, String)>,
}

impl Server {
    /// Loads the seed into a database and starts a server on free ports.
    ///
    /// # Errors
    /// When either fails; the message has the log.
    pub fn start(database: &Database, data_dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(database, data_dir, &[])
    }

    /// As [`Server::start`], with environment variables.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(database: &Database, data_dir: &Path, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let seed = seed_file().display().to_string();
        quarterdeck(&["db", "load", &seed, "--database", &database.url], &[])?;
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self::spawn(database, data_dir, env, ("127.0.0.1:0", "127.0.0.1:0"))
    }

    /// Starts a server on a database that has its seed already.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn again(database: &Database, data_dir: &Path) -> anyhow::Result<Self> {
        Self::again_with(database, data_dir, &[])
    }

    /// As [`Server::again`], with environment variables.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn again_with(database: &Database, data_dir: &Path, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self::spawn(database, data_dir, env, ("127.0.0.1:0", "127.0.0.1:0"))
    }

    fn spawn(
        database: &Database,
        data_dir: &Path,
        env: Vec<(String, String)>,
        listen: (&str, &str),
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data_dir)?;
        let mut command = Command::new(binary()?);
        command
            .args(["serve", "--listen", listen.0, "--rpc-listen", listen.1, "--database", &database.url, "--data-dir"])
            .arg(data_dir)
            .envs(env.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            .stdout(Stdio::piped());
        let mut process = Process::spawn(command, &data_dir.join("server.log"))?;
        let stdout = process.child.stdout.take().context("standard output is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (url, rpc, apps) = match words[..] {
            ["listening", "on", url, "rpc", rpc] => (url, rpc, None),
            ["listening", "on", url, "rpc", rpc, "apps", apps] => (url, rpc, Some(apps.to_owned())),
            _ => anyhow::bail!("the server didn't start ({line:?}); log: {}", process.tail()),
        };
        Ok(Self {
            url: url.to_owned(),
            rpc: rpc.to_owned(),
            apps,
            process,
            data_dir: data_dir.to_owned(),
            database: database.clone(),
            env,
        })
    }

    /// Starts it again on the same database and ports, after it was killed or stopped.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let strip = |url: &str| url.trim_start_matches("http://").to_owned();
        let listen = (strip(&self.url), strip(&self.rpc));
        // Its ports are anybody's while it is away: some connection of another test may have one for a moment.
        for _ in 0..50 {
            match Self::spawn(&self.database, &self.data_dir, self.env.clone(), (&listen.0, &listen.1)) {
                Err(error) if format!("{error:#}").contains("Address already in use") => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                started => {
                    *self = started?;
                    return Ok(());
                }
            }
        }
        anyhow::bail!("the ports {} and {} stay taken", listen.0, listen.1)
    }

    /// What its log tells as errors; a server whose clients, agents and database behave has none to tell.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn logged_errors(&self) -> anyhow::Result<Vec<String>> {
        let log = std::fs::read_to_string(&self.process.log)?;
        Ok(log.lines().filter(|l| l.contains("ERROR") || l.contains("panicked")).map(str::to_owned).collect())
    }

    /// Checks that it answers, and has logged no error.
    ///
    /// # Errors
    /// When one of that isn't so.
    pub async fn assert_well(&self) -> anyhow::Result<()> {
        self.client(crate::ADMIN).get("/healthz").await?.ok()?;
        let errors = self.logged_errors()?;
        ensure!(errors.is_empty(), "errors in the log: {errors:#?}");
        Ok(())
    }

    /// A client of this server.
    pub fn client(&self, keys: KeyPair) -> Client {
        Client::new(&self.url, keys)
    }

    /// A join token for agents.
    ///
    /// # Errors
    /// When the command fails.
    pub fn join_token(&self) -> anyhow::Result<String> {
        Ok(quarterdeck(&["agent-token", "new", "--database", &self.database.url], &[])?.trim().to_owned())
    }

    /// Runs a command of the binary against this server, as the superadmin.
    ///
    /// # Errors
    /// When the command fails.
    pub fn cli(&self, args: &[&str]) -> anyhow::Result<String> {
        self.cli_as(crate::ADMIN, args)
    }

    /// Runs a command of the binary against this server.
    ///
    /// # Errors
    /// When the command fails; the message is what it wrote to standard error.
    pub fn cli_as(&self, keys: KeyPair, args: &[&str]) -> anyhow::Result<String> {
        let env = [
            ("QUARTERDECK_ENDPOINT", self.url.as_str()),
            ("QUARTERDECK_ACCESS_KEY", keys.access),
            ("QUARTERDECK_SECRET_KEY", keys.secret),
        ];
        quarterdeck(args, &env)
    }

    /// Starts an agent process that joins this server.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn agent(&self, id: &str, runtime: &str, slots: &str, state_dir: &Path) -> anyhow::Result<Agent> {
        self.agents(1, id, runtime, slots, state_dir)
    }

    /// Starts one process with many agents (of the synthetic runtime) that join this server.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn agents(
        &self,
        count: usize,
        id: &str,
        runtime: &str,
        slots: &str,
        state_dir: &Path,
    ) -> anyhow::Result<Agent> {
        self.agent_with(vec![format!("--count={count}")], id, runtime, slots, state_dir)
    }

    /// Starts an agent process whose kernels are containers of the engine at `socket`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn contained_agent(&self, id: &str, socket: &Path, slots: &str, state_dir: &Path) -> anyhow::Result<Agent> {
        self.agent_with(vec![format!("--docker-socket={}", socket.display())], id, "docker", slots, state_dir)
    }

    /// As [`Server::contained_agent`], and its engine is for sessions that build images, too.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn building_agent(&self, id: &str, socket: &Path, slots: &str, state_dir: &Path) -> anyhow::Result<Agent> {
        let more = vec![format!("--docker-socket={}", socket.display()), "--build-images".to_owned()];
        self.agent_with(more, id, "docker", slots, state_dir)
    }

    fn agent_with(
        &self,
        more: Vec<String>,
        id: &str,
        runtime: &str,
        slots: &str,
        state_dir: &Path,
    ) -> anyhow::Result<Agent> {
        let mut args = vec![
            "agent".to_owned(),
            format!("--server={}", self.rpc),
            format!("--runtime={runtime}"),
            format!("--slots={slots}"),
            format!("--id={id}"),
            format!("--state-dir={}", state_dir.display()),
        ];
        args.extend(more);
        Agent::spawn(args, self.join_token()?, state_dir)
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    args: Vec<String>,
    token: String,
    state_dir: PathBuf,
}

impl Agent {
    fn spawn(args: Vec<String>, token: String, state_dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state_dir)?;
        let mut command = Command::new(binary()?);
        command.args(&args).env("QUARTERDECK_JOIN_TOKEN", &token).stdout(Stdio::null());
        let process = Process::spawn(command, &state_dir.join("agent.log"))?;
        Ok(Self { process, args, token, state_dir: state_dir.to_owned() })
    }

    /// Starts it again with the same arguments.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        *self = Self::spawn(self.args.clone(), self.token.clone(), &self.state_dir)?;
        Ok(())
    }
}
