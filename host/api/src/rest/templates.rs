//! `/template`: templates of sessions and clusters.

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use quarterdeck_control::Error;
use quarterdeck_control::templates::{self, Place, Seen, TemplateKind};
use quarterdeck_model::ProjectId;
use serde_json::{Map, Value, json};

use crate::call::{Answer, Call, ok};
use crate::params::kinds::{boolish, nullable, text, uuid};
use crate::params::{Params, document, yaml};
use crate::route::Access::Auth;
use crate::route::Gate::Reads;
use crate::route::{Route, delete, get, post, put};
use crate::wire::{INVALID_API_PARAMS, Problem};

pub(crate) fn routes() -> Vec<Route> {
    use TemplateKind::{Cluster, Task};
    vec![
        post("/template/session", Auth, Reads, |call| create(call, Task)),
        get("/template/session", Auth, Reads, list_sessions),
        get("/template/session/{template}", Auth, Reads, read_session),
        put("/template/session/{template}", Auth, Reads, |call| update(call, Task)),
        delete("/template/session/{template}", Auth, Reads, |call| remove(call, Task)),
        post("/template/cluster", Auth, Reads, |call| create(call, Cluster)),
        get("/template/cluster", Auth, Reads, list_clusters),
        get("/template/cluster/{template}", Auth, Reads, read_cluster),
        put("/template/cluster/{template}", Auth, Reads, |call| update(call, Cluster)),
        delete("/template/cluster/{template}", Auth, Reads, |call| remove(call, Cluster)),
    ]
}

fn place(params: &mut Params) -> Place {
    Place {
        project: params.optional(&["group", "groupName", "group_name"], "default".to_owned(), text),
        domain: params.optional(&["domain", "domainName", "domain_name"], "default".to_owned(), text),
        owner_access_key: owner(params),
    }
}

fn owner(params: &mut Params) -> Option<String> {
    params.optional(&["owner_access_key"], None, nullable(text))
}

async fn create(mut call: Call, kind: TemplateKind) -> Answer {
    let mut params = call.params().await?;
    let place = place(&mut params);
    let payload = params.required(&["payload"], text);
    params.finish()?;
    let caller = call.caller()?;
    let (id, user) = templates::create(call.control(), &caller, kind, &place, &|| document(&payload)).await?;
    ok(&json!({ "id": id.simple().to_string(), "user": hex(&user.to_string()) }))
}

async fn update(mut call: Call, kind: TemplateKind) -> Answer {
    let mut params = call.params().await?;
    let (place, owner) = match kind {
        TemplateKind::Task => {
            let place = place(&mut params);
            let owner = place.owner_access_key.clone();
            (Some(place), owner)
        }
        TemplateKind::Cluster => (None, owner(&mut params)),
    };
    let payload = params.required(&["payload"], text);
    params.finish()?;
    let caller = call.caller()?;
    let payload = || document(&payload);
    templates::update(call.control(), &caller, kind, call.arg(0), place.as_ref(), owner.as_deref(), &payload).await?;
    ok(&json!({ "success": true }))
}

async fn remove(mut call: Call, kind: TemplateKind) -> Answer {
    let mut params = call.params().await?;
    let owner = owner(&mut params);
    params.finish()?;
    let caller = call.caller()?;
    templates::delete(call.control(), &caller, kind, call.arg(0), owner.as_deref()).await?;
    ok(&json!({ "success": true }))
}

async fn list_sessions(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let everything = params.optional(&["all"], false, boolish);
    params.optional(&["group_id"], None, nullable(text));
    params.finish()?;
    let caller = call.caller()?;
    let seen = templates::list(call.control(), &caller, TemplateKind::Task, everything, None).await?;
    let entry = |t: &Seen| {
        json!({
            "name": t.row.name,
            "id": t.row.id.simple().to_string(),
            "created_at": t.row.created_at.spaced(),
            "is_owner": t.is_owner,
            "user": t.row.user.to_string(),
            "group": t.row.project.map_or_else(|| "None".to_owned(), |p| p.to_string()),
            "user_email": t.row.user_email,
            "group_name": t.row.project_name,
            "domain_name": caller.domain,
            "type": "task",
            "template": t.row.document,
        })
    };
    ok(&seen.iter().map(entry).collect::<Vec<_>>())
}

async fn list_clusters(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let everything = params.optional(&["all"], false, boolish);
    let project = params.optional(&["group_id"], None, nullable(uuid));
    params.finish()?;
    let caller = call.caller()?;
    let project = project.map(ProjectId);
    let seen = templates::list(call.control(), &caller, TemplateKind::Cluster, everything, project).await?;
    let entry = |t: &Seen| {
        json!({
            "name": t.row.name,
            "id": t.row.id.simple().to_string(),
            "created_at": t.row.created_at.spaced(),
            "is_owner": t.is_owner,
            "user": t.row.user.to_string(),
            "group": t.row.project.map(|p| p.to_string()),
            "user_email": t.is_owner.then_some(&t.row.user_email),
            "group_name": t.row.project_name.as_ref().filter(|_| !t.is_owner),
            "type": "user",
        })
    };
    ok(&seen.iter().map(entry).collect::<Vec<_>>())
}

