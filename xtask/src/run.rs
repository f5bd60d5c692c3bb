//! Running programs and saying what happens.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

/// A heading for a step.
pub(crate) fn step(text: &str) {
    println!("\n\x1b[1m==> {text}\x1b[0m");
}

/// Says something within a step.
pub(crate) fn say(text: &str) {
    println!("    {text}");
}

/// Runs a command with our standard output.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{command:?}");
    let status = command.stdin(Stdio::null()).status().with_context(|| shown.clone())?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs a command; its standard output. What it writes to standard error is shown only on failure.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| shown.clone())?;
    if !output.status.success() {
        bail!(
            "{shown}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a long step and says how long it took.
pub(crate) fn timed<T>(text: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    step(text);
    let start = Instant::now();
    let result = work()?;
    say(&format!("done in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(result)
}

/// `cargo`, in the repository's root, as the toolchain that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(quarterdeck_tests::root());
    // What cargo set for `xtask` is not meant for the builds that it starts.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

/// Whether a program can be started.
pub(crate) fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
