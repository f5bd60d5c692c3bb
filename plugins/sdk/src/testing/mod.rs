//! Unit tests of policies on the machine that they are written on, without WebAssembly: `cargo test`.
//!
//! - Schedulers: [`Cluster`] builds a snapshot and plays a round on simple books ([`Cluster::run`]).
//! - Idle checkers: [`Sessions`] builds a tick and has it judged.
//! - Hooks: [`ask`] puts an event to one.
//!
//! What a policy asks of the host (its log, its counters, its budget) is answered by a desk per thread, see [`journal`].
//! The books here know capacity, pins, architectures and quotas; the server's know more. `quarterdeck plugin test` plays
//! scenario files on the server's own.

mod amounts;
mod books;
mod cluster;
mod hook;
pub(crate) mod host;
mod idle;

pub use cluster::{Cell, Cluster, Course, Decided, Decision, Job, Node};
pub use hook::{ask, enqueue, event};
pub use host::{Journal, Line, journal, set_budget};
pub use idle::{Sessions, Watched};

use crate::bindings::base::exports::quarterdeck::policy::plugin::Guest;
use crate::{Component, ConfigProblem, Info, Policy};

/// What a policy says about itself.
///
/// # Panics
/// When the host would refuse it: a name, version or schema that is none.
pub fn describe<P: Policy>() -> Info {
    let info = <Component<P> as Guest>::describe();
    let name_is_fine = (1..=64).contains(&info.name.len())
        && info.name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    assert!(name_is_fine, "the name `{}` is not 1 to 64 of `[a-z0-9_-]`", info.name);
    assert!(info.version.split('.').count() >= 3, "the version `{}` is not a semantic one", info.version);
    if !info.config_schema.is_empty() {
        let schema: Result<serde_json::Value, _> = serde_json::from_str(&info.config_schema);
        assert!(schema.is_ok_and(|schema| schema.is_object()), "the schema is no JSON object: {}", info.config_schema);
    }
    info
}

/// Whether a policy finds a fault with a configuration. The host checks it against the schema before that.
///
/// # Errors
/// The faults.
pub fn check_config<P: Policy>(config: &str) -> Result<(), Vec<ConfigProblem>> {
    <Component<P> as Guest>::check_config(config.to_owned())
}

/// The configuration of a policy.
fn config<P: Policy>(config: &str) -> Result<P::Config, String> {
    host::open(config);
    crate::host::config::<P>()
}
