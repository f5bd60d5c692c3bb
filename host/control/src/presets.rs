//! Resource presets: administration, and what a caller could start with them now.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use quarterdeck_model::slots::{self, Quantity, SlotMap, SlotTypes};
use quarterdeck_model::{DefaultForUnspecified, size};
use quarterdeck_store::occupancy::{self, Scope, Units};
use quarterdeck_store::presets::{self, PresetChanges, PresetRow, Room};
use quarterdeck_store::{domains, projects, resource_policies};
use serde_json::{Map, Value as Json, json};

use crate::Control;
use crate::config::is_true;
use crate::error::{Error, Result};
use crate::gather::Gather;
use crate::principal::Principal;
use crate::scaling_groups;
use crate::scope::superadmin_changes;
use crate::validate::{integrity, length, no_matching, nothing_to_update, slots as stored_slots, slots_opt};

/// Whether callers may see the limits of their projects.
const VISIBILITY: &str = "config/api/resources/group_resource_visibility";

/// A size as users write it; an empty text means none.
fn shared_memory(text: &str) -> Result<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = size::parse_u64(text).ok().and_then(|bytes| i64::try_from(bytes).ok());
    match bytes {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Error::invalid(format!("('Unconvertible value', '{text}')"))),
    }
}

/// Makes a preset.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::InvalidParams`] for bad amounts; [`Error::Integrity`]
/// when the name is taken or too long.
pub async fn create(
    control: &Control,
    caller: &Principal,
    name: &str,
    resource_slots: &Json,
    memory: Option<&str>,
) -> Result<PresetRow> {
    superadmin_changes(caller)?;
    length(name, 256)?;
    let row = PresetRow {
        name: name.to_owned(),
        resource_slots: stored_slots(resource_slots)?,
        shared_memory: memory.map(shared_memory).transpose()?.flatten(),
    };
    let mut tx = control.store().begin().await?;
    presets::insert(&mut tx, &row).await.map_err(integrity)?;
    tx.commit().await?;
    Ok(row)
}

/// Changes a preset; an empty `memory` unsets it.
///
/// # Errors
/// As [`create`], and [`Error::NotFound`]; [`Error::BadRequest`] when there is nothing to change.
pub async fn modify(
    control: &Control,
    caller: &Principal,
    name: &str,
    resource_slots: Option<&Json>,
    memory: Option<&str>,
) -> Result<()> {
    superadmin_changes(caller)?;
    let changes = PresetChanges {
        resource_slots: slots_opt(resource_slots)?,
        shared_memory: memory.map(shared_memory).transpose()?,
    };
    let mut tx = control.store().begin().await?;
    match presets::update(&mut tx, name, &changes).await? {
        None => return Err(nothing_to_update()),
        Some(0) => return Err(no_matching("resource preset")),
        Some(_) => {}
    }
    tx.commit().await?;
    Ok(())
}

/// Deletes a preset.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`].
pub async fn delete(control: &Control, caller: &Principal, name: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    if presets::delete(&mut tx, name).await? == 0 {
        return Err(no_matching("resource preset"));
    }
    tx.commit().await?;
    Ok(())
}

/// A preset's slots: every known one, no other.
fn preset_slots(row: &PresetRow, types: &SlotTypes) -> Result<SlotMap> {
    SlotMap::from_stored(&row.resource_slots).and_then(|map| map.normalized(types, true)).map_err(corrupt)
}

fn corrupt(error: slots::SlotError) -> Error {
    Error::Internal(format!("stored slots are malformed: {error}"))
}

fn preset_json(row: &PresetRow, slots: &SlotMap) -> Map<String, Json> {
    let memory = row.shared_memory.filter(|bytes| *bytes != 0);
    let mut out = Map::new();
    out.insert("name".to_owned(), Json::from(row.name.clone()));
    out.insert("shared_memory".to_owned(), memory.map_or(Json::Null, |bytes| Json::from(bytes.to_string())));
    out.insert("resource_slots".to_owned(), slots.to_json());
    out
}

/// Presets that somebody asks for.
pub(crate) type Listed = Gather<(), Arc<Vec<PresetRow>>>;

