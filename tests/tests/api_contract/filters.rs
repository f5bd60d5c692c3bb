//! No text of a filter or an order produces anything but a result, or a sentence that says what is wrong with it.

use hyper::StatusCode;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::dice::Dice;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::wait::within;
use quarterdeck_tests::{ADMIN, scale};
use serde_json::json;

/// Lists with a filter and an order, and fields of theirs.
const LISTS: &[(&str, &[&str])] = &[
    (
        "user_list(",
        &["uuid", "email", "status", "role", "is_active", "created_at", "totp_activated", "allowed_client_ip"],
    ),
    ("keypair_list(", &["access_key", "user_id", "is_active", "rate_limit", "num_queries", "created_at", "last_used"]),
    ("agent_list(", &["id", "status", "schedulable", "first_contact", "lost_at", "available_slots", "version"]),
    ("agent_summary_list(", &["id", "status", "scaling_group", "schedulable", "occupied_slots"]),
    ("compute_session_list(", &["id", "type", "status", "cluster_mode", "cluster_size", "result", "starts_at", "name"]),
    (
        "compute_container_list(session_id: \"9d000000-0000-4000-8000-000000000001\", ",
        &["image", "status", "cluster_idx", "local_rank", "created_at", "status_changed"],
    ),
];

const OPERATORS: &[&str] =
    &["==", "!=", ">", ">=", "<", "<=", "contains", "in", "isnot", "is", "like", "ilike", "=", "~", "!", ""];
const VALUES: &[&str] = &[
    "\"x\"",
    "\"\"",
    "\"%_\\\"\"",
    "1",
    "-1",
    "0.5",
    "99999999999999999999",
    "1e9",
    "null",
    "true",
    "false",
    "[]",
    "[1, \"a\", null]",
    "[[\"a\"]]",
    "\"ACTIVE\"",
    "\"RUNNING\"",
    "\"2020-01-01\"",
    "\"2020-13-45\"",
    "\"'; --\"",
    "\"9b000000-0000-4000-8000-000000000003\"",
    "\"\\u0000\"",
    "\"💥\"",
    "\"",
    "[",
    "nil",
];

fn expression(dice: &mut Dice, fields: &[&str], depth: usize) -> String {
    match dice.roll(if depth == 0 { 6 } else { 10 }) {
        0 => dice.text(),
        1..6 => format!("{} {} {}", dice.pick(fields), dice.pick(OPERATORS), dice.pick(VALUES)),
        6 => format!("!{}", expression(dice, fields, depth - 1)),
        7 => format!("({})", expression(dice, fields, depth - 1)),
        _ => {
            let sign = *dice.pick(&["&", "|", "&&", ""]);
            format!("{} {sign} {}", expression(dice, fields, depth - 1), expression(dice, fields, depth - 1))
        }
    }
}

fn order(dice: &mut Dice, fields: &[&str]) -> String {
    let mut words = Vec::new();
    for _ in 0..dice.roll(4) {
        let field = if dice.roll(6) == 0 { dice.text() } else { (*dice.pick(fields)).to_owned() };
        words.push(format!("{}{field}", dice.pick(&["", "+", "-", "--", " "])));
    }
    words.join(*dice.pick(&[",", ", ", ";"]))
}

async fn odd_texts(database: Database, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let admin = server.client(ADMIN);
    let mut dice = Dice::new(seed);
    let mut answered = 0;
    for turn in 0..scale(60, 5_000) {
        for (list, fields) in LISTS {
            let filter = (dice.roll(4) > 0).then(|| expression(&mut dice, fields, 4));
            let order = (dice.roll(3) == 0).then(|| order(&mut dice, fields));
            let (limit, offset) = (*dice.pick(&[0, 1, 100, i32::MAX]), *dice.pick(&[0, 1, i32::MAX]));
            let query = format!(
                "query($l: Int!, $n: Int!, $f: String, $o: String) {{ {list}limit: $l, offset: $n, filter: $f, order: $o) {{ total_count items {{ id }} }} }}"
            );
            let variables = json!({"f": filter, "o": order, "l": limit, "n": offset});
            let what = format!("seed {seed}, turn {turn}: {list} {variables}");
            let asked = json!({"query": query, "variables": variables});
            let answer = within(&what, admin.post("/admin/gql", &asked)).await;
            assert_eq!(answer.status, StatusCode::OK, "{what}: {answer:?}");
            let Some(said) = answer.body["errors"][0]["message"].as_str() else {
                answered += 1;
                continue;
            };
            let precise = ["Query filter parsing error: ", "Query ordering parsing error: "];
            assert!(precise.iter().any(|begin| said.starts_with(begin)), "{what}: {said}");
            assert!(!said.contains("database"), "{what}: {said}");
        }
    }
    assert!(answered > scale(30, 2_500), "only {answered} were answered: most texts should make sense");
    server.assert_well().await.unwrap();
}

#[tokio::test]
async fn odd_filters_are_answered_on_sqlite() {
    odd_texts(Database::sqlite().unwrap(), 5).await;
}

#[tokio::test]
async fn odd_filters_are_answered_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        odd_texts(database, 6).await;
    }
}
