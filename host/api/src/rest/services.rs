//! `/services`: model services, their routes and tokens (`spec/services.md` §2).

use indexmap::IndexMap;
use quarterdeck_control::services::{self, CreateService, Found};
use quarterdeck_model::ClusterMode;
use quarterdeck_model::duration::Duration;
use serde_json::{Map, Value, json};

use super::session_create::session_name;
use crate::call::{Answer, Call, ok};
use crate::params::kinds::{coerced_int, int, map, member, nullable, number, object, strict_bool, text, url};
use crate::params::{Fault, Params};
use crate::route::Access::Auth;
use crate::route::Gate::{Reads, Writes};
use crate::route::{Route, delete, get, post, put};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/services", Auth, Reads, list),
        post("/services", Auth, Writes, create),
        get("/services/{service}", Auth, Reads, show),
        delete("/services/{service}", Auth, Reads, remove),
        post("/services/{service}/scale", Auth, Reads, scale),
        post("/services/{service}/sync", Auth, Reads, sync),
        put("/services/{service}/routings/{route}", Auth, Reads, set_ratio),
        delete("/services/{service}/routings/{route}", Auth, Reads, remove_route),
        post("/services/{service}/token", Auth, Reads, token),
    ]
}

async fn list(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let name = params.optional(&["name"], None, nullable(text));
    params.finish()?;
    let caller = call.caller()?;
    let entry = |found: &Found| {
        json!({
            "id": found.row.id,
            "name": found.row.name,
            "desired_session_count": found.row.desired_session_count,
            "active_route_count": found.active().count(),
            "service_endpoint": found.row.url,
            "is_public": found.row.open_to_public,
        })
    };
    let services = services::list(call.control(), &caller, name).await?;
    ok(&services.iter().map(entry).collect::<Vec<_>>())
}

async fn show(call: Call) -> Answer {
    let caller = call.caller()?;
    let found = services::get(call.control(), &caller, call.arg(0)).await?;
    let route = |r: &quarterdeck_control::store::endpoints::RouteRow| json!({ "route_id": r.id, "session_id": r.session, "traffic_ratio": r.traffic_ratio });
    ok(&json!({
        "endpoint_id": found.row.id,
        "name": found.row.name,
        "desired_session_count": found.row.desired_session_count,
        "active_routes": found.active().map(route).collect::<Vec<_>>(),
        "service_endpoint": found.row.url,
        "is_public": found.row.open_to_public,
    }))
}

struct Config {
    model: String,
    destination: String,
    environ: IndexMap<String, String>,
    scaling_group: Option<String>,
    resources: Map<String, Value>,
    resource_opts: Map<String, Value>,
}

fn read_config(params: &mut Params) -> Config {
    params.optional(&["model_version", "modelVersion"], None, nullable(text));
    Config {
        model: params.required(&["model"], text),
        destination: params.optional(&["model_mount_destination", "modelMountDestination"], "/models".to_owned(), text),
        environ: params.optional(&["environ"], None, nullable(map(text))).unwrap_or_default(),
        scaling_group: params.optional(&["scaling_group", "scalingGroup"], None, nullable(text)),
        resources: params.optional(&["resources"], None, nullable(object)).unwrap_or_default(),
        resource_opts: params.optional(&["resource_opts", "resourceOpts"], None, nullable(object)).unwrap_or_default(),
    }
}

async fn create(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let config = params.nested(&["config"], read_config);
    let request = CreateService {
        name: params.required(&["name", "clientSessionToken"], session_name),
        desired_session_count: params
            .required(&["desired_session_count", "desiredSessionCount"], int(0..=i64::from(i32::MAX))),
        image: params.required(&["image", "lang"], text),
        architecture: params.optional(&["arch", "architecture"], None, |v| text(v).map(Some)),
        project: params.optional(&["group", "groupName", "group_name"], "default".to_owned(), text),
        domain: params.optional(&["domain", "domainName", "domain_name"], "default".to_owned(), text),
        cluster_size: params
            .optional(&["cluster_size", "clusterSize"], 1, coerced_int(1..=i64::from(u32::MAX)))
            .try_into()
            .unwrap_or(u32::MAX),
        cluster_mode: params.optional(&["cluster_mode", "clusterMode"], ClusterMode::SingleNode, member("ClusterMode")),
        tag: params.optional(&["tag"], None, nullable(text)),
        startup_command: params.optional(&["startup_command", "startupCommand"], None, nullable(text)),
        bootstrap_script: params.optional(&["bootstrap_script", "bootstrapScript"], None, nullable(text)),
        callback_url: params.optional(&["callback_url", "callbackUrl", "callbackURL"], None, nullable(url)),
        owner_access_key: params.optional(&["owner_access_key"], None, nullable(text)),
        open_to_public: params.optional(&["open_to_public"], false, strict_bool),
        model: config.model,
        model_mount_destination: config.destination,
        environ: config.environ,
        scaling_group: config.scaling_group,
        resources: config.resources,
        resource_opts: config.resource_opts,
    };
    params.finish()?;
    let caller = call.caller()?;
    let id = services::create(call.control(), &caller, request).await?;
    ok(&json!({ "endpoint_id": id }))
}

async fn remove(call: Call) -> Answer {
    let caller = call.caller()?;
    services::delete(call.control(), &caller, call.arg(0)).await?;
    ok(&json!({ "success": true }))
}

async fn scale(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let to = params.required(&["to"], int(i64::MIN..=i64::MAX));
    params.finish()?;
    let caller = call.caller()?;
    let routes = services::scale(call.control(), &caller, call.arg(0), to).await?;
    ok(&json!({ "current_route_count": routes, "target_count": to }))
}

async fn sync(call: Call) -> Answer {
    let caller = call.caller()?;
    services::sync(call.control(), &caller, call.arg(0)).await?;
    ok(&json!({ "success": true }))
}

fn ratio(value: Value) -> Result<f64, Fault> {
    let ratio = number(value)?;
    if ratio < 0.0 { Err("value is less than 0".into()) } else { Ok(ratio) }
}

async fn set_ratio(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let ratio = params.required(&["traffic_ratio"], ratio);
    params.finish()?;
    let caller = call.caller()?;
    services::set_ratio(call.control(), &caller, call.arg(0), call.arg(1), ratio).await?;
    ok(&json!({ "success": true }))
}

async fn remove_route(call: Call) -> Answer {
    let caller = call.caller()?;
    services::remove_route(call.control(), &caller, call.arg(0), call.arg(1)).await?;
    ok(&json!({ "success": true }))
}

fn span(value: Value) -> Result<f64, Fault> {
    Duration::parse(&value).map(Duration::seconds).map_err(|error| error.to_string().into())
}

async fn token(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let seconds = params.required(&["duration"], span);
    params.finish()?;
    let caller = call.caller()?;
    let token = services::token(call.control(), &caller, call.arg(0), seconds).await?;
    ok(&json!({ "token": token }))
}
