//! Write Quarterdeck policies in Rust.
//!
//! A policy is a type that implements [`Policy`] (who it is, what configuration it takes) and one of
//! [`scheduler::Scheduler`], [`idle::IdleChecker`] and [`hook::Hook`], exported by the macro of that kind:
//!
//! ```ignore
//! use quarterdeck_sdk::scheduler::{Proposal, Round, Scheduler, Outcome};
//!
//! struct Mine { round: Round }
//! impl quarterdeck_sdk::Policy for Mine { /* … */ }
//! impl Scheduler for Mine { /* … */ }
//! quarterdeck_sdk::export_scheduler!(Mine);
//! ```
//!
//! Build it as a `cdylib` with `cargo build --release --target wasm32-wasip2`; the result is a component that the host
//! loads as it is. `quarterdeck plugin new` makes a project with all of that, `examples/rust/best-fit` is a complete
//! policy to read. [`testing`] runs a policy in `cargo test`, without WebAssembly.
//!
//! What the contract promises and demands is documented in `wit/policy.wit`. In short: the same input must give the same
//! answer, there is no clock but the one in the input, and nothing survives a call.

// The generated code names this crate, here as in the crates that use it.
extern crate self as quarterdeck_sdk;

pub mod amount;
#[doc(hidden)]
pub mod bindings;
pub mod explain;
pub mod glob;
pub mod hook;
pub mod host;
pub mod idle;
#[cfg(any(test, all(feature = "allocator", target_family = "wasm", not(target_feature = "atomics"))))]
mod memory;
pub mod placing;
mod policy;
pub mod scheduler;
pub mod span;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use bindings::base::exports::quarterdeck::policy::plugin::{ConfigProblem, Info};
#[doc(hidden)]
pub use policy::Component;
pub use policy::{Policy, config_problem, parse_config};
#[cfg(feature = "schema")]
pub use schemars;
pub use serde;
pub use serde_json;
pub use wit_bindgen;

/// The JSON Schema of a configuration's type, with the documentation of its fields as descriptions and their defaults.
/// Derive `schemars::JsonSchema` for it (`#[schemars(crate = "quarterdeck_sdk::schemars")]`, unless your crate depends on
/// schemars itself).
#[cfg(feature = "schema")]
pub fn schema_of<C: schemars::JsonSchema>() -> String {
    schemars::SchemaGenerator::default().into_root_schema_for::<C>().as_value().to_string()
}

#[cfg(all(feature = "allocator", target_family = "wasm", not(target_feature = "atomics")))]
#[global_allocator]
static BLOCKS: memory::Blocks = memory::Blocks::new();
