//! Events, and what a hook is expected to say to them.

use quarterdeck_plugin::hooks::{self, Verdict};
use quarterdeck_plugin::{Call, Failure, Meter, Plugin};
use serde::Deserialize;
use serde_json::Value as Json;

use super::Played;
use super::values::time;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Document {
    #[expect(dead_code, reason = "read before")]
    name: String,
    #[serde(default = "super::values::no_options")]
    pub(super) config: Json,
    event: String,
    /// A time with the site's offset from UTC.
    at: Option<Json>,
    actor: Option<Actor>,
    body: Json,
    expect: Expectation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Actor {
    user: String,
    access_key: String,
    role: String,
    domain: String,
}

impl Default for Actor {
    fn default() -> Self {
        Self {
            user: "11111111-1111-1111-1111-111111111111".to_owned(),
            access_key: "AKIAUSER".to_owned(),
            role: "user".to_owned(),
            domain: "default".to_owned(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Expectation {
    /// `allow`.
    Word(String),
    /// Part of the reason.
    Deny { deny: String },
    /// The merge patch, as JSON.
    Patch { patch: Json },
    /// The result, as JSON.
    Value { value: Json },
    /// Part of the message.
    Error { error: String },
}

/// An event to be put to a hook.
#[derive(Debug)]
pub(super) struct Event {
    event: hooks::Event,
    expect: Expectation,
}

impl Event {
    pub(super) fn new(document: Document) -> anyhow::Result<Self> {
        let Document { event, at, actor, body, expect, .. } = document;
        let moment = time(at.as_ref())?;
        if let Expectation::Word(word) = &expect {
            anyhow::ensure!(word == "allow", "expect: {word}: say allow, or deny, patch, value or error with what");
        }
        anyhow::ensure!(body.is_object(), "the body of an event is a mapping");
        let event = hooks::Event {
            name: event,
            at_ms: moment.ms,
            utc_offset_s: moment.offset_s,
            actor: actor.map(|actor| hooks::Actor {
                user: actor.user,
                access_key: actor.access_key,
                role: actor.role,
                domain: actor.domain,
            }),
            body: body.to_string(),
        };
        Ok(Self { event, expect })
    }

    pub(super) fn play(&self, plugin: &Plugin, config: &str, meter: Meter) -> Played {
        if !plugin.listens_to(&self.event.name) {
            let mut played = Played::default();
            played.expect("event", &self.event.name, plugin.info.events.join(", "));
            return played;
        }
        let (trace, result) = plugin.handle_traced(&Call { meter, ..Call::new(config) }, &self.event);
        let mut played = Played { trace, ..Played::default() };
        let got = match &result {
            Ok(Verdict::Allow) => "allow".to_owned(),
            Ok(Verdict::Deny(denial)) => format!("deny: {}", denial.reason),
            Ok(Verdict::Reply(reply)) => format!(
                "reply: patch {}, value {}",
                reply.patch.as_deref().unwrap_or("none"),
                reply.value.as_deref().unwrap_or("none")
            ),
            Err(Failure::Guest { message, .. }) => format!("error: {message}"),
            Err(failure) => {
                played.failure = Some(failure.to_string());
                return played;
            }
        };
        let parsed = |text: &Option<String>| text.as_deref().and_then(|text| serde_json::from_str::<Json>(text).ok());
        let (fits, expected) = match &self.expect {
            Expectation::Word(word) => (got == *word, word.clone()),
            Expectation::Deny { deny } => (
                matches!(&result, Ok(Verdict::Deny(denial)) if denial.reason.contains(deny.as_str())),
                format!("deny: …{deny}…"),
            ),
            Expectation::Patch { patch } => (
                matches!(&result, Ok(Verdict::Reply(reply)) if parsed(&reply.patch).as_ref() == Some(patch)),
                format!("reply: patch {patch}"),
            ),
            Expectation::Value { value } => (
                matches!(&result, Ok(Verdict::Reply(reply)) if parsed(&reply.value).as_ref() == Some(value)),
                format!("reply: value {value}"),
            ),
            Expectation::Error { error } => (
                matches!(&result, Err(Failure::Guest { message, .. }) if message.contains(error.as_str())),
                format!("error: …{error}…"),
            ),
        };
        if !fits {
            played.expect("verdict", expected, got);
        }
        played
    }
}
