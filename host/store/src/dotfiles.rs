//! Dotfiles of key pairs, projects and domains, and those that sessions were enqueued with.

use std::collections::{BTreeSet, HashMap};

use quarterdeck_model::dotfile::{self, Dotfile};
use quarterdeck_model::{ProjectId, SessionId};
use serde_json::{Map, Value as Json};

use crate::changes::Change;
use crate::error::{Error, Result};
use crate::sessions::NewSession;
use crate::set;
use crate::sql::{Sql, Stmt};

/// Whose dotfiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A key pair's, by access key.
    Keypair(String),
    /// A project's.
    Project(ProjectId),
    /// A domain's, by name.
    Domain(String),
}

impl Holder {
    fn table(&self) -> (&'static str, &'static str) {
        match self {
            Self::Keypair(_) => ("keypairs", "access_key"),
            Self::Project(_) => ("projects", "id"),
            Self::Domain(_) => ("domains", "name"),
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Keypair(key) | Self::Domain(key) => key.clone(),
            Self::Project(id) => id.to_string(),
        }
    }
}

/// The dotfiles of a holder; `None` when there is no such holder. In a write transaction the holder's
/// row stays locked.
///
/// # Errors
/// [`Error::Sqlx`], [`Error::Corrupt`].
pub async fn of<S: Sql>(sql: &mut S, holder: &Holder, for_update: bool) -> Result<Option<Vec<Dotfile>>> {
    let (table, key) = holder.table();
    let mut stmt = Stmt::assembled(format!("SELECT dotfiles FROM {table} WHERE {key} = $1")).bind(holder.key());
    if for_update {
        stmt = stmt.on_postgres("FOR UPDATE");
    }
    let Some(row) = sql.fetch_optional(stmt).await? else { return Ok(None) };
    match row.get::<Option<Vec<u8>>>("dotfiles")? {
        None => Ok(Some(Vec::new())),
        Some(bytes) => unpacked(&bytes).map(Some),
    }
}

fn unpacked(bytes: &[u8]) -> Result<Vec<Dotfile>> {
    dotfile::unpack(bytes).map_err(|reason| Error::Corrupt { column: "dotfiles".to_owned(), reason })
}

/// Replaces the dotfiles of a holder.
///
/// # Errors
/// [`Error::Sqlx`]; [`Error::Corrupt`] when the old ones can't be read.
pub async fn replace<S: Sql>(sql: &mut S, holder: &Holder, packed: Vec<u8>) -> Result<()> {
    let told = if sql.is_watched() {
        let old = of(sql, holder, true).await?;
        old.map(|old| Ok::<_, Error>((old, unpacked(&packed)?))).transpose()?
    } else {
        None
    };
    let (table, key) = holder.table();
    let stmt = Stmt::assembled(format!("UPDATE {table} SET dotfiles = $2 WHERE {key} = $1"));
    sql.execute(stmt.bind(holder.key()).bind(packed)).await?;
    let Some((old, new)) = told else { return Ok(()) };
    let whose = match holder {
        Holder::Keypair(key) => format!("keypair {key}"),
        Holder::Domain(name) => format!("domain {name}"),
        Holder::Project(id) => {
            let stmt = Stmt::new("SELECT name, domain_name FROM projects WHERE id = $1").bind(id.to_string());
            let row = sql.fetch_one(stmt).await?;
            format!("project {} {}", row.get::<String>("name")?, row.get::<String>("domain_name")?)
        }
    };
    let paths: BTreeSet<&str> = old.iter().chain(&new).map(|file| &*file.path).collect();
    for path in paths {
        let side = |files: &[Dotfile]| files.iter().find(|file| file.path == path).map(outline);
        if let Some(change) = Change::of_documents("dotfile", format!("{path} {whose}"), side(&old), side(&new)) {
            sql.note(change);
        }
    }
    Ok(())
}

/// What the audit keeps of a file: enough to see that it changed, nothing of what it says.
fn outline(file: &Dotfile) -> Map<String, Json> {
    let fields: [(&str, Json); 4] = [
        ("path", file.path.clone().into()),
        ("permission", file.perm.clone().into()),
        ("size", file.data.len().into()),
        ("sha256", file.digest().into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a session of this key pair, project and domain gets: theirs, merged.
///
/// # Errors
/// [`Error::Sqlx`], [`Error::Corrupt`].
pub async fn for_session<S: Sql>(
    sql: &mut S,
    access_key: &str,
    project: ProjectId,
    domain: &str,
) -> Result<Vec<Dotfile>> {
    let stmt = Stmt::new(
        "SELECT 0 AS rank, dotfiles FROM keypairs WHERE access_key = $1 AND dotfiles IS NOT NULL \
         UNION ALL SELECT 1, dotfiles FROM projects WHERE id = $2 AND dotfiles IS NOT NULL \
         UNION ALL SELECT 2, dotfiles FROM domains WHERE name = $3 AND dotfiles IS NOT NULL ORDER BY 1",
    );
    let rows = sql.fetch_all(stmt.bind(access_key).bind(project.to_string()).bind(domain)).await?;
    let owners: Vec<Vec<Dotfile>> =
        rows.iter().map(|row| unpacked(&row.get::<Vec<u8>>("dotfiles")?)).collect::<Result<_>>()?;
    Ok(dotfile::merged(owners))
}

/// Keeps the dotfiles that sessions are enqueued with.
pub(crate) async fn keep<S: Sql>(sql: &mut S, sessions: &[NewSession]) -> Result<()> {
    let rows: Vec<_> = sessions
        .iter()
        .filter(|s| !s.dotfiles.is_empty())
        .map(|s| serde_json::json!({"s": s.id, "d": set::clean_json(&serde_json::json!(s.dotfiles).to_string())}))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let stmt = Stmt::assembled(format!(
        "INSERT INTO session_dotfiles (session_id, dotfiles) SELECT x.s, x.d FROM {}",
        set::rows(sql.dialect(), "$1", &[("s", "text"), ("d", "text")])
    ));
    sql.execute(stmt.bind(serde_json::Value::Array(rows))).await?;
    Ok(())
}

/// The dotfiles that these sessions were enqueued with.
///
/// # Errors
/// [`Error::Sqlx`], [`Error::Corrupt`].
pub async fn of_sessions<S: Sql>(sql: &mut S, sessions: &[SessionId]) -> Result<HashMap<SessionId, Vec<Dotfile>>> {
    if sessions.is_empty() {
        return Ok(HashMap::new());
    }
    let stmt = Stmt::among("SELECT session_id, dotfiles FROM session_dotfiles WHERE session_id IN {list}", sessions);
    sql.fetch_all(stmt).await?.iter().map(|row| Ok((row.parse("session_id")?, row.json("dotfiles")?))).collect()
}
