//! What is told about one session.

use std::collections::HashMap;
use std::sync::Arc;

use quarterdeck_model::SessionId;
use quarterdeck_store::{kernels, sessions};
use serde_json::{Map, Value, json};

use super::{Found, Wanted, find, find_live, no_such_session};
use crate::Control;
use crate::error::Result;
use crate::gather::Gather;
use crate::idle;
use crate::principal::Principal;

/// The document of `GET /session/{s}`. Several members are texts that hold JSON: clients print them as they are.
///
/// # Errors
/// [`crate::Error::NotFound`].
pub async fn info(control: &Control, caller: &Principal, reference: &str) -> Result<Value> {
    let host = control.clone();
    let load = move |wanted: Vec<Wanted>| {
        let host = host.clone();
        async move { with_reports(&host, &wanted).await }
    };
    let asked = control.inner.asked_about.get((caller.access_key.clone(), reference.to_owned()), load).await?;
    let (found, idle_checks) = asked.ok_or_else(|| no_such_session(reference))?;
    let main = found.main()?;
    let session = &found.session;
    let now = control.clock().now();
    let opts: Map<String, Value> =
        found.kernels.iter().map(|k| (k.cluster_hostname.clone(), k.resource_opts.clone())).collect();
    let mut occupied = quarterdeck_model::slots::SlotMap::new();
    for kernel in &found.kernels {
        if kernel.status.occupies_agent()
            && let Ok(slots) = quarterdeck_model::slots::SlotMap::from_json(&kernel.occupied_slots)
        {
            occupied = occupied.add(&slots).unwrap_or(occupied);
        }
    }
    let text = |text: Option<&str>| text.unwrap_or("None").to_owned();
    Ok(json!({
        "domainName": session.domain_name,
        "groupId": session.project_id,
        "userId": session.user_id,
        "lang": main.image,
        "image": main.image,
        "architecture": main.architecture,
        "registry": main.registry,
        "tag": session.tag,
        "containerId": text(main.container_id.as_deref()),
        "occupiedSlots": occupied.to_json().to_string(),
        "occupyingSlots": "{}",
        "requestedSlots": session.requested_slots.to_string(),
        "occupiedShares": "{}",
        "environ": session.environ.to_string(),
        "resourceOpts": Value::Object(opts).to_string(),
        "status": session.status,
        "statusInfo": text(session.status_info.as_deref()),
        "statusData": session.status_data,
        "age": now.millis() - session.created_at.millis(),
        "creationTime": session.created_at.spaced(),
        "terminationTime": session.terminated_at.map(|at| at.spaced()),
        "numQueriesExecuted": session.num_queries,
        "lastStat": usage(control, &found.kernels),
        "idleChecks": *idle_checks,
        "runtimeInfo": main.runtime_info,
    }))
}

/// Sessions that somebody asks about, with what idle checkers say of them.
pub(crate) type AskedAbout = Gather<Wanted, (Arc<Found>, Arc<Value>)>;

async fn with_reports(control: &Control, wanted: &[Wanted]) -> Result<HashMap<Wanted, (Arc<Found>, Arc<Value>)>> {
    let found = find_live(control.store(), wanted).await?;
    let ids: Vec<SessionId> = found.values().map(|found| found.session.id).collect();
    let reports: HashMap<SessionId, Arc<Value>> =
        idle::report(control, &ids).await?.into_iter().map(|(id, report)| (id, Arc::new(report))).collect();
    let of = |found: &Found| reports.get(&found.session.id).cloned().unwrap_or_else(|| Arc::new(json!({})));
    Ok(found
        .into_iter()
        .map(|(wanted, found)| {
            let report = of(&found);
            (wanted, (found, report))
        })
        .collect())
}

/// When the session entered which status: lower-case status → ISO 8601 instant.
///
/// # Errors
/// [`crate::Error::NotFound`].
pub async fn status_history(control: &Control, caller: &Principal, reference: &str) -> Result<Value> {
    let found = find(control, &caller.access_key, reference, true).await?;
    let history = found.session.status_history.as_object().cloned().unwrap_or_default();
    Ok(Value::Object(history.into_iter().map(|(status, at)| (status.to_lowercase(), at)).collect()))
}

/// What the kernels of a session use together, or used at last: `current` of each metric is added up, the rest is of
/// single kernels and left out. None while nothing is known.
fn usage(control: &Control, kernels: &[kernels::KernelRow]) -> Value {
    let stats: Vec<Value> =
        kernels.iter().filter_map(|k| k.last_stat.clone().or_else(|| control.live().kernel_stat(k.id))).collect();
    match stats.as_slice() {
        [] => Value::Null,
        [one] => one.clone(),
        many => sum(many),
    }
}

fn sum(stats: &[Value]) -> Value {
    let mut total: Map<String, Value> = Map::new();
    for (metric, value) in stats.iter().filter_map(Value::as_object).flatten() {
        let number = |value: &Value, key: &str| value[key].as_str().and_then(|text| text.parse::<f64>().ok());
        let Some(current) = number(value, "current") else { continue };
        let entry = total
            .entry(metric.clone())
            .or_insert_with(|| json!({"current": "0", "capacity": null, "pct": null, "unit_hint": value["unit_hint"]}));
        let current = number(entry, "current").unwrap_or_default() + current;
        // Whole numbers stay whole.
        entry["current"] =
            json!(if current.fract() == 0.0 { format!("{current:.0}") } else { format!("{current:.2}") });
        if let Some(capacity) = number(value, "capacity") {
            let capacity = number(entry, "capacity").unwrap_or_default() + capacity;
            entry["capacity"] = json!(format!("{capacity:.0}"));
            if capacity > 0.0 {
                entry["pct"] = json!(format!("{:.2}", current / capacity * 100.0));
            }
        }
    }
    Value::Object(total)
}

/// The session's last statistics, as a destroyed session's owner is told them.
pub(super) async fn final_stats(control: &Control, id: quarterdeck_model::SessionId) -> Result<Value> {
    let mut reader = control.store().reader();
    let ran =
        sessions::get(&mut reader, id).await?.is_some_and(|s| s.status != quarterdeck_model::SessionStatus::Cancelled);
    if !ran {
        return Ok(json!({ "status": "terminated" }));
    }
    let kernels = kernels::of_sessions(&mut reader, &[id]).await?;
    let stat = kernels
        .iter()
        .find(|k| k.cluster_role == "main")
        .and_then(|k| k.last_stat.clone().or_else(|| control.live().kernel_stat(k.id)));
    let mut stats = match stat {
        Some(Value::Object(stats)) => stats,
        _ => Map::new(),
    };
    // Clients take these two out and read the rest as metrics.
    stats.insert("version".to_owned(), json!(2));
    stats.insert("status".to_owned(), json!("terminated"));
    Ok(Value::Object(stats))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_added_up() {
        let one = json!({"mem": {"current": "10", "capacity": "100", "pct": "10.00", "unit_hint": "bytes", "stats.max": "5"},
                         "cpu_util": {"current": "1.50", "capacity": null, "unit_hint": "percent"}});
        let other =
            json!({"mem": {"current": "30", "capacity": "100", "pct": "30.00", "unit_hint": "bytes"}, "odd": 3});
        assert_eq!(
            sum(&[one, other]),
            json!({"mem": {"current": "40", "capacity": "200", "pct": "20.00", "unit_hint": "bytes"},
                   "cpu_util": {"current": "1.50", "capacity": null, "pct": null, "unit_hint": "percent"}})
        );
    }
}
