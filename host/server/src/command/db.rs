//! `quarterdeck db …`: commands that open the database themselves, with or without a running server.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use quarterdeck_store::{Options, Store};

use crate::settings;

/// Which database.
#[derive(Clone, Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// `sqlite://PATH` or `postgres://…`; default: a SQLite file in the data directory
    #[arg(long, env = "QUARTERDECK_DATABASE", value_name = "URL", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// Where the default database file lies
    #[arg(long, env = "QUARTERDECK_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl DatabaseArgs {
    /// Opens the database and brings its schema up to this release.
    pub(crate) async fn open(&self) -> anyhow::Result<Store> {
        let url = settings::database_url(self.database.clone(), self.data_dir.clone())?;
        let store = Store::open(&url, &Options { connections: 2, ..Options::default() }).await?;
        store.migrate().await?;
        Ok(store)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Bring the schema up to this release (`serve` does so, too)
    Migrate(DatabaseArgs),
    /// Load users, policies, groups and images from a JSON file; may be repeated
    Load {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

pub(crate) async fn run(command: DbCommand) -> anyhow::Result<ExitCode> {
    match command {
        DbCommand::Migrate(database) => {
            database.open().await?;
            eprintln!("the schema is up to date");
        }
        DbCommand::Load { file, database } => {
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let seed = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
            let store = database.open().await?;
            let report = quarterdeck_control::seed::load(&store, &seed).await?;
            eprintln!("{report}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
