//! What must hold before a session is placed, how it is told to the user, and how tries are
//! recorded in `status_data` (`spec/scheduler.md` §5–§7).

use serde_json::{Map, Value as Json, json};

/// A batch session's start time has come.
pub const RESERVED_TIME: &str = "reserved_time";
/// The sessions that it depends on succeeded.
pub const DEPENDENCIES: &str = "dependencies";
/// The owner runs fewer sessions than allowed.
pub const CONCURRENCY: &str = "concurrency";
/// The owner's resources suffice.
pub const KEYPAIR_RESOURCE_LIMIT: &str = "keypair_resource_limit";
/// The project's resources suffice.
pub const USER_GROUP_RESOURCE_LIMIT: &str = "user_group_resource_limit";
/// The domain's resources suffice.
pub const DOMAIN_RESOURCE_LIMIT: &str = "domain_resource_limit";

/// `status_info`: a predicate failed.
pub const CHECKS_FAILED: &str = "predicate-checks-failed";
/// `status_info`: no agent had room.
pub const NO_AVAILABLE_INSTANCES: &str = "no-available-instances";
/// `status_info` of a session that is back in the queue because its agent couldn't be told of it.
pub const AGENT_UNREACHABLE: &str = "agent-unreachable";
/// `status_info`: the scheduler failed on this session.
pub const SCHEDULER_ERROR: &str = "scheduler-error";
/// `status_info`: it has a place.
pub const SCHEDULED: &str = "scheduled";
/// `status_info`: it waited too long, or may not wait.
pub const PENDING_TIMEOUT: &str = "pending-timeout";

/// Of [`RESERVED_TIME`].
pub fn before_start_time() -> String {
    "Before start time".to_owned()
}

/// Of [`DEPENDENCIES`]: names and ids of the sessions waited for.
pub fn waiting_dependencies(waiting: &[(String, String)]) -> String {
    let list: Vec<String> = waiting.iter().map(|(name, id)| format!("{name} ({id})")).collect();
    format!("Waiting dependency sessions to finish as success. ({})", list.join(", "))
}

/// Of [`CONCURRENCY`].
pub fn too_many_sessions(limit: u64) -> String {
    format!("You cannot run more than {limit} concurrent sessions")
}

/// Of [`KEYPAIR_RESOURCE_LIMIT`]; `limits` is the humanised limit.
pub fn keypair_quota_exceeded(limits: &str) -> String {
    format!("Your keypair resource quota is exceeded. ({limits})")
}

/// Of [`USER_GROUP_RESOURCE_LIMIT`].
pub fn group_quota_exceeded(limits: &str) -> String {
    format!("Your group resource quota is exceeded. ({limits})")
}

/// Of [`DOMAIN_RESOURCE_LIMIT`].
pub fn domain_quota_exceeded(limits: &str) -> String {
    format!("Your domain resource quota is exceeded. ({limits})")
}

// The misspelling is on the wire: clients may look for it.
/// No agent of the image's architecture, for a session on one agent.
pub fn no_compatible_agent_for_session(image: &str, architecture: &str) -> String {
    format!("No agents found to be compatible with the image acrhitecture (image[0]: {image}, arch: {architecture})")
}

/// No agent of the image's architecture, for one kernel.
pub fn no_compatible_agent_for_kernel(image: &str, architecture: &str) -> String {
    format!("No agents found to be compatible with the image acrhitecture (image: {image}, arch: {architecture})")
}

/// No agent with room for a session.
pub fn no_room_for_session(session: &str, group: &str) -> String {
    format!(
        "Could not find a contiguous resource region in any agent big enough to host the session (id: {session}, \
         resource group: {group})"
    )
}

/// No agent with room for a kernel of a session.
pub fn no_room_for_kernel(session: &str, group: &str) -> String {
    format!(
        "Could not find a contiguous resource region in any agent big enough to host a kernel in the session (id: \
         {session}, resource group: {group})"
    )
}

/// The agent that an administrator chose has no room.
pub fn designated_agent_too_small(agent: &str, slot: &str, requested: &str, available: &str) -> String {
    format!(
        "The designated agent ({agent}) does not have the enough remaining capacity ({slot}, requested: {requested}, \
         available: {available})."
    )
}

/// Other keys of `status_data` and of its `scheduler` part survive.
fn merged(data: Option<&Json>, change: impl FnOnce(&mut Map<String, Json>)) -> Json {
    let mut data = data.and_then(Json::as_object).cloned().unwrap_or_default();
    let mut scheduler = data.get("scheduler").and_then(Json::as_object).cloned().unwrap_or_default();
    change(&mut scheduler);
    data.insert("scheduler".to_owned(), Json::Object(scheduler));
    Json::Object(data)
}

