//! Compiling untrusted components: in a child process with limits on time, memory and output, because the runtime's
//! promise of isolation covers running guests and not compiling them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

use crate::LoadError;
use crate::engine::{Metering, compiling_engine};
use crate::journal::presentable;

/// Where components are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// In this process: for tests and for commands that end soon after.
    InProcess,
    /// In a child process that calls [`compile_child_main`]: `program` with `args` followed by the limits.
    Child {
        /// The executable, usually the running one.
        program: PathBuf,
        /// Arguments that make it call [`compile_child_main`].
        args: Vec<OsString>,
    },
}

/// Limits on one compilation.
#[derive(Debug, Clone)]
pub struct CompileLimits {
    /// Wall time, after which the child is killed.
    pub wall: Duration,
    /// Processor time over all threads.
    pub cpu: Duration,
    /// Address space of the child in bytes.
    pub address_space: u64,
    /// Bytes of compiled code.
    pub output: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        CompileLimits {
            wall: Duration::from_secs(60),
            cpu: Duration::from_secs(120),
            address_space: 4 << 30,
            output: 512 << 20,
        }
    }
}

/// Compiles `wasm` into `output`.
pub(crate) fn compile(
    compiler: &Compiler,
    limits: &CompileLimits,
    metering: Metering,
    wasm: &[u8],
    output: &mut File,
) -> Result<(), LoadError> {
    match compiler {
        Compiler::InProcess => {
            let code = precompile(metering, wasm).map_err(LoadError::Compile)?;
            output.write_all(&code).map_err(|error| LoadError::Host(format!("compiled code can't be kept: {error}")))
        }
        Compiler::Child { program, args } => in_child(program, args, limits, metering, wasm, output),
    }
}

fn precompile(metering: Metering, wasm: &[u8]) -> Result<Vec<u8>, String> {
    let engine = compiling_engine(metering).map_err(|error| format!("{error:#}"))?;
    engine.precompile_component(wasm).map_err(|error| presentable(&format!("{error:#}"), COMPLAINT_BYTES as usize))
}

/// What the child says on standard error is shown up to this many bytes.
const COMPLAINT_BYTES: u64 = 4096;

fn in_child(
    program: &PathBuf,
    args: &[OsString],
    limits: &CompileLimits,
    metering: Metering,
    wasm: &[u8],
    output: &File,
) -> Result<(), LoadError> {
    let host = |what: &str, error: std::io::Error| LoadError::Host(format!("{what}: {error}"));
    let output = output.try_clone().map_err(|error| host("compiled code can't be kept", error))?;
    let deadline = Instant::now() + limits.wall;
    let mut child = Command::new(program)
        .args(args)
        .arg(metering.word())
        .arg(limits.cpu.as_secs().max(1).to_string())
        .arg(limits.address_space.to_string())
        .arg(limits.output.to_string())
        .env_clear()
        .env("RAYON_NUM_THREADS", "2")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| host("the compiling process can't be started", error))?;

    let mut stdin = child.stdin.take().expect("it was piped");
    let stderr = child.stderr.take().expect("it was piped");
    std::thread::scope(|scope| {
        // A child that dies early closes the pipe; its exit status says more than the broken pipe.
        scope.spawn(move || {
            let _ = stdin.write_all(wasm);
        });
        let complaint = scope.spawn(move || {
            let mut text = Vec::new();
            let mut stderr = stderr;
            let _ = (&mut stderr).take(COMPLAINT_BYTES).read_to_end(&mut text);
            // Reads the rest, so that the child doesn't block on it.
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            let text = String::from_utf8_lossy(&text);
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("note: "));
            lines.collect::<Vec<_>>().join(" ")
        });
        let mut pause = Duration::from_millis(1);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
            }
        };
        let complaint = complaint.join().unwrap_or_default();
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) if complaint.is_empty() => Err(LoadError::Compile(end_of(status, limits))),
            Some(_) => Err(LoadError::Compile(presentable(&complaint, COMPLAINT_BYTES as usize))),
            None => Err(LoadError::Compile(format!("it took longer than {} s", limits.wall.as_secs()))),
        }
    })
}

/// Why a child ended that said nothing.
fn end_of(status: ExitStatus, limits: &CompileLimits) -> String {
    match status.signal().and_then(|number| Signal::try_from(number).ok()) {
        // The kernel kills at the limit of processor time, and when memory runs out.
        Some(Signal::SIGXCPU | Signal::SIGKILL) => {
            format!("it took more than {} s of processor time, or all memory", limits.cpu.as_secs().max(1))
        }
        Some(Signal::SIGXFSZ) => format!("it becomes more than {} bytes of code", limits.output),
        _ => format!("the compiling process exceeded its limits or crashed ({status})"),
    }
}

/// The child's side: reads a component on standard input, writes compiled code on standard output. The last four
/// arguments of the process are what [`Compiler::Child`] appended.
pub fn compile_child_main() -> ExitCode {
    match child() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

fn child() -> Result<(), String> {
    let args: Vec<String> = std::env::args().collect();
    let [.., metering, cpu, address_space, output] = &args[..] else {
        return Err("arguments are missing".to_owned());
    };
    let number = |text: &String| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
    let metering = match metering.as_str() {
        "epoch" => Metering::Epoch,
        "fuel" => Metering::Fuel,
        other => return Err(format!("`{other}` is not a kind of metering")),
    };
    for (resource, limit) in [
        (Resource::RLIMIT_CPU, number(cpu)?),
        (Resource::RLIMIT_AS, number(address_space)?),
        (Resource::RLIMIT_FSIZE, number(output)?),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, 64),
    ] {
        setrlimit(resource, limit, limit).map_err(|error| format!("{resource:?} can't be set: {error}"))?;
    }
    let mut wasm = Vec::new();
    std::io::stdin().lock().read_to_end(&mut wasm).map_err(|error| format!("the component can't be read: {error}"))?;
    let code = precompile(metering, &wasm)?;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&code)
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("compiled code can't be written: {error}"))
}
