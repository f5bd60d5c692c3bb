//! The log of errors that clients report and that the host meets.

use quarterdeck_model::duration::Duration;
use quarterdeck_model::{Timestamp, UserRole};
use quarterdeck_store::error_logs::{self, ErrorLogRow, Sight};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// Days that entries are kept when the configuration doesn't say.
const RETENTION_DAYS: i64 = 90;
/// Where it says so.
const RETENTION_KEY: &str = "config/logs/error/retention";

/// What a client reports.
#[derive(Clone, Debug)]
pub struct Report {
    /// `critical`, `error` or `warning`.
    pub severity: String,
    /// Which program.
    pub source: String,
    /// What happened.
    pub message: String,
    /// The language that `context_env` and `traceback` speak.
    pub context_lang: String,
    /// Whatever the source found worth telling.
    pub context_env: Json,
    /// The request that failed.
    pub request_url: Option<String>,
    /// How it was answered.
    pub request_status: Option<i64>,
    /// Where in the program.
    pub traceback: Option<String>,
}

/// A page of the log.
#[derive(Clone, Debug)]
pub struct Page {
    /// Newest first, as they were before they were marked.
    pub entries: Vec<ErrorLogRow>,
    /// How many there are in all.
    pub count: i64,
    /// Whether the reader is told which are cleared.
    pub shows_cleared: bool,
}

/// Adds a client's report.
///
/// # Errors
/// [`Error::Store`].
pub async fn append(control: &Control, caller: &Principal, report: Report) -> Result<()> {
    insert(control, ErrorLogRow { user: Some(caller.user_id), ..row(control.clock().now(), report) }).await
}

/// Records that the host failed to answer a request as it should.
///
/// # Errors
/// [`Error::Store`].
pub async fn record_failure(control: &Control, message: &str, url: &str, status: u16) -> Result<()> {
    let report = Report {
        severity: "error".to_owned(),
        source: "manager".to_owned(),
        message: message.to_owned(),
        context_lang: "rust".to_owned(),
        context_env: Json::Null,
        request_url: Some(url.to_owned()),
        request_status: Some(i64::from(status)),
        traceback: None,
    };
    insert(control, row(control.clock().now(), report)).await
}

fn row(now: Timestamp, report: Report) -> ErrorLogRow {
    ErrorLogRow {
        id: Uuid::now_v7().to_string(),
        created_at: now,
        severity: report.severity,
        source: report.source,
        user: None,
        is_read: false,
        is_cleared: false,
        message: report.message,
        context_lang: report.context_lang,
        context_env: report.context_env,
        request_url: report.request_url,
        request_status: report.request_status,
        traceback: report.traceback,
    }
}

async fn insert(control: &Control, row: ErrorLogRow) -> Result<()> {
    let mut tx = control.store().begin().await?;
    error_logs::insert(&mut tx, &row).await?;
    tx.commit().await?;
    Ok(())
}

/// The entries that the caller may see: `number` counts pages of `size` from 1.
///
/// # Errors
/// [`Error::Store`].
pub async fn page(control: &Control, caller: &Principal, size: i64, number: i64, mark_read: bool) -> Result<Page> {
    let sight = sight(caller);
    let offset = number.max(1).saturating_sub(1).saturating_mul(size);
    let mut tx = control.store().begin_read().await?;
    let count = error_logs::count(&mut tx, &sight).await?;
    let entries = error_logs::page(&mut tx, &sight, size, offset).await?;
    tx.commit().await?;
    let unread: Vec<String> = entries.iter().filter(|e| !e.is_read).map(|e| e.id.clone()).collect();
    if mark_read && !unread.is_empty() {
        let mut tx = control.store().begin_bookkeeping().await?;
        error_logs::mark_read(&mut tx, &unread).await?;
        tx.commit().await?;
    }
    Ok(Page { entries, count, shows_cleared: !matches!(sight, Sight::User(_)) })
}

/// Clears an entry: its user sees it no more.
///
/// # Errors
/// [`Error::NotFound`] for what the caller can't see.
pub async fn clear(control: &Control, caller: &Principal, id: &str) -> Result<()> {
    let unknown = || Error::not_found("log entry");
    let id = Uuid::parse_str(id).map_err(|_| unknown())?;
    let mut tx = control.store().begin().await?;
    if error_logs::clear(&mut tx, &sight(caller), &id.to_string()).await? == 0 {
        return Err(unknown());
    }
    tx.commit().await?;
    Ok(())
}

fn sight(caller: &Principal) -> Sight {
    match caller.role {
        UserRole::Superadmin => Sight::All,
        UserRole::Admin => Sight::Domain(caller.domain.clone()),
        UserRole::User | UserRole::Monitor => Sight::User(caller.user_id),
    }
}

/// Drops entries that are older than the configuration keeps them.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn expire(control: &Control) -> Result<u64> {
    let configured = control.config_tree().get(RETENTION_KEY).await;
    let kept = configured
        .and_then(|text| Duration::parse_text(&text).ok())
        .map_or(RETENTION_DAYS * 24 * 3_600_000, Duration::millis);
    let horizon = control.clock().now().plus_millis(-kept);
    let mut tx = control.store().begin().await?;
    let dropped = error_logs::drop_before(&mut tx, horizon).await?;
    tx.commit().await?;
    Ok(dropped)
}
