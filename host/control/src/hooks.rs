//! Calling hooks at the documented events: order, vetoes, patches, time limits.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use quarterdeck_plugin::hooks::{Actor, Event, Verdict};
use quarterdeck_plugin::{Call, Failure};
use serde_json::{Map, Value as Json, json};

use crate::Control;
use crate::error::{Error, Result};
use crate::policies::Bound;
use crate::principal::Principal;
use crate::shadow::ShownEvent;

/// How the answers of several hooks are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every hook is asked; the first denial ends it.
    All,
    /// The first hook that answers a value decides; later ones aren't asked.
    First,
    /// Answers are ignored, errors logged.
    Notify,
}

/// What came of asking.
#[derive(Clone, Debug)]
pub struct Dispatched {
    /// The body, as patched by the hooks.
    pub body: Json,
    /// The values that hooks answered, with the hooks' names, in the order of the calls.
    pub values: Vec<(String, Json)>,
}

/// What a hook may answer at an event besides allowing and denying (`spec/hooks.md` §7).
#[derive(Clone, Copy, Debug, Default)]
struct Rights {
    value: bool,
    /// JSON pointers (without the leading slash) of what a patch may touch.
    patch: &'static [&'static str],
    deny: bool,
}

fn rights(event: &str) -> Rights {
    match event {
        "PRE_AUTH_MIDDLEWARE" | "PRE_SIGNUP" => Rights { value: true, deny: true, patch: &[] },
        "AUTHORIZE" => Rights { value: true, deny: true, patch: &["params"] },
        "PRE_ENQUEUE_SESSION" => Rights {
            value: false,
            deny: true,
            patch: &["session/tag", "session/priority", "session/environ", "session/scaling_group"],
        },
        "ACTIVATE_MANAGER"
        | "POST_AUTHORIZE"
        | "VERIFY_PASSWORD_FORMAT"
        | "PRE_START_SESSION"
        | "PRE_DESTROY_SESSION" => Rights { value: false, deny: true, patch: &[] },
        _ => Rights::default(),
    }
}

/// Asks the hooks bound for `event`, in order. Each sees the body as patched so far. Hooks that only watch are shown it
/// afterwards, when nobody waits for them.
///
/// # Errors
/// [`Error::RejectedByHook`] when a hook denies, or fails and isn't bound fail-open.
pub async fn dispatch(
    control: &Control,
    event: &'static str,
    mode: Mode,
    actor: Option<&Principal>,
    domain: Option<&str>,
    body: Json,
) -> Result<Dispatched> {
    let watched = control.policies().has_listening(event).then(|| message(control, event, actor, &body));
    let asked = ask_all(control, event, mode, actor, domain, body, true).await;
    let Some(message) = watched else { return asked };
    let outcome = match &asked {
        Ok(dispatched) => Ok(dispatched.clone()),
        Err(Error::RejectedByHook { reason, .. }) => Err(reason.clone()),
        Err(_) => return asked,
    };
    let shown = ShownEvent { event: message, name: event, domain: domain.map(str::to_owned), outcome };
    control.shadows().offer_event(control, shown);
    asked
}

/// As [`dispatch`], for what is only thought of: nothing is counted, and nobody watches.
///
/// # Errors
/// As [`dispatch`].
pub(crate) async fn rehearse(
    control: &Control,
    event: &'static str,
    actor: Option<&Principal>,
    domain: Option<&str>,
    body: Json,
) -> Result<Dispatched> {
    ask_all(control, event, Mode::All, actor, domain, body, false).await
}

