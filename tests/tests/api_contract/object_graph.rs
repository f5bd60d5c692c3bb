//! Every noun and every deed of the object graph, with odd arguments: answered, or refused with a reason.

use hyper::StatusCode;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::dice::Dice;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::wait::within;
use quarterdeck_tests::{ADMIN, scale};
use serde_json::{Value, json};

/// The innermost type of an introspected one: its kind and name.
fn inner(mut kind: &Value) -> (&str, &str) {
    while kind["ofType"].is_object() {
        kind = &kind["ofType"];
    }
    (kind["kind"].as_str().unwrap(), kind["name"].as_str().unwrap())
}

/// The object graph as it describes itself.
struct Graph(Vec<Value>);

impl Graph {
    async fn of(client: &Client) -> Self {
        const KIND: &str = "kind name ofType { kind name ofType { kind name ofType { kind name } } }";
        let fields = format!("name args {{ name type {{ {KIND} }} }} type {{ {KIND} }}");
        let query = format!(
            "{{ __schema {{ types {{ kind name fields {{ {fields} }} inputFields {{ name type {{ {KIND} }} }} possibleTypes {{ name }} }} }} }}"
        );
        let data = client.gql(&query, json!({})).await.unwrap();
        Self(data["__schema"]["types"].as_array().unwrap().clone())
    }

    fn named(&self, name: &str) -> &Value {
        self.0.iter().find(|t| t["name"] == name).unwrap()
    }

    fn fields(&self, name: &str, of: &str) -> Vec<&Value> {
        self.named(name)[of].as_array().into_iter().flatten().collect()
    }

    /// All leaves of a type, `depth` objects deep.
    fn selection(&self, (kind, name): (&str, &str), depth: usize) -> Option<String> {
        match kind {
            "OBJECT" => {
                let mut words = Vec::new();
                for field in self.fields(name, "fields") {
                    // Fields with arguments of their own are nouns of their own.
                    if field["args"].as_array().is_some_and(|a| !a.is_empty()) {
                        continue;
                    }
                    let below = inner(&field["type"]);
                    match below.0 {
                        "SCALAR" | "ENUM" => words.push(field["name"].as_str().unwrap().to_owned()),
                        _ if depth > 0 => {
                            let inside = self.selection(below, depth - 1);
                            words.extend(inside.map(|i| format!("{} {i}", field["name"].as_str().unwrap())));
                        }
                        _ => {}
                    }
                }
                (!words.is_empty()).then(|| format!("{{ {} }}", words.join(" ")))
            }
            "INTERFACE" | "UNION" => Some("{ __typename }".to_owned()),
            _ => Some(String::new()),
        }
    }

    /// Something that an argument may be given, as text in the language of queries.
    fn argument(&self, dice: &mut Dice, kind: &Value, depth: usize) -> String {
        match kind["kind"].as_str().unwrap() {
            "NON_NULL" => self.argument(dice, &kind["ofType"], depth),
            "LIST" => {
                let items: Vec<_> = (0..dice.roll(3)).map(|_| self.argument(dice, &kind["ofType"], depth)).collect();
                format!("[{}]", items.join(", "))
            }
            "INPUT_OBJECT" => {
                let mut words = Vec::new();
                for field in self.fields(kind["name"].as_str().unwrap(), "inputFields") {
                    if field["type"]["kind"] == "NON_NULL" || (depth > 0 && dice.roll(3) > 0) {
                        let value = self.argument(dice, &field["type"], depth.saturating_sub(1));
                        words.push(format!("{}: {value}", field["name"].as_str().unwrap()));
                    }
                }
                format!("{{{}}}", words.join(", "))
            }
            _ => match kind["name"].as_str().unwrap() {
                "Int" | "BigInt" => (*dice.pick(&["0", "1", "-1", "20", "2147483647", "-2147483648"])).to_owned(),
                "Boolean" => (*dice.pick(&["true", "false"])).to_owned(),
                "Float" => (*dice.pick(&["0.5", "-1.0", "1e300"])).to_owned(),
                "UUID" | "ID" => json!(dice.pick(&[
                    "9a000000-0000-4000-8000-000000000001",
                    "9b000000-0000-4000-8000-000000000003",
                    "x"
                ]))
                .to_string(),
                "JSONString" => json!(dice.pick(&[
                    "{}",
                    "{\"cpu\": \"1\"}",
                    "{\"cpu\": -1}",
                    "[]",
                    "{",
                    "null",
                    "{\"local:volume1\": [\"x\"]}"
                ]))
                .to_string(),
                _ => {
                    const TEXTS: &[&str] = &[
                        "name == \"x\"",
                        "name",
                        "-created_at,name",
                        "cpu",
                        "status in [\"RUNNING\"]",
                        "unlimited",
                        "c-new",
                    ];
                    json!(if dice.roll(2) == 0 { dice.text() } else { (*dice.pick(TEXTS)).to_owned() }).to_string()
                }
            },
        }
    }

    /// A query or mutation of one field.
    fn document(&self, dice: &mut Dice, operation: &str, field: &Value) -> String {
        let mut arguments = Vec::new();
        for argument in field["args"].as_array().unwrap() {
            if argument["type"]["kind"] == "NON_NULL" || dice.roll(2) == 0 {
                let value = self.argument(dice, &argument["type"], 2);
                arguments.push(format!("{}: {value}", argument["name"].as_str().unwrap()));
            }
        }
        let arguments = if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(", ")) };
        let selection = self.selection(inner(&field["type"]), 3).unwrap_or_default();
        format!("{operation} {{ {}{arguments} {selection} }}", field["name"].as_str().unwrap())
    }
}

/// Asks for every noun of the object graph, and does every deed, with odd arguments.
async fn odd_questions(database: Database, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let admin = server.client(ADMIN);
    let graph = Graph::of(&admin).await;
    let mut dice = Dice::new(seed);
    for (operation, root) in [("query", "Queries"), ("mutation", "Mutations")] {
        let fields = graph.fields(root, "fields");
        assert!(fields.len() > 30, "{operation}: {}", fields.len());
        for turn in 0..scale(4, 200) {
            for field in &fields {
                let document = graph.document(&mut dice, operation, field);
                let what = format!("seed {seed}, turn {turn}: {document}");
                let answer = within(&what, admin.post("/admin/gql", &json!({"query": document}))).await;
                // The superadmin that asks may have been switched off or given a limit by one of the deeds.
                assert!(answer.status == StatusCode::OK || answer.status.is_client_error(), "{what}: {answer:?}");
            }
        }
    }
    server.assert_well().await.unwrap();
}

#[tokio::test]
async fn odd_questions_are_answered_on_sqlite() {
    odd_questions(Database::sqlite().unwrap(), 3).await;
}

#[tokio::test]
async fn odd_questions_are_answered_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        odd_questions(database, 4).await;
    }
}