/// All presets, as clients read them.
///
/// # Errors
/// [`Error::Store`].
pub async fn list(control: &Control) -> Result<Json> {
    let types = control.config_tree().slot_types();
    let store = control.store().clone();
    let load = move |_| {
        let store = store.clone();
        async move { Ok(HashMap::from([((), Arc::new(presets::list(&mut store.reader()).await?))])) }
    };
    let rows = control.inner.listed_presets.get((), load).await?.unwrap_or_default();
    let all = rows.iter().map(|row| Ok(Json::Object(preset_json(row, &preset_slots(row, &types)?))));
    Ok(json!({"presets": all.collect::<Result<Vec<_>>>()?}))
}

/// What a holder has on the books, as slots that the cluster knows.
fn held(units: &Units, types: &SlotTypes) -> SlotMap {
    types
        .iter()
        .map(|(slot, kind)| {
            let amount = units.get(slot).copied().unwrap_or_default();
            (slot.clone(), slots::from_units(*kind, u64::try_from(amount).unwrap_or_default()))
        })
        .collect()
}

fn limits(stored: &Json, default: DefaultForUnspecified, types: &SlotTypes) -> Result<SlotMap> {
    SlotMap::from_policy(stored, default, types).map_err(corrupt)
}

fn minus(limit: &SlotMap, used: &SlotMap) -> Result<SlotMap> {
    limit.sub(used).map_err(corrupt)
}

/// Each known slot with the same amount.
fn all(types: &SlotTypes, amount: &Quantity) -> SlotMap {
    types.keys().map(|slot| (slot.clone(), amount.clone())).collect()
}

/// What is left on each agent, by scaling group and agent.
fn left(room: Vec<Room>, types: &SlotTypes) -> Result<BTreeMap<String, BTreeMap<String, SlotMap>>> {
    let mut out = BTreeMap::<String, BTreeMap<String, SlotMap>>::new();
    for entry in room {
        let Some(kind) = types.get(&entry.slot) else { continue };
        let amount = |units: i64| slots::from_units(*kind, u64::try_from(units).unwrap_or_default());
        let rest = amount(entry.capacity).sub(&amount(entry.occupied)).map_err(|e| corrupt(e.into()))?;
        let agent = out.entry(entry.scaling_group).or_default().entry(entry.agent);
        agent.or_insert_with(|| all(types, &Quantity::zero())).insert(entry.slot, rest);
    }
    Ok(out)
}

