//! Who changed what, when, from where: looking at the audit, and what may stand in it.
//!
//! Entries are written by `store` with the transactions that change something; see [`quarterdeck_store::audit`].

use quarterdeck_model::Timestamp;
use quarterdeck_model::duration::Duration;
pub use quarterdeck_store::audit::{Act, Actor, AuditRow, Filter, Via, carried, current, scope, whole_process};
use quarterdeck_store::{Store, audit};
use serde_json::{Map, Value as Json};

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

/// Texts are cut to so many characters, lists to so many members, and documents that are longer all the same keep their
/// first names only.
const MAX_TEXT: usize = 256;
const MAX_ITEMS: usize = 64;
const MAX_DOCUMENT: usize = 8 << 10;

/// What stands in place of what must not be read.
const HIDDEN: &str = "***";
/// Values under names with one of these in them are secrets.
const SECRET_WORDS: &[&str] =
    &["password", "passwd", "passphrase", "secret", "privkey", "private", "token", "credential", "api_key", "apikey"];
/// Values under these names hold whatever people put there, secrets included.
const SECRET_NAMES: &[&str] =
    &["data", "script", "bootstrap_script", "bootstrapscript", "environ", "env", "envs", "payload"];

/// Who a caller is, as the audit tells it.
pub fn actor(caller: &Principal) -> Actor {
    Actor {
        id: Some(caller.user_id.to_string()),
        name: Some(caller.email.clone()),
        access_key: Some(caller.access_key.to_string()),
        ..Actor::default()
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET_NAMES.contains(&name.as_str()) || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// What was asked for, fit to be kept: without secrets, `null`s and length.
pub fn redacted(asked: &Json) -> Json {
    let kept = kept(asked);
    match &kept {
        Json::Object(map) if kept.to_string().len() > MAX_DOCUMENT => {
            let names = map.keys().take(MAX_ITEMS).map(|name| (cut(name), Json::from("…")));
            Json::Object(names.collect())
        }
        _ if kept.to_string().len() > MAX_DOCUMENT => Json::from("…"),
        _ => kept,
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text.to_owned(),
    }
}

fn kept(value: &Json) -> Json {
    match value {
        Json::String(text) => Json::from(cut(text)),
        Json::Array(items) => items.iter().take(MAX_ITEMS).map(kept).collect(),
        Json::Object(map) => {
            // A key of the configuration tree beside its value.
            let names_secret =
                map.get("key").and_then(Json::as_str).is_some_and(|key| key.rsplit('/').next().is_some_and(is_secret));
            let mut out = Map::new();
            for (name, value) in map.iter().filter(|(_, value)| !value.is_null()).take(MAX_ITEMS) {
                let value = match value {
                    _ if is_secret(name) || (names_secret && name == "value") => Json::from(HIDDEN),
                    // What follows may let somebody in.
                    Json::String(url) if name.to_lowercase().contains("url") => {
                        Json::from(cut(url.split('?').next().unwrap_or_default()))
                    }
                    other => kept(other),
                };
                out.insert(cut(name), value);
            }
            Json::Object(out)
        }
        other => other.clone(),
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
    fn secrets_stay_out() {
        let asked = json!({
            "email": "a@x", "props": {"password": "hunter2", "full_name": null, "role": "admin"},
            "callback_url": "http://x/y?token=1", "privkey": "PEM", "data": "export KEY=1", "environ": {"KEY": "1"},
            "oneTimeToken": "t",
        });
        assert_eq!(
            redacted(&asked),
            json!({
                "email": "a@x", "props": {"password": "***", "role": "admin"}, "callback_url": "http://x/y",
                "privkey": "***", "data": "***", "environ": "***", "oneTimeToken": "***",
            })
        );
        let set = |key: &str| redacted(&json!({"key": key, "value": "v"}))["value"].clone();
        assert_eq!(set("config/docker/registry/cr/password"), "***");
        assert_eq!(set("config/watcher/token"), "***");
        assert_eq!(set("config/logs/error/retention"), "v");
    }

    #[test]
    fn length_stays_out() {
        let long = redacted(&json!({"name": "x".repeat(10_000)}))["name"].as_str().unwrap_or_default().to_owned();
        assert!(long.ends_with("… (10000 characters)") && long.len() < 300, "{long}");
        let wide: Json = (0..60).map(|i| (i.to_string(), json!("y".repeat(250)))).collect::<Map<_, _>>().into();
        let kept = redacted(&wide);
        assert_eq!((kept["0"].as_str(), kept.to_string().len() < MAX_DOCUMENT), (Some("…"), true));
    }

    #[test]
    fn targets() {
        assert_eq!(target_of(&json!({"key": "config/x", "value": "v"})).as_deref(), Some("config/x"));
        assert_eq!(target_of(&json!({"domain": "d", "path": ".x", "data": "y"})).as_deref(), Some(".x"));
        assert_eq!(target_of(&json!({"enabled": true})), None);
    }
}
