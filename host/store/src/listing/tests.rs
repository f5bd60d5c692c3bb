#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::parse::{date, filter, order};
use super::*;
use crate::{Dialect, Value};

const COLOURS: &[(&str, &str)] = &[("RED", "red"), ("LIGHT_BLUE", "light-blue")];
const FIELDS: &[Field] = &[
    field("name", "t.name", Kind::Text),
    field("size", "t.size", Kind::Int),
    field("ready", "t.ready", Kind::Bool),
    field("id", "t.id", Kind::Uuid),
    field("at", "t.at", Kind::Date),
    field("colour", "t.colour", Kind::Enum(COLOURS)),
    filter_only("secret", "t.secret", Kind::Text),
    order_only("slots", "t.slots", Kind::Text),
];

fn sql(text: &str) -> String {
    compiled(text, Dialect::Sqlite).0
}

fn compiled(text: &str, dialect: Dialect) -> (String, Vec<Value>) {
    let listing = Listing::parse(FIELDS, Some(text), None, 10, 0).unwrap();
    let mut conditions = Conditions::new(dialect);
    conditions.filter(FIELDS, listing.filter.as_ref().unwrap());
    let (sql, args) = conditions.parts();
    (sql.strip_prefix(" WHERE ").unwrap().to_owned(), args.to_vec())
}

fn refusal(text: &str) -> String {
    Listing::parse(FIELDS, Some(text), None, 10, 0).unwrap_err().to_string()
}

#[test]
fn and_and_or_weigh_the_same_and_bind_to_the_right() {
    assert_eq!(sql("size==1|size==2&size==3"), "(t.size = $1 OR (t.size = $2 AND t.size = $3))");
    assert_eq!(sql("size==1&size==2|size==3"), "(t.size = $1 AND (t.size = $2 OR t.size = $3))");
    assert_eq!(sql("(size==1&size==2)|size==3"), "((t.size = $1 AND t.size = $2) OR t.size = $3)");
}

#[test]
fn a_negation_takes_all_that_follows() {
    assert_eq!(sql("!size==1&size==2"), "NOT ((t.size = $1 AND t.size = $2))");
    assert_eq!(sql("!(size==1)&size==2"), "NOT ((t.size = $1 AND t.size = $2))");
    assert_eq!(sql("(!size==1)&size==2"), "(NOT (t.size = $1) AND t.size = $2)");
    assert_eq!(sql("size==0 & ! size==1 | size==2"), "(t.size = $1 AND NOT ((t.size = $2 OR t.size = $3)))");
}

#[test]
fn values_are_bound_as_what_the_column_holds() {
    let cases: &[(&str, &str, Value)] = &[
        ("name == \"a\\\"b\"", "t.name = $1", "a\"b".into()),
        ("name != \"x\"", "t.name <> $1", "x".into()),
        ("size >= -3", "t.size >= $1", (-3i64).into()),
        ("size <= +3", "t.size <= $1", 3i64.into()),
        ("size > 1.5", "CAST(t.size AS DOUBLE PRECISION) > $1", 1.5.into()),
        ("ready is true", "t.ready = $1", true.into()),
        ("ready isnot false", "t.ready <> $1", false.into()),
        ("at > \"2020-01-01\"", "t.at > $1", 1_577_836_800_000_000i64.into()),
        ("colour == \"LIGHT_BLUE\"", "t.colour = $1", "light-blue".into()),
        ("colour > \"RED\"", "CASE t.colour WHEN 'red' THEN 0 WHEN 'light-blue' THEN 1 END > $1", Value::Int(Some(0))),
        ("id == \"9A000000000040008000000000000001\"", "t.id = $1", "9a000000-0000-4000-8000-000000000001".into()),
    ];
    for (text, expected, value) in cases {
        assert_eq!(compiled(text, Dialect::Sqlite), ((*expected).to_owned(), vec![value.clone()]), "{text}");
    }
    assert_eq!(sql("name == null"), "t.name IS NULL");
    assert_eq!(sql("at != null"), "t.at IS NOT NULL");
    assert_eq!(sql("colour is null"), "t.colour IS NULL");
    assert_eq!(sql("id isnot null"), "t.id IS NOT NULL");
    assert_eq!(sql("size in [1, 2 ,3]"), "t.size IN ($1, $2, $3)");
    assert_eq!(sql("size in []"), "1 = 0");
}

#[test]
fn patterns_know_case_only_when_asked() {
    assert_eq!(
        compiled("name like \"a%_[*?]\\%\"", Dialect::Sqlite),
        ("t.name GLOB $1".to_owned(), vec!["a*?[[][*][?]]%".into()])
    );
    assert_eq!(compiled("name like \"a%\\\\\\\\\\\\\"", Dialect::Postgres).0, "t.name LIKE $1");
    assert_eq!(compiled("name contains \"b\"", Dialect::Postgres), ("t.name LIKE $1".to_owned(), vec!["%b%".into()]));
    assert_eq!(compiled("name ilike \"b%\"", Dialect::Postgres).0, "t.name ILIKE $1");
    assert_eq!(compiled("name ilike \"b%\"", Dialect::Sqlite).0, "t.name LIKE $1 ESCAPE '\\'");
}

