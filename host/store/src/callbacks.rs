//! The outbox of call-backs: what is to be told to those who want to know of a session's life.
//!
//! Rows come with the events that they tell of, in one transaction ([`crate::events::append`]), so that none is lost and
//! none tells of what never happened. A session's rows are in the order of its life: whoever changes a session holds its
//! lock while the rows get their numbers.

use quarterdeck_model::{AccessKey, SessionId, Timestamp};
use serde_json::{Value, json};

use crate::error::Result;
use crate::events::NewEvent;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// Events of sessions begin so; what follows is what receivers are told.
const OF_SESSIONS: &str = "session_";

/// A call that is to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct Due {
    /// Orders calls.
    pub id: i64,
    /// The session.
    pub session: SessionId,
    /// What happened to it: `started`, `terminated`, …
    pub event: String,
    /// When that was.
    pub at: Timestamp,
    /// Whom to call.
    pub url: String,
    /// Host and port of it.
    pub receiver: String,
    /// The key pair that owns the session.
    pub access_key: AccessKey,
    /// The key pair's secret, as it is now.
    pub secret: String,
    /// Tries that failed.
    pub attempts: i64,
}

// Addresses may hold tokens, and secrets are secret.
impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Due")
            .field("id", &self.id)
            .field("session", &self.session)
            .field("event", &self.event)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl Due {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            session: row.parse("session_id")?,
            event: row.get("event")?,
            at: Timestamp(row.get("at")?),
            url: row.get("url")?,
            receiver: row.get("receiver")?,
            access_key: row.parse("access_key")?,
            secret: row.get("secret_key")?,
            attempts: row.get("attempts")?,
        })
    }
}

/// How a try went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it.
    Delivered,
    /// It didn't, and won't be asked again.
    Failed {
        /// Why not.
        fault: String,
    },
    /// It didn't; there is to be another try.
    Again {
        /// Not before.
        at: Timestamp,
        /// Why not.
        fault: String,
    },
}

/// A try that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The call.
    pub id: i64,
    /// Its tries, this one included.
    pub attempts: i64,
    /// How it went.
    pub outcome: Outcome,
}

/// Host and port, as they stand in an address.
fn receiver(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default().to_ascii_lowercase()
}

/// Notes what is to be told of these events, in their order. Costs nothing when nobody is to be told.
pub(crate) async fn append<S: Sql>(sql: &mut S, events: &[NewEvent]) -> Result<()> {
    let rows: Vec<_> = events
        .iter()
        .filter_map(|event| {
            let (url, name) = (event.callback_url.as_deref()?, event.name.strip_prefix(OF_SESSIONS)?);
            Some(json!({"s": event.session?, "e": name, "r": receiver(url), "t": event.at.0}))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let columns = [("s", "text"), ("e", "text"), ("r", "text"), ("t", "bigint")];
    sql.execute(
        Stmt::assembled(format!(
            "INSERT INTO callbacks (session_id, event, receiver, at, due_at) SELECT x.s, x.e, x.r, x.t, x.t FROM {}",
            set::rows(sql.dialect(), "$1", &columns)
        ))
        .bind(Value::Array(rows)),
    )
    .await?;
    Ok(())
}

/// The calls that may be made now, those that wait longest first: of each session its oldest only, and no more than
/// `of_receiver` to one receiver, of these no more than `of_owner` for one key pair.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn due<S: Sql>(sql: &mut S, now: Timestamp, of_receiver: i64, of_owner: i64, limit: i64) -> Result<Vec<Due>> {
    let stmt = Stmt::new(
        "WITH heads AS (
             SELECT MIN(id) AS id FROM callbacks WHERE status = 'pending' GROUP BY session_id
         ), by_receiver AS (
             SELECT c.id, c.session_id, c.event, c.at, c.receiver, c.attempts, c.due_at, s.callback_url, s.access_key,
                    ROW_NUMBER() OVER (PARTITION BY c.receiver ORDER BY c.due_at, c.id) AS place
             FROM heads h JOIN callbacks c ON c.id = h.id JOIN sessions s ON s.id = c.session_id
             WHERE c.due_at <= $1 AND s.callback_url IS NOT NULL
         ), by_owner AS (
             SELECT r.*, ROW_NUMBER() OVER (PARTITION BY r.access_key ORDER BY r.due_at, r.id) AS place_of_owner
             FROM by_receiver r WHERE r.place <= $2
         )
         SELECT o.id, o.session_id, o.event, o.at, o.callback_url AS url, o.receiver, o.access_key, k.secret_key, o.attempts
         FROM by_owner o JOIN keypairs k ON k.access_key = o.access_key
         WHERE o.place_of_owner <= $3 ORDER BY o.due_at, o.id LIMIT CAST($4 AS BIGINT)",
    );
    let rows = sql.fetch_all(stmt.bind(now.micros()).bind(of_receiver).bind(of_owner).bind(limit)).await?;
    rows.iter().map(Due::from_row).collect()
}

