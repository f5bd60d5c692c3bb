//! Working in a session: running code, completing it, interrupting it, reading what was printed.

use std::time::Duration;

use quarterdeck_model::SessionId;
use quarterdeck_rpc::pb;
use quarterdeck_store::{kernels, sessions};
use serde_json::{Map, Value, json};

use super::{agent_of, find};
use crate::agents::call_error;
use crate::error::{Error, Result};
use crate::idle::{self, AccessEvent};
use crate::principal::Principal;
use crate::{AgentOperation, Control, scope};

/// How long an agent gathers output before it answers `continued`.
const FLUSH: Duration = Duration::from_millis(2_000);
/// The result of a run that the kernel has nothing to say about.
const KILLED: i64 = 130;

/// What `POST /session/{s}` asks for, once checked.
#[derive(Debug, PartialEq)]
struct Run {
    mode: String,
    run_id: String,
    code: String,
    options: Value,
}

/// The rules of `spec/session.md` §7.1.
fn check(api_major: u32, request: &Value) -> Result<Run> {
    let text = |key: &str| request.get(key).and_then(Value::as_str).map(str::to_owned);
    let code = text("code").unwrap_or_default();
    if api_major <= 1 {
        let run_id = text("runId").filter(|id| !id.is_empty());
        let run_id = run_id.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string()[..16].to_owned());
        return Ok(Run { mode: "query".to_owned(), run_id, code, options: json!({}) });
    }
    let Some(run_id) = request.get("runId") else { return Err(Error::invalid("runId is missing!")) };
    let mode =
        text("mode").filter(|mode| !mode.is_empty()).ok_or_else(|| Error::invalid("mode is missing or empty!"))?;
    if !matches!(mode.as_str(), "query" | "batch" | "complete" | "continue" | "input") {
        return Err(Error::invalid("mode has an invalid value."));
    }
    let run_id = run_id.as_str().unwrap_or_default().to_owned();
    if matches!(mode.as_str(), "continue" | "input") && run_id.is_empty() {
        return Err(Error::invalid("continuation requires explicit run ID"));
    }
    let options = request.get("options").filter(|o| o.is_object()).cloned().unwrap_or_else(|| json!({}));
    Ok(Run { mode, run_id, code, options })
}

/// Runs code in a session, or goes on with a run. Answers the result document.
///
/// # Errors
/// [`Error::NotFound`], [`Error::InvalidParams`], [`Error::Agent`].
pub async fn execute(
    control: &Control,
    caller: &Principal,
    reference: &str,
    api_major: u32,
    request: Value,
) -> Result<Value> {
    execute_within(control, caller, reference, api_major, request, FLUSH).await
}

/// As [`execute`], answering `continued` once output was gathered for `flush`.
///
/// # Errors
/// As [`execute`].
pub async fn execute_within(
    control: &Control,
    caller: &Principal,
    reference: &str,
    api_major: u32,
    request: Value,
    flush: Duration,
) -> Result<Value> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let kernel = found.main()?;
    let run = check(api_major, &request)?;
    let agent = agent_of(control, kernel, AgentOperation::Execute).await?;
    if run.mode == "complete" {
        return complete_in(control, &found.session.id, &agent, &kernel.id.to_string(), &run.code, &run.options).await;
    }
    if matches!(run.mode.as_str(), "query" | "batch") {
        let mut tx = control.store().begin_bookkeeping().await?;
        sessions::count_query(&mut tx, found.session.id).await?;
        idle::note(&mut tx, &[found.session.id], AccessEvent::ExecutionStarted, control.clock().now()).await?;
        tx.commit().await?;
    }
    let asked = pb::ExecuteRequest {
        kernel_id: kernel.id.to_string(),
        session_id: found.session.id.to_string(),
        api_major: if api_major == 4 { 3 } else { api_major },
        run_id: run.run_id.clone(),
        mode: run.mode.clone(),
        code: run.code,
        options: run.options.to_string(),
        flush_ms: u32::try_from(flush.as_millis()).unwrap_or(u32::MAX),
    };
    let answer = agent.execute(asked).await;
    let document = match &answer {
        Ok(text) => serde_json::from_str::<Value>(text).ok().filter(Value::is_object),
        Err(_) => None,
    };
    let goes_on =
        document.as_ref().and_then(|d| d.get("status")).and_then(Value::as_str).is_some_and(|status| {
            matches!(status, "continued" | "waiting-input" | "clean-finished" | "build-finished")
        });
    if !goes_on {
        ended(control, found.session.id).await?;
    }
    answer.map_err(|error| call_error(AgentOperation::Execute, &error))?;
    Ok(complete_document(document, &run.run_id, api_major))
}

/// A run is over: the session was last used now.
async fn ended(control: &Control, id: SessionId) -> Result<()> {
    let mut tx = control.store().begin_bookkeeping().await?;
    idle::note(&mut tx, &[id], AccessEvent::ExecutionEnded, control.clock().now()).await?;
    tx.commit().await?;
    Ok(())
}

/// The result with every member that clients read.
fn complete_document(document: Option<Value>, run_id: &str, api_major: u32) -> Value {
    let mut result = match document {
        Some(Value::Object(result)) if !result.is_empty() => result,
        _ => {
            let mut result = Map::new();
            result.insert("status".to_owned(), json!("finished"));
            result.insert("exitCode".to_owned(), json!(KILLED));
            result.insert("options".to_owned(), json!({}));
            result
        }
    };
    for (key, default) in
        [("runId", json!(run_id)), ("status", json!("finished")), ("exitCode", Value::Null), ("options", Value::Null)]
    {
        result.entry(key).or_insert(default);
    }
    result.insert("files".to_owned(), json!([]));
    if api_major <= 1 {
        split_console(&mut result);
    } else {
        result.entry("console").or_insert_with(|| json!([]));
    }
    Value::Object(result)
}

