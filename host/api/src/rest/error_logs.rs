//! `/logs/error`: what clients reported, and what went wrong in the host.

use quarterdeck_control::error_logs::{self, Report};
use quarterdeck_store::error_logs::ErrorLogRow;
use serde_json::{Value, json};

use crate::call::{Answer, Call, ok};
use crate::params::Fault;
use crate::params::kinds::{any_text, boolish, int, nullable, one_of, text};
use crate::route::Access::Auth;
use crate::route::Gate::Reads;
use crate::route::{Route, get, post};

const SEVERITIES: &[&str] = &["critical", "error", "warning"];

pub(crate) fn routes() -> Vec<Route> {
    vec![
        post("/logs/error", Auth, Reads, append),
        get("/logs/error", Auth, Reads, list),
        post("/logs/error/{entry}/clear", Auth, Reads, clear),
    ]
}

async fn append(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let report = Report {
        severity: params.required(&["severity"], one_of(SEVERITIES, "LogSeverity")).to_owned(),
        source: params.required(&["source"], text),
        message: params.required(&["message"], text),
        context_lang: params.required(&["context_lang"], text),
        context_env: params.required(&["context_env"], json_text),
        request_url: params.optional(&["request_url"], None, nullable(any_text)),
        request_status: params.optional(&["request_status"], None, nullable(number)),
        traceback: params.optional(&["traceback"], None, nullable(any_text)),
    };
    params.finish()?;
    let caller = call.caller()?;
    error_logs::append(call.control(), &caller, report).await?;
    ok(&json!({ "success": true }))
}

async fn list(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let mark_read = params.optional(&["mark_read"], false, boolish);
    let size = params.optional(&["page_size"], 20, int(0..=100));
    let number = params.optional(&["page_no"], 1, int(i64::from(i32::MIN)..=i64::from(i32::MAX)));
    params.finish()?;
    let caller = call.caller()?;
    let page = error_logs::page(call.control(), &caller, size, number, mark_read).await?;
    let logs: Vec<_> = page.entries.iter().map(|entry| document(entry, page.shows_cleared)).collect();
    ok(&json!({ "logs": logs, "count": page.count }))
}

async fn clear(call: Call) -> Answer {
    let caller = call.caller()?;
    error_logs::clear(call.control(), &caller, call.arg(0)).await?;
    ok(&json!({ "success": true }))
}

fn document(entry: &ErrorLogRow, shows_cleared: bool) -> Value {
    let mut document = json!({
        "log_id": entry.id,
        "created_at": entry.created_at.seconds(),
        "severity": entry.severity,
        "source": entry.source,
        "user": entry.user.map(|u| u.to_string()),
        "is_read": entry.is_read,
        "message": entry.message,
        "context_lang": entry.context_lang,
        "context_env": entry.context_env,
        "request_url": entry.request_url,
        "request_status": entry.request_status,
        "traceback": entry.traceback,
    });
    if shows_cleared {
        document["is_cleared"] = json!(entry.is_cleared);
    }
    document
}

/// The text of a JSON document; an object is taken as it is.
fn json_text(value: Value) -> Result<Value, Fault> {
    let broken = || Fault::from("value is not a valid JSON string");
    match value {
        Value::String(text) => serde_json::from_str(&text).map_err(|_| broken()),
        Value::Object(_) => Ok(value),
        _ => Err(broken()),
    }
}

/// A number, not the text of one.
fn number(value: Value) -> Result<i64, Fault> {
    value.as_i64().ok_or_else(|| "value is not int".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_documents_or_their_text() {
        for fine in [json!("{\"a\": 1}"), json!({"a": 1})] {
            assert_eq!(json_text(fine), Ok(json!({"a": 1})));
        }
        for broken in [json!("{"), json!(5), json!(null), json!([1])] {
            assert!(json_text(broken).is_err());
        }
    }
}
