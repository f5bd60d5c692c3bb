//! Calls to other servers over HTTP: image registries, watchers of agents, whoever wants to be called back.
//!
//! Every call has an end: one time limit over all of it, and a limit on the size of its answer. An address that a user
//! gave is resolved first and connected to only if it is public ([`Reach`]); what is connected to is the address that was
//! checked, so that a name which changes its mind in between gains nothing. What comes back is untrusted.

mod address;
mod client;
mod connect;
mod error;
pub mod registry;
mod tls;

pub use address::Reach;
pub use client::{Client, Request, Response};
pub use error::{Error, Result};
pub use tls::Certificates;
pub use url::Url;
