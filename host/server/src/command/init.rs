//! `quarterdeck init`: the first superadmin of a fresh installation.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use quarterdeck_control::setup::{self, FirstUser, Installed};
use serde_json::json;

use super::db::DatabaseArgs;
use super::secret::PasswordArgs;
use crate::table;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  quarterdeck init                                   # everything by default; shows key pair and password once
  quarterdeck init --email root@example.org --password-file /run/secrets/root
  quarterdeck init --env-file admin.env && . ./admin.env
")]
pub(crate) struct InitArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// The superadmin's e-mail address
    #[arg(long, default_value = "admin@localhost", value_name = "ADDRESS")]
    email: String,
    /// The superadmin's name; default: the address
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    #[command(flatten)]
    password: PasswordArgs,
    /// Write what a shell sets to work as the superadmin into this new file, instead of showing the keys
    #[arg(long, value_name = "PATH")]
    env_file: Option<PathBuf>,
    /// The server's address, for `--env-file`
    #[arg(long, default_value = "http://127.0.0.1:8081", value_name = "URL")]
    endpoint: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: InitArgs) -> anyhow::Result<ExitCode> {
    let password = args.password.take()?;
    // Before anything is made: keys that can't be written down would be lost.
    let file = args.env_file.as_deref().map(|path| new_private_file(path).map(|file| (path, file))).transpose()?;
    let first =
        FirstUser { email: args.email.clone(), username: args.username.clone(), password: password.text.clone() };
    let made = async { Ok::<_, anyhow::Error>(setup::initialise(&args.database.open().await?, first).await?) }.await;
    let made = match (made, &file) {
        (Ok(made), _) => made,
        (Err(error), Some((path, _))) => {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        (Err(error), None) => return Err(error),
    };
    let shown = password.random.then_some(password.text.as_str());
    if let Some((path, mut file)) = file {
        let text = environment(&args.endpoint, &made, shown);
        file.write_all(text.as_bytes()).with_context(|| path.display().to_string())?;
        file.sync_all().with_context(|| path.display().to_string())?;
        if !args.json {
            table::text(&[
                format!("superadmin {} made", made.user.email),
                format!("its keys are in {}: `. {}` takes them", path.display(), sourced(path)),
            ])?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    if args.json {
        table::json(&json!({
            "email": made.user.email,
            "user_id": made.user.id,
            "domain": made.user.domain_name,
            "access_key": made.access_key,
            "secret_key": args.env_file.is_none().then_some(&made.secret_key),
            "password": shown.filter(|_| args.env_file.is_none()),
            "env_file": args.env_file,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![
        format!("superadmin {} made; this is shown once:", made.user.email),
        format!("  access key  {}", made.access_key),
        format!("  secret key  {}", made.secret_key),
    ];
    lines.extend(shown.map(|password| format!("  password    {password}")));
    table::text(&lines)?;
    Ok(ExitCode::SUCCESS)
}

fn new_private_file(path: &Path) -> anyhow::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).with_context(|| format!("--env-file {}", path.display()))
}

/// As a shell's `.` finds it.
fn sourced(path: &Path) -> String {
    if path.components().count() == 1 { format!("./{}", path.display()) } else { path.display().to_string() }
}

/// What the official client and our own commands read.
fn environment(endpoint: &str, made: &Installed, password: Option<&str>) -> String {
    let mut text = format!("# The superadmin {}.\n", made.user.email);
    if let Some(password) = password {
        text.push_str(&format!("# Its password for logins: {password}\n"));
    }
    for (name, value) in [
        ("BACKEND_ENDPOINT", endpoint),
        ("BACKEND_ENDPOINT_TYPE", "api"),
        ("BACKEND_ACCESS_KEY", made.access_key.as_str()),
        ("BACKEND_SECRET_KEY", &made.secret_key),
    ] {
        text.push_str(&format!("export {name}='{}'\n", value.replace('\'', "'\\''")));
    }
    text
}
