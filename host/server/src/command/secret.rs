//! Passwords that commands are given, and those that they make up.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

/// Longest file of a password.
const MAX_FILE: u64 = 4096;

/// Where a password comes from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PasswordArgs {
    /// A file whose first line is the password; `-` reads standard input
    #[arg(long, value_name = "PATH")]
    password_file: Option<PathBuf>,
    /// Ask for the password
    #[arg(long, conflicts_with = "password_file")]
    ask_password: bool,
}

/// A password.
pub(crate) struct Password {
    pub(crate) text: String,
    /// It was made up: nobody knows it yet.
    pub(crate) random: bool,
}

impl PasswordArgs {
    /// The password that was given; without one, a random one.
    pub(crate) fn take(&self) -> anyhow::Result<Password> {
        if let Some(path) = &self.password_file {
            return Ok(Password { text: first_line(path)?, random: false });
        }
        if self.ask_password {
            if !std::io::stdin().is_terminal() {
                bail!("--ask-password needs a terminal; use --password-file");
            }
            let text = rpassword::prompt_password("Password: ")?;
            if text != rpassword::prompt_password("Once more: ")? {
                bail!("the passwords differ");
            }
            if text.is_empty() {
                bail!("the password is empty");
            }
            return Ok(Password { text, random: false });
        }
        Ok(Password { text: quarterdeck_control::password::random(), random: true })
    }
}

fn first_line(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(MAX_FILE).read_to_string(&mut text).context("standard input")?;
    } else {
        let named = || path.display().to_string();
        std::fs::File::open(path).with_context(named)?.take(MAX_FILE).read_to_string(&mut text).with_context(named)?;
    }
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => bail!("{} has no password in its first line", path.display()),
    }
}
