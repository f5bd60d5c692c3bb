//! `/plugins`: administration of policies on the running server. Our own API, for superadmins.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use quarterdeck_control::plugins::{self, BindRequest, RevisionView, Switched, Upload};
use quarterdeck_control::shadow;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, Target, TargetKind};
use quarterdeck_store::plugins::steps::StepRow;
use quarterdeck_store::plugins::{BindingRow, HistoryRow, RevisionRow};
use serde_json::{Value, json};

use crate::call::{Answer, Call, json, ok};
use crate::openapi::{about, documents};
use crate::params::Params;
use crate::params::kinds::{int, member, nullable, object, text};
use crate::route::Access::Superadmin;
use crate::route::Gate::Open;
use crate::route::{Route, delete, get, post};
use crate::wire::{INVALID_API_PARAMS, Problem};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/plugins", Superadmin, Open, list).documented(
            about("All components with whom they serve").answers::<documents::PluginList>(200, "All of them."),
        ),
        post("/plugins", Superadmin, Open, push).documented(
            about("Stores a component")
                .in_detail("It is verified, compiled and self-tested first. Nobody is served by it until it is bound.")
                .header("X-Plugin-Signature", "Its detached signature: a document in minisign's format, in base64.")
                .takes_bytes("application/wasm", "The component, at most 64 MiB.")
                .answers::<documents::Pushed>(201, "It is stored.")
                .answers::<documents::Pushed>(200, "It was there already."),
        ),
        post("/plugins/bindings", Superadmin, Open, bind).documented(
            about("Lets a plugin serve somebody, from the next call on")
                .takes::<documents::BindRequest>()
                .answers::<documents::Switched>(200, "It serves."),
        ),
        delete("/plugins/bindings", Superadmin, Open, unbind).documented(
            about("Ends a binding; a scaling group goes back to the built-in `fifo`")
                .takes::<documents::UnbindRequest>()
                .answers::<documents::Switched>(200, "It no longer serves."),
        ),
        post("/plugins/rollback", Superadmin, Open, rollback).documented(
            about("Undoes the last change: what served before serves again")
                .takes::<documents::RollbackRequest>()
                .answers::<documents::Switched>(200, "It is undone."),
        ),
        get("/plugins/{plugin}", Superadmin, Open, inspect).documented(
            about("Everything about a plugin")
                .in_detail("`plugin` is `NAME`, `NAME@VERSION`, or 8 or more digits of a digest.")
                .answers::<documents::Inspection>(200, "Its components and what happened to them."),
        ),
    ]
}

/// The body is the component itself.
async fn push(mut call: Call) -> Answer {
    let caller = call.caller()?;
    let component = call.bytes_below(plugins::MAX_COMPONENT_BYTES).await?;
    let signature = signature(call.header("x-plugin-signature"))?;
    let upload = Upload { component: component.as_ref().into(), signature };
    let pushed = plugins::push(call.control(), &caller, upload).await?;
    let status = if pushed.created { StatusCode::CREATED } else { StatusCode::OK };
    json(
        status,
        &json!({
            "revision": revision_document(&pushed.revision),
            "created": pushed.created,
            "steps": pushed.steps.iter().map(step_document).collect::<Vec<_>>(),
        }),
    )
}

/// A signature document in a header, which can't have lines: in base64.
fn signature(header: &str) -> Result<Option<Vec<u8>>, Problem> {
    if header.is_empty() {
        return Ok(None);
    }
    let unreadable = |_| Problem::new(INVALID_API_PARAMS).msg("The header X-Plugin-Signature isn't base64.");
    STANDARD.decode(header).map(Some).map_err(unreadable)
}

async fn list(call: Call) -> Answer {
    let caller = call.caller()?;
    let views = plugins::list(call.control(), &caller).await?;
    ok(&json!({"plugins": views.iter().map(view_document).collect::<Vec<_>>()}))
}

async fn inspect(call: Call) -> Answer {
    let caller = call.caller()?;
    let found = plugins::inspect(call.control(), &caller, call.arg(0)).await?;
    ok(&json!({
        "revisions": found.revisions.iter().map(inspected_document).collect::<Vec<_>>(),
        "history": found.history.iter().map(history_document).collect::<Vec<_>>(),
    }))
}

async fn bind(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let plugin = params.required(&["plugin"], text);
    let target = target(&mut params);
    let config = params.optional(&["config"], None, nullable(object));
    let position = params.optional(&["order"], None, nullable(int(i64::from(i32::MIN)..=i64::from(i32::MAX))));
    let failure_policy = params.optional(&["failure_policy"], FailurePolicy::FailClosed, member("FailurePolicy"));
    let mode = params.optional(&["mode"], BindingMode::Live, member("BindingMode"));
    params.finish()?;
    let caller = call.caller()?;
    let request = BindRequest { plugin, target, config: config.map(Value::Object), position, failure_policy };
    let switched = match mode {
        BindingMode::Live => plugins::bind(call.control(), &caller, request).await?,
        BindingMode::Shadow => shadow::bind(call.control(), &caller, request).await?,
    };
    ok(&switched_document(&switched))
}

