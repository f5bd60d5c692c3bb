//! What sessions need around them: a domain, a project, a scaling group, and owners with their keys.
#![allow(clippy::unwrap_used)]

use quarterdeck_store::{Sql, Stmt, Store};

/// The project `p`.
pub const PROJECT: &str = "9a000000-0000-4000-8000-000000000001";
/// The owners, with the key pairs `AK0` and `AK1`.
pub const USERS: [&str; 2] = ["9b000000-0000-4000-8000-000000000001", "9b000000-0000-4000-8000-000000000002"];
/// What the key pairs' secret is.
pub const SECRET: &str = "secret";

/// Adds the domain `d`, the scaling group `g` and the others.
pub async fn populate(store: &Store) {
    let mut tx = store.begin().await.unwrap();
    for sql in [
        "INSERT INTO domains (name, created_at, modified_at) VALUES ('d', 0, 0)",
        "INSERT INTO keypair_resource_policies (name, created_at, max_concurrent_sessions, max_containers_per_session, \
         max_vfolder_count, max_vfolder_size, idle_timeout) VALUES ('default', 0, 30, 4, 1, 1, 0)",
        "INSERT INTO scaling_groups (name, created_at, driver, scheduler) VALUES ('g', 0, 'static', 'fifo')",
    ] {
        tx.execute(Stmt::new(sql)).await.unwrap();
    }
    let stmt =
        Stmt::new("INSERT INTO projects (id, name, domain_name, created_at, modified_at) VALUES ($1, 'p', 'd', 0, 0)");
    tx.execute(stmt.bind(PROJECT)).await.unwrap();
    for (i, user) in USERS.iter().enumerate() {
        let stmt = Stmt::new(
            "INSERT INTO users (id, email, status, created_at, modified_at, domain_name, role) \
             VALUES ($1, $2, 'active', 0, 0, 'd', 'user')",
        );
        tx.execute(stmt.bind(*user).bind(format!("u{i}@x"))).await.unwrap();
        let stmt = Stmt::new(
            "INSERT INTO keypairs (access_key, secret_key, user_id, user_email, is_active, is_admin, resource_policy, created_at, \
             rate_limit) VALUES ($1, $4, $2, $3, TRUE, FALSE, 'default', 0, 1000)",
        );
        let stmt = stmt.bind(format!("AK{i}")).bind(*user).bind(format!("u{i}@x")).bind(SECRET);
        tx.execute(stmt).await.unwrap();
    }
    tx.commit().await.unwrap();
}