async fn ask_all(
    control: &Control,
    event: &'static str,
    mode: Mode,
    actor: Option<&Principal>,
    domain: Option<&str>,
    body: Json,
    counts: bool,
) -> Result<Dispatched> {
    let out = Dispatched { body, values: Vec::new() };
    if !control.policies().has_hooks(event) {
        return Ok(out);
    }
    let hooks = match control.policies().hooks(event, domain).await {
        Err(error) if mode == Mode::Notify => {
            tracing::warn!(event, %error, "hooks can't be notified");
            return Ok(out);
        }
        other => other?,
    };
    if hooks.is_empty() {
        return Ok(out);
    }
    // All of them on one thread that may block: each change of threads would cost as much as a hook.
    let message = message(control, event, actor, &out.body);
    let (hooks, calls, result) = tokio::task::spawn_blocking(move || {
        let (calls, result) = ask_in_turn(&hooks, event, mode, message, out);
        (hooks, calls, result)
    })
    .await
    .map_err(|e| Error::Internal(format!("the calls of hooks were lost: {e}")))?;
    if counts {
        for (hook, call) in hooks.iter().zip(calls) {
            match call {
                Some(Ok(took)) => control.policies().succeeded(hook, took).await,
                Some(Err(failure)) => control.policies().failed(hook, &failure).await,
                None => {}
            }
        }
    }
    result
}

/// Asks hooks one after the other, for callers that may block: how each call ended that was made (`None`: it was lost, and
/// that isn't the plugin's fault), and what came of it.
fn ask_in_turn(
    hooks: &[Bound],
    event: &'static str,
    mode: Mode,
    mut message: Event,
    mut out: Dispatched,
) -> (Vec<Option<Result<Duration, Failure>>>, Result<Dispatched>) {
    let mut calls = Vec::with_capacity(hooks.len());
    for hook in hooks {
        let started = Instant::now();
        let call = Call::new(hook.config.clone());
        // A panic of ours in the midst of a call is about this hook alone, as its own failures are.
        let answer = catch_unwind(AssertUnwindSafe(|| hook.plugin.handle(&call, &message)))
            .map(|verdict| verdict.and_then(|verdict| check(event, verdict)));
        let patches = matches!(answer, Ok(Ok(Answer::Reply { patch: Some(_), .. })));
        let (call, answer) = match answer {
            Ok(Ok(answer)) => (Some(Ok(started.elapsed())), Ok(answer)),
            Ok(Err(failure)) => (Some(Err(failure.clone())), Err(failure.to_string())),
            Err(_) => (None, Err("the call was lost".to_owned())),
        };
        calls.push(call);
        match out.take(event, mode, &hook.plugin.info.name, hook.fail_open, answer) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(error) => return (calls, Err(error)),
        }
        if patches {
            message.body = out.body.to_string();
        }
    }
    (calls, Ok(out))
}

