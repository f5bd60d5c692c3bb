//! The plugin host: loads policies that are WebAssembly components of `wit/`, and calls them within limits.
//!
//! A policy is a pure function. Every call (a scheduling round counts as one) gets a fresh instance in a store of its
//! own, with bounded time, memory, output and logs; nothing that comes back is trusted before it was checked. Whatever
//! a component does, the worst outcome of a call is a [`Failure`]. This crate knows neither database nor network; what a
//! failure means (fallback, suspension) is decided above it.
//!
//! - [`Runtime`] is the catalogue: [`Runtime::load`] verifies, compiles (in a child process) and introduces a component.
//! - [`Plugin`] is a loaded component: [`Plugin::schedule`], [`Plugin::check_isolated`], [`Plugin::handle`].
//! - [`builtin`] are the policies that come with the host.
//! - [`scheduling`], [`idling`], [`hooks`], [`types`] and [`description`] are the types of the contract.

mod backtrace;
mod bindings;
pub mod builtin;
mod cache;
mod compile;
mod describe;
mod engine;
mod failure;
mod hook;
mod idle;
mod journal;
mod limits;
mod plugin;
mod producers;
mod runtime;
mod sandbox;
mod schedule;
mod schema;
mod selftest;
mod verify;
mod wasi;

pub use bindings::exports::quarterdeck::policy::{hooks, idling, plugin as description, scheduling};
pub use bindings::quarterdeck::policy::types;
pub use cache::digest;
pub use compile::{CompileLimits, Compiler, compile_child_main};
pub use describe::Objection;
pub use description::{ColumnRequest, ConfigProblem, Info};
pub use failure::{Failure, LoadError};
pub use idle::Isolated;
pub use journal::{Journal, LogLine};
pub use limits::{Call, Limits, Meter};
pub use plugin::{CallTrace, Plugin};
pub use producers::producers;
pub use quarterdeck_model::policy::PluginKind as Kind;
pub use runtime::{Runtime, RuntimeOptions};
pub use schedule::{ExchangeTimes, Judge, Party, RoundTrace, play, subject};
pub use selftest::{SelfTest, Unsound};
pub use verify::{Outline, outline};

/// The first argument with which an executable that embeds this library is to call [`compile_child_main`].
pub const COMPILE_CHILD_ARG: &str = "__compile-plugin";
