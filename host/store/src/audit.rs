//! Who changed what: entries that are written by the transactions that make the changes.
//!
//! Whoever brings a change about (a request, a command, a loop that acts on a file) opens a [`scope`]; every transaction
//! that begins within it carries the [`Act`] along, and [`crate::Tx::commit`] writes the entry before it commits. So a use
//! case can't forget it, and an entry tells of a change that really happened. What it did to rows of some tables is told
//! too, with values before and after.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quarterdeck_model::Timestamp;
use serde_json::{Value as Json, json};

use crate::changes::{self, Change};
use crate::error::Result;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// By which door a change came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A REST call.
    Rest,
    /// A mutation of the object graph.
    Graphql,
    /// A command at the server's console, which opens the database itself.
    Cli,
    /// The host by itself: what files in the plugin directory, or failing plugins, bring about.
    System,
}

impl Via {
    /// Every door.
    pub const ALL: [Self; 4] = [Self::Rest, Self::Graphql, Self::Cli, Self::System];

    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Graphql => "graphql",
            Self::Cli => "cli",
            Self::System => "system",
        }
    }
}

/// Who acts, and from where.
#[derive(Clone, Debug, Default)]
pub struct Actor {
    /// The user's id.
    pub id: Option<String>,
    /// The user's e-mail address; at the console, the account of the operating system.
    pub name: Option<String>,
    /// The key pair that signed.
    pub access_key: Option<String>,
    /// The client's network address.
    pub address: Option<String>,
    /// The name of the request, as logs and answers have it.
    pub request: Option<String>,
}

/// Something that somebody does.
#[derive(Debug)]
pub struct Act {
    via: Via,
    actor: Actor,
    action: String,
    words: Mutex<Words>,
    /// The number of its entry, once that is committed.
    entry: AtomicI64,
}

/// What becomes known of an act while it is under way.
#[derive(Debug, Default)]
struct Words {
    target: Option<String>,
    details: Option<Json>,
}

impl Act {
    /// An act; `action` names it (`POST /config/set`, `modify_user`, `quarterdeck db load`).
    pub fn new(via: Via, actor: Actor, action: impl Into<String>) -> Self {
        Self { via, actor, action: action.into(), words: Mutex::default(), entry: AtomicI64::new(0) }
    }

    /// With what it is done to, unless something says so later.
    #[must_use]
    pub fn on(self, target: impl Into<String>) -> Self {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).target = Some(target.into());
        self
    }

    /// With what was asked for. Keep secrets out of it.
    #[must_use]
    pub fn with(self, details: Json) -> Self {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).details = Some(details);
        self
    }

    /// Who acts.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Tells what was asked for, and what it is done to, once that is known. The first word counts.
    pub fn describe(&self, target: Option<String>, details: Option<Json>) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.target = words.target.take().or(target);
        words.details = words.details.take().or(details);
    }

    /// The number of its entry, if that is committed. One act has one entry, however many transactions it takes.
    fn entry(&self) -> Option<i64> {
        Some(self.entry.load(Ordering::Acquire)).filter(|entry| *entry != 0)
    }

    /// Its entry is committed.
    pub(crate) fn set_told(&self, entry: i64) {
        self.entry.store(entry, Ordering::Release);
    }
}

tokio::task_local! {
    static SCOPE: Option<Arc<Act>>;
}
static PROCESS: OnceLock<Arc<Act>> = OnceLock::new();

/// Runs `work`, whose changes are all made by this act.
pub async fn scope<F: Future>(act: Act, work: F) -> F::Output {
    SCOPE.scope(Some(Arc::new(act)), work).await
}

/// Everything that this process changes from now on outside of any [`scope`] is this act: for commands that do one thing.
pub fn whole_process(act: Act) {
    // A second act of one command would be a bug of that command, and the first one tells more than nothing.
    let _ = PROCESS.set(Arc::new(act));
}

/// The act that is under way here. Tasks that are spawned have none of their own: see [`carried`].
pub fn current() -> Option<Arc<Act>> {
    SCOPE.try_with(Clone::clone).unwrap_or_else(|_| PROCESS.get().cloned())
}

/// Takes the act that is under way here along into a task that is spawned for it.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    SCOPE.scope(current(), work)
}

