//! Commands for people at the server's console: they do the use cases of `control` on the database itself, with or without
//! a server that runs on it. The same rules hold as for requests.

pub(crate) mod domain;
pub(crate) mod image;
pub(crate) mod keypair;
pub(crate) mod policy;
pub(crate) mod preset;
pub(crate) mod project;
pub(crate) mod scaling_group;
pub(crate) mod tree;
pub(crate) mod user;
mod words;

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::bail;
use clap::Args;
use quarterdeck_control::{Control, Principal};
use quarterdeck_model::{ProjectId, Timestamp};
use quarterdeck_plugin::{Runtime, RuntimeOptions};
use quarterdeck_store::Reader;
use quarterdeck_store::listing::{Field, Listing};
use quarterdeck_store::projects::{self, ProjectRow};
use serde_json::Value as Json;

use super::db::DatabaseArgs;
use crate::table;

/// What all of them take.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeskArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// An open database, and who works on it.
pub(crate) struct Desk {
    control: Control,
    caller: Principal,
    json: bool,
}

/// Whoever works at the console: the account of the operating system, before `sudo` where that is known.
pub(crate) fn account() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let uid = nix::unistd::getuid();
        nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
    })
}

/// What was asked for isn't there; commands end with 4.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Missing(String);

impl DeskArgs {
    /// Whether JSON is wanted.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    pub(crate) async fn open(&self) -> anyhow::Result<Desk> {
        let store = self.database.open_existing().await?;
        let plugins = Runtime::new(RuntimeOptions { concurrency: 1, ..RuntimeOptions::default() })?;
        let control = Control::console(store, plugins).await?;
        Ok(Desk { control, caller: Principal::console(&account()), json: self.json })
    }
}

impl Desk {
    fn sql(&self) -> Reader {
        self.control.store().reader()
    }

    /// Shows objects: as an array, or some of their members as a table.
    fn list(&self, columns: &[(&str, &str)], objects: &[Json]) -> anyhow::Result<()> {
        if self.json {
            table::json(&Json::from(objects.to_vec()))?;
        } else {
            table::records(columns, objects)?;
        }
        Ok(())
    }

    /// Shows a page of a list, and tells people when there is more of it.
    fn page(&self, columns: &[(&str, &str)], objects: &[Json], total: i64) -> anyhow::Result<()> {
        self.list(columns, objects)?;
        if i64::try_from(objects.len())? < total && !self.json {
            eprintln!("{} of {total}: --limit and --offset show others", objects.len());
        }
        Ok(())
    }

    /// Shows one object whole.
    fn show(&self, object: &Json) -> anyhow::Result<()> {
        if self.json {
            table::json(object)?;
        } else {
            table::record(object)?;
        }
        Ok(())
    }

    /// Tells what was done; programs get the object.
    fn done(&self, what: &str, object: &Json) -> anyhow::Result<()> {
        if self.json {
            table::json(object)?;
        } else {
            table::text(&[what.to_owned()])?;
        }
        Ok(())
    }

    /// A project by its id, or by its name in a domain.
    async fn project(&self, domain: &str, reference: &str) -> anyhow::Result<ProjectRow> {
        let sql = &mut self.sql();
        let row = match reference.parse::<ProjectId>() {
            Ok(id) => projects::get(sql, id).await?,
            Err(_) => projects::by_name(sql, domain, reference).await?,
        };
        row.ok_or_else(|| missing("project", &format!("{reference} (of the domain {domain})")))
    }
}

/// What people are told about an object that isn't there.
fn missing(object: &str, name: &str) -> anyhow::Error {
    Missing(format!("no such {object}: {name}")).into()
}

/// Results of use cases, for people.
trait Told<T> {
    /// The value, or what went wrong with `name`.
    fn told(self, name: &str) -> anyhow::Result<T>;
}

impl<T> Told<T> for quarterdeck_control::Result<T> {
    fn told(self, name: &str) -> anyhow::Result<T> {
        use quarterdeck_control::Error;
        self.map_err(|error| match error {
            Error::NotFound { object, .. } => missing(object, name),
            // What clients of the API look for stands at its beginning.
            Error::BadRequest(text) => match text.strip_prefix("unexpected error: ") {
                Some(rest) => anyhow::anyhow!("{name}: {rest}"),
                None => anyhow::anyhow!("{name}: {text}"),
            },
            other => anyhow::anyhow!("{name}: {other}"),
        })
    }
}

/// Whether to go on with what can't be undone.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Sure {
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

impl Sure {
    /// Asks, unless it was said already. Without a terminal nobody can be asked.
    fn confirm(self, what: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!("this would {what}: say --yes to do it");
        }
        let mut err = std::io::stderr();
        write!(err, "This will {what}. Go on? [y/N] ")?;
        err.flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("nothing was done");
        }
        Ok(())
    }
}

/// Which rows of a list, as the API's lists take it.
#[derive(Debug, Args)]
struct PageArgs {
    /// As the API filters, e.g. 'created_at > "2026-01-01"'
    #[arg(long)]
    filter: Option<String>,
    /// As the API orders, e.g. -created_at
    #[arg(long, allow_hyphen_values = true)]
    order: Option<String>,
    /// So many at most
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(i64).range(0..))]
    limit: i64,
    /// Leave out so many first
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
}

impl PageArgs {
    fn listing(&self, fields: &'static [Field]) -> anyhow::Result<Listing> {
        Ok(Listing::parse(fields, self.filter.as_deref(), self.order.as_deref(), self.limit, self.offset)?)
    }
}

/// An instant, for people and programs.
fn at(timestamp: Timestamp) -> Json {
    Json::from(timestamp.iso())
}

fn at_opt(timestamp: Option<Timestamp>) -> Json {
    timestamp.map_or(Json::Null, at)
}
