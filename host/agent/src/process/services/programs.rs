//! Which program a service is.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use quarterdeck_rpc::pb;
use serde_json::Value;
use tokio::process::Command;

use super::super::files;
use super::super::interpreters::{Dialect, on_path};
use super::super::spawn::Io;
use super::Services;

/// A label of an image that says how a service is started: `{"command": ["…", "{port}"], "env": {}}`.
pub(super) const LABEL: &str = "quarterdeck.service.";
const SSHD: [&str; 2] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"];
/// Where the private key is that opens the kernel's SSH; clients fetch it from there.
const PRIVATE_KEY: &str = "id_container";
/// Where the keys are that may come in by SSH.
const AUTHORIZED: &str = "authorized_keys";
const HOST_KEY: &str = "ssh_host_key";

/// A program to start, and what it has in its environment besides the kernel's.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) command: Vec<OsString>,
    pub(super) env: Vec<(String, String)>,
}

/// The session's own key pair, when its owner has one.
pub(crate) struct Keys<'a> {
    pub(crate) private: &'a str,
    pub(crate) public: &'a str,
}

/// Where a program is that services are made of.
pub(crate) fn finds(name: &str) -> Option<PathBuf> {
    match name {
        // It isn't on people's paths, and has to be called by its whole one.
        "sshd" => SSHD.into_iter().map(PathBuf::from).find(|path| path.is_file()),
        name => on_path(name),
    }
}

impl Keys<'_> {
    /// Puts the keys of a kernel's SSH where its programs and clients look for them; makes a pair when `given` is none.
    /// Does nothing where there is no SSH.
    pub(crate) async fn place(dir: &Path, given: Option<Keys<'_>>) -> Result<(), String> {
        if finds("sshd").is_none() {
            return Ok(());
        }
        let Some(keygen) = finds("ssh-keygen") else { return Err("ssh-keygen is missing".into()) };
        let (work, tools) = (dir.join("work"), dir.join("run"));
        let say = |error: std::io::Error| error.to_string();
        key(&keygen, &tools.join(HOST_KEY)).await?;
        let private = work.join(PRIVATE_KEY);
        let public = match given {
            Some(keys) => {
                files::write_secret(&private, keys.private.as_bytes()).map_err(say)?;
                keys.public.to_owned()
            }
            None => {
                key(&keygen, &private).await?;
                let public = private.with_extension("pub");
                let text = files::read(&public).map_err(say)?;
                let _ = std::fs::remove_file(public);
                String::from_utf8_lossy(&text).into_owned()
            }
        };
        files::write(&tools.join(AUTHORIZED), format!("{}\n", public.trim()).as_bytes()).map_err(say)
    }
}

/// Makes a key pair in place of one that may be there from an earlier start: `ssh-keygen` would ask, and nobody answers.
async fn key(keygen: &Path, path: &Path) -> Result<(), String> {
    for old in [path.to_owned(), path.with_extension("pub")] {
        match std::fs::remove_file(&old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", old.display()));
            }
            _ => {}
        }
    }
    let mut command = Command::new(keygen);
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "work", "-f"]).arg(path).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("ssh-keygen failed: {status}")),
        Err(error) => Err(format!("ssh-keygen: {error}")),
    }
}

impl Services {
    /// The program of a service that is to listen on that port of the loopback.
    pub(super) async fn program(
        &self,
        name: &str,
        port: u16,
        request: &pb::StartServiceRequest,
    ) -> Result<Program, String> {
        let mut program = if let Some(text) = self.ground.labels.get(&format!("{LABEL}{name}")) {
            labelled(name, text, port)?
        } else {
            let command = match name {
                "sshd" | "sftpd" | "sftp" => self.sshd(port).await?,
                "ttyd" | "terminal" => self.ttyd(port)?,
                "jupyter" | "notebook" => self.jupyter(&["notebook", "jupyterlab"], port).await?,
                "jupyterlab" | "jupyter-lab" => self.jupyter(&["jupyterlab", "notebook"], port).await?,
                _ => {
                    return Err(format!(
                        "nothing listens on the port of {name}, and nothing says how to start it (label {LABEL}{name})"
                    ));
                }
            };
            Program { command, env: Vec::new() }
        };
        program.command.extend(arguments(&request.arguments)?);
        program.env.extend(variables(&request.envs)?);
        Ok(program)
    }

    /// Where a program is that services are made of, as the kernel sees it.
    async fn finds(&self, name: &str) -> Option<PathBuf> {
        match self.ground.launcher.container() {
            Some(container) => container.program(name).await,
            None => finds(name),
        }
    }

