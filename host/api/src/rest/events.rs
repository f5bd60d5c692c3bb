//! `/events`: what happens to sessions and background tasks, as it happens.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use quarterdeck_control::background_tasks::{self, Follow, News};
use quarterdeck_control::listeners::Open;
use quarterdeck_control::session_events::{self, EventScope, Subscription, Wanted};
use quarterdeck_control::store::background_tasks::TaskRow;
use quarterdeck_control::store::events::SessionEvent;
use quarterdeck_model::{SessionId, TaskId, TaskStatus};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::call::{Answer, Call};
use crate::params::kinds::{nullable, one_of, text, uuid};
use crate::route::Access::Auth;
use crate::route::Gate::Reads;
use crate::route::{Route, get};
use crate::sse::{self, Message};

/// Seconds after which clients come back to a task whose stream broke off.
const RETRY: u32 = 5;
/// Before the first news of a task. The official client's command line breaks off when they come together with the head
/// of the answer: it cancels an indicator of progress that has not begun.
const HEAD_START: Duration = Duration::from_millis(250);
/// Stands for anything.
const ANY: &str = "*";

pub(crate) fn routes() -> Vec<Route> {
    vec![get("/events/session", Auth, Reads, sessions), get("/events/background-task", Auth, Reads, background_task)]
}

/// Where a client that comes back wants to go on.
fn last_event_id(call: &Call) -> Option<i64> {
    call.header("last-event-id").parse().ok()
}

async fn sessions(mut call: Call) -> Answer {
    const SCOPES: &[&str] = &[ANY, "session", "kernel"];
    let mut params = call.params().await?;
    let name = params.optional(&["name", "sessionName", "session_name"], ANY.to_owned(), text);
    // Official clients write the second.
    let owner = params.optional(&["ownerAccessKey", "owner_access_key"], None, nullable(text));
    let session = params.optional(&["sessionId", "session_id"], None, nullable(uuid));
    let project = params.optional(&["group", "groupName", "group_name"], ANY.to_owned(), text);
    let scope = params.optional(&["scope"], ANY, one_of(SCOPES, "scope"));
    params.finish()?;
    let wanted = Wanted {
        name: Some(name).filter(|name| name != ANY),
        owner_access_key: owner,
        session: session.map(SessionId),
        project: Some(project).filter(|name| name != ANY),
        scope: match scope {
            "session" => EventScope::Sessions,
            "kernel" => EventScope::Kernels,
            _ => EventScope::All,
        },
    };
    let caller = call.caller()?;
    let open = call.control().listeners().open(&caller.access_key)?;
    let events = session_events::subscribe(call.control(), &caller, wanted, last_event_id(&call)).await?;
    Ok(sse::response(told_of_sessions(events, open)))
}

fn told_of_sessions(events: Subscription, open: Open) -> impl Stream<Item = Message> {
    futures::stream::unfold((events, open), |(mut events, open)| async move {
        match events.next().await {
            Ok(Some(event)) => {
                let message = Message { id: Some(event.id), ..Message::new(event.name.clone(), payload(&event)) };
                Some((message, (events, open)))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "a stream of events ends early");
                None
            }
        }
    })
}

/// What an event of a session or a kernel says.
fn payload(event: &SessionEvent) -> Value {
    let exit_code = match event.name.as_str() {
        "kernel_terminating" | "kernel_terminated" | "session_success" | "session_failure" => {
            json!(event.exit_code.unwrap_or(-1))
        }
        _ => Value::Null,
    };
    let mut data = Map::new();
    data.insert("reason".to_owned(), json!(event.reason));
    data.insert("sessionName".to_owned(), json!(event.session_name));
    data.insert("ownerAccessKey".to_owned(), json!(event.access_key));
    data.insert("sessionId".to_owned(), json!(event.session));
    data.insert("exitCode".to_owned(), exit_code);
    if let Some(kernel) = event.kernel {
        data.insert("kernelId".to_owned(), json!(kernel));
    }
    if event.name.starts_with("kernel_") {
        if let Some(role) = &event.cluster_role {
            data.insert("clusterRole".to_owned(), json!(role));
        }
        if let Some(index) = event.cluster_idx.filter(|index| *index != 0) {
            data.insert("clusterIdx".to_owned(), json!(index));
        }
    }
    Value::Object(data)
}

async fn background_task(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let task = params.required(&["task_id", "taskId"], |value| uuid(value).map(Some));
    params.finish()?;
    let caller = call.caller()?;
    let open = call.control().listeners().open(&caller.access_key)?;
    let id = TaskId(task.unwrap_or(Uuid::nil()));
    let follow = background_tasks::follow(call.control(), id, last_event_id(&call)).await?;
    Ok(match follow.ended_before() {
        Some(task) => {
            let close = Message::new("server_close", json!({}));
            sse::response(after_the_head(futures::stream::iter([outcome(task), close])))
        }
        None => sse::response(after_the_head(told_of_task(id, follow, open))),
    })
}

/// Has the first message come [`HEAD_START`] after the answer's head.
fn after_the_head(news: impl Stream<Item = Message>) -> impl Stream<Item = Message> {
    let wait = async move {
        tokio::time::sleep(HEAD_START).await;
        news
    };
    futures::stream::once(wait).flatten()
}

/// The one message about a task that was over before anybody asked.
fn outcome(task: &TaskRow) -> Message {
    let data = json!({
        "task_id": task.id,
        "status": task.status,
        "current_progress": task.current.to_string(),
        "total_progress": task.total.to_string(),
        "message": task.message.as_deref().unwrap_or_default(),
    });
    Message::new(format!("task_{}", task.status), data)
}

fn told_of_task(id: TaskId, follow: Follow, open: Open) -> impl Stream<Item = Message> {
    enum Then {
        Follow(Box<Follow>),
        Close,
        End,
    }
    futures::stream::unfold((Then::Follow(Box::new(follow)), open), move |(then, open)| async move {
        let mut follow = match then {
            Then::Follow(follow) => follow,
            Then::Close => return Some((Message::new("server_close", json!({})), (Then::End, open))),
            Then::End => return None,
        };
        let (event, step, data, then) = match follow.next().await {
            Ok(Some(News::Update(step))) => {
                let data = json!({
                    "task_id": id, "message": step.message,
                    "current_progress": step.current, "total_progress": step.total,
                });
                ("updated", Some(step.id), data, Then::Follow(follow))
            }
            Ok(Some(News::Ended(task))) => {
                let data = json!({"task_id": id, "message": task.message});
                (ending(task.status), None, data, Then::Close)
            }
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(%error, "the stream of a background task ends early");
                return None;
            }
        };
        let message = Message { id: step, retry: Some(RETRY), ..Message::new(format!("bgtask_{event}"), data) };
        Some((message, (then, open)))
    })
}

fn ending(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Started => "updated",
        other => other.as_str(),
    }
}