fn again(scheduler: &mut Map<String, Json>) {
    let retries = scheduler.get("retries").and_then(Json::as_u64).unwrap_or(0);
    scheduler.insert("retries".to_owned(), json!(retries + 1));
}

fn names(passed: &[&str]) -> Json {
    passed.iter().map(|name| json!({"name": name})).collect()
}

/// A try that ended at the predicates: `failed` with their messages. `at` is ISO 8601.
pub fn note_failed(data: Option<&Json>, at: &str, failed: &[(&str, &str)], passed: &[&str]) -> Json {
    merged(data, |scheduler| {
        again(scheduler);
        scheduler.insert("last_try".to_owned(), json!(at));
        let failed: Json = failed.iter().map(|(name, msg)| json!({"name": name, "msg": msg})).collect();
        scheduler.insert("failed_predicates".to_owned(), failed);
        scheduler.insert("passed_predicates".to_owned(), names(passed));
    })
}

/// All predicates passed.
pub fn note_passed(data: Option<&Json>, at: &str, passed: &[&str]) -> Json {
    merged(data, |scheduler| {
        scheduler.insert("last_try".to_owned(), json!(at));
        scheduler.insert("failed_predicates".to_owned(), json!([]));
        scheduler.insert("passed_predicates".to_owned(), names(passed));
    })
}

/// No agent was found; what the predicates said stays.
pub fn note_no_instance(data: Option<&Json>, at: &str, msg: &str) -> Json {
    merged(data, |scheduler| {
        again(scheduler);
        scheduler.insert("last_try".to_owned(), json!(at));
        scheduler.insert("msg".to_owned(), json!(msg));
    })
}

/// Placing failed in an unforeseen way. The record of tries is kept.
pub fn note_error(data: Option<&Json>, name: &str, repr: &str) -> Json {
    let mut data = data.and_then(Json::as_object).cloned().unwrap_or_default();
    data.insert("error".to_owned(), json!({"src": "other", "name": name, "repr": repr}));
    Json::Object(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_merged_level_by_level() {
        let before = json!({"other": 1, "scheduler": {"kept": true, "msg": "old"}});
        let failed = note_failed(Some(&before), "T1", &[(CONCURRENCY, &too_many_sessions(3))], &[RESERVED_TIME]);
        assert_eq!(
            failed,
            json!({"other": 1, "scheduler": {
                "kept": true, "msg": "old", "retries": 1, "last_try": "T1",
                "failed_predicates": [{"name": "concurrency", "msg": "You cannot run more than 3 concurrent sessions"}],
                "passed_predicates": [{"name": "reserved_time"}],
            }})
        );
        let passed = note_passed(Some(&failed), "T2", &[RESERVED_TIME, CONCURRENCY]);
        assert_eq!(
            passed["scheduler"],
            json!({
                "kept": true, "msg": "old", "retries": 1, "last_try": "T2", "failed_predicates": [],
                "passed_predicates": [{"name": "reserved_time"}, {"name": "concurrency"}],
            })
        );
        let full = note_no_instance(Some(&passed), "T3", "no room");
        assert_eq!(full["scheduler"]["retries"], 2);
        assert_eq!(full["scheduler"]["msg"], "no room");
        assert_eq!(full["scheduler"]["last_try"], "T3");
        assert_eq!(full["scheduler"]["passed_predicates"], passed["scheduler"]["passed_predicates"]);
        let broken = note_error(Some(&full), "KeyError", "KeyError('x')");
        assert_eq!(broken["scheduler"], full["scheduler"]);
        assert_eq!(broken["error"], json!({"src": "other", "name": "KeyError", "repr": "KeyError('x')"}));
    }

    #[test]
    fn nothing_and_nonsense_count_as_empty() {
        for before in [None, Some(json!(null)), Some(json!([1])), Some(json!({"scheduler": null}))] {
            let data = note_no_instance(before.as_ref(), "T", "m");
            assert_eq!(data, json!({"scheduler": {"retries": 1, "last_try": "T", "msg": "m"}}));
        }
    }

    #[test]
    fn sentences_are_the_wire_s() {
        let waiting = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        assert_eq!(waiting_dependencies(&waiting), "Waiting dependency sessions to finish as success. (a (1), b (2))");
        assert_eq!(keypair_quota_exceeded("cpu=4 mem=1g"), "Your keypair resource quota is exceeded. (cpu=4 mem=1g)");
        assert_eq!(
            no_room_for_session("s", "g"),
            "Could not find a contiguous resource region in any agent big enough to host the session (id: s, resource \
             group: g)"
        );
        assert_eq!(
            designated_agent_too_small("i-1", "cpu", "8", "4"),
            "The designated agent (i-1) does not have the enough remaining capacity (cpu, requested: 8, available: 4)."
        );
    }
}
