//! Who changed what, when, from where: looking at the audit, and what may stand in it.
//!
//! Entries are written by `store` with the transactions that change something; see [`quarterdeck_store::audit`].

use quarterdeck_model::Timestamp;
use quarterdeck_model::duration::Duration;
use quarterdeck_model::redaction::cut;
pub use quarterdeck_model::redaction::{HIDDEN, is_secret, is_secret_key, redacted};
pub use quarterdeck_store::audit::{
    Act, Actor, AuditRow, ChangeRow, Changes, Filter, Via, carried, current, scope, whole_process,
};
use quarterdeck_store::{Store, audit};
use serde_json::Value as Json;

use crate::Control;
use crate::config::ConfigCache;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// Entries of one page at most.
pub const MAX_PAGE: i64 = 1000;
/// The configuration key that says how long entries are kept, a day at least; `0` = for ever.
pub const RETENTION_KEY: &str = "config/audit/retention";
/// How long they are kept unless it says otherwise.
const RETENTION_DAYS: i64 = 365;
/// The database itself keeps younger ones.
const DAY_MS: i64 = 24 * 3_600_000;

/// Who a caller is, as the audit tells it.
pub fn actor(caller: &Principal) -> Actor {
    Actor {
        id: Some(caller.user_id.to_string()),
        name: Some(caller.email.clone()),
        access_key: Some(caller.access_key.to_string()),
        ..Actor::default()
    }
}

/// What a request is about, as far as its parameters tell: the first of the names that things usually have.
pub fn target_of(asked: &Json) -> Option<String> {
    const NAMES: &[&str] = &[
        "name",
        "session_name",
        "clientSessionToken",
        "key",
        "email",
        "username",
        "access_key",
        "id",
        "path",
        "status",
        "target",
        "plugin",
        "alias",
        "group",
        "domain",
        "agent_id",
        "script",
    ];
    NAMES.iter().find_map(|name| match asked.get(*name)? {
        Json::String(text) if !is_secret(name) => Some(cut(text)),
        _ => None,
    })
}

/// Entries, newest first.
///
/// # Errors
/// [`Error::InsufficientPrivilege`] for all but superadmins.
pub async fn list(control: &Control, caller: &Principal, filter: &Filter, limit: i64) -> Result<Vec<AuditRow>> {
    if !caller.is_superadmin() {
        return Err(Error::InsufficientPrivilege("Only superadmins may look at the audit.".to_owned()));
    }
    Ok(audit::page(&mut control.store().reader(), filter, limit.clamp(1, MAX_PAGE)).await?)
}

/// Drops entries that are older than the configuration keeps them.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn expire(control: &Control) -> Result<u64> {
    drop_old(control.store(), control.config_tree(), control.clock().now()).await
}

async fn drop_old(store: &Store, config: &ConfigCache, now: Timestamp) -> Result<u64> {
    let configured = config.value(RETENTION_KEY);
    let kept =
        configured.and_then(|text| Duration::parse_text(&text).ok()).map_or(RETENTION_DAYS * DAY_MS, Duration::millis);
    if kept == 0 {
        return Ok(0);
    }
    // An hour more than the database insists on, whose clock may be another.
    let horizon = now.plus_millis(-kept.max(DAY_MS + DAY_MS / 24));
    if !audit::any_before(&mut store.reader(), horizon).await? {
        return Ok(0);
    }
    let mut tx = store.begin_bookkeeping().await?;
    let dropped = audit::drop_before(&mut tx, horizon).await?;
    tx.commit().await?;
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_store::{Sql as _, Stmt, testing};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn old_entries_go_as_configured() {
        for db in testing::databases().await {
            let config = ConfigCache::open(db.store.clone()).await.unwrap();
            let now = Timestamp::now();
            let mut tx = db.store.begin().await.unwrap();
            for days in [0, 2, 100, 400] {
                let at = now.plus_millis(-days * DAY_MS).micros();
                let insert = format!("INSERT INTO audit (at, via, action, target) VALUES ({at}, 'rest', 'x', 'y')");
                tx.execute(Stmt::assembled(insert)).await.unwrap();
            }
            tx.commit().await.unwrap();
            let set = async |value: &str| config.set(&[(RETENTION_KEY.to_owned(), value.to_owned())]).await.unwrap();
            set("0").await;
            assert_eq!(drop_old(&db.store, &config, now).await.unwrap(), 0, "for ever");
            config.delete(RETENTION_KEY, false).await.unwrap();
            assert_eq!(drop_old(&db.store, &config, now).await.unwrap(), 1, "a year");
            set("30d").await;
            assert_eq!(drop_old(&db.store, &config, now).await.unwrap(), 1);
            set("1s").await;
            assert_eq!(drop_old(&db.store, &config, now).await.unwrap(), 1, "all but the last day");
            assert_eq!(drop_old(&db.store, &config, now).await.unwrap(), 0);
            let left = audit::page(&mut db.store.reader(), &Filter::default(), 10).await.unwrap();
            assert_eq!(left.len(), 1);
        }
    }

    #[test]
    fn targets() {
        assert_eq!(target_of(&json!({"key": "config/x", "value": "v"})).as_deref(), Some("config/x"));
        assert_eq!(target_of(&json!({"domain": "d", "path": ".x", "data": "y"})).as_deref(), Some(".x"));
        assert_eq!(target_of(&json!({"enabled": true})), None);
    }
}
