//! Virtual folders as people have them, and as those would like to have them who shouldn't: every command of the official
//! client, large files whose senders and servers are killed on the way, and what nobody gets by paths, links and tickets.
#![allow(clippy::unwrap_used)]

mod commands;
mod lab;
mod large;
mod others;
mod paths;
mod person;
mod remote;
mod tickets;

/// The folder host that every server has.
const HOST: &str = "local:volume1";
/// Bytes.
const MIB: usize = 1 << 20;
