//! What a policy may ask of the host.

use crate::Policy;
#[cfg(target_family = "wasm")]
use crate::bindings::base::quarterdeck::policy::host;
#[cfg(not(target_family = "wasm"))]
use crate::testing::host;

pub use crate::bindings::base::quarterdeck::policy::types::LogLevel;

/// Writes a line to the policy's log.
pub fn log(level: LogLevel, message: &str, fields: &[(&str, String)]) {
    let fields: Vec<(String, String)> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    host::log(level, message, &fields);
}

/// [`log`] at level `debug`.
pub fn debug(message: &str) {
    log(LogLevel::Debug, message, &[]);
}

/// [`log`] at level `info`.
pub fn info(message: &str) {
    log(LogLevel::Info, message, &[]);
}

/// [`log`] at level `warn`.
pub fn warn(message: &str) {
    log(LogLevel::Warn, message, &[]);
}

/// Adds to a counter that the host publishes under the plugin's name.
pub fn count(metric: &str, delta: u64) {
    host::count(metric, delta);
}

/// What this call may cost, in units of fuel.
pub fn budget() -> u64 {
    host::budget()
}

/// The configuration of the current binding.
pub fn config<P: Policy>() -> Result<P::Config, String> {
    crate::parse_config::<P>(&host::config()).map_err(|problem| format!("configuration: {}", problem.message))
}
