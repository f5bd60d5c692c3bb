//! The table of routes, and what no answer may look like.

use hyper::Method;
use quarterdeck_tests::client::Answer;

/// A row of the table.
pub struct Route {
    /// Who may call: `-`, `u`, `a` or `s`.
    pub access: char,
    /// In which status: `-`, `R` or `A`.
    pub gate: char,
    pub method: Method,
    /// With something in each `{…}` that isn't there.
    pub path: String,
    /// Names of parameters.
    pub keys: Vec<&'static str>,
}

pub fn all() -> Vec<Route> {
    let mut all = Vec::new();
    let lines = include_str!("../../vectors/routes.txt").lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&'static str> = line.split(' ').collect();
        let path = words[3]
            .replace("{s}", "no-such-session")
            .replace("{u}", "9d000000-0000-4000-8000-000000000001")
            .replace("{n}", "no-such-name");
        for method in words[2].split(',') {
            all.push(Route {
                access: words[0].chars().next().unwrap(),
                gate: words[1].chars().next().unwrap(),
                method: method.parse().unwrap(),
                path: path.clone(),
                keys: words[4..].to_vec(),
            });
        }
    }
    all
}

/// The last part of a problem's type.
pub fn problem(answer: &Answer) -> &str {
    answer.body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

/// What no request may be answered.
pub fn assert_sane(what: &str, answer: &Answer) {
    let text = String::from_utf8_lossy(&answer.bytes);
    assert!(!answer.status.is_server_error(), "{what}: {} {text}", answer.status);
    if !answer.status.is_success() && !answer.bytes.is_empty() {
        assert!(answer.body["title"].is_string(), "{what}: not a problem document: {answer:?}");
    }
}