    /// Where a service has to listen to be reached.
    fn listen_address(&self) -> IpAddr {
        match self.ground.launcher.container().filter(|_| self.ground.own_network) {
            Some(container) => container.service_address(),
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    async fn sshd(&self, port: u16) -> Result<Vec<OsString>, String> {
        let missing = "there is no SSH server (on the node, or in the image: apt-get install openssh-server)";
        let sshd = self.finds("sshd").await.ok_or(missing)?;
        let tools = self.ground.dir.join("run");
        let inside = |name: &str| self.ground.launcher.inside(&tools.join(name)).display().to_string();
        if !tools.join(AUTHORIZED).exists() {
            return Err("the kernel has no keys for SSH".into());
        }
        // The session's other kernels come in as well.
        let also = self.ground.address.map(|address| format!("ListenAddress {address}\n")).unwrap_or_default();
        // Whoever comes in is the kernel's user: it changes none, and needs no rights.
        let config = format!(
            "Port {port}\nListenAddress {}\n{also}HostKey {}\nAuthorizedKeysFile {} .ssh/authorized_keys\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nX11Forwarding no\nAcceptEnv LANG LC_*\n\
             Subsystem sftp internal-sftp\n",
            self.listen_address(),
            inside(HOST_KEY),
            inside(AUTHORIZED),
        );
        files::write(&tools.join("sshd_config"), config.as_bytes()).map_err(|error| error.to_string())?;
        Ok(vec![sshd.into(), "-D".into(), "-e".into(), "-f".into(), inside("sshd_config").into()])
    }

    fn ttyd(&self, port: u16) -> Result<Vec<OsString>, String> {
        let ttyd =
            finds("ttyd").ok_or("this node has no web terminal (apt-get install ttyd); `session … pty` works")?;
        let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
        let mut command: Vec<OsString> = vec![ttyd.into()];
        command.extend(["-p", &port.to_string(), "-i", "127.0.0.1", "-W", shell].map(OsString::from));
        Ok(command)
    }

    /// Jupyter, as the first of these modules that the interpreter has.
    async fn jupyter(&self, modules: &[&str], port: u16) -> Result<Vec<OsString>, String> {
        let interpreter = &self.ground.interpreter;
        if interpreter.dialect != Dialect::Python {
            return Err("Jupyter needs a kernel of the runtime type python".into());
        }
        for module in modules {
            if !self.has_module(module).await {
                continue;
            }
            let server = if *module == "jupyterlab" { "lab" } else { "notebook" };
            let mut command: Vec<OsString> = vec![interpreter.path.clone().into(), "-m".into(), "jupyter".into()];
            command.extend(
                [
                    server,
                    "--no-browser",
                    &format!("--ip={}", self.listen_address()),
                    &format!("--port={port}"),
                    "--port-retries=0",
                    // Who may come in was asked on the way here.
                    "--ServerApp.token=",
                    "--ServerApp.password=",
                    "--ServerApp.allow_origin=*",
                    "--ServerApp.allow_remote_access=True",
                ]
                .map(OsString::from),
            );
            return Ok(command);
        }
        let path = interpreter.path.display();
        Err(format!("{path} has no Jupyter ({path} -m pip install jupyterlab)"))
    }

    async fn has_module(&self, module: &str) -> bool {
        let script = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec({module:?}) is None)");
        let command = [self.ground.interpreter.path.as_os_str(), OsStr::new("-c"), OsStr::new(&script)];
        let Ok(mut proc) = self.ground.launcher.spawn(&command, false, None).await else { return false };
        while let Some(word) = proc.io.recv().await {
            if let Io::Exited(code) = word {
                return code == 0;
            }
        }
        false
    }
}

fn labelled(name: &str, text: &str, port: u16) -> Result<Program, String> {
    let wrong = || format!("the image's label {LABEL}{name} isn't {{\"command\": [texts], \"env\": {{}}}}");
    let value: Value = serde_json::from_str(text).map_err(|_| wrong())?;
    let command: Option<Vec<OsString>> =
        value["command"].as_array().filter(|words| !words.is_empty()).and_then(|words| {
            words.iter().map(|word| Some(word.as_str()?.replace("{port}", &port.to_string()).into())).collect()
        });
    let env =
        variables(&value["env"].as_object().map(|env| Value::Object(env.clone()).to_string()).unwrap_or_default())?;
    Ok(Program { command: command.ok_or_else(wrong)?, env })
}

/// The caller's options for a service's command: name → nothing, text, or list of texts.
fn arguments(text: &str) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    for (name, value) in object(text, "arguments")? {
        words.push(OsString::from(name));
        let values = match value {
            Value::Null => Vec::new(),
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            match value {
                Value::String(text) => words.push(text.into()),
                number @ (Value::Number(_) | Value::Bool(_)) => words.push(number.to_string().into()),
                _ => return Err("arguments are texts or lists of texts".into()),
            }
        }
    }
    Ok(words)
}

fn variables(text: &str) -> Result<Vec<(String, String)>, String> {
    let variables = object(text, "envs")?.into_iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let fits = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        fits.then_some((name.clone(), value)).ok_or_else(|| format!("{name:?} can't be an environment variable"))
    });
    variables.collect()
}

fn object(text: &str, what: &str) -> Result<serde_json::Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(serde_json::Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null) => Ok(serde_json::Map::new()),
        _ => Err(format!("{what} aren't a JSON object")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_callers_and_images_say_becomes_a_command() {
        let words = arguments(r#"{"--a": "1", "-v": null, "--many": ["x", 2]}"#).unwrap();
        assert_eq!(words, ["--a", "1", "-v", "--many", "x", "2"]);
        assert!(arguments("[]").is_err() && arguments(r#"{"a": {}}"#).is_err() && arguments("").unwrap().is_empty());
        assert_eq!(
            variables(r#"{"A": "b", "N": 3}"#).unwrap(),
            [("A".into(), "b".into()), ("N".to_owned(), "3".to_owned())]
        );
        assert!(variables(r#"{"A=B": "b"}"#).is_err());
        let program = labelled("web", r#"{"command": ["srv", "--port={port}"], "env": {"X": "y"}}"#, 8000).unwrap();
        assert_eq!((program.command, program.env.len()), (vec!["srv".into(), "--port=8000".into()], 1));
        assert!(labelled("web", r#"{"command": []}"#, 1).is_err() && labelled("web", "no", 1).is_err());
    }
}
