//! Calls of hooks.

use crate::bindings::exports::quarterdeck::policy::hooks as wit;
use crate::idle::is_object;
use crate::journal::presentable;
use crate::limits::Call;
use crate::plugin::{CallTrace, Plugin};
use crate::{Failure, Kind};
use wit::{Event, Verdict};

/// Bytes of a patch or a value.
const MAX_REPLY: usize = 256 << 10;

impl Plugin {
    /// Whether the hook wants to hear of an event.
    pub fn listens_to(&self, event: &str) -> bool {
        self.info.events.iter().any(|name| name == event)
    }

    /// Asks the hook. Whether the event lets it answer with a patch or a value is for the caller to check.
    pub fn handle(&self, call: &Call, event: &Event) -> Result<Verdict, Failure> {
        self.handle_traced(call, event).1
    }

    /// As [`Plugin::handle`], with what the call cost, also where it failed.
    pub fn handle_traced(&self, call: &Call, event: &Event) -> (CallTrace, Result<Verdict, Failure>) {
        if let Err(failure) = self.must_be(Kind::Hook) {
            return (CallTrace::default(), Err(failure));
        }
        let called = self.call_traced(
            call,
            |limits| limits.hook,
            event.at_ms,
            |visit| {
                let guest = visit.hooks()?;
                let verdict = visit
                    .run("handle", |store| guest.call_handle(store, event))?
                    .map_err(|message| Failure::Guest { export: "handle", message: presentable(&message, 1000) })?;
                checked(verdict, visit.limits().text_bytes)
                    .map_err(|reason| Failure::Output { export: "handle", reason })
            },
        );
        match called {
            Ok((result, trace)) => (trace, result),
            Err(failure) => (CallTrace::default(), Err(failure)),
        }
    }
}

fn checked(verdict: Verdict, text_bytes: usize) -> Result<Verdict, String> {
    match &verdict {
        Verdict::Allow => {}
        Verdict::Deny(denial) => {
            if denial.reason.len() > text_bytes {
                return Err(format!("the reason has {} bytes; {text_bytes} are allowed", denial.reason.len()));
            }
            if denial.fields.len() > 32 {
                return Err(format!("{} fields; 32 are allowed", denial.fields.len()));
            }
            if let Some((name, _)) =
                denial.fields.iter().find(|(name, value)| name.len() > 64 || value.len() > text_bytes)
            {
                return Err(format!("the field `{}` is too long", presentable(name, 64)));
            }
        }
        Verdict::Reply(reply) => {
            for (what, text) in [("patch", &reply.patch), ("value", &reply.value)] {
                let Some(text) = text else { continue };
                if text.len() > MAX_REPLY {
                    return Err(format!("the {what} has {} bytes; {MAX_REPLY} are allowed", text.len()));
                }
                if what == "patch" {
                    is_object(text).map_err(|error| format!("the patch {error}"))?;
                } else if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
                    return Err(format!("the value is not JSON: {error}"));
                }
            }
        }
    }
    Ok(verdict)
}
