//! What an owner, a project and a domain hold and may hold, as hooks are told.

use quarterdeck_model::slots::{SlotKind, SlotMap, SlotTypes, from_units};
use quarterdeck_model::{AccessKey, DefaultForUnspecified, ProjectId};
use quarterdeck_store::occupancy::{self, Units};
use serde_json::{Value, json};

use crate::Control;
use crate::error::Result;

/// `{"owner", "project", "domain": {"sessions", "pending", "slots", "limit"}, "owner_in_project": {"sessions", "pending"}}`
///
/// `sessions` hold resources, `pending` ones wait; `owner_in_project` are the owner's within the project.
///
/// # Errors
/// [`crate::Error::Store`].
pub async fn usage(control: &Control, access_key: &AccessKey, project: ProjectId, domain: &str) -> Result<Value> {
    let types = control.config_tree().slot_types();
    let mut reader = control.store().reader();
    let id = project.to_string();

    // Three statements: whoever enqueues waits for them.
    let counts = occupancy::counts(&mut reader, access_key, &id, domain).await?;
    let held = occupancy::holdings(&mut reader, access_key, &id, domain).await?;
    let allowed = occupancy::allowances(&mut reader, access_key, &id, domain).await?;

    let unnamed = DefaultForUnspecified::Unlimited;
    let owner = allowed.owner.map(|(slots, default)| limits(&slots, default, &types));
    let owner = document(counts.owner, &held.owner, owner, &types);
    let project = allowed.project.map(|slots| limits(&slots, unnamed, &types));
    let project = document(counts.project, &held.project, project, &types);
    let domain = allowed.domain.map(|slots| limits(&slots, unnamed, &types));
    let domain = document(counts.domain, &held.domain, domain, &types);
    let (sessions, pending) = counts.owner_in_project;
    let within = json!({ "sessions": sessions, "pending": pending });
    Ok(json!({ "owner": owner, "project": project, "domain": domain, "owner_in_project": within }))
}

fn limits(stored: &Value, default: DefaultForUnspecified, types: &SlotTypes) -> Value {
    SlotMap::from_policy(stored, default, types).map_or(Value::Null, |map| map.to_json())
}

fn document((sessions, pending): (i64, i64), held: &Units, limit: Option<Value>, types: &SlotTypes) -> Value {
    json!({ "sessions": sessions, "pending": pending, "slots": shown(held, types).to_json(), "limit": limit })
}

/// Amounts of the books as they are shown: every known slot.
pub(crate) fn shown(held: &Units, types: &SlotTypes) -> SlotMap {
    let mut map = SlotMap::new();
    for (name, kind) in types {
        let amount = held.get(name).copied().unwrap_or(0);
        map.insert(name.clone(), from_units(*kind, u64::try_from(amount).unwrap_or(0)));
    }
    for (name, amount) in held.iter().filter(|(name, _)| !types.contains_key(*name)) {
        map.insert(name.clone(), from_units(SlotKind::guess(name), u64::try_from(*amount).unwrap_or(0)));
    }
    map
}
