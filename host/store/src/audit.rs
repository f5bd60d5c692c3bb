//! Who changed what: entries that are written by the transactions that make the changes.
//!
//! Whoever brings a change about (a request, a command, a loop that acts on a file) opens a [`scope`]; every transaction
//! that begins within it carries the [`Act`] along, and [`crate::Tx::commit`] writes the entry before it commits. So a use
//! case can't forget it, and an entry tells of a change that really happened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quarterdeck_model::Timestamp;
use serde_json::{Value as Json, json};

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
    told: AtomicBool,
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
        Self { via, actor, action: action.into(), words: Mutex::default(), told: AtomicBool::new(false) }
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

    /// Whether an entry of it is committed. One act has one entry, however many transactions it takes.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    pub(crate) fn set_told(&self) {
        self.told.store(true, Ordering::Release);
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

/// Writes the entries of acts, in one statement.
pub(crate) async fn tell<S: Sql>(sql: &mut S, acts: &[Arc<Act>]) -> Result<()> {
    const COLUMNS: &[(&str, &str)] = &[
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
    let now = Timestamp::now().micros();
    let rows: Json = acts
        .iter()
        .map(|act| {
            let words = act.words.lock().unwrap_or_else(PoisonError::into_inner);
            json!({
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
    let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let source = set::rows(sql.dialect(), "$1", COLUMNS);
    let stmt = Stmt::assembled(format!("INSERT INTO audit ({0}) SELECT {0} FROM {source}", names.join(", ")));
    // Documents hide NUL behind escapes of two depths: the list's own, and those of the details within it.
    let text = rows.to_string().replace("\\u0000", "\\ufffd");
    sql.execute(stmt.bind(text)).await?;
    Ok(())
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
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// By somebody: an e-mail address, a user's id, an access key or an account of the operating system.
    pub actor: Option<String>,
    /// With this action, or one that has this text in it, whatever its case.
    pub action: Option<String>,
    /// With this text in the target, whatever its case.
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
    })
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
        add("LOWER(target) LIKE ? ESCAPE '\\'", within(target).into());
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
    let sql_text =
        format!("SELECT * FROM audit WHERE {} ORDER BY id DESC LIMIT ${}", conditions.join(" AND "), values.len());
    sql.fetch_all(Stmt::assembled(sql_text).bind_all(values)).await?.iter().map(row).collect()
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
    sql.execute(Stmt::new("DELETE FROM audit WHERE at < $1").bind(horizon.micros())).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{config, testing};

    fn somebody() -> Actor {
        Actor { name: Some("a@x".to_owned()), access_key: Some("AKIA".to_owned()), ..Actor::default() }
    }

    async fn all(db: &testing::TestDb) -> Vec<AuditRow> {
        page(&mut db.store.reader(), &Filter::default(), 100).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_committed_is_told_once_and_nothing_else() {
        for db in testing::databases().await {
            let store = &db.store;
            let write = async |key: &str| {
                let mut tx = store.begin().await.unwrap();
                config::set(&mut tx, &[(key.to_owned(), "v".to_owned())]).await.unwrap();
                tx.commit().await.unwrap();
            };
            write("nobody").await;
            assert!(all(&db).await.is_empty(), "no act was under way");

            scope(Act::new(Via::Rest, somebody(), "POST /x").on("t").with(json!({"k": "\0"})), async {
                // Neither what is undone, nor looking, nor bookkeeping is an act.
                let mut tx = store.begin().await.unwrap();
                config::set(&mut tx, &[("undone".to_owned(), "v".to_owned())]).await.unwrap();
                tx.rollback().await.unwrap();
                let mut tx = store.begin().await.unwrap();
                config::get(&mut tx, "nobody").await.unwrap();
                assert_eq!(config::delete(&mut tx, "not there").await.unwrap(), 0);
                tx.commit().await.unwrap();
                let mut tx = store.begin_bookkeeping().await.unwrap();
                config::set(&mut tx, &[("mark".to_owned(), "v".to_owned())]).await.unwrap();
                tx.commit().await.unwrap();
                assert!(all(&db).await.is_empty());
                write("one").await;
                write("two").await;
            })
            .await;
            let told = all(&db).await;
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(
                (told[0].action.as_str(), told[0].target.as_str(), told[0].via.as_str()),
                ("POST /x", "t", "rest")
            );
            assert_eq!(told[0].details, Some(json!({"k": "\u{fffd}"})));

            let acts = ["first", "second"].map(|name| Arc::new(Act::new(Via::System, Actor::default(), name)));
            let mut tx = store.begin().await.unwrap();
            tx.on_behalf_of(acts);
            config::set(&mut tx, &[("both".to_owned(), "v".to_owned())]).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(all(&db).await.len(), 3);

            let count = async |filter: Filter| page(&mut store.reader(), &filter, 100).await.unwrap().len();
            assert_eq!(count(Filter { actor: Some("AKIA".to_owned()), ..Filter::default() }).await, 1);
            assert_eq!(count(Filter { action: Some("FIRST".to_owned()), ..Filter::default() }).await, 1);
            assert_eq!(count(Filter { action: Some("_".to_owned()), ..Filter::default() }).await, 0);
            assert_eq!(count(Filter { via: Some("system".to_owned()), ..Filter::default() }).await, 2);
            assert_eq!(count(Filter { target: Some("T".to_owned()), ..Filter::default() }).await, 1);
            assert_eq!(count(Filter { before: Some(told[0].id + 1), ..Filter::default() }).await, 1);
            assert_eq!(count(Filter { since: Some(Timestamp::now()), ..Filter::default() }).await, 0);
        }
    }

    #[tokio::test]
    async fn entries_go_by_age_alone() {
        for db in testing::databases().await {
            let try_to = async |statement: &str| {
                let mut tx = db.store.begin().await.unwrap();
                let done = tx.execute(Stmt::assembled(statement.to_owned())).await;
                if done.is_ok() {
                    tx.commit().await.unwrap();
                }
                done.is_ok()
            };
            let day = 86_400_000_000;
            let now = Timestamp::now().micros();
            let entry =
                |at: i64| format!("INSERT INTO audit (at, via, action, target) VALUES ({at}, 'rest', 'x', 'y')");
            assert!(try_to(&entry(now)).await && try_to(&entry(now - 10 * day)).await);
            for refused in [
                "UPDATE audit SET actor = 'somebody else'",
                "DELETE FROM audit",
                "DELETE FROM _audit_horizon",
                "INSERT INTO audit (id, at, via, action, target) SELECT MAX(id), 1, 'rest', 'x', 'y' FROM audit",
                &format!("UPDATE _audit_horizon SET before = {}", now + day),
            ] {
                assert!(!try_to(refused).await, "{refused}");
            }
            let mut tx = db.store.begin().await.unwrap();
            assert!(any_before(&mut tx, Timestamp(now - 5 * day)).await.unwrap());
            assert_eq!(drop_before(&mut tx, Timestamp(now - 5 * day)).await.unwrap(), 1);
            tx.commit().await.unwrap();
            assert_eq!(all(&db).await.len(), 1);
            let mut tx = db.store.begin().await.unwrap();
            assert!(drop_before(&mut tx, Timestamp(now)).await.is_err(), "a day is kept");
        }
    }
}
