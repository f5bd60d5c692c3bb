//! The REST families. Handlers parse parameters, call `control` and write the answer down.

mod acl;
mod admin;
mod audit;
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
mod services;
mod session;
mod session_create;
mod session_files;
mod shadow;
mod stream;
mod templates;
mod vfolders;

use crate::ops;
use crate::route::Route;

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
        services::routes(),
        acl::routes(),
        admin::routes(),
        audit::routes(),
        rounds::routes(),
        explain::routes(),
        shadow::routes(),
        plugins::routes(),
        drops::routes(),
        events::routes(),
        stream::routes(),
        vfolders::routes(),
    ];
    families.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use crate::route::{Access, Gate};

    /// A path with its variable parts without names.
    fn nameless(path: &str) -> String {
        let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
        parts.collect::<Vec<_>>().join("/")
    }

    /// The table that lists what the specification has, and our own: with it goes the matrix of who may call.
    #[test]
    fn every_route_of_the_specification_is_there_and_no_other() {
        let mut listed = BTreeSet::new();
        let lines = include_str!("../../../../tests/vectors/routes.txt").lines();
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            for method in words[2].split(',') {
                let row = format!("{} {} {method} {}", words[0], words[1], nameless(words[3]));
                assert!(listed.insert(row), "{line} is listed twice");
            }
        }
        let routes = super::routes();
        let served = routes.iter().map(|route| {
            let access = match route.access {
                Access::Anonymous => '-',
                Access::Auth => 'u',
                Access::Admin => 'a',
                Access::Superadmin => 's',
            };
            let gate = match route.gate {
                Gate::Open => '-',
                Gate::Reads => 'R',
                Gate::Writes => 'A',
            };
            format!("{access} {gate} {} {}", route.method, nameless(route.path))
        });
        let served: BTreeSet<_> = served.collect();
        let missing: Vec<_> = listed.difference(&served).collect();
        let unlisted: Vec<_> = served.difference(&listed).collect();
        assert!(missing.is_empty() && unlisted.is_empty(), "missing: {missing:#?}\nnot in routes.txt: {unlisted:#?}");
    }

    /// The table takes the first of two equal rows, so a second one is a mistake.
    #[test]
    fn no_route_is_written_twice() {
        let mut seen = HashSet::new();
        for route in super::routes() {
            assert!(seen.insert((route.method.clone(), route.path)), "{} {}", route.method, route.path);
        }
    }
}
