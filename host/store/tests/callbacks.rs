//! The outbox of call-backs.
#![allow(clippy::unwrap_used, missing_docs)]

mod rows;

use quarterdeck_model::{SessionId, Timestamp};
use quarterdeck_store::callbacks::{self, Due, Outcome, Tried};
use quarterdeck_store::events::{self, NewEvent};
use quarterdeck_store::testing::databases;
use quarterdeck_store::{Sql, Stmt, Store};

use self::rows::{PROJECT, SECRET, USERS, populate};

const SLOW: &str = "http://slow.example/";

/// A session that wants its events told at that address.
async fn session(store: &Store, url: Option<&str>) -> SessionId {
    let id = SessionId::new();
    let mut tx = store.begin().await.unwrap();
    let stmt = Stmt::new(
        "INSERT INTO sessions (id, creation_id, name, session_type, cluster_mode, cluster_size, domain_name, project_id, \
         user_id, access_key, scaling_group, status, created_at, status_changed, callback_url) \
         VALUES ($1, $1, $1, 'interactive', 'single-node', 1, 'd', $3, $4, 'AK0', 'g', 'RUNNING', 0, 0, $2)",
    );
    tx.execute(stmt.bind(id.to_string()).bind(url).bind(PROJECT).bind(USERS[0])).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn tell(store: &Store, session: SessionId, url: Option<&str>, names: &[&'static str], at: i64) {
    let event = |name: &&'static str| NewEvent {
        name,
        session: Some(session),
        kernel: None,
        reason: String::new(),
        exit_code: None,
        at: Timestamp(at),
        callback_url: url.map(str::to_owned),
    };
    let mut tx = store.begin().await.unwrap();
    events::append(&mut tx, &names.iter().map(event).collect::<Vec<_>>()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn due(store: &Store, now: i64) -> Vec<Due> {
    callbacks::due(&mut store.reader(), Timestamp(now), 2, 3, 100).await.unwrap()
}

async fn record(store: &Store, call: &Due, outcome: Outcome, now: i64) -> u64 {
    let tried = Tried { id: call.id, attempts: call.attempts + 1, outcome };
    let mut tx = store.begin().await.unwrap();
    let changed = callbacks::record(&mut tx, &[tried], Timestamp(now)).await.unwrap();
    tx.commit().await.unwrap();
    changed
}

#[tokio::test]
async fn sessions_are_told_of_in_order() {
    for db in databases().await {
        let store = &db.store;
        populate(store).await;
        let url = "https://Example.org:8443/x?token=1";
        let (id, silent) = (session(store, Some(url)).await, session(store, None).await);
        let before = store.statements();
        tell(store, silent, None, &["session_started"], 1).await;
        assert_eq!(store.statements() - before, 1, "those who tell nobody cost nothing");
        tell(store, id, Some(url), &["session_enqueued", "kernel_preparing", "session_started"], 10).await;
        assert!(due(store, 9).await.is_empty());

        let first = due(store, 10).await;
        let [call] = &first[..] else { panic!("{first:?}") };
        assert_eq!((call.session, call.event.as_str(), call.attempts), (id, "enqueued", 0));
        assert_eq!(
            (call.url.as_str(), call.receiver.as_str(), call.secret.as_str()),
            (url, "example.org:8443", SECRET)
        );
        assert!(!format!("{call:?}").contains("token") && !format!("{call:?}").contains("secret"));
        assert_eq!(callbacks::pending(&mut store.reader()).await.unwrap(), 2);

        // The second waits for the first, which waits for its next try.
        let again = Outcome::Again { at: Timestamp(50), fault: "no\0t now".to_owned() };
        assert_eq!(record(store, call, again.clone(), 11).await, 1);
        assert_eq!(record(store, call, again, 11).await, 0, "somebody else tried it meanwhile");
        assert!(due(store, 49).await.is_empty());
        let second = due(store, 50).await;
        assert_eq!((second.len(), second[0].id, second[0].attempts), (1, call.id, 1));
        assert_eq!(record(store, &second[0], Outcome::Delivered, 51).await, 1);
        let third = due(store, 51).await;
        assert_eq!(third[0].event, "started");
        assert_eq!(record(store, &third[0], Outcome::Failed { fault: "gone".to_owned() }, 60).await, 1);
        assert!(due(store, 1_000).await.is_empty());

        let mut tx = store.begin().await.unwrap();
        assert_eq!(callbacks::forget(&mut tx, Timestamp(60)).await.unwrap(), 1);
        assert_eq!(callbacks::forget(&mut tx, Timestamp(61)).await.unwrap(), 1);
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn receivers_and_owners_have_their_shares() {
    for db in databases().await {
        let store = &db.store;
        populate(store).await;
        for n in 0..10 {
            let id = session(store, Some(SLOW)).await;
            tell(store, id, Some(SLOW), &["session_enqueued", "session_scheduled"], n).await;
        }
        let other = "http://other.example/";
        for n in 20..24 {
            let id = session(store, Some(other)).await;
            tell(store, id, Some(other), &["session_enqueued"], n).await;
        }
        let calls: Vec<_> = due(store, 100).await.into_iter().map(|call| call.url).collect();
        assert_eq!(calls, [SLOW, SLOW, other], "two a receiver, three an owner");

        let mut tx = store.begin().await.unwrap();
        assert_eq!(callbacks::give_up(&mut tx, Timestamp(20), "late", Timestamp(100)).await.unwrap(), 20);
        tx.commit().await.unwrap();
        assert_eq!(callbacks::pending(&mut store.reader()).await.unwrap(), 4);
        let calls: Vec<_> = due(store, 100).await.into_iter().map(|call| call.url).collect();
        assert_eq!(calls, [other, other]);
    }
}
