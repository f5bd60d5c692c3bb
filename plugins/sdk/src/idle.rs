//! Idle checkers: [`IdleChecker`].

use crate::bindings::idling::exports::quarterdeck::policy::idling as contract;
use crate::{Component, Policy};

pub use crate::bindings::base::quarterdeck::policy::types::{Column, ColumnData, SessionKind, Slot, SlotKind};
pub use contract::{Access, CheckerTraits, Finding, RemainingType, Series, State, Tick};

/// A policy that decides which sessions are idle.
pub trait IdleChecker: Policy {
    /// What the host needs to know to serve it.
    fn traits(config: &Self::Config) -> CheckerTraits;

    /// One answer per session, in order. An error for one leaves the others judged.
    fn check(config: &Self::Config, tick: &Tick) -> Result<Vec<Result<Finding, String>>, String>;
}

/// A judgement without a report.
pub fn finding(state: State, remaining_ms: Option<i64>) -> Finding {
    Finding { state, remaining_ms, report: String::new() }
}

impl<P: IdleChecker> contract::Guest for Component<P> {
    fn traits() -> CheckerTraits {
        match crate::host::config::<P>() {
            Ok(config) => P::traits(&config),
            Err(message) => panic!("{message}"),
        }
    }

    fn check(tick: Tick) -> Result<Vec<Result<Finding, String>>, String> {
        P::check(&crate::host::config::<P>()?, &tick)
    }
}

#[doc(hidden)]
pub fn exported<P: IdleChecker>() {}

/// Exports an [`IdleChecker`] from the component.
#[macro_export]
macro_rules! export_idle_checker {
    ($policy:ty) => {
        #[cfg(target_family = "wasm")]
        type __QuarterdeckComponent = $crate::Component<$policy>;
        #[cfg(target_family = "wasm")]
        $crate::bindings::base::export!(__QuarterdeckComponent with_types_in $crate::bindings::base);
        #[cfg(target_family = "wasm")]
        $crate::bindings::idling::export!(__QuarterdeckComponent with_types_in $crate::bindings::idling);
        // On the machine that it is written on there is nobody to export it to; it is used all the same.
        #[cfg(not(target_family = "wasm"))]
        const _: fn() = $crate::idle::exported::<$policy>;
    };
}
