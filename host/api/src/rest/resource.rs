//! `/resource`: presets and what they would cost, what was used, and agents' watchers.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use quarterdeck_control::watcher::{self, Order};
use quarterdeck_control::{presets, usage, usage_reports};
use quarterdeck_model::AgentId;
use serde_json::{Value, json};

use crate::call::{Answer, Call, ok};
use crate::params::Fault;
use crate::params::kinds::{list as list_of, nullable, text};
use crate::route::Access::{Auth, Superadmin};
use crate::route::Gate::{Open, Reads};
use crate::route::{Route, get, post};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/resource/presets", Auth, Open, list),
        post("/resource/check-presets", Auth, Reads, check),
        post("/resource/recalculate-usage", Superadmin, Reads, recalculate),
        get("/resource/usage/month", Superadmin, Reads, usage_of_month),
        get("/resource/usage/period", Superadmin, Reads, usage_of_period),
        get("/resource/stats/user/month", Auth, Reads, own_statistics),
        get("/resource/stats/admin/month", Superadmin, Reads, statistics),
        get("/resource/watcher", Superadmin, Reads, |call| watch(call, Order::Status)),
        post("/resource/watcher/agent/start", Superadmin, Reads, |call| watch(call, Order::Start)),
        post("/resource/watcher/agent/stop", Superadmin, Reads, |call| watch(call, Order::Stop)),
        post("/resource/watcher/agent/restart", Superadmin, Reads, |call| watch(call, Order::Restart)),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&presets::list(call.control()).await?)
}

async fn check(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let scaling_group = params.optional(&["scaling_group"], None, nullable(text));
    let project = params.optional(&["group"], "default".to_owned(), text);
    params.finish()?;
    let caller = call.caller()?;
    ok(&presets::check(call.control(), &caller, scaling_group.as_deref(), &project).await?)
}

async fn recalculate(call: Call) -> Answer {
    usage::recalculate(call.control()).await?;
    ok(&json!({}))
}

async fn usage_of_month(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    // A query has one value where a body has a list.
    let groups = params.required(
        &["group_ids"],
        nullable(|value| match value {
            Value::String(_) => text(value).map(|id| vec![id]),
            value => list_of(text)(value),
        }),
    );
    let month = params.required(&["month"], digits(6, false));
    params.finish()?;
    ok(&usage_reports::month(call.control(), &month, groups.as_deref()).await?)
}

async fn usage_of_period(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let group = params.required(&["group_id"], nullable(text));
    let start = params.required(&["start_date"], digits(8, true));
    let end = params.required(&["end_date"], digits(8, true));
    params.finish()?;
    ok(&usage_reports::period(call.control(), &start, &end, group.as_deref()).await?)
}

/// A text of so many digits, or one that begins with them.
fn digits(count: usize, whole: bool) -> impl Fn(Value) -> Result<String, Fault> {
    move |value| {
        let text = text(value)?;
        let begins = text.as_bytes().get(..count).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
        if begins && (!whole || text.len() == count) {
            Ok(text)
        } else {
            Err(format!("does not match pattern ^\\d{{{count}}}{}", if whole { "$" } else { "" }).into())
        }
    }
}

async fn own_statistics(call: Call) -> Answer {
    let caller = call.caller()?;
    ok(&usage_reports::last_month(call.control(), Some(caller.user_id)).await?)
}

async fn statistics(call: Call) -> Answer {
    ok(&usage_reports::last_month(call.control(), None).await?)
}

async fn watch(mut call: Call, order: Order) -> Answer {
    let mut params = call.params().await?;
    let agent = params.required(&["agent_id", "agent"], text);
    params.finish()?;
    match watcher::ask(call.control(), &AgentId(agent), order).await? {
        watcher::Answer::Done(document) => ok(&document),
        watcher::Answer::Refused(status, words) => {
            let mut response = Response::new(Body::from(words));
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            Ok(response)
        }
    }
}
