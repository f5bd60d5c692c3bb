//! `/session`: look sessions up, work in them, end them.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use quarterdeck_control::{Error, maintenance, sessions, storage, vfolders};
use quarterdeck_model::{AgentId, KernelId};
use serde_json::{Value, json};

use super::session_create::{self, session_name};
use super::session_files;
use super::stream::proxy::service;
use crate::call::{Answer, Call, created, no_content, ok};
use crate::params::kinds::{any_text, boolish, nullable, object, text, uuid};
use crate::params::malformed;
use crate::route::Access::{Auth, Superadmin};
use crate::route::Gate::{Reads, Writes};
use crate::route::{Route, delete, get, patch, post};
use crate::wire::Problem;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        post("/session", Auth, Writes, session_create::create),
        post("/session/_/create", Auth, Writes, session_create::create),
        post("/session/_/create-from-template", Auth, Writes, session_create::create_from_template),
        post("/session/_/create-cluster", Auth, Writes, session_create::create_cluster),
        post("/session/_/sync-agent-registry", Superadmin, Writes, sync_agent),
        get("/session/_/match", Auth, Reads, find_matches),
        get("/session/_/logs", Auth, Reads, task_logs),
        Route::new(Method::HEAD, "/session/_/logs", Auth, Reads, task_logs),
        get("/session/{session}", Auth, Reads, info),
        patch("/session/{session}", Auth, Reads, restart),
        delete("/session/{session}", Auth, Reads, destroy),
        post("/session/{session}", Auth, Reads, execute),
        get("/session/{session}/logs", Auth, Reads, logs),
        get("/session/{session}/status-history", Auth, Reads, status_history),
        get("/session/{session}/direct-access-info", Auth, Reads, direct_access_info),
        post("/session/{session}/rename", Auth, Writes, rename),
        post("/session/{session}/interrupt", Auth, Reads, interrupt),
        post("/session/{session}/complete", Auth, Reads, complete),
        post("/session/{session}/start-service", Auth, Reads, start_service),
        post("/session/{session}/shutdown-service", Auth, Reads, shutdown_service),
        post("/session/{session}/upload", Auth, Reads, session_files::upload),
        get("/session/{session}/download", Auth, Reads, session_files::download),
        get("/session/{session}/download_single", Auth, Reads, session_files::download_single),
        get("/session/{session}/files", Auth, Reads, session_files::list_files),
        post("/session/{session}/commit", Auth, Writes, commit),
        get("/session/{session}/commit", Auth, Writes, commit_status),
        get("/session/{session}/abusing-report", Auth, Writes, abusing_report),
    ]
}

/// Has an agent's kernels compared with the rows.
async fn sync_agent(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let agent = params.required(&["agent"], text);
    params.finish()?;
    maintenance::sync_agent(call.control(), &AgentId(agent)).await?;
    ok(&json!({}))
}

async fn find_matches(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let reference = params.required(&["id"], text);
    params.finish()?;
    let caller = call.caller()?;
    let matches = sessions::find_matches(call.control(), &caller, &reference).await?;
    let matches: Vec<_> = matches
        .iter()
        .map(|m| json!({ "id": m.id.to_string(), "name": m.name, "status": m.status.as_str() }))
        .collect();
    ok(&json!({ "matches": matches }))
}

