//! Who leads, when the way to the database is cut.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use quarterdeck_store::testing::postgres;
use quarterdeck_store::{Options, Store};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the way to the database does.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Open,
    /// Nothing passes, and nobody is told.
    Silent,
    /// The database is told, as it is when its probes aren't answered.
    Cut,
}

/// A way to `target` that can be cut.
async fn way(target: String) -> (u16, watch::Sender<Way>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, state) = watch::channel(Way::Open);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (mut state, target) = (state.clone(), target.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = state.wait_for(|way| *way != Way::Open) => {}
                }
                let _ = state.wait_for(|way| *way == Way::Cut).await;
                drop(far);
                // The near end hears nothing, ever.
                std::future::pending::<()>().await;
            });
        }
    });
    (port, sender)
}

#[tokio::test]
async fn who_is_cut_off_leads_no_more() {
    let Some(db) = postgres().await else { return };
    let (head, tail) = db.url.split_once("://").unwrap();
    let (authority, path) = tail.split_once('/').unwrap();
    let (user, target) = authority.rsplit_once('@').map_or((None, authority), |(user, target)| (Some(user), target));
    let target = if target.contains(':') { target.to_owned() } else { format!("{target}:5432") };
    let (port, state) = way(target).await;
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let far = Store::open(&format!("{head}://{user}127.0.0.1:{port}/{path}"), &Options::default()).await.unwrap();

    let (mut first, mut second) = (far.leadership(), db.store.leadership());
    assert_eq!(first.campaign(&["a", "b"]).await.unwrap().len(), 2);
    assert!(second.campaign(&["a", "b"]).await.unwrap().is_empty());
    state.send(Way::Silent).unwrap();
    let begun = Instant::now();
    assert!(first.campaign(&["a", "b"]).await.is_err(), "nobody leads without the database");
    assert!(begun.elapsed() < Duration::from_secs(20));
    // Not before the database has noticed, too, may another one lead.
    assert!(second.campaign(&["a", "b"]).await.unwrap().is_empty());
    state.send(Way::Cut).unwrap();
    while second.campaign(&["a", "b"]).await.unwrap().len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.resign().await;
    second.resign().await;
}
