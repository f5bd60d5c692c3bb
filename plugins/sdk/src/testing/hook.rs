//! Events for hooks.

use serde_json::{Value, json};

use crate::hook::{Actor, Event, Hook, Verdict};

/// An event with a body, on behalf of a plain user, at noon of a Tuesday (2023-11-14, UTC).
pub fn event(name: &str, body: &Value) -> Event {
    Event {
        name: name.to_owned(),
        at_ms: 1_699_963_200_000,
        utc_offset_s: 0,
        actor: Some(Actor {
            user: "11111111-1111-1111-1111-111111111111".to_owned(),
            access_key: "AKIAUSER".to_owned(),
            role: "user".to_owned(),
            domain: "default".to_owned(),
        }),
        body: body.to_string(),
    }
}

/// The event `PRE_ENQUEUE_SESSION` of a session with one kernel, that asks for slots such as `{"cpu": "2", "mem": "1g"}`.
/// Change what matters to the test: `body["session"]["name"] = …`.
pub fn enqueue(slots: &Value) -> Value {
    json!({
        "session": {
            "id": "22222222-2222-2222-2222-222222222222",
            "name": "work",
            "type": "interactive",
            "cluster_mode": "single-node",
            "cluster_size": 1,
            "scaling_group": "default",
            "tag": null,
            "priority": 0,
            "starts_at": null,
            "environ": {},
            "startup_command": null,
            "kernels": [
                {"role": "main", "image": "cr.example/stable/python:3.11", "architecture": "x86_64", "slots": slots},
            ],
            "mounts": [],
        },
        "owner": {
            "access_key": "AKIAUSER",
            "uuid": "11111111-1111-1111-1111-111111111111",
            "email": "user@example.org",
            "role": "user",
            "domain": "default",
            "project": "default",
        },
        "usage": {
            "owner": {"sessions": 0, "slots": {}, "limit": {}},
            "project": {"sessions": 0, "slots": {}, "limit": {}},
            "domain": {"sessions": 0, "slots": {}, "limit": {}},
        },
    })
}

/// Puts an event to a hook.
///
/// # Errors
/// What the hook reports.
pub fn ask<P: Hook>(config: &str, event: &Event) -> Result<Verdict, String> {
    let config = super::config::<P>(config)?;
    let body = serde_json::from_str(&event.body).map_err(|error| format!("the event's body: {error}"))?;
    P::handle(&config, event, &body)
}