/// Writes the entries of those acts that have none yet, and what changed beside the entries of all. The acts with their
/// entries.
pub(crate) async fn tell<S: Sql>(sql: &mut S, acts: Vec<Arc<Act>>, changed: &[Change]) -> Result<Vec<(Arc<Act>, i64)>> {
    let now = Timestamp::now().micros();
    let (told, new): (Vec<_>, Vec<_>) = acts.into_iter().partition(|act| act.entry().is_some());
    let mut entries: Vec<_> = told.into_iter().filter_map(|act| act.entry().map(|entry| (act, entry))).collect();
    if !new.is_empty() {
        let numbers = insert(sql, &new, now).await?;
        entries.extend(new.into_iter().zip(numbers));
    }
    if !changed.is_empty() {
        for (_, entry) in &entries {
            changes::write(sql, *entry, now, changed).await?;
        }
    }
    Ok(entries)
}

/// Adds the entries of acts, in one statement; their numbers.
async fn insert<S: Sql>(sql: &mut S, acts: &[Arc<Act>], now: i64) -> Result<Vec<i64>> {
    const COLUMNS: &[(&str, &str)] = &[
        ("place", "bigint"),
        ("at", "bigint"),
        ("via", "text"),
        ("actor_id", "text"),
        ("actor", "text"),
        ("access_key", "text"),
        ("address", "text"),
        ("request_id", "text"),
        ("action", "text"),
        ("target", "text"),
        ("details", "text"),
    ];
    let rows: Json = acts
        .iter()
        .enumerate()
        .map(|(place, act)| {
            let words = act.words.lock().unwrap_or_else(PoisonError::into_inner);
            json!({
                "place": place,
                "at": now,
                "via": act.via.as_str(),
                "actor_id": act.actor.id,
                "actor": act.actor.name,
                "access_key": act.actor.access_key,
                "address": act.actor.address,
                "request_id": act.actor.request,
                "action": act.action,
                "target": words.target.clone().unwrap_or_default(),
                "details": words.details.as_ref().map(Json::to_string),
            })
        })
        .collect();
    let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).filter(|name| *name != "place").collect();
    let source = set::rows(sql.dialect(), "$1", COLUMNS);
    let stmt = Stmt::assembled(format!(
        "INSERT INTO audit ({0}) SELECT {0} FROM {source} ORDER BY place RETURNING id",
        names.join(", ")
    ));
    // Documents hide NUL behind escapes of two depths: the list's own, and those of the details within it.
    let text = set::clean_json(&rows.to_string()).into_owned();
    let added = sql.fetch_all(stmt.bind(text)).await?;
    let mut numbers: Vec<i64> = added.iter().map(|row| row.get("id")).collect::<Result<_>>()?;
    // They are counted up in the order in which the rows go in, whatever order they come back in.
    numbers.sort_unstable();
    Ok(numbers)
}

/// An entry.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// Entries are numbered in the order in which they were written.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// `rest`, `graphql`, `cli` or `system`.
    pub via: String,
    /// Who.
    pub actor: Actor,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// What was asked for.
    pub details: Option<Json>,
    /// What it did to rows that are kept an eye on.
    pub changes: Changes,
}

/// What one act did to rows: configuration keys, domains, projects, users, key pairs, resource policies, scaling groups,
/// presets and bindings of plugins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Row by row, in the order in which they changed.
    pub rows: Vec<ChangeRow>,
    /// How many more there were.
    pub more: u64,
}

/// What was done to one row.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeRow {
    /// `config`, `domain`, `project`, `user`, `keypair`, `resource-policy`, `scaling-group`, `resource-preset` or
    /// `plugin-binding`.
    pub kind: String,
    /// As people know it.
    pub name: String,
    /// Values before, of the columns that changed, without secrets; nothing when it wasn't there.
    pub before: Option<Json>,
    /// Values after; nothing when it is gone.
    pub after: Option<Json>,
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// By somebody: an e-mail address, a user's id, an access key or an account of the operating system.
    pub actor: Option<String>,
    /// With this action, or one that has this text in it, whatever its case.
    pub action: Option<String>,
    /// With this text in the target, or in the name of something that changed, whatever its case.
    pub target: Option<String>,
    /// Through this door.
    pub via: Option<String>,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Before then.
    pub until: Option<Timestamp>,
    /// With smaller numbers.
    pub before: Option<i64>,
}

fn row(row: &Row) -> Result<AuditRow> {
    Ok(AuditRow {
        id: row.get("id")?,
        at: Timestamp(row.get("at")?),
        via: row.get("via")?,
        actor: Actor {
            id: row.get("actor_id")?,
            name: row.get("actor")?,
            access_key: row.get("access_key")?,
            address: row.get("address")?,
            request: row.get("request_id")?,
        },
        action: row.get("action")?,
        target: row.get("target")?,
        details: row.json_opt("details")?,
        changes: Changes::default(),
    })
}

