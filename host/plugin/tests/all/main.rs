//! The plugin host from outside, with real components.
#![allow(missing_docs, clippy::unwrap_used)]

mod archived;
mod beyond;
mod builtins;
mod common;
mod hostile;
mod orders;
mod repeatable;
mod selftest;
mod vectors;