/// Logs of tasks are files of the caller's `.logs` folder.
async fn task_logs(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let kernel = KernelId(params.required(&["session_name", "sessionName", "task_id", "taskId"], uuid));
    params.finish()?;
    let log = match vfolders::files::task_log(call.control(), &*call.caller()?, kernel).await {
        Err(Error::Storage(storage::Error::Refused(refusal))) => return Err(Problem::of_storage(refusal)),
        log => log?,
    };
    let mut response = Response::new(Body::from(log));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

async fn info(call: Call) -> Answer {
    let caller = call.caller()?;
    ok(&sessions::info(call.control(), &caller, call.arg(0)).await?)
}

async fn restart(call: Call) -> Answer {
    let caller = call.caller()?;
    sessions::restart(call.control(), &caller, call.arg(0)).await?;
    no_content()
}

async fn destroy(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let forced = params.optional(&["forced"], false, boolish);
    let recursive = params.optional(&["recursive"], false, boolish);
    let owner = params.optional(&["owner_access_key"], None, nullable(text));
    params.finish()?;
    let caller = call.caller()?;
    let outcome = sessions::destroy(call.control(), &caller, call.arg(0), owner.as_deref(), forced, recursive).await?;
    ok(&outcome)
}

async fn execute(mut call: Call) -> Answer {
    let request = call.json_body().await?;
    if !request.is_object() {
        return Err(malformed());
    }
    let caller = call.caller()?;
    let major = call.version().major;
    let result = sessions::execute(call.control(), &caller, call.arg(0), major, request).await?;
    ok(&json!({ "result": result }))
}

async fn logs(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let owner = params.optional(&["owner_access_key"], None, nullable(text));
    params.finish()?;
    let caller = call.caller()?;
    let logs = sessions::logs(call.control(), &caller, call.arg(0), owner.as_deref()).await?;
    ok(&json!({ "result": { "logs": logs } }))
}

/// The official client asks for this, though the reference never answered.
async fn status_history(call: Call) -> Answer {
    let caller = call.caller()?;
    let history = sessions::status_history(call.control(), &caller, call.arg(0)).await?;
    ok(&json!({ "result": history }))
}

async fn direct_access_info(call: Call) -> Answer {
    let caller = call.caller()?;
    ok(&sessions::direct_access_info(call.control(), &caller, call.arg(0)).await?)
}

async fn rename(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let name = params.required(&["name", "clientSessionToken"], session_name);
    params.finish()?;
    let caller = call.caller()?;
    sessions::rename(call.control(), &caller, call.arg(0), &name).await?;
    no_content()
}

async fn interrupt(call: Call) -> Answer {
    let caller = call.caller()?;
    sessions::interrupt(call.control(), &caller, call.arg(0)).await?;
    no_content()
}

async fn complete(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let code = params.optional(&["code"], String::new(), |v| nullable(any_text)(v).map(Option::unwrap_or_default));
    let options = params.optional(&["options"], None, nullable(object)).unwrap_or_default();
    params.allow_extra();
    params.finish()?;
    let caller = call.caller()?;
    let result = sessions::complete(call.control(), &caller, call.arg(0), &code, Value::Object(options)).await?;
    ok(&json!({ "result": result }))
}

/// The archive's name is made up by the server, whatever the client would like.
async fn commit(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    params.optional(&["login_session_token"], None, nullable(text));
    params.optional(&["filename", "fname"], None, nullable(text));
    params.finish()?;
    let caller = call.caller()?;
    let begun = sessions::commit(call.control(), &caller, call.arg(0)).await?;
    created(&json!({ "bgtask_id": begun.task, "kernel": begun.kernel, "path": begun.path }))
}

async fn commit_status(call: Call) -> Answer {
    let caller = call.caller()?;
    let (kernel, is_ongoing) = sessions::commit_status(call.control(), &caller, call.arg(0)).await?;
    ok(&json!({ "status": if is_ongoing { "ongoing" } else { "ready" }, "kernel": kernel }))
}

async fn abusing_report(call: Call) -> Answer {
    let caller = call.caller()?;
    ok(&sessions::abusing_report(call.control(), &caller, call.arg(0)).await?)
}

/// Starts a service; the client reaches it through the coordinator of the session's scaling group.
async fn start_service(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let login = params.optional(&["login_session_token"], None, nullable(text));
    let asked = service(&mut params);
    params.finish()?;
    let caller = call.caller()?;
    let admitted = sessions::start_service(call.control(), &caller, call.arg(0), login.as_deref(), asked).await?;
    ok(&json!({ "token": admitted.token, "wsproxy_addr": admitted.address }))
}

async fn shutdown_service(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let name = params.required(&["service_name"], text);
    params.finish()?;
    let caller = call.caller()?;
    sessions::shutdown_service(call.control(), &caller, call.arg(0), &name).await?;
    no_content()
}
