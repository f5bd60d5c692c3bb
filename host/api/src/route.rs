//! The table of routes: method, path, who may call, in which state of the server, and the handler.

use std::collections::HashMap;
use std::future::Future;

use futures::future::BoxFuture;
use http::Method;
use percent_encoding::percent_decode_str;
use quarterdeck_control::Principal;

use crate::call::{Answer, Call};
use crate::openapi::About;

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody; signatures aren't even looked at.
    Anonymous,
    /// Whoever signs.
    Auth,
    /// Key pairs of administrators.
    Admin,
    /// Superadministrators.
    Superadmin,
}

impl Access {
    /// Whether a caller may come in.
    pub fn admits(self, caller: Option<&Principal>) -> bool {
        match (self, caller) {
            (Self::Anonymous, _) | (Self::Auth, Some(_)) => true,
            (Self::Admin, Some(caller)) => caller.is_admin,
            (Self::Superadmin, Some(caller)) => caller.is_superadmin(),
            (_, None) => false,
        }
    }
}

/// In which state of the server a route works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Always.
    Open,
    /// Running, or frozen for maintenance: what only looks.
    Reads,
    /// Running.
    Writes,
}

type Handler = Box<dyn Fn(Call) -> BoxFuture<'static, Answer> + Send + Sync>;

/// One method of one path.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path; `{…}` stands for a segment of any text.
    pub path: &'static str,
    /// Who may call.
    pub access: Access,
    /// When.
    pub gate: Gate,
    /// What happens then.
    pub handler: Handler,
    /// What `/openapi.json` says about it; routes of our own API have that.
    pub about: Option<About>,
}

impl Route {
    /// A row of the table.
    pub fn new<F>(
        method: Method,
        path: &'static str,
        access: Access,
        gate: Gate,
        handler: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self { method, path, access, gate, handler: Box::new(move |call| Box::pin(handler(call))), about: None }
    }

    /// Says what it does, for `/openapi.json`.
    #[must_use]
    pub fn documented(mut self, about: About) -> Self {
        self.about = Some(about);
        self
    }
}

macro_rules! short_hands {
    ($($(#[$doc:meta])* $name:ident = $method:ident;)+) => {$(
        $(#[$doc])*
        pub fn $name<F>(
            path: &'static str,
            access: Access,
            gate: Gate,
            handler: impl Fn(Call) -> F + Send + Sync + 'static,
        ) -> Route
        where
            F: Future<Output = Answer> + Send + 'static,
        {
            Route::new(Method::$method, path, access, gate, handler)
        }
    )+};
}
short_hands! {
    /// A row for `GET`.
    get = GET;
    /// A row for `POST`.
    post = POST;
    /// A row for `PUT`.
    put = PUT;
    /// A row for `PATCH`.
    patch = PATCH;
    /// A row for `DELETE`.
    delete = DELETE;
}

/// What a path and a method lead to.
pub enum Found<'t> {
    /// A route, and what stood in place of its `{…}`.
    Route(usize, &'t Route, Vec<String>),
    /// The path exists with other methods only.
    OtherMethods(Vec<&'t Method>),
    /// Nothing.
    Nothing,
}

/// All routes, ready for look-ups.
pub struct Table {
    routes: Vec<Route>,
    literal: HashMap<&'static str, Vec<usize>>,
    /// By number of segments.
    patterns: Vec<Vec<(Vec<Segment>, usize)>>,
}

enum Segment {
    Literal(&'static str),
    Any,
}

impl Table {
    /// Of some routes; among those that fit, the earlier wins, and literal paths before all others.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut table = Self { routes, literal: HashMap::new(), patterns: Vec::new() };
        for (index, route) in table.routes.iter().enumerate() {
            if !route.path.contains('{') {
                table.literal.entry(route.path).or_default().push(index);
                continue;
            }
            let pattern: Vec<_> = segments(route.path)
                .map(|s| if s.starts_with('{') { Segment::Any } else { Segment::Literal(s) })
                .collect();
            if table.patterns.len() <= pattern.len() {
                table.patterns.resize_with(pattern.len() + 1, Vec::new);
            }
            table.patterns[pattern.len()].push((pattern, index));
        }
        table
    }

    /// All rows.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Looks a request's method and raw path up.
    pub fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let mut others = Vec::new();
        for &index in self.literal.get(path).into_iter().flatten() {
            let route = &self.routes[index];
            if route.method == *method {
                return Found::Route(index, route, Vec::new());
            }
            others.push(&route.method);
        }
        let count = segments(path).count();
        for (pattern, index) in self.patterns.get(count).into_iter().flatten() {
            let fits = pattern.iter().zip(segments(path)).all(|(expected, segment)| match expected {
                Segment::Literal(literal) => *literal == segment,
                Segment::Any => !segment.is_empty(),
            });
            if !fits {
                continue;
            }
            let route = &self.routes[*index];
            if route.method == *method {
                let places =
                    pattern.iter().zip(segments(path)).filter(|(expected, _)| matches!(expected, Segment::Any));
                let args = places.map(|(_, segment)| percent_decode_str(segment).decode_utf8_lossy().into_owned());
                return Found::Route(*index, route, args.collect());
            }
            others.push(&route.method);
        }
        if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others) }
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table() -> Table {
        let rows = [
            (Method::GET, "/"),
            (Method::GET, "/auth"),
            (Method::POST, "/auth"),
            (Method::GET, "/session/_/logs"),
            (Method::GET, "/session/{s}"),
            (Method::DELETE, "/session/{s}"),
            (Method::GET, "/session/{s}/logs"),
            (Method::POST, "/session/{s}/rename"),
            (Method::PUT, "/services/{id}/routings/{rid}"),
        ];
        let row = |(method, path)| {
            Route::new(method, path, Access::Anonymous, Gate::Open, |_| async { unreachable!("not called") })
        };
        Table::new(rows.into_iter().map(row).collect())
    }

    fn find(method: &Method, path: &str) -> String {
        match table().find(method, path) {
            Found::Route(_, route, args) => format!("{} {args:?}", route.path),
            Found::OtherMethods(others) => format!("{others:?}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn paths_lead_to_routes() {
        assert_eq!(find(&Method::GET, "/"), "/ []");
        assert_eq!(find(&Method::POST, "/auth"), "/auth []");
        assert_eq!(find(&Method::GET, "/session/_/logs"), "/session/_/logs []");
        assert_eq!(find(&Method::GET, "/session/a/logs"), r#"/session/{s}/logs ["a"]"#);
        assert_eq!(find(&Method::DELETE, "/session/a%20b%2Fc"), r#"/session/{s} ["a b/c"]"#);
        assert_eq!(find(&Method::PUT, "/services/1/routings/2"), r#"/services/{id}/routings/{rid} ["1", "2"]"#);
    }

    #[test]
    fn wrong_methods_know_the_right_ones() {
        assert_eq!(find(&Method::PUT, "/auth"), "[GET, POST]");
        assert_eq!(find(&Method::HEAD, "/session/x"), "[GET, DELETE]");
        assert_eq!(find(&Method::POST, "/session/_/logs"), "[GET, GET]");
    }

    #[test]
    fn everything_else_is_nowhere() {
        for path in ["/auth/", "/v6", "/session", "/session/", "/session//logs", "//", "", "*", "/session/a/b/c"] {
            assert_eq!(find(&Method::GET, path), "nothing", "{path}");
        }
    }
}
