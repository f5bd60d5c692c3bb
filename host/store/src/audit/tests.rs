//! Entries of the audit, on both databases.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::{config, domains, testing};

fn somebody() -> Actor {
    Actor { name: Some("a@x".to_owned()), access_key: Some("AKIA".to_owned()), ..Actor::default() }
}

async fn all(db: &testing::TestDb) -> Vec<AuditRow> {
    page(&mut db.store.reader(), &Filter::default(), 100).await.unwrap()
}

#[tokio::test]
async fn what_is_committed_is_told_once_and_nothing_else() {
    for db in testing::databases().await {
        let store = &db.store;
        let write = async |key: &str| {
            let mut tx = store.begin().await.unwrap();
            config::set(&mut tx, &[(key.to_owned(), "v".to_owned())]).await.unwrap();
            tx.commit().await.unwrap();
        };
        write("nobody").await;
        assert!(all(&db).await.is_empty(), "no act was under way");

        scope(Act::new(Via::Rest, somebody(), "POST /x").on("t").with(json!({"k": "\0"})), async {
            // Neither what is undone, nor looking, nor bookkeeping is an act.
            let mut tx = store.begin().await.unwrap();
            config::set(&mut tx, &[("undone".to_owned(), "v".to_owned())]).await.unwrap();
            tx.rollback().await.unwrap();
            let mut tx = store.begin().await.unwrap();
            config::get(&mut tx, "nobody").await.unwrap();
            assert_eq!(config::delete(&mut tx, "not there").await.unwrap(), 0);
            tx.commit().await.unwrap();
            let mut tx = store.begin_bookkeeping().await.unwrap();
            config::set(&mut tx, &[("mark".to_owned(), "v".to_owned())]).await.unwrap();
            tx.commit().await.unwrap();
            assert!(all(&db).await.is_empty());
            write("one").await;
            write("two").await;
        })
        .await;
        let told = all(&db).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].action.as_str(), told[0].target.as_str(), told[0].via.as_str()), ("POST /x", "t", "rest"));
        assert_eq!(told[0].details, Some(json!({"k": "\u{fffd}"})));
        let changes = |key: &str| ChangeRow {
            kind: "config".to_owned(),
            name: key.to_owned(),
            before: None,
            after: Some(json!({"name": key, "value": "v"})),
        };
        assert_eq!(told[0].changes.rows, [changes("one"), changes("two")], "of both transactions");

        let acts = ["first", "second"].map(|name| Arc::new(Act::new(Via::System, Actor::default(), name)));
        let mut tx = store.begin().await.unwrap();
        tx.on_behalf_of(acts);
        config::set(&mut tx, &[("both".to_owned(), "v".to_owned())]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(all(&db).await.len(), 3);

        let count = async |filter: Filter| page(&mut store.reader(), &filter, 100).await.unwrap().len();
        assert_eq!(count(Filter { actor: Some("AKIA".to_owned()), ..Filter::default() }).await, 1);
        assert_eq!(count(Filter { action: Some("FIRST".to_owned()), ..Filter::default() }).await, 1);
        assert_eq!(count(Filter { action: Some("_".to_owned()), ..Filter::default() }).await, 0);
        assert_eq!(count(Filter { via: Some("system".to_owned()), ..Filter::default() }).await, 2);
        assert_eq!(count(Filter { target: Some("T".to_owned()), ..Filter::default() }).await, 3, "both, by a change");
        assert_eq!(count(Filter { target: Some("two".to_owned()), ..Filter::default() }).await, 1);
        assert_eq!(count(Filter { before: Some(told[0].id + 1), ..Filter::default() }).await, 1);
        assert_eq!(count(Filter { since: Some(Timestamp::now()), ..Filter::default() }).await, 0);
    }
}

/// What an act did, as `kind name: before → after`.
fn lines(entry: &AuditRow) -> Vec<String> {
    let text = |side: &Option<Json>| side.as_ref().map_or_else(|| "-".to_owned(), Json::to_string);
    let line = |c: &ChangeRow| format!("{} {}: {} → {}", c.kind, c.name, text(&c.before), text(&c.after));
    entry.changes.rows.iter().map(line).collect()
}