/// Notes how tries went. What ended meanwhile, or was tried by somebody else, stays as it is.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn record<S: Sql>(sql: &mut S, tried: &[Tried], now: Timestamp) -> Result<u64> {
    let rows: Vec<_> = tried
        .iter()
        .map(|t| {
            let (status, due, fault) = match &t.outcome {
                Outcome::Delivered => ("delivered", None, None),
                Outcome::Failed { fault } => ("failed", None, Some(fault)),
                Outcome::Again { at, fault } => ("pending", Some(at.0), Some(fault)),
            };
            let ended = (status != "pending").then_some(now.0);
            json!({"i": t.id, "n": t.attempts, "s": status, "d": due, "e": ended, "f": fault.map(|f| set::clean(f))})
        })
        .collect();
    if rows.is_empty() {
        return Ok(0);
    }
    let columns = [("i", "bigint"), ("n", "bigint"), ("s", "text"), ("d", "bigint"), ("e", "bigint"), ("f", "text")];
    let stmt = Stmt::assembled(format!(
        "UPDATE callbacks SET status = x.s, attempts = x.n, due_at = COALESCE(x.d, callbacks.due_at), ended_at = x.e, \
         fault = x.f FROM {} WHERE callbacks.id = x.i AND callbacks.status = 'pending' AND callbacks.attempts = x.n - 1",
        set::rows(sql.dialect(), "$1", &columns)
    ));
    sql.execute(stmt.bind(Value::Array(rows))).await
}

/// Ends as failed what waits since before then; how many those were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn give_up<S: Sql>(sql: &mut S, before: Timestamp, fault: &str, now: Timestamp) -> Result<u64> {
    let stmt = Stmt::new(
        "UPDATE callbacks SET status = 'failed', ended_at = $1, fault = COALESCE(fault, $2) \
         WHERE status = 'pending' AND at < $3",
    );
    sql.execute(stmt.bind(now.micros()).bind(fault).bind(before.micros())).await
}

/// Drops what ended before then.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn forget<S: Sql>(sql: &mut S, before: Timestamp) -> Result<u64> {
    sql.execute(Stmt::new("DELETE FROM callbacks WHERE ended_at < $1").bind(before.micros())).await
}

/// How many calls are still to be made.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn pending<S: Sql>(sql: &mut S) -> Result<i64> {
    sql.fetch_one(Stmt::new("SELECT COUNT(*) AS n FROM callbacks WHERE status = 'pending'")).await?.get("n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_are_hosts_with_ports() {
        for (url, expected) in [
            ("http://Example.org/a?b=c", "example.org"),
            ("https://example.org:8443", "example.org:8443"),
            ("https://me:pw@[fd00::1]:1/x", "[fd00::1]:1"),
            ("https://h?x=http://other/", "h"),
        ] {
            assert_eq!(receiver(url), expected, "{url}");
        }
    }
}
