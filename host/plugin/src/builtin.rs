//! The policies that come with the host. They go through the same catalogue as anybody's.

use std::sync::OnceLock;

/// A component embedded in this library.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// The name by which it describes itself.
    pub name: &'static str,
    /// The component.
    pub wasm: &'static [u8],
}

const ALL: &[Builtin] = &[
    Builtin { name: "fifo", wasm: include_bytes!(env!("QUARTERDECK_GUEST_FIFO")) },
    Builtin { name: "lifo", wasm: include_bytes!(env!("QUARTERDECK_GUEST_LIFO")) },
    Builtin { name: "mof", wasm: include_bytes!(env!("QUARTERDECK_GUEST_MOF")) },
    Builtin { name: "drf", wasm: include_bytes!(env!("QUARTERDECK_GUEST_DRF")) },
    Builtin { name: "fair-share", wasm: include_bytes!(env!("QUARTERDECK_GUEST_FAIR_SHARE")) },
    Builtin { name: "spread-pack", wasm: include_bytes!(env!("QUARTERDECK_GUEST_SPREAD_PACK")) },
    Builtin { name: "backfill", wasm: include_bytes!(env!("QUARTERDECK_GUEST_BACKFILL")) },
    Builtin { name: "session_lifetime", wasm: include_bytes!(env!("QUARTERDECK_GUEST_SESSION_LIFETIME")) },
    Builtin { name: "network_timeout", wasm: include_bytes!(env!("QUARTERDECK_GUEST_NETWORK_TIMEOUT")) },
    Builtin { name: "utilization", wasm: include_bytes!(env!("QUARTERDECK_GUEST_UTILIZATION")) },
    Builtin { name: "admission-limits", wasm: include_bytes!(env!("QUARTERDECK_GUEST_ADMISSION_LIMITS")) },
    Builtin { name: "allowed-images", wasm: include_bytes!(env!("QUARTERDECK_GUEST_ALLOWED_IMAGES")) },
    Builtin { name: "password-format", wasm: include_bytes!(env!("QUARTERDECK_GUEST_PASSWORD_FORMAT")) },
    Builtin { name: "project-quotas", wasm: include_bytes!(env!("QUARTERDECK_GUEST_PROJECT_QUOTAS")) },
    Builtin { name: "working-hours", wasm: include_bytes!(env!("QUARTERDECK_GUEST_WORKING_HOURS")) },
];

impl Builtin {
    /// The component's digest, as [`crate::digest`] makes it, made once.
    pub fn digest(&self) -> &'static str {
        static DIGESTS: OnceLock<Vec<String>> = OnceLock::new();
        let digests = DIGESTS.get_or_init(|| ALL.iter().map(|builtin| crate::digest(builtin.wasm)).collect());
        ALL.iter().position(|builtin| builtin.name == self.name).map_or("", |at| &digests[at])
    }
}

/// All built-in policies.
pub fn all() -> &'static [Builtin] {
    ALL
}

/// A built-in policy by name.
pub fn get(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|builtin| builtin.name == name)
}