impl Dispatched {
    /// Takes in the answer of a hook, or how it failed; whether others are still to be asked.
    fn take(
        &mut self,
        event: &str,
        mode: Mode,
        hook: &str,
        fail_open: bool,
        answer: Result<Answer, String>,
    ) -> Result<ControlFlow<()>> {
        let rejected = |reason: String| Err(Error::RejectedByHook { plugin: hook.to_owned(), reason });
        match answer {
            Ok(Answer::Allow) => {}
            Ok(Answer::Deny(reason)) if mode == Mode::Notify => {
                tracing::warn!(event, hook, reason, "a notified hook has no veto");
            }
            Ok(Answer::Deny(reason)) => return rejected(reason),
            Ok(Answer::Reply { patch, value }) => {
                if let Some(patch) = patch {
                    merge_patch(&mut self.body, &patch);
                }
                if let Some(value) = value {
                    self.values.push((hook.to_owned(), value));
                    if mode == Mode::First {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Err(reason) if mode == Mode::Notify || fail_open => {
                tracing::warn!(event, hook, reason, "a hook failed; the operation goes on");
            }
            // The details are in the log; a plugin's internals are not the user's business.
            Err(_) => return rejected(FAILED.to_owned()),
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// What users are told of a hook that failed.
const FAILED: &str = "the hook failed";

/// The `status_data` of a session that a hook kept from starting.
pub(crate) fn rejection_data(plugin: &str, reason: &str) -> Json {
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    let repr = format!(
        "<RejectedByHook(400): Operation rejected by a hook plugin.{reason}>\n -> extra_data: {{'plugins': '{plugin}'}}"
    );
    json!({"error": {"src": "other", "name": "RejectedByHook", "repr": repr}})
}

/// What a hook answered, as far as the event lets it.
pub(crate) enum Answer {
    Allow,
    Deny(String),
    Reply { patch: Option<Json>, value: Option<Json> },
}

fn message(control: &Control, event: &str, actor: Option<&Principal>, body: &Json) -> Event {
    Event {
        name: event.to_owned(),
        at_ms: control.clock().now().millis(),
        utc_offset_s: control.settings().utc_offset_s,
        actor: actor.map(|a| Actor {
            user: a.email.clone(),
            access_key: a.access_key.to_string(),
            role: a.role.to_string(),
            domain: a.domain.clone(),
        }),
        body: body.to_string(),
    }
}

/// Holds an answer against what the event allows.
pub(crate) fn check(event: &str, verdict: Verdict) -> Result<Answer, Failure> {
    let rights = rights(event);
    match verdict {
        Verdict::Allow => Ok(Answer::Allow),
        Verdict::Deny(denial) => {
            let mut reason = denial.reason;
            if reason.is_empty() && event == "VERIFY_PASSWORD_FORMAT" {
                "invalid password format".clone_into(&mut reason);
            }
            if rights.deny || event.starts_with("POST_") {
                Ok(Answer::Deny(reason))
            } else {
                Err(against_contract(format!("{event} can't be denied")))
            }
        }
        Verdict::Reply(reply) => {
            let parse = |what: &str, text: Option<String>| {
                text.map(|t| serde_json::from_str::<Json>(&t))
                    .transpose()
                    .map_err(|e| against_contract(format!("the {what} is no JSON: {e}")))
            };
            let value = parse("value", reply.value)?.filter(|v| !v.is_null());
            let patch = parse("patch", reply.patch)?;
            if value.is_some() && !rights.value {
                return Err(against_contract(format!("{event} takes no value")));
            }
            if let Some(patch) = &patch {
                let Json::Object(map) = patch else {
                    return Err(against_contract("the patch is no JSON object".to_owned()));
                };
                if let Some(path) = outside(map, rights.patch, "") {
                    return Err(against_contract(format!("{event} takes no patch of `{path}`")));
                }
            }
            Ok(Answer::Reply { patch, value })
        }
    }
}

fn against_contract(reason: String) -> Failure {
    Failure::Output { export: "handle", reason }
}

/// The first path of a patch that isn't within one of the allowed ones.
fn outside(patch: &Map<String, Json>, allowed: &[&str], prefix: &str) -> Option<String> {
    for (key, value) in patch {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}/{key}") };
        if allowed.contains(&path.as_str()) {
            continue;
        }
        let deeper = format!("{path}/");
        match value {
            Json::Object(inner) if allowed.iter().any(|a| a.starts_with(&deeper)) => {
                if let Some(found) = outside(inner, allowed, &path) {
                    return Some(found);
                }
            }
            _ => return Some(path),
        }
    }
    None
}

/// Applies a JSON merge patch (RFC 7396).
pub(crate) fn merge_patch(target: &mut Json, patch: &Json) {
    let Json::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Json::Object(Map::new());
    }
    let Json::Object(object) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge_patch(object.entry(key.clone()).or_insert(Json::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{Answer, Dispatched, Error, FAILED, Mode, merge_patch, outside, rejection_data, rights};

    /// What a handler of the vectors does at the event.
    fn answer(action: &Value) -> Result<Answer, String> {
        if let Some(value) = action.get("return") {
            return Ok(match value {
                Value::Null => Answer::Allow,
                value => Answer::Reply { patch: None, value: Some(value.clone()) },
            });
        }
        match action["reject"].as_str() {
            Some(reason) => Ok(Answer::Deny(reason.to_owned())),
            None => Err(format!("ValueError('{}')", action["raise"].as_str().unwrap())),
        }
    }

    #[test]
    fn hook_vectors() {
        let all: Value = serde_json::from_str(include_str!("../../../tests/vectors/hooks-vectors.json")).unwrap();
        let mut ran = 0;
        for vector in all["vectors"].as_array().unwrap() {
            let (id, input) = (&vector["id"], &vector["in"]);
            // To fail where no hook exists is an option that nobody uses; and a hook has one handler for an event.
            if input["success_if_no_hook"] == json!(false) || vector["expect"].is_string() {
                continue;
            }
            let out = if vector["expect"].is_null() { &vector["out"] } else { &vector["expect"] };
            let mode = match input["mode"].as_str().unwrap() {
                "ALL_COMPLETED" => Mode::All,
                "FIRST_COMPLETED" => Mode::First,
                _ => Mode::Notify,
            };
            // In the order in which bindings are kept, by name; who doesn't listen to the event isn't asked.
            let hooks: BTreeMap<&String, &Value> = input["plugins_in_load_order"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, acts)| (name, &acts[0]))
                .collect();
            let mut dispatched = Dispatched { body: json!({}), values: Vec::new() };
            let mut called = Vec::new();
            let mut verdict = Ok(());
            for (name, action) in hooks.into_iter().filter(|(_, action)| action.get("event").is_none()) {
                called.push(name.clone());
                match dispatched.take("EVENT", mode, name, false, answer(action)) {
                    Ok(flow) if flow.is_continue() => {}
                    Ok(_) => break,
                    Err(error) => {
                        verdict = Err(error);
                        break;
                    }
                }
            }
            assert_eq!(json!(called), out["called"], "{id}");
            let values: Vec<&Value> = dispatched.values.iter().map(|(_, value)| value).collect();
            let names: Vec<&String> = dispatched.values.iter().map(|(name, _)| name).collect();
            match (&verdict, out["status"].as_str()) {
                // A notification has no outcome.
                (Ok(()), None) => assert_eq!(mode, Mode::Notify, "{id}"),
                (Ok(()), Some("PASSED")) if out["result"].is_array() => {
                    assert_eq!((json!(values), json!(names)), (out["result"].clone(), out["plugin"].clone()), "{id}");
                }
                (Ok(()), Some("PASSED")) => {
                    assert_eq!(
                        (values[0], names[0].as_str()),
                        (&out["result"], out["plugin"].as_str().unwrap()),
                        "{id}"
                    );
                }
                (Err(Error::RejectedByHook { plugin, reason }), Some(status)) => {
                    // The words of what a failing hook raised stay in the log.
                    let reason_told = if status == "ERROR" { FAILED } else { out["reason"].as_str().unwrap() };
                    assert_eq!(
                        (plugin.as_str(), reason.as_str()),
                        (out["plugin"].as_str().unwrap(), reason_told),
                        "{id}"
                    );
                    if status == "REJECTED" {
                        assert_eq!(rejection_data(plugin, reason), out["status_data"], "{id}");
                    }
                }
                other => panic!("{id}: {other:?}"),
            }
            ran += 1;
        }
        assert_eq!(ran, 13);
    }

    #[test]
    fn a_hook_bound_fail_open_lets_things_go_on() {
        let mut dispatched = Dispatched { body: json!({}), values: Vec::new() };
        let failed = dispatched.take("EVENT", Mode::All, "alpha", true, Err("boom".to_owned()));
        assert!(failed.unwrap().is_continue());
    }

    #[test]
    fn patches_follow_rfc_7396() {
        let mut body = json!({"a": {"b": 1, "c": 2}, "d": [1, 2]});
        merge_patch(&mut body, &json!({"a": {"b": null, "e": "x"}, "d": {"f": 1}}));
        assert_eq!(body, json!({"a": {"c": 2, "e": "x"}, "d": {"f": 1}}));
    }

    #[test]
    fn a_patch_stays_within_what_the_event_allows() {
        let allowed = rights("PRE_ENQUEUE_SESSION").patch;
        let inside = json!({"session": {"priority": 5, "environ": {"A": "b"}}});
        assert_eq!(outside(inside.as_object().unwrap(), allowed, ""), None);
        let beyond = json!({"session": {"priority": 5, "name": "x"}});
        assert_eq!(outside(beyond.as_object().unwrap(), allowed, "").as_deref(), Some("session/name"));
        let owner = json!({"owner": {"role": "superadmin"}});
        assert_eq!(outside(owner.as_object().unwrap(), allowed, "").as_deref(), Some("owner"));
        let whole = json!({"session": "x"});
        assert_eq!(outside(whole.as_object().unwrap(), allowed, "").as_deref(), Some("session"));
    }
}