async fn unbind(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let plugin = params.required(&["plugin"], text);
    let target = target(&mut params);
    let mode = params.optional(&["mode"], BindingMode::Live, member("BindingMode"));
    params.finish()?;
    let caller = call.caller()?;
    let switched = match mode {
        BindingMode::Live => plugins::unbind(call.control(), &caller, &plugin, &target).await?,
        BindingMode::Shadow => shadow::unbind(call.control(), &caller, &plugin, &target).await?,
    };
    ok(&switched_document(&switched))
}

async fn rollback(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let target = target(&mut params);
    let kind = params.optional(&["kind"], None, nullable(member::<PluginKind>("PluginKind")));
    params.finish()?;
    let caller = call.caller()?;
    ok(&switched_document(&plugins::rollback(call.control(), &caller, kind, &target).await?))
}

/// `{"kind": "scaling-group" | "domain" | "everywhere", "name": …}`
pub(super) fn target(params: &mut Params) -> Target {
    params.nested(&["target"], |inner| {
        let kind = inner.required(&["kind"], |v| member::<TargetKind>("TargetKind")(v).map(Some));
        let name = inner.optional(&["name"], None, nullable(text));
        match (kind, name) {
            (None | Some(TargetKind::Everywhere), None) => Target::everywhere(),
            (None | Some(TargetKind::Everywhere), Some(_)) => {
                inner.fault("name", "everywhere has no name");
                Target::everywhere()
            }
            (Some(_), None) => {
                inner.fault("name", "is required");
                Target::everywhere()
            }
            (Some(kind), Some(name)) => Target { kind, name },
        }
    })
}

pub(super) fn target_document(target: &Target) -> Value {
    json!({"kind": target.kind, "name": target.name})
}

fn revision_document(r: &RevisionRow) -> Value {
    json!({
        "digest": r.digest,
        "name": r.name,
        "version": r.version,
        "kind": r.kind,
        "summary": r.summary,
        "info": r.info,
        "size_bytes": r.size_bytes,
        "builtin": r.builtin,
        "status": r.status,
        "status_reason": r.status_reason,
        "uploaded_by": r.uploaded_by,
        "uploaded_at": r.uploaded_at.iso(),
    })
}

fn binding_document(b: &BindingRow) -> Value {
    json!({
        "id": b.id,
        "target": target_document(&b.target),
        "config": b.config,
        "order": b.position,
        "mode": b.mode,
        "failure_policy": b.failure_policy,
        "bound_by": b.bound_by,
        "bound_at": b.bound_at.iso(),
    })
}

fn view_document(view: &RevisionView) -> Value {
    let mut document = revision_document(&view.revision);
    document["bindings"] = view.bindings.iter().map(binding_document).collect();
    document["signature"] = json!(view.signature.as_ref().map(|s| {
        json!({"key": s.key_name, "key_id": s.key_id, "comment": s.comment, "checked_at": s.checked_at.iso()})
    }));
    document["stage"] = json!(view.stage);
    document["by_name"] = view.by_name.iter().map(target_document).collect();
    document["failures"] = view.standing.in_a_row.into();
    document["recent"] = json!({"calls": view.standing.calls, "failed": view.standing.failed});
    document
}

fn inspected_document(view: &RevisionView) -> Value {
    let mut document = view_document(view);
    document["steps"] = view.steps.iter().map(step_document).collect();
    document
}

fn step_document(s: &StepRow) -> Value {
    json!({
        "id": s.id,
        "step": s.step,
        "status": s.status,
        "host": s.host,
        "at": s.at.iso(),
        "duration_ms": s.duration_us.map(|us| us as f64 / 1000.0),
        "actor": s.actor,
        "reason": s.reason,
    })
}

fn history_document(h: &HistoryRow) -> Value {
    let (now, before) = (h.now.as_ref(), h.before.as_ref());
    json!({
        "at": h.at.iso(),
        "actor": h.actor,
        "action": h.action,
        "kind": h.kind,
        "plugin": h.plugin,
        "target": target_document(&h.target),
        "digest": now.and_then(|p| p.digest.as_ref()),
        "config": now.map(|p| &p.config),
        "order": now.and_then(|p| p.position),
        "failure_policy": now.map(|p| p.failure_policy),
        "previous_plugin": before.map(|p| &p.plugin),
        "previous": before.and_then(|p| p.digest.as_ref()),
        "previous_config": before.map(|p| &p.config),
        "previous_order": before.and_then(|p| p.position),
        "previous_failure_policy": before.map(|p| p.failure_policy),
        "reason": h.reason,
    })
}

pub(super) fn switched_document(s: &Switched) -> Value {
    json!({"now": s.now.as_ref().map(revision_document), "before": s.before})
}
