//! Files of watched directories: of several hosts one acts, once for each content.
#![allow(clippy::unwrap_used, clippy::cloned_ref_to_slice_refs, missing_docs)]

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::DropState;
use quarterdeck_store::drops::{self, Claim, DropRow};
use quarterdeck_store::testing::databases;
use serde_json::json;

const AT: Timestamp = Timestamp(1_000_000);

fn later(seconds: i64) -> Timestamp {
    Timestamp(AT.micros() + seconds * 1_000_000)
}

fn row(content: &str, state: DropState) -> DropRow {
    DropRow {
        place: "a:/d".to_owned(),
        file: "x.wasm".to_owned(),
        content: content.to_owned(),
        digest: Some("d1".to_owned()),
        plugin: Some("x@1.0.0".to_owned()),
        state,
        reason: None,
        binding: Some(json!({"target": "everywhere"})),
        at: AT,
    }
}

#[tokio::test]
async fn one_of_those_who_see_a_content_takes_it_up() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        let a = Claim { holder: "a", place: "a:/d", file: "x.wasm", content: "one" };
        let b = Claim { holder: "b", place: "b:/d", ..a };
        assert!(drops::claim(&mut tx, &a, AT, later(20)).await.unwrap());
        assert!(!drops::claim(&mut tx, &b, later(1), later(21)).await.unwrap(), "somebody is at it");
        assert!(drops::renew(&mut tx, &a, later(30)).await.unwrap());
        assert!(!drops::renew(&mut tx, &b, later(30)).await.unwrap());
        assert!(!drops::claim(&mut tx, &b, later(25), later(45)).await.unwrap());

        // Whoever goes away in the midst of it is followed by another, and has lost its claim.
        assert!(drops::claim(&mut tx, &b, later(31), later(51)).await.unwrap());
        assert!(!drops::renew(&mut tx, &a, later(60)).await.unwrap());
        drops::finish(&mut tx, "a", &row("one", DropState::Refused), later(31)).await.unwrap();
        let act = drops::act(&mut tx, "x.wasm").await.unwrap().unwrap();
        assert_eq!((act.state, act.since, act.tries), (DropState::Waiting, AT, 2));
        drops::finish(&mut tx, "b", &row("one", DropState::Ok), later(31)).await.unwrap();

        // Done once is done for all, until the content changes.
        assert!(!drops::claim(&mut tx, &a, later(900), later(920)).await.unwrap());
        let two = Claim { content: "two", ..a };
        assert!(drops::claim(&mut tx, &two, later(901), later(921)).await.unwrap());
        let act = drops::act(&mut tx, "x.wasm").await.unwrap().unwrap();
        assert_eq!((act.since, act.tries, act.place.as_str()), (later(901), 1, "a:/d"));
        drops::finish(&mut tx, "a", &row("two", DropState::Refused), later(950)).await.unwrap();
        assert!(!drops::claim(&mut tx, &two, later(940), later(960)).await.unwrap(), "not yet again");
        assert!(drops::claim(&mut tx, &two, later(950), later(970)).await.unwrap());
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_found_is_kept_until_it_is_gone() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        drops::set(&mut tx, &row("one", DropState::Waiting)).await.unwrap();
        let ok = row("two", DropState::Ok);
        drops::set(&mut tx, &ok).await.unwrap();
        let elsewhere = DropRow { place: "b:/d".to_owned(), at: later(1), ..row("two", DropState::Ok) };
        drops::set(&mut tx, &elsewhere).await.unwrap();
        assert_eq!(drops::of_place(&mut tx, "a:/d").await.unwrap(), [ok.clone()]);
        assert_eq!(drops::newest(&mut tx, 10).await.unwrap(), [elsewhere.clone(), ok]);
        assert_eq!(drops::newest(&mut tx, 1).await.unwrap().len(), 1);
        drops::forget(&mut tx, "a:/d", "x.wasm").await.unwrap();
        assert_eq!(drops::newest(&mut tx, 10).await.unwrap(), [elsewhere]);
        assert!(drops::act(&mut tx, "x.wasm").await.unwrap().is_none());
        tx.commit().await.unwrap();
    }
}
