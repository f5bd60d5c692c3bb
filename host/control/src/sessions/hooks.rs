//! What hooks are told about sessions that exist.

use quarterdeck_model::SessionId;
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::sessions::SessionRow;
use quarterdeck_store::{kernels, projects, sessions, users};
use serde_json::{Map, Value, json};

use crate::Control;
use crate::agents::in_background;
use crate::error::Result;
use crate::hooks::{Mode, dispatch};

/// Who owns a session, as hooks see it.
async fn owner(control: &Control, session: &SessionRow) -> Result<Value> {
    let mut reader = control.store().reader();
    let user = users::get(&mut reader, session.user_id).await?;
    let project = projects::get(&mut reader, session.project_id).await?;
    Ok(json!({
        "access_key": session.access_key,
        "uuid": session.user_id,
        "email": user.as_ref().map(|u| u.email.clone()),
        "role": user.as_ref().map(|u| u.role),
        "domain": session.domain_name,
        "project": project.map(|p| p.name),
    }))
}

fn environ(value: &Value) -> Value {
    if value.is_object() { value.clone() } else { json!({}) }
}

async fn start_body(control: &Control, session: &SessionRow, kernels: &[KernelRow]) -> Result<Value> {
    let usage = crate::enqueue::usage(control, &session.access_key, session.project_id, &session.domain_name).await?;
    Ok(json!({
        "session": {
            "id": session.id,
            "name": session.name,
            "type": session.session_type.as_str().to_lowercase(),
            "cluster_mode": session.cluster_mode,
            "cluster_size": session.cluster_size,
            "scaling_group": session.scaling_group,
            "tag": session.tag,
            "priority": session.priority,
            "starts_at": session.starts_at.map(|at| at.iso()),
            "environ": environ(&session.environ),
            "startup_command": session.startup_command,
            "kernels": kernels.iter().map(|k| json!({
                "role": k.cluster_role, "image": k.image, "architecture": k.architecture,
                "slots": k.requested_slots, "agent": k.agent_id,
            })).collect::<Vec<_>>(),
            "mounts": [],
        },
        "owner": owner(control, session).await?,
        "usage": usage,
    }))
}

/// Asks the hooks whether a placed session may start.
pub(crate) async fn before_start(control: &Control, session: &SessionRow, kernels: &[KernelRow]) -> Result<()> {
    let body = start_body(control, session, kernels).await?;
    dispatch(control, "PRE_START_SESSION", Mode::All, None, Some(&session.domain_name), body).await.map(drop)
}

/// Tells the hooks that sessions run.
pub(crate) fn notify_started(control: &Control, ids: Vec<SessionId>) {
    let control = control.clone();
    in_background("hooks can't be told of started sessions", async move {
        let rows = sessions::get_many(&mut control.store().reader(), &ids).await?;
        for session in rows {
            let kernels = kernels::of_sessions(&mut control.store().reader(), &[session.id]).await?;
            let body = start_body(&control, &session, &kernels).await?;
            dispatch(&control, "POST_START_SESSION", Mode::Notify, None, Some(&session.domain_name), body).await?;
        }
        Ok(())
    });
}

/// What the notification after the end needs.
#[derive(Debug)]
pub(crate) struct Destroyed {
    id: SessionId,
    domain: String,
    body: Value,
}

/// Asks the hooks whether a session may be ended. `None` when nobody needs to be told afterwards.
pub(crate) async fn before_destroy(
    control: &Control,
    id: SessionId,
    reason: &str,
    forced: bool,
) -> Result<Option<Destroyed>> {
    let (pre, post) =
        (control.policies().has_hooks("PRE_DESTROY_SESSION"), control.policies().has_hooks("POST_DESTROY_SESSION"));
    if !pre && !post {
        return Ok(None);
    }
    let Some(session) = sessions::get(&mut control.store().reader(), id).await? else { return Ok(None) };
    let body = json!({
        "session": {
            "id": session.id,
            "name": session.name,
            "type": session.session_type.as_str().to_lowercase(),
            "status": session.status,
        },
        "owner": owner(control, &session).await?,
        "reason": reason,
        "forced": forced,
    });
    if pre {
        dispatch(control, "PRE_DESTROY_SESSION", Mode::All, None, Some(&session.domain_name), body.clone()).await?;
    }
    Ok(post.then_some(Destroyed { id, domain: session.domain_name, body }))
}

/// Tells the hooks that a session was ended, with what it used.
pub(crate) fn notify_destroyed(control: &Control, destroyed: Destroyed) {
    let control = control.clone();
    in_background("hooks can't be told of an ended session", async move {
        let Destroyed { id, domain, mut body } = destroyed;
        let mut reader = control.store().reader();
        let kernels = kernels::of_sessions(&mut reader, &[id]).await?;
        let now = control.clock().now();
        let seconds = |k: &KernelRow| {
            k.started_at.map_or(0.0, |from| (k.terminated_at.unwrap_or(now).micros() - from.micros()) as f64 / 1e6)
        };
        let main = kernels.iter().find(|k| k.cluster_role == "main");
        let mut usage = Map::new();
        usage.insert("run_seconds".to_owned(), json!(main.map_or(0.0, seconds)));
        usage.insert("slots".to_owned(), main.map_or(Value::Null, |k| k.occupied_slots.clone()));
        usage.insert("kernels".to_owned(), json!(kernels.len()));
        usage.insert("last_stat".to_owned(), main.and_then(|k| k.last_stat.clone()).unwrap_or(Value::Null));
        if let Some(body) = body.as_object_mut() {
            body.insert("usage".to_owned(), Value::Object(usage));
        }
        dispatch(&control, "POST_DESTROY_SESSION", Mode::Notify, None, Some(&domain), body).await.map(drop)
    });
}
