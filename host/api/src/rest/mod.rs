//! The REST families. Handlers parse parameters, call `control` and write the answer down.

mod acl;
mod admin;
mod auth;
mod config;
mod dotfiles;
mod drops;
mod error_logs;
mod events;
mod explain;
mod images;
mod manager;
mod plugins;
mod resource;
mod root;
mod rounds;
mod scaling_groups;
mod session;
mod session_create;
mod session_files;
mod shadow;
mod stream;
mod templates;
mod vfolders;

use crate::route::Route;
use crate::{inventory, ops};

/// Every route of the API.
pub(crate) fn routes() -> Vec<Route> {
    let families = [
        root::routes(),
        ops::routes(),
        auth::routes(),
        session::routes(),
        manager::routes(),
        config::routes(),
        dotfiles::routes(),
        error_logs::routes(),
        templates::routes(),
        resource::routes(),
        images::routes(),
        scaling_groups::routes(),
        acl::routes(),
        admin::routes(),
        rounds::routes(),
        explain::routes(),
        shadow::routes(),
        plugins::routes(),
        drops::routes(),
        events::routes(),
        stream::routes(),
        vfolders::routes(),
        inventory::routes(),
    ];
    families.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    /// The table takes the first of two equal rows, so a second one is a mistake.
    #[test]
    fn no_route_is_written_twice() {
        let mut seen = HashSet::new();
        for route in super::routes() {
            assert!(seen.insert((route.method.clone(), route.path)), "{} {}", route.method, route.path);
        }
    }
}