/// Adds to entries what they changed.
async fn with_changes<S: Sql>(sql: &mut S, mut entries: Vec<AuditRow>) -> Result<Vec<AuditRow>> {
    if entries.is_empty() {
        return Ok(entries);
    }
    // Numbers as texts are what lists are made of.
    let numbers: HashMap<i64, usize> = entries.iter().enumerate().map(|(place, entry)| (entry.id, place)).collect();
    let lookup = Stmt::dialect(
        "SELECT * FROM audit_changes WHERE entry IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) ORDER BY id",
        "SELECT * FROM audit_changes WHERE entry IN \
         (SELECT CAST(e AS BIGINT) FROM jsonb_array_elements_text(CAST($1 AS jsonb)) AS e) ORDER BY id",
    );
    for row in sql.fetch_all(lookup.bind(set::array(numbers.keys()))).await? {
        let Some(entry) = numbers.get(&row.get("entry")?).and_then(|place| entries.get_mut(*place)) else { continue };
        let (kind, name): (String, String) = (row.get("kind")?, row.get("name")?);
        if kind == changes::MORE {
            entry.changes.more += name.parse::<u64>().unwrap_or_default();
            continue;
        }
        let (before, after) = (row.json_opt("old_values")?, row.json_opt("new_values")?);
        entry.changes.rows.push(ChangeRow { kind, name, before, after });
    }
    Ok(entries)
}

/// A text between wildcards of `LIKE`, itself without any.
fn within(text: &str) -> String {
    let escaped = text.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// A page of entries, newest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn page<S: Sql>(sql: &mut S, filter: &Filter, limit: i64) -> Result<Vec<AuditRow>> {
    let mut conditions = vec!["1 = 1".to_owned()];
    let mut values: Vec<crate::Value> = Vec::new();
    let mut add = |condition: &str, value: crate::Value| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("${}", values.len())));
    };
    if let Some(actor) = &filter.actor {
        add("(actor = ? OR actor_id = ? OR access_key = ?)", actor.into());
    }
    if let Some(action) = &filter.action {
        add("LOWER(action) LIKE ? ESCAPE '\\'", within(action).into());
    }
    if let Some(target) = &filter.target {
        add(
            "(LOWER(target) LIKE ? ESCAPE '\\' OR EXISTS (SELECT 1 FROM audit_changes c WHERE c.entry = audit.id \
             AND LOWER(c.name) LIKE ? ESCAPE '\\'))",
            within(target).into(),
        );
    }
    if let Some(via) = &filter.via {
        add("via = ?", via.into());
    }
    if let Some(since) = filter.since {
        add("at >= ?", since.micros().into());
    }
    if let Some(until) = filter.until {
        add("at < ?", until.micros().into());
    }
    if let Some(before) = filter.before {
        add("id < ?", before.into());
    }
    values.push(limit.into());
    let sql_text = format!(
        "SELECT * FROM audit WHERE {} ORDER BY id DESC LIMIT CAST(${} AS BIGINT)",
        conditions.join(" AND "),
        values.len()
    );
    let entries =
        sql.fetch_all(Stmt::assembled(sql_text).bind_all(values)).await?.iter().map(row).collect::<Result<_>>()?;
    with_changes(sql, entries).await
}

/// Whether any entry is from before `horizon`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn any_before<S: Sql>(sql: &mut S, horizon: Timestamp) -> Result<bool> {
    let stmt = Stmt::new("SELECT id FROM audit WHERE at < $1 LIMIT 1").bind(horizon.micros());
    Ok(sql.fetch_optional(stmt).await?.is_some())
}

/// Drops entries from before `horizon`, which must be a day old at least; how many.
///
/// # Errors
/// [`crate::Error::Sqlx`], also when the database finds the horizon too young.
pub async fn drop_before<S: Sql>(sql: &mut S, horizon: Timestamp) -> Result<u64> {
    let set = Stmt::new("UPDATE _audit_horizon SET before = $1 WHERE before < $1");
    sql.execute(set.bind(horizon.micros())).await?;
    sql.execute(Stmt::new("DELETE FROM audit_changes WHERE at < $1").bind(horizon.micros())).await?;
    sql.execute(Stmt::new("DELETE FROM audit WHERE at < $1").bind(horizon.micros())).await
}

#[cfg(test)]
mod tests;
