//! What only some policies ask to be shown: read only for those.

use std::collections::HashMap;

use quarterdeck_model::{SessionId, Timestamp};

use super::{of_open, running};
use crate::error::Result;
use crate::sql::Sql;
use crate::usage::{self, Means};

/// Which extras are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// [`Extras::tags`]
    pub tags: bool,
    /// [`Extras::started`]
    pub started: bool,
    /// [`Extras::project_names`]
    pub project_names: bool,
    /// [`Extras::means`]
    pub means: bool,
}

impl Wanted {
    /// Everything.
    pub const ALL: Self = Self { tags: true, started: true, project_names: true, means: true };
}

/// Facts beside the [`Queue`](super::Queue); what wasn't wanted is empty.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// The tags of open sessions that have one.
    pub tags: HashMap<SessionId, String>,
    /// When the main kernels of sessions that hold resources started.
    pub started: HashMap<SessionId, Timestamp>,
    /// `domain/project` by the project's id.
    pub project_names: HashMap<String, String>,
    /// What key pairs and projects have held of late.
    pub means: Means,
}

/// Reads extras, in the transaction that [`load`](super::load) has read in.
///
/// # Errors
/// Database errors.
pub async fn extras<S: Sql>(sql: &mut S, group: &str, wanted: Wanted, now: Timestamp) -> Result<Extras> {
    let mut extras = Extras::default();
    if wanted.tags {
        let stmt = of_open("SELECT id, tag FROM sessions WHERE {open} AND tag <> ''", group);
        for row in sql.fetch_all(stmt).await? {
            extras.tags.insert(row.parse("id")?, row.get("tag")?);
        }
    }
    if wanted.started {
        extras.started = running::started(sql, group).await?;
    }
    if wanted.project_names {
        let stmt = of_open(
            "SELECT id, domain_name, name FROM projects WHERE id IN (SELECT project_id FROM sessions WHERE {open})",
            group,
        );
        for row in sql.fetch_all(stmt).await? {
            let name = format!("{}/{}", row.get::<String>("domain_name")?, row.get::<String>("name")?);
            extras.project_names.insert(row.get("id")?, name);
        }
    }
    if wanted.means {
        extras.means = usage::means(sql, group, now).await?;
    }
    Ok(extras)
}
