//! What tickets for transfers aren't good for.

use std::time::Duration;

use hyper::{Method, StatusCode};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::transfers::{Reply, Ticket};
use quarterdeck_tests::{DOMAIN_ADMIN, wait};
use serde_json::json;

use crate::HOST;
use crate::lab::lab;

async fn tickets_are_good_for_one_thing(database: &Database) {
    let lab = lab(database, "").await;
    let send = async |address: &str| lab.transfers.patch(address, 0, "abc").await.unwrap();
    let upload = Ticket::upload(&lab.user, "mine", "new.txt", 3).await.unwrap();
    let download = Ticket::download(&lab.user, "mine", "in.txt").await.unwrap();
    let bad = |what: &str, reply: &Reply| {
        lab.refused(what, reply.status, &reply.body);
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{what}");
    };
    // The other deed, no ticket, another one's words under this signature, no signature, something more.
    let at = |place: &Ticket, token: &str| format!("{}?token={token}", place.url);
    bad("download by upload", &lab.fetch("", &at(&download, &upload.token)).await);
    bad("upload by download", &send(&at(&upload, &download.token)).await);
    bad("no ticket", &lab.fetch("", &download.url).await);
    bad("two tickets' parameters", &lab.fetch("", &download.address_with("vfid=x")).await);
    let parts = |ticket: &Ticket| ticket.token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let other = Ticket::download(&lab.server.client(DOMAIN_ADMIN), "theirs", "in.txt").await.unwrap();
    let ([head, mine, signature], [_, words, _]) =
        (parts(&download).try_into().unwrap(), parts(&other).try_into().unwrap());
    bad("another's words", &lab.fetch("", &at(&download, &format!("{head}.{words}.{signature}"))).await);
    bad("a cut signature", &lab.fetch("", &at(&download, &format!("{head}.{mine}.{}", &signature[..20]))).await);
    // {"alg":"none"} and {"alg":"HS512"}
    for head in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzUxMiJ9"] {
        bad("another algorithm", &lab.fetch("", &at(&download, &format!("{head}.{mine}."))).await);
        bad("another algorithm", &lab.fetch("", &at(&download, &format!("{head}.{mine}.{signature}"))).await);
    }
    bad("a long ticket", &lab.fetch("", &at(&download, &"x".repeat(20_000))).await);

    // Once used, an upload's ticket does nothing more.
    assert_eq!(send(&upload.address()).await.status, StatusCode::NO_CONTENT);
    lab.transfers.put(&lab.user, "mine", "new.txt", b"newer").await.unwrap();
    let again = lab.transfers.patch(&upload.address(), 0, "xyz").await.unwrap();
    lab.refused("an upload again", again.status, &again.body);
    assert_eq!(std::fs::read(lab.root.join("new.txt")).unwrap(), b"newer");
    // Nor is more taken than was asked for.
    let short = Ticket::upload(&lab.user, "mine", "short.txt", 3).await.unwrap();
    let long = lab.transfers.patch(&short.address(), 0, vec![b'x'; 1 << 20]).await.unwrap();
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!lab.root.join("short.txt").exists());

    // A folder's end is the end of its tickets, and they don't bring it back.
    assert_eq!(lab.fetch("", &download.address()).await.text(), "inside");
    lab.user.delete("/folders/mine").await.unwrap().ok().unwrap();
    wait::until("the folder to go", Duration::from_secs(30), || async {
        Ok((lab.user.get("/folders").await?.ok()? == json!([])).then_some(()))
    })
    .await
    .unwrap();
    for reply in [lab.fetch("", &download.address()).await, send(&short.address()).await] {
        lab.refused("a ticket of a folder that is gone", reply.status, &reply.body);
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
    }
    let head = lab.transfers.send(Method::HEAD, &short.address(), &[], "").await.unwrap();
    assert_eq!(head.status, StatusCode::NOT_FOUND);
    // A new folder of that name is another one.
    lab.user.post("/folders", &json!({"name": "mine", "host": HOST})).await.unwrap().ok().unwrap();
    assert_eq!(lab.fetch("", &download.address()).await.status, StatusCode::NOT_FOUND);
    assert!(!lab.root.exists());
    lab.server.assert_well().await.unwrap();
}

#[tokio::test]
async fn tickets_are_good_for_one_thing_on_sqlite() {
    tickets_are_good_for_one_thing(&Database::sqlite().unwrap()).await;
}

#[tokio::test]
async fn tickets_are_good_for_one_thing_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        tickets_are_good_for_one_thing(&database).await;
    }
}

async fn tickets_expire(database: &Database) {
    let lab = lab(database, "[storage]\ntoken_lifetime_seconds = 1\n").await;
    let upload = Ticket::upload(&lab.user, "mine", "late.txt", 3).await.unwrap();
    let download = Ticket::download(&lab.user, "mine", "in.txt").await.unwrap();
    wait::until("the tickets to expire", Duration::from_secs(30), || async {
        let replies =
            [lab.transfers.get(&download.address(), &[]).await?, lab.transfers.patch(&upload.address(), 1, "").await?];
        let expired = |reply: &Reply| reply.text().contains("Signature has expired");
        Ok(replies.iter().all(expired).then_some(()))
    })
    .await
    .unwrap();
    let sent = lab.transfers.patch(&upload.address(), 0, "abc").await.unwrap();
    lab.refused("an expired ticket", sent.status, &sent.body);
    assert!(!lab.root.join("late.txt").exists());
}

#[tokio::test]
async fn tickets_expire_on_sqlite() {
    tickets_expire(&Database::sqlite().unwrap()).await;
}

#[tokio::test]
async fn tickets_expire_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        tickets_expire(&database).await;
    }
}