/// The oldest clients want each stream by itself.
fn split_console(result: &mut Map<String, Value>) {
    let Some(Value::Array(console)) = result.remove("console") else { return };
    let (mut out, mut err, mut media, mut html) = (String::new(), String::new(), Vec::new(), Vec::new());
    for entry in console {
        let (Some(kind), Some(value)) = (entry.get(0).and_then(Value::as_str), entry.get(1)) else { continue };
        match kind {
            "stdout" => out.push_str(value.as_str().unwrap_or_default()),
            "stderr" => err.push_str(value.as_str().unwrap_or_default()),
            "media" => media.push(value.clone()),
            "html" => html.push(value.clone()),
            _ => {}
        }
    }
    for (key, value) in [("stdout", json!(out)), ("stderr", json!(err)), ("media", json!(media)), ("html", json!(html))]
    {
        result.entry(key).or_insert(value);
    }
}

/// Interrupts what runs in the session.
///
/// # Errors
/// [`Error::NotFound`], [`Error::InvalidParams`] when it isn't placed yet, [`Error::Agent`].
pub async fn interrupt(control: &Control, caller: &Principal, reference: &str) -> Result<()> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let kernel = found.main()?;
    let agent = agent_of(control, kernel, AgentOperation::Execute).await?;
    agent.interrupt(&kernel.id.to_string()).await.map_err(|error| call_error(AgentOperation::Execute, &error))
}

/// Completions for code. Answers the result document.
///
/// # Errors
/// As [`interrupt`].
pub async fn complete(
    control: &Control,
    caller: &Principal,
    reference: &str,
    code: &str,
    options: Value,
) -> Result<Value> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let kernel = found.main()?;
    let agent = agent_of(control, kernel, AgentOperation::Execute).await?;
    complete_in(control, &found.session.id, &agent, &kernel.id.to_string(), code, &options).await
}

async fn complete_in(
    control: &Control,
    session: &SessionId,
    agent: &quarterdeck_rpc::AgentHandle,
    kernel: &str,
    code: &str,
    options: &Value,
) -> Result<Value> {
    let request =
        pb::CompleteRequest { kernel_id: kernel.to_owned(), code: code.to_owned(), options: options.to_string() };
    let answer = agent.complete(request).await.map_err(|error| call_error(AgentOperation::Execute, &error))?;
    ended(control, *session).await?;
    let nothing = json!({"status": "finished", "completions": []});
    Ok(serde_json::from_str(&answer).ok().filter(Value::is_object).unwrap_or(nothing))
}

/// What the session's main kernel printed: kept after its end, asked from its agent before.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Forbidden`] for others' sessions, [`Error::InvalidParams`] when it isn't placed yet,
/// [`Error::Agent`].
pub async fn logs(
    control: &Control,
    caller: &Principal,
    reference: &str,
    owner_access_key: Option<&str>,
) -> Result<String> {
    let owner = scope::resolve_owner(control, caller, owner_access_key).await?;
    let found = find(control, &owner.access_key, reference, true).await?;
    let kernel = found.main()?;
    if let Some(log) = kernels::log(&mut control.store().reader(), kernel.id).await? {
        return Ok(log);
    }
    if kernel.status.is_dead() {
        return Ok(String::new());
    }
    let agent = agent_of(control, kernel, AgentOperation::Execute).await?;
    let log = agent.logs(&kernel.id.to_string()).await.map_err(|error| call_error(AgentOperation::Execute, &error))?;
    Ok(String::from_utf8_lossy(&log).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refusal(api_major: u32, request: &Value) -> String {
        check(api_major, request).unwrap_err().to_string()
    }

    #[test]
    fn the_rules_of_a_run() {
        assert_eq!(refusal(6, &json!({"mode": "query", "code": "1"})), "runId is missing!");
        assert_eq!(refusal(6, &json!({"runId": "r", "code": "1"})), "mode is missing or empty!");
        assert_eq!(refusal(6, &json!({"runId": "r", "mode": "dance"})), "mode has an invalid value.");
        assert_eq!(refusal(6, &json!({"runId": null, "mode": "continue"})), "continuation requires explicit run ID");
        let run = check(6, &json!({"runId": null, "mode": "query", "code": null, "options": null})).unwrap();
        assert_eq!(run, Run { mode: "query".into(), run_id: String::new(), code: String::new(), options: json!({}) });
        let run = check(1, &json!({"mode": "batch", "code": "x"})).unwrap();
        assert_eq!((run.mode.as_str(), run.run_id.len()), ("query", 16));
    }

    #[test]
    fn results_are_complete() {
        let killed = complete_document(None, "r1", 6);
        assert_eq!(
            killed,
            json!({"status": "finished", "exitCode": 130, "options": {}, "runId": "r1", "files": [], "console": []})
        );
        let old = complete_document(
            Some(
                json!({"status": "finished", "runId": "x", "console": [["stdout", "a"], ["stderr", "b"], ["stdout", "c"]]}),
            ),
            "",
            1,
        );
        assert_eq!((old["stdout"].as_str(), old["stderr"].as_str()), (Some("ac"), Some("b")));
        assert!(old.get("console").is_none());
    }
}
