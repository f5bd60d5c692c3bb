//! `drf` as native code: its very sources and those of the kit that it is written with, compiled for this machine behind
//! the interface of the contract. What its component costs is held against it.
//!
//! The types of the contract are the host's own here. So nothing is copied where the component's have to cross the border,
//! except the snapshot, which a policy owns.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::expect_used)]

// The sources of the kit name their crate.
extern crate self as quarterdeck_sdk;

use quarterdeck_plugin::scheduling::{Outcome, Proposal, Snapshot};
use quarterdeck_plugin::{Failure, Party};

#[path = "../../../../../plugins/drf/src/lib.rs"]
mod drf;
#[path = "../../../../../plugins/sdk/src/explain.rs"]
pub mod explain;
#[path = "../../../../../plugins/sdk/src/host.rs"]
pub mod host;
#[path = "../../../../../plugins/sdk/src/placing/mod.rs"]
pub mod placing;
#[path = "../../../../../plugins/sdk/src/policy.rs"]
mod policy;
#[path = "../../../../../plugins/sdk/src/scheduler.rs"]
pub mod scheduler;

pub use policy::{Component, Policy, config_problem, parse_config};

/// What is generated for a guest, by hand: the same names for the host's types, and the traits that a component has.
pub mod bindings {
    pub mod base {
        pub mod exports {
            pub mod quarterdeck {
                pub mod policy {
                    pub mod plugin {
                        pub use quarterdeck_plugin::description::{ColumnRequest, ConfigProblem, Info};

                        pub trait Guest {
                            fn describe() -> Info;
                            fn check_config(config: String) -> Result<(), Vec<ConfigProblem>>;
                        }
                    }
                }
            }
        }
        pub mod quarterdeck {
            pub mod policy {
                pub use quarterdeck_plugin::types;
            }
        }
    }
    pub mod scheduling {
        pub mod exports {
            pub mod quarterdeck {
                pub mod policy {
                    pub mod scheduling {
                        pub use quarterdeck_plugin::scheduling::{
                            Accounts, Agents, Candidate, ClusterMode, Deferral, Explanation, Kernels, Lack, Outcome,
                            Placement, Proposal, Refusal, Sessions, Snapshot,
                        };

                        pub trait Guest {
                            type Round: GuestRound;
                        }

                        pub trait GuestRound: 'static {
                            fn open(snapshot: Snapshot) -> Result<Round, String>
                            where
                                Self: Sized;
                            fn propose(&self, limit: u32) -> Vec<Proposal>;
                            fn settle(&self, outcomes: Vec<Outcome>);
                            fn explain(&self, session: u32, limit: u32) -> Explanation;
                        }

                        /// A round whose type nobody outside knows, as with a component.
                        pub struct Round(pub Box<dyn GuestRound>);

                        impl Round {
                            pub fn new(round: impl GuestRound) -> Self {
                                Round(Box::new(round))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The host as the kit sees it where there is none.
pub mod testing {
    pub mod host {
        use std::cell::RefCell;

        use crate::host::LogLevel;

        thread_local! {
            pub(crate) static CONFIG: RefCell<String> = const { RefCell::new(String::new()) };
            static COUNTED: RefCell<u64> = const { RefCell::new(0) };
        }

        pub(crate) fn log(_: LogLevel, _: &str, _: &[(String, String)]) {}

        pub(crate) fn count(_: &str, delta: u64) {
            COUNTED.with_borrow_mut(|counted| *counted += delta);
        }

        pub(crate) fn config() -> String {
            CONFIG.with_borrow(Clone::clone)
        }

        pub(crate) fn budget() -> u64 {
            1_000_000_000
        }
    }
}

/// `drf` on a snapshot.
pub struct Drf(scheduler::Opened);

impl Drf {
    /// Opens a round with a configuration.
    ///
    /// # Errors
    /// As the component's `open`.
    #[inline(never)]
    pub fn open(config: &str, snapshot: &Snapshot) -> Result<Drf, Failure> {
        testing::host::CONFIG.set(config.to_owned());
        drf::__quarterdeck_open(snapshot.clone()).map(Drf).map_err(|message| Failure::Guest { export: "open", message })
    }
}

impl Party for Drf {
    #[inline(never)]
    fn propose(&mut self, limit: u32) -> Result<Vec<Proposal>, Failure> {
        Ok(self.0.0.propose(limit))
    }

    #[inline(never)]
    fn settle(&mut self, outcomes: &[Outcome]) -> Result<(), Failure> {
        // It gets a list of its own, as a component does.
        self.0.0.settle(outcomes.to_vec());
        Ok(())
    }
}