/// What the caller may still use, where there is room, and which presets fit.
///
/// # Errors
/// [`Error::InvalidParams`] for a project that the caller doesn't belong to, or a scaling group that
/// the caller may not use.
pub async fn check(control: &Control, caller: &Principal, group: Option<&str>, project: &str) -> Result<Json> {
    let types = control.config_tree().slot_types();
    let sql = &mut control.store().reader();
    let unknown_project = || Error::invalid("Unknown user group");
    let project = projects::by_name(sql, &caller.domain, project).await?.ok_or_else(unknown_project)?;
    if !projects::is_member(sql, project.id, caller.user_id).await? {
        return Err(unknown_project());
    }
    let policy = resource_policies::get(sql, &caller.resource_policy).await?;
    let policy = policy.ok_or_else(|| Error::Internal(format!("no such policy: {}", caller.resource_policy)))?;
    let domain = domains::get(sql, &caller.domain).await?;
    let domain = domain.ok_or_else(|| Error::Internal(format!("no such domain: {}", caller.domain)))?;

    let keypair_limits = limits(&policy.total_resource_slots, policy.default_for_unspecified, &types)?;
    let unlimited = DefaultForUnspecified::Unlimited;
    let group_limits = limits(&project.total_resource_slots, unlimited, &types)?;
    let domain_limits = limits(&domain.total_resource_slots, unlimited, &types)?;
    let keypair_using = held(&occupancy::held(sql, Scope::Keypair, caller.access_key.as_str()).await?, &types);
    let group_using = held(&occupancy::held(sql, Scope::Project, &project.id.to_string()).await?, &types);
    let domain_using = held(&occupancy::held(sql, Scope::Domain, &domain.name).await?, &types);
    let group_remaining = minus(&group_limits, &group_using)?;
    let keypair_remaining = minus(&keypair_limits, &keypair_using)?
        .capped_by(&group_remaining)
        .capped_by(&minus(&domain_limits, &domain_using)?);

    let mut names: Vec<String> = scaling_groups::allowed(control, &caller.domain, Some(project.id), &caller.access_key)
        .await?
        .into_iter()
        .map(|row| row.name)
        .collect();
    if let Some(group) = group {
        names.retain(|name| name == group);
        if names.is_empty() {
            return Err(Error::invalid("Unknown scaling group"));
        }
    }
    let agents = left(presets::room(sql, &names).await?, &types)?;
    let mut using: BTreeMap<&str, SlotMap> =
        names.iter().map(|name| (name.as_str(), all(&types, &Quantity::zero()))).collect();
    for (name, occupied) in presets::held_by_user(sql, caller.user_id).await? {
        if let Some(sum) = using.get_mut(name.as_str()) {
            let occupied =
                SlotMap::from_stored(&occupied).and_then(|map| map.normalized(&types, true)).map_err(corrupt)?;
            *sum = sum.add(&occupied).map_err(corrupt)?;
        }
    }

    let mut everywhere = all(&types, &Quantity::zero());
    let mut groups = Map::new();
    for (name, using) in &using {
        let mut here = all(&types, &Quantity::zero());
        for rest in agents.get(*name).into_iter().flat_map(BTreeMap::values) {
            here = here.add(rest).map_err(corrupt)?;
        }
        everywhere = everywhere.add(&here).map_err(corrupt)?;
        let remaining = here.capped_by(&keypair_remaining);
        groups.insert((*name).to_owned(), json!({"using": using.to_json(), "remaining": remaining.to_json()}));
    }
    let mut presets_json = Vec::new();
    for row in presets::list(sql).await? {
        let wanted = preset_slots(&row, &types)?;
        let fits =
            keypair_remaining.ge(&wanted) && agents.values().flat_map(BTreeMap::values).any(|rest| rest.ge(&wanted));
        let mut entry = preset_json(&row, &wanted);
        entry.insert("allocatable".to_owned(), Json::from(fits));
        presets_json.push(Json::Object(entry));
    }
    let visible = control.config_tree().value(VISIBILITY).is_some_and(|value| is_true(&value));
    let shown = |map: &SlotMap| if visible { map.to_json() } else { all(&types, &Quantity::NaN).to_json() };
    Ok(json!({
        "keypair_limits": keypair_limits.to_json(),
        "keypair_using": keypair_using.to_json(),
        "keypair_remaining": keypair_remaining.to_json(),
        "scaling_group_remaining": everywhere.capped_by(&keypair_remaining).to_json(),
        "scaling_groups": groups,
        "presets": presets_json,
        "group_limits": shown(&group_limits),
        "group_using": shown(&group_using),
        "group_remaining": shown(&group_remaining),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_of_shared_memory() {
        assert_eq!(shared_memory("64m").unwrap(), Some(64 << 20));
        assert_eq!(shared_memory("").unwrap(), None);
        assert!(
            matches!(shared_memory("xx"), Err(Error::InvalidParams { msg, .. }) if msg == "('Unconvertible value', 'xx')")
        );
        assert!(shared_memory("inf").is_err());
    }

    #[test]
    fn rest_of_agents_in_known_slots() {
        let types = slots::intrinsic();
        let room = |agent: &str, slot: &str, capacity, occupied| Room {
            scaling_group: "g".into(),
            agent: agent.into(),
            slot: slot.into(),
            capacity,
            occupied,
        };
        let left =
            left(vec![room("a", "cpu", 4000, 1500), room("a", "x", 1, 0), room("b", "mem", 10, 12)], &types).unwrap();
        assert_eq!(left["g"]["a"].to_json(), json!({"cpu": "2.5", "mem": "0"}));
        assert_eq!(left["g"]["b"].to_json(), json!({"cpu": "0", "mem": "-2"}));
    }
}
