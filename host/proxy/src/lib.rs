//! The app proxy: an address for each model service, in front of the sessions that serve it.
//!
//! `http://HOST/e/SERVICE/…` (a name or an id) goes to one of the service's healthy replicas, by their weights. It speaks
//! HTTP/1.1 and HTTP/2, passes bodies on as they come, and follows upgrades (WebSocket). It keeps no truth: whoever runs
//! it hands it tables ([`Proxy::update`]); a replica that isn't in the newest one gets nothing new, while what it has begun
//! goes on.

mod forward;
mod headers;
mod serve;
mod table;
pub mod token;

pub use forward::{Observe, Proxy, ProxyOptions};
pub use table::{Replica, Service};
