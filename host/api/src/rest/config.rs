//! `/config`: the shared configuration tree, and what everybody may know of it.

use quarterdeck_control::config;
use serde_json::{Value, json};

use crate::call::{Answer, Call, ok};
use crate::params::Fault;
use crate::params::kinds::{strict_bool, text};
use crate::route::Access::{Anonymous, Superadmin};
use crate::route::Gate::Open;
use crate::route::{Route, get, post};
use crate::wire::Problem;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/config/resource-slots", Anonymous, Open, resource_slots),
        get("/config/resource-slots/details", Anonymous, Open, resource_slot_details),
        get("/config/vfolder-types", Anonymous, Open, vfolder_types),
        get("/config/docker-registries", Superadmin, Open, docker_registries),
        post("/config/get", Superadmin, Open, read),
        post("/config/set", Superadmin, Open, write),
        post("/config/delete", Superadmin, Open, delete),
    ]
}

async fn resource_slots(call: Call) -> Answer {
    ok(&config::resource_slots(call.control()))
}

async fn resource_slot_details(_: Call) -> Answer {
    ok(&config::resource_slot_details())
}

async fn vfolder_types(call: Call) -> Answer {
    ok(&config::vfolder_types(call.control()).await)
}

async fn docker_registries(call: Call) -> Answer {
    ok(&config::docker_registries(call.control()).await)
}

async fn read(mut call: Call) -> Answer {
    let (key, prefix) = key_and_prefix(&mut call).await?;
    let tree = call.control().config_tree();
    let result = if prefix { tree.prefix(&key).await } else { json!(tree.get(&key).await) };
    ok(&json!({ "result": result }))
}

async fn write(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let key = params.required(&["key"], text);
    let value = params.required(&["value"], text_or_object);
    params.finish()?;
    call.control().config_tree().set(&config::flatten(&key, &value)?).await?;
    ok(&json!({ "result": "ok" }))
}

async fn delete(mut call: Call) -> Answer {
    let (key, prefix) = key_and_prefix(&mut call).await?;
    call.control().config_tree().delete(&key, prefix).await?;
    ok(&json!({ "result": "ok" }))
}

async fn key_and_prefix(call: &mut Call) -> Result<(String, bool), Problem> {
    let mut params = call.params().await?;
    let key = params.required(&["key"], text);
    let prefix = params.optional(&["prefix"], false, strict_bool);
    params.finish()?;
    Ok((key, prefix))
}

fn text_or_object(value: Value) -> Result<Value, Fault> {
    match value {
        Value::String(_) | Value::Object(_) => Ok(value),
        _ => Err(json!({ "0": "value is not a string", "1": "value is not a dict" })),
    }
}