#[test]
fn what_is_wrong_is_named() {
    assert!(refusal("shoe == 1").contains("('Unknown/unsupported field name', 'shoe')"));
    assert!(refusal("slots == \"x\"").contains("'slots'"));
    for bad in [
        "",
        "   ",
        "id =",
        "name",
        "name ==",
        "name = \"a\"",
        "name == \"a",
        "name == a",
        "name == 5",
        "size == \"5\"",
        "ready == 1",
        "at > \"someday\"",
        "colour == \"red\"",
        "colour == \"GREEN\"",
        "id == \"xyz\"",
        "name like 5",
        "size like \"5\"",
        "name in \"a\"",
        "name in [\"a\"",
        "name in [[\"a\"]]",
        "(size == 1",
        "size == 1)",
        "size == 1 &",
        "& size == 1",
        "size == 1 size == 2",
        "!",
        "size == 99999999999999999999",
        "name == \"a\0\"",
        "size == 1.",
        "name is \"x\"",
        "size is true",
        "한 == 1",
    ] {
        assert!(refusal(bad).starts_with("Query filter parsing error: "), "{bad}");
    }
}

#[test]
fn limits_hold() {
    let deep = format!("{}size == 1{}", "(".repeat(65), ")".repeat(65));
    assert!(refusal(&deep).contains("levels deep"));
    assert!(filter(&format!("{}size == 1{}", "(".repeat(64), ")".repeat(64)), FIELDS).is_ok());
    assert!(refusal(&format!("{} size == 1", "!".repeat(65))).contains("levels deep"));
    let long = vec!["size == 1"; 401].join("&");
    assert!(refusal(&long).contains("comparisons"));
    let many = format!("size in [{}]", vec!["1"; 4_001].join(","));
    assert!(refusal(&many).contains("values"));
    assert!(order(&vec!["size"; 65].join(","), FIELDS).is_err());
}

#[test]
fn orders_parse() {
    assert_eq!(order("", FIELDS).unwrap(), []);
    assert_eq!(
        order("name, -size,+colour", FIELDS).unwrap(),
        [
            SortKey { field: 0, descending: false },
            SortKey { field: 1, descending: true },
            SortKey { field: 5, descending: false }
        ]
    );
    for bad in ["name desc", "~name", "nope", "secret", "name,", ",name", "--name", "-"] {
        let error = Listing::parse(FIELDS, None, Some(bad), 1, 0).unwrap_err().to_string();
        assert!(error.starts_with("Query ordering parsing error: "), "{bad}: {error}");
    }
    assert_eq!(Listing::parse(FIELDS, None, None, -1, 0).unwrap_err().to_string(), "LIMIT must not be negative");
}

#[test]
fn dates_come_in_many_forms() {
    let day = Some(1_577_836_800_000_000);
    for text in [
        "2020-01-01",
        "2020/01/01",
        "20200101",
        "2020-01",
        "2020",
        "2020-01-01T00:00:00",
        "2020-01-01 00:00",
        "2020-01-01T00:00:00Z",
        "2020-01-01T00:00:00+00:00",
        "2020-01-01 00:00:00.000000+00:00",
        "2020-01-01T09:00:00+0900",
        "2020-01-01 00:00:00 UTC",
        "1 Jan 2020",
        "Jan 1, 2020",
        "Wed, 01 Jan 2020 00:00:00 GMT",
    ] {
        assert_eq!(date(text), day, "{text}");
    }
    for text in ["", "x", "2020-13-01", "2020-13", "-", "12345-1", "2020-", "yesterday"] {
        assert_eq!(date(text), None, "{text}");
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "\"[^\"\\\\\0]{0,12}\"",
        any::<i32>().prop_map(|n| n.to_string()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("[1,2]".to_owned()),
        Just("[\"zqx\", \"RED\"]".to_owned()),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec!["name", "size", "ready", "id", "at", "colour", "secret", "slots", "zz"]);
    let operator = proptest::sample::select(vec![
        "==", "!=", ">", ">=", "<", "<=", "contains", "in", "isnot", "is", "like", "ilike", "=",
    ]);
    let leaf = (name, operator, value()).prop_map(|(n, o, v)| format!("{n} {o} {v}"));
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} & {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}|{b}")),
            inner.clone().prop_map(|a| format!("!{a}")),
            inner.prop_map(|a| format!("({a})")),
        ]
    })
}

/// Everything a compiled filter may consist of besides parameters.
fn is_ours(sql: &str) -> bool {
    sql.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$' || c == '-'))
        .filter(|token| !token.is_empty())
        .all(|token| {
            FIELDS.iter().any(|f| f.expr == token)
                || token.strip_prefix('$').is_some_and(|n| n.parse::<usize>().is_ok())
                || token.parse::<usize>().is_ok()
                || [
                    "AND",
                    "OR",
                    "NOT",
                    "IN",
                    "IS",
                    "NULL",
                    "LIKE",
                    "ILIKE",
                    "GLOB",
                    "ESCAPE",
                    "CASE",
                    "WHEN",
                    "THEN",
                    "END",
                    "CAST",
                    "AS",
                    "DOUBLE",
                    "PRECISION",
                    "COLLATE",
                    "C",
                    "red",
                    "light-blue",
                ]
                .contains(&token)
        })
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in "\\PC{0,80}") {
        for listing in [
            Listing::parse(FIELDS, Some(&text), None, 1, 0),
            Listing::parse(FIELDS, None, Some(&text), 1, 0),
        ] {
            if let Err(error) = listing {
                prop_assert!(error.to_string().starts_with("Query "));
            }
        }
    }

    #[test]
    fn nothing_of_a_client_becomes_sql(text in expression()) {
        if let Ok(listing) = Listing::parse(FIELDS, Some(&text), None, 1, 0) {
            for dialect in [Dialect::Sqlite, Dialect::Postgres] {
                let mut conditions = Conditions::new(dialect);
                conditions.filter(FIELDS, listing.filter.as_ref().unwrap());
                let (sql, args) = conditions.parts();
                prop_assert!(is_ours(sql.strip_prefix(" WHERE ").unwrap()), "{}", sql);
                let highest = sql.split('$').skip(1)
                    .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
                    .max().unwrap_or(0);
                prop_assert_eq!(highest, args.len());
            }
        }
    }
}
