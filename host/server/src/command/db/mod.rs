//! `quarterdeck db …`: commands that open the database themselves, with or without a running server.

mod backup;
mod check;
mod import;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use quarterdeck_store::{Options, Store};

use crate::settings;

/// Which database.
#[derive(Clone, Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// `sqlite://PATH` or `postgres://…`; default: a SQLite file in the data directory
    #[arg(long, global = true, env = "QUARTERDECK_DATABASE", value_name = "URL", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// Where the default database file lies
    #[arg(long, global = true, env = "QUARTERDECK_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl DatabaseArgs {
    /// Opens the database, makes it when it is a file that is missing, and brings its schema up to this release.
    pub(crate) async fn open(&self) -> anyhow::Result<Store> {
        let url = settings::database_url(self.database.clone(), self.data_dir.clone())?;
        let store = Store::open(&url, &Options { connections: 2, ..Options::default() }).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// As [`DatabaseArgs::open`], for commands that look at what is there: a missing file is a mistyped name.
    pub(crate) async fn open_existing(&self) -> anyhow::Result<Store> {
        let url = settings::database_url(self.database.clone(), self.data_dir.clone())?;
        if let Some(path) = url.strip_prefix("sqlite://")
            && !std::path::Path::new(path).exists()
        {
            bail!("there is no database at {path}: `quarterdeck init` makes one");
        }
        self.open().await
    }
}

#[derive(Debug, Args)]
pub(crate) struct DbArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(subcommand)]
    command: DbCommand,
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Bring the schema up to this release (`serve` does so, too)
    Migrate,
    /// Load users, policies, groups and images from a JSON file; may be repeated
    Load {
        /// The file
        file: PathBuf,
    },
    /// Look whether the database is sound: file, references, counters, documents, configuration
    ///
    /// Safe beside a running server. Ends with 3 when something is broken (and wasn't repaired).
    Check(check::CheckArgs),
    /// Write everything into one file, while a server runs or not
    ///
    /// The file is a SQLite database, whichever kind of database it was made of, and `db restore` fills either kind from
    /// it. It holds secret keys and password hashes: keep it as safe as the database.
    Backup(backup::BackupArgs),
    /// Fill an empty database, of either kind, from a backup of either kind
    ///
    /// A backup of an older release is brought up to this one. To grow from SQLite to PostgreSQL: stop the server,
    /// `db backup FILE`, `db restore FILE --database postgres://…`, and start the server on the new database.
    Restore(backup::RestoreArgs),
    /// Take over users, keys, policies, groups, images and templates from a Backend.AI 23.03 database
    ///
    /// One transaction: all or nothing. May be repeated: what is here already stays as it is, unless `--update`.
    Import(import::ImportArgs),
}

pub(crate) async fn run(args: DbArgs) -> anyhow::Result<ExitCode> {
    let DbArgs { database, command } = args;
    match command {
        DbCommand::Migrate => {
            database.open().await?;
            eprintln!("the schema is up to date");
        }
        DbCommand::Load { file } => {
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let seed = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
            let store = database.open().await?;
            let report = quarterdeck_control::seed::load(&store, &seed).await?;
            eprintln!("{report}");
        }
        DbCommand::Check(args) => return check::run(&database, &args).await,
        DbCommand::Backup(args) => backup::write(&database, &args).await?,
        DbCommand::Restore(args) => backup::restore(&database, &args).await?,
        DbCommand::Import(args) => return import::run(&database, args).await,
    }
    Ok(ExitCode::SUCCESS)
}
