//! What all policies have in common.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::bindings::base::exports::quarterdeck::policy::plugin as contract;
use contract::ConfigProblem;

/// Who a policy is and what configuration it takes.
pub trait Policy: Sized + 'static {
    /// `[a-z0-9_-]`, 1 to 64 characters.
    const NAME: &'static str;
    /// Semantic version; usually `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;
    /// One sentence for people.
    const SUMMARY: &'static str;
    /// JSON Schema (draft 2020-12) of the configuration, written by hand. Empty when there are no options, or where
    /// [`Policy::config_schema`] derives it.
    const CONFIG_SCHEMA: &'static str = "";
    /// Optional columns to be sent: table and name.
    const COLUMNS: &'static [(&'static str, &'static str)] = &[];

    /// Hooks only: the events to receive.
    const EVENTS: &'static [&'static str] = &[];

    /// The configuration, read from JSON. Give every option a default (`#[serde(default)]`).
    type Config: DeserializeOwned;

    /// JSON Schema (draft 2020-12) of the configuration: [`Policy::CONFIG_SCHEMA`], unless the policy derives it from
    /// the type with [`schema_of`]: `fn config_schema() -> String { quarterdeck_sdk::schema_of::<Self::Config>() }`.
    fn config_schema() -> String {
        Self::CONFIG_SCHEMA.to_owned()
    }

    /// What the schema can't say: faults of a configuration.
    fn check_config(config: &Self::Config) -> Vec<ConfigProblem> {
        let _ = config;
        Vec::new()
    }
}

/// The component around a policy; made by the export macros.
#[doc(hidden)]
pub struct Component<P>(PhantomData<P>);

impl<P: Policy> contract::Guest for Component<P> {
    fn describe() -> contract::Info {
        contract::Info {
            name: P::NAME.to_owned(),
            version: P::VERSION.to_owned(),
            summary: P::SUMMARY.to_owned(),
            config_schema: P::config_schema(),
            columns: P::COLUMNS
                .iter()
                .map(|(table, name)| contract::ColumnRequest { table: (*table).to_owned(), name: (*name).to_owned() })
                .collect(),
            events: P::EVENTS.iter().map(|event| (*event).to_owned()).collect(),
        }
    }

    fn check_config(config: String) -> Result<(), Vec<ConfigProblem>> {
        let faults = match parse_config::<P>(&config) {
            Ok(config) => P::check_config(&config),
            Err(problem) => vec![problem],
        };
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// A fault at a JSON pointer (empty: the document itself) of a configuration.
pub fn config_problem(pointer: impl Into<String>, message: impl Into<String>) -> ConfigProblem {
    ConfigProblem { pointer: pointer.into(), message: message.into() }
}

/// The configuration of a policy from its JSON text.
pub fn parse_config<P: Policy>(text: &str) -> Result<P::Config, ConfigProblem> {
    serde_json::from_str(text).map_err(|error| config_problem("", error.to_string()))
}
