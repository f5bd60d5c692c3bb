//! No body and no query, however odd, makes a route fall over.

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::dice::Dice;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::wait::within;
use quarterdeck_tests::{ADMIN, USER, scale};
use tokio::task::JoinSet;

use crate::routes::{self, Route, assert_sane};

/// What is sent: a body, or, where methods have none, mostly a query.
fn request(dice: &mut Dice, route: &Route) -> (String, Bytes) {
    let bodiless = matches!(route.method, Method::GET | Method::HEAD | Method::DELETE);
    if !bodiless || dice.roll(4) == 0 {
        return (route.path.clone(), dice.body(&route.keys));
    }
    let mut query = Vec::new();
    for key in &route.keys {
        if dice.roll(3) > 0 {
            query.push(format!("{key}={}", encoded(&dice.text())));
        }
    }
    if dice.roll(4) == 0 {
        query.push(format!("{}={}", encoded(&dice.text()), encoded(&dice.text())));
    }
    (format!("{}?{}", route.path, query.join("&")), Bytes::new())
}

/// Percent-encodes everything but letters and digits.
fn encoded(text: &str) -> String {
    let bytes = text.chars().take(500).collect::<String>().into_bytes();
    bytes
        .iter()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(*b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// Streams go on for as long as somebody listens.
fn is_endless(route: &Route) -> bool {
    route.path.starts_with("/stream/") || route.path.starts_with("/events/")
}

/// Sends nonsense to every route, from several clients at once.
async fn nonsense(database: Database, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let mut clients = JoinSet::new();
    for client in 0..4_u64 {
        let caller: Client = server.client(if client == 0 { USER } else { ADMIN });
        clients.spawn(async move {
            let routes: Vec<_> = routes::all().into_iter().filter(|route| !is_endless(route)).collect();
            let mut dice = Dice::new(seed.wrapping_mul(31).wrapping_add(client));
            for turn in 0..scale(250, 10_000) {
                let route = dice.pick(&routes);
                let (path, body) = request(&mut dice, route);
                let what =
                    format!("seed {seed}, client {client}, turn {turn}: {} {path} {}", route.method, shown(&body));
                let answer = within(&what, caller.send(route.method.clone(), &path, "application/json", body)).await;
                // Maintenance is one of the things that may be asked for.
                if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                    assert!(
                        matches!(routes::problem(&answer), "server-frozen" | "service-unavailable"),
                        "{what}: {answer:?}"
                    );
                    continue;
                }
                assert_sane(&what, &answer);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    server.assert_well().await.unwrap();
}

fn shown(body: &Bytes) -> String {
    String::from_utf8_lossy(body).chars().take(2_000).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_on_sqlite() {
    nonsense(Database::sqlite().unwrap(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        nonsense(database, 2).await;
    }
}
