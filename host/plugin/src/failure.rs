//! What can go wrong with a plugin, while it is loaded and while it is called.

use std::time::Duration;

use thiserror::Error;

/// A call of a plugin that failed. The host goes on; what happens instead is the caller's decision.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// The plugin trapped: an unreachable instruction (a panic, in most languages), an access out of bounds, a stack
    /// overflow, an exit.
    #[error("`{export}` trapped: {reason}")]
    Trap {
        /// The exported function.
        export: &'static str,
        /// The trap, with the plugin's last words and its own stack frames where they are known.
        reason: String,
    },
    /// The wall-clock limit of the call passed.
    #[error("`{export}` took longer than the {} ms allowed for the call", limit.as_millis())]
    Timeout {
        /// The exported function that ran at that time.
        export: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The fuel of a metered call was used up.
    #[error("`{export}` used up the {limit} units of fuel allowed for the call")]
    Fuel {
        /// The exported function that ran at that time.
        export: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The plugin wanted more memory (or table elements) than it may have.
    #[error("`{export}` wanted {wanted} {unit}, more than the {limit} allowed")]
    Memory {
        /// The exported function.
        export: &'static str,
        /// How much it wanted in total.
        wanted: usize,
        /// How much it may have.
        limit: usize,
        /// What was counted.
        unit: &'static str,
    },
    /// The answer breaks the contract.
    #[error("`{export}` answered against the contract: {reason}")]
    Output {
        /// The exported function.
        export: &'static str,
        /// Which part of the answer, and how.
        reason: String,
    },
    /// The plugin itself reported an error.
    #[error("`{export}` reported: {message}")]
    Guest {
        /// The exported function.
        export: &'static str,
        /// The plugin's message, cut to a sane length.
        message: String,
    },
    /// No instance could be made.
    #[error("could not be instantiated: {reason}")]
    Instantiate {
        /// Why.
        reason: String,
    },
    /// The plugin is of another kind than the call needs.
    #[error("is a {is}, not a {wanted}")]
    Kind {
        /// What it is.
        is: crate::Kind,
        /// What the call needs.
        wanted: crate::Kind,
    },
}

impl Failure {
    /// The exported function that failed, where it came to one: `instantiate` stands for the start functions.
    pub fn export(&self) -> Option<&'static str> {
        match self {
            Failure::Trap { export, .. }
            | Failure::Timeout { export, .. }
            | Failure::Fuel { export, .. }
            | Failure::Memory { export, .. }
            | Failure::Output { export, .. }
            | Failure::Guest { export, .. } => Some(export),
            Failure::Instantiate { .. } | Failure::Kind { .. } => None,
        }
    }

    /// A short, stable word for metrics and records.
    pub fn label(&self) -> &'static str {
        match self {
            Failure::Trap { .. } => "trap",
            Failure::Timeout { .. } => "timeout",
            Failure::Fuel { .. } => "fuel",
            Failure::Memory { .. } => "memory",
            Failure::Output { .. } => "output",
            Failure::Guest { .. } => "guest-error",
            Failure::Instantiate { .. } => "instantiate",
            Failure::Kind { .. } => "kind",
        }
    }
}

/// A component that can't be loaded, or the machinery to do so that can't be set up.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Larger than a component may be.
    #[error("the component has {size} bytes; {limit} are allowed")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Not a WebAssembly component.
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(String),
    /// It imports something that policies can't have.
    #[error("the component imports `{0}`, which no policy may use")]
    ForbiddenImport(String),
    /// It doesn't export what a policy of this contract version must.
    #[error("the component doesn't fit the contract: {0}")]
    Contract(String),
    /// The compiler refused it or exceeded its limits.
    #[error("the component could not be compiled: {0}")]
    Compile(String),
    /// It doesn't link, doesn't describe itself or describes itself wrongly.
    #[error("the component failed its self-test: {0}")]
    SelfTest(#[source] Failure),
    /// Its description is against the rules.
    #[error("the component describes itself wrongly: {0}")]
    Description(String),
    /// The cache directory or the engine doesn't work: not the component's fault.
    #[error("plugin host: {0}")]
    Host(String),
}

impl LoadError {
    /// A short, stable word for metrics and records.
    pub fn label(&self) -> &'static str {
        match self {
            LoadError::TooLarge { .. } => "too-large",
            LoadError::NotAComponent(_) => "not-a-component",
            LoadError::ForbiddenImport(_) => "forbidden-import",
            LoadError::Contract(_) => "contract",
            LoadError::Compile(_) => "compile",
            LoadError::SelfTest(failure) => failure.label(),
            LoadError::Description(_) => "description",
            LoadError::Host(_) => "host",
        }
    }

    /// Whether the component is to blame, as opposed to this host.
    pub fn is_the_components_fault(&self) -> bool {
        !matches!(self, LoadError::Host(_))
    }
}