#[tokio::test]
async fn values_before_and_after_are_told_but_no_secrets() {
    macro_rules! act {
        ($db:ident, $tx:ident, $work:expr) => {{
            scope(Act::new(Via::Cli, somebody(), "x"), async {
                let mut $tx = $db.store.begin().await.unwrap();
                $work.await.unwrap();
                $tx.commit().await.unwrap();
            })
            .await;
            lines(&all(&$db).await[0])
        }};
    }
    for db in testing::databases().await {
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let keys = pairs(&[("a/b", "1"), ("a/token", "hush"), ("u", "redis://:hush@h/0")]);
        assert_eq!(
            act!(db, tx, config::set(&mut tx, &keys)),
            [
                r#"config a/b: - → {"name":"a/b","value":"1"}"#,
                r#"config a/token: - → {"name":"a/token","value":"***"}"#,
                r#"config u: - → {"name":"u","value":"redis://***@h/0"}"#,
            ]
        );
        let keys = pairs(&[("a/b", "1"), ("a/token", "whisper")]);
        assert_eq!(
            act!(db, tx, config::set(&mut tx, &keys)),
            [r#"config a/token: {"value":"***"} → {"value":"***"}"#],
            "what stays isn't told"
        );
        assert_eq!(
            act!(db, tx, config::delete_subtree(&mut tx, "a")),
            [
                r#"config a/b: {"name":"a/b","value":"1"} → -"#,
                r#"config a/token: {"name":"a/token","value":"***"} → -"#,
            ]
        );

        let now = Timestamp::now();
        let domain = domains::DomainRow {
            name: "d".to_owned(),
            description: None,
            is_active: true,
            created_at: now,
            modified_at: now,
            total_resource_slots: json!({}),
            allowed_vfolder_hosts: json!({}),
            allowed_docker_registries: Vec::new(),
            integration_id: None,
        };
        act!(db, tx, domains::insert(&mut tx, &domain));
        let changes = domains::DomainChanges {
            name: Some("e".to_owned()),
            description: Some("D".to_owned()),
            is_active: Some(true),
            total_resource_slots: Some(json!({"cpu": "4"})),
            ..domains::DomainChanges::default()
        };
        assert_eq!(
            act!(db, tx, domains::update(&mut tx, "d", &changes, now)),
            [concat!(
                r#"domain e: {"name":"d","description":null,"total_resource_slots":{}}"#,
                r#" → {"name":"e","description":"D","total_resource_slots":{"cpu":"4"}}"#
            )],
            "under another name it is the same"
        );
        // A part that is undone has done nothing.
        let told = act!(db, tx, async {
            tx.begin_part().await?;
            config::set(&mut tx, &pairs(&[("k", "kept")])).await?;
            tx.end_part(true).await?;
            tx.begin_part().await?;
            config::set(&mut tx, &pairs(&[("k", "undone")])).await?;
            tx.end_part(false).await
        });
        assert_eq!(told, [r#"config k: - → {"name":"k","value":"kept"}"#]);

        // Many are counted.
        let many: Vec<_> = (0..1003).map(|i| (format!("many/{i:04}"), "v".to_owned())).collect();
        assert_eq!(act!(db, tx, config::set(&mut tx, &many)).len(), 1000);
        assert_eq!(all(&db).await[0].changes.more, 3);

        // Without an act nobody asks.
        let before = db.store.statements();
        let mut tx = db.store.begin().await.unwrap();
        config::set(&mut tx, &pairs(&[("k", "quiet")])).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(db.store.statements() - before, 1);
    }
}

#[tokio::test]
async fn entries_go_by_age_alone() {
    for db in testing::databases().await {
        let try_to = async |statement: &str| {
            let mut tx = db.store.begin().await.unwrap();
            let done = tx.execute(Stmt::assembled(statement.to_owned())).await;
            if done.is_ok() {
                tx.commit().await.unwrap();
            }
            done.is_ok()
        };
        let day = 86_400_000_000;
        let now = Timestamp::now().micros();
        let entry = |at: i64| format!("INSERT INTO audit (at, via, action, target) VALUES ({at}, 'rest', 'x', 'y')");
        let change =
            |at: i64| format!("INSERT INTO audit_changes (entry, at, kind, name) VALUES (1, {at}, 'user', 'y')");
        assert!(try_to(&entry(now)).await && try_to(&entry(now - 10 * day)).await);
        assert!(try_to(&change(now)).await && try_to(&change(now - 10 * day)).await);
        for refused in [
            "UPDATE audit SET actor = 'somebody else'",
            "DELETE FROM audit",
            "DELETE FROM _audit_horizon",
            "UPDATE audit_changes SET name = 'something else'",
            "DELETE FROM audit_changes",
            "INSERT INTO audit (id, at, via, action, target) SELECT MAX(id), 1, 'rest', 'x', 'y' FROM audit",
            &format!("UPDATE _audit_horizon SET before = {}", now + day),
        ] {
            assert!(!try_to(refused).await, "{refused}");
        }
        let mut tx = db.store.begin().await.unwrap();
        assert!(any_before(&mut tx, Timestamp(now - 5 * day)).await.unwrap());
        assert_eq!(drop_before(&mut tx, Timestamp(now - 5 * day)).await.unwrap(), 1);
        tx.commit().await.unwrap();
        assert_eq!(all(&db).await.len(), 1);
        let changes = db.store.reader().fetch_all(Stmt::new("SELECT id FROM audit_changes")).await.unwrap();
        assert_eq!(changes.len(), 1);
        let mut tx = db.store.begin().await.unwrap();
        assert!(drop_before(&mut tx, Timestamp(now)).await.is_err(), "a day is kept");
    }
}