async fn read_session(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let (_, owner) = format_and_owner(&mut params, "json");
    params.finish()?;
    let caller = call.caller()?;
    let row = templates::get(call.control(), &caller, TemplateKind::Task, call.arg(0), owner.as_deref()).await?;
    ok(&json!({
        "template": row.document,
        "name": row.name,
        "user_uuid": row.user.to_string(),
        "group_id": row.project.map(|p| p.to_string()),
        "domain_name": row.domain_name,
    }))
}

async fn read_cluster(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let (format, owner) = format_and_owner(&mut params, "yaml");
    params.finish()?;
    let caller = call.caller()?;
    let row = templates::get(call.control(), &caller, TemplateKind::Cluster, call.arg(0), owner.as_deref()).await?;
    if format == "json" {
        return ok(&row.document);
    }
    let text = yaml::write(&row.document).map_err(|error| Problem::internal(error.to_string()))?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/yaml; charset=utf-8"));
    Ok(response)
}

fn format_and_owner(params: &mut Params, default: &'static str) -> (String, Option<String>) {
    let format = params.optional(&["format"], default.to_owned(), |value| match value.as_str() {
        Some(format @ ("yaml" | "json")) => Ok(format.to_owned()),
        _ => Err("format should be \"yaml\" or \"json\"".into()),
    });
    (format, owner(params))
}

fn hex(id: &str) -> String {
    id.replace('-', "")
}

/// The names under which a request for a session may say something; the first is the one that counts.
const OVERRIDES: &[&[&str]] = &[
    &["name", "clientSessionToken"],
    &["image", "lang"],
    &["arch", "architecture"],
    &["type", "sessionType"],
    &["group", "groupName", "group_name"],
    &["domain", "domainName", "domain_name"],
    &["bootstrap_script", "bootstrapScript"],
    &["startupCommand"],
    &["tag"],
];
const CONFIG_OVERRIDES: &[&[&str]] = &[
    &["mounts"],
    &["mount_map", "mountMap"],
    &["environ"],
    &["scaling_group", "scalingGroup"],
    &["resources"],
    &["resource_opts", "resourceOpts"],
];

/// The request for a session that a template and the caller's own wishes come to.
///
/// # Errors
/// A problem when template and image are both missing, or the template is out of sight.
pub(super) async fn filled_in(call: &mut Call) -> Result<Params, Problem> {
    let Value::Object(mut given) = call.json_body().await? else {
        return Err(Problem::new(INVALID_API_PARAMS).msg("Malformed body"));
    };
    let mut head = Params::new(Map::new());
    let template = match take(&mut given, &["template_id", "templateId"]) {
        None => {
            head.fault("template_id", "is required");
            None
        }
        Some(value) => match nullable(uuid)(value) {
            Ok(id) => id,
            Err(fault) => {
                head.fault("template_id", fault);
                None
            }
        },
    };
    head.finish()?;
    let mut body = match template {
        Some(id) => templates::request_of(call.control(), &*call.caller()?, id).await?,
        None => Map::new(),
    };
    let own_config = take(&mut given, &["config"]);
    overlay(&mut body, &mut given, OVERRIDES);
    let mut config = match body.remove("config") {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    match own_config {
        Some(Value::Object(mut own)) => {
            own.retain(|_, value| value.as_object().is_none_or(|o| !o.is_empty()));
            overlay(&mut config, &mut own, CONFIG_OVERRIDES);
            if let Some(size) = take(&mut own, &["cluster_size", "clusterSize"]) {
                given.entry("cluster_size").or_insert(size);
            }
            // Agents come from the template alone; what else is left isn't known here.
            if let Some((key, _)) = own.into_iter().next() {
                let mut params = Params::new(Map::new());
                params.fault("config", json!({ &key: format!("{key} is not allowed key") }));
                params.finish()?;
            }
        }
        None | Some(Value::Null) => {}
        Some(_) => {
            let mut params = Params::new(Map::new());
            params.fault("config", "value is not a dict");
            params.finish()?;
        }
    }
    if !body.contains_key("image") {
        return Err(Error::invalid("Both image and template_id can't be None!").into());
    }
    if !body.contains_key("name") {
        return Err(Error::InvalidParams {
            msg: "Error while validating template".to_owned(),
            data: Some(json!({ "name": "is required" })),
        }
        .into());
    }
    body.insert("config".to_owned(), Value::Object(config));
    body.extend(given);
    Ok(Params::new(body))
}

/// Lets what was given, and isn't null, take the place of what is there.
fn overlay(base: &mut Map<String, Value>, given: &mut Map<String, Value>, names: &[&[&str]]) {
    for names in names {
        if let Some(value) = take(given, names).filter(|value| !value.is_null()) {
            base.insert(names[0].to_owned(), value);
        }
    }
}

/// Takes the first spelling that is there; the others go too.
fn take(map: &mut Map<String, Value>, names: &[&str]) -> Option<Value> {
    let mut found = None;
    for name in names {
        let value = map.remove(*name);
        found = found.or(value);
    }
    found
}
