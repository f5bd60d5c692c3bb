//! Hooks: [`Hook`].

use crate::bindings::hooks::exports::quarterdeck::policy::hooks as contract;
use crate::{Component, Policy};

pub use contract::{Actor, Denial, Event, Reply, Verdict};

/// A policy with a say at the events of [`Policy::EVENTS`].
pub trait Hook: Policy {
    /// Answers one event, with its body parsed. An error means that the hook could not decide.
    fn handle(config: &Self::Config, event: &Event, body: &serde_json::Value) -> Result<Verdict, String>;
}

/// A denial with a reason for the user and facts for programs.
pub fn deny(reason: impl Into<String>, fields: &[(&str, String)]) -> Verdict {
    Verdict::Deny(Denial {
        reason: reason.into(),
        fields: fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
    })
}

impl<P: Hook> contract::Guest for Component<P> {
    fn handle(event: Event) -> Result<Verdict, String> {
        let config = crate::host::config::<P>()?;
        let body = serde_json::from_str(&event.body).map_err(|error| format!("the event's body: {error}"))?;
        P::handle(&config, &event, &body)
    }
}

#[doc(hidden)]
pub fn exported<P: Hook>() {}

/// Exports a [`Hook`] from the component.
#[macro_export]
macro_rules! export_hook {
    ($policy:ty) => {
        #[cfg(target_family = "wasm")]
        type __QuarterdeckComponent = $crate::Component<$policy>;
        #[cfg(target_family = "wasm")]
        $crate::bindings::base::export!(__QuarterdeckComponent with_types_in $crate::bindings::base);
        #[cfg(target_family = "wasm")]
        $crate::bindings::hooks::export!(__QuarterdeckComponent with_types_in $crate::bindings::hooks);
        // On the machine that it is written on there is nobody to export it to; it is used all the same.
        #[cfg(not(target_family = "wasm"))]
        const _: fn() = $crate::hook::exported::<$policy>;
    };
}
