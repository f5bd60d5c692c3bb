//! `/audit`: who changed what. Our own API, for superadmins.

use quarterdeck_control::audit::{self, AuditRow, ChangeRow, Filter, MAX_PAGE, Via};
use serde_json::{Value, json};

use crate::call::{Answer, Call, ok};
use crate::openapi::{about, documents};
use crate::params::Fault;
use crate::params::kinds::{coerced_int, instant, nullable, text};
use crate::route::Access::Superadmin;
use crate::route::Gate::Open;
use crate::route::{Route, get};

/// Entries on a page unless the client says otherwise.
const PAGE: i64 = 50;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/audit", Superadmin, Open, list).documented(
            about("Who changed what, when and from where, newest first")
                .in_detail(
                    "Every change has its entry: calls, mutations, commands at the server's console, and what the host \
                     does by itself. An entry is written by the transaction that makes the change. What it did to \
                     configuration keys, domains, projects, users, key pairs, resource policies, scaling groups, presets \
                     and bindings of plugins stands in `changes`, with values before and after.",
                )
                .query(
                    "actor",
                    "string",
                    "By somebody: e-mail address, user id, access key, or account at the console.",
                )
                .query("action", "string", "With this text in the action, e.g. `user` or `POST /config/set`.")
                .query(
                    "target",
                    "string",
                    "With this text in what it was done to, or in the name of something that it changed.",
                )
                .query("via", "string", "`rest`, `graphql`, `cli` or `system`.")
                .query("since", "string", "From then on (RFC 3339).")
                .query("until", "string", "Before then (RFC 3339).")
                .query("before", "integer", "Only entries with smaller numbers: the next page.")
                .query("limit", "integer", "Entries on a page, 50 unless said otherwise, 1000 at most.")
                .answers::<documents::Audit>(200, "A page of them."),
        ),
    ]
}

/// Newest first; `next` is the `before` of the next page.
async fn list(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let filter = Filter {
        actor: params.optional(&["actor"], None, nullable(text)),
        action: params.optional(&["action"], None, nullable(text)),
        target: params.optional(&["target"], None, nullable(text)),
        via: params.optional(&["via"], None, nullable(via)),
        since: params.optional(&["since"], None, nullable(instant)),
        until: params.optional(&["until"], None, nullable(instant)),
        before: params.optional(&["before"], None, nullable(coerced_int(1..=i64::MAX))),
    };
    let limit = params.optional(&["limit"], PAGE, coerced_int(1..=MAX_PAGE));
    params.finish()?;
    let caller = call.caller()?;
    let rows = audit::list(call.control(), &caller, &filter, limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last().map(|row| row.id)).flatten();
    ok(&json!({"entries": rows.iter().map(document).collect::<Vec<_>>(), "next": next}))
}

fn via(value: Value) -> Result<String, Fault> {
    let word = text(value)?;
    if Via::ALL.iter().any(|via| via.as_str() == word) {
        return Ok(word);
    }
    Err(Value::from("value is none of rest, graphql, cli and system"))
}

fn document(row: &AuditRow) -> Value {
    json!({
        "id": row.id,
        "at": row.at.iso(),
        "via": row.via,
        "actor": row.actor.name,
        "actor_id": row.actor.id,
        "access_key": row.actor.access_key,
        "address": row.actor.address,
        "request_id": row.actor.request,
        "action": row.action,
        "target": row.target,
        "details": row.details,
        "changes": row.changes.rows.iter().map(change).collect::<Vec<_>>(),
        "more_changes": row.changes.more,
    })
}

fn change(row: &ChangeRow) -> Value {
    json!({"kind": row.kind, "name": row.name, "before": row.before, "after": row.after})
}
