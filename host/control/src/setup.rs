//! The first superadmin of an installation.

use quarterdeck_model::{AccessKey, Timestamp, UserId, UserRole, UserStatus};
use quarterdeck_store::users::{self, UserRow};
use quarterdeck_store::{Store, domains, keypairs, projects, resource_policies, revisions};

use crate::error::{Error, Result};
use crate::validate::{integrity, length};
use crate::{keypairs as keypair_rules, password, seed};

/// Where the first superadmin lives, and its key pair's policy.
const DEFAULT: &str = "default";
/// Requests allowed to its key pair in a rolling window of 900 seconds.
const RATE_LIMIT: i64 = 30_000;

/// Who is to be the first superadmin.
#[derive(Clone)]
pub struct FirstUser {
    /// The e-mail address, which identifies it at login.
    pub email: String,
    /// The name; the address without one.
    pub username: Option<String>,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for FirstUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstUser").field("email", &self.email).finish_non_exhaustive()
    }
}

/// What was made. The secret key is told here and never again.
#[derive(Clone)]
pub struct Installed {
    /// The superadmin.
    pub user: UserRow,
    /// The access key of its key pair.
    pub access_key: AccessKey,
    /// The secret key of its key pair.
    pub secret_key: String,
}

impl std::fmt::Debug for Installed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installed").field("user", &self.user.email).finish_non_exhaustive()
    }
}

/// Makes the superadmin of a fresh installation, with a key pair, and with it the defaults (domain, project, resource
/// policy, scaling group) unless a server that started earlier made them: all or nothing.
///
/// # Errors
/// [`Error::BadRequest`] when there is a superadmin already; [`Error::Integrity`] when the address or the name is taken or
/// too long.
pub async fn initialise(store: &Store, first: FirstUser) -> Result<Installed> {
    if first.email.trim().is_empty() {
        return Err(Error::BadRequest("A superadmin needs an e-mail address.".to_owned()));
    }
    if first.password.is_empty() {
        return Err(Error::BadRequest("A superadmin needs a password.".to_owned()));
    }
    let username = first.username.filter(|name| !name.is_empty()).unwrap_or_else(|| first.email.clone());
    length(&first.email, 64)?;
    length(&username, 64)?;
    refuse_second(&mut store.reader()).await?;
    // Slow, and so before the transaction, which holds SQLite's only writer.
    let hash = password::hash(&first.password).await?;
    let ssh = keypair_rules::SshKeypair::generate().await?;

    let now = Timestamp::now();
    let mut tx = store.begin().await?;
    refuse_second(&mut tx).await?;
    if !domains::any(&mut tx).await? {
        seed::write_defaults(&mut tx, now).await?;
    }
    for (what, there) in [
        ("domain", domains::get(&mut tx, DEFAULT).await?.is_some()),
        ("resource policy", resource_policies::get(&mut tx, DEFAULT).await?.is_some()),
    ] {
        if !there {
            return Err(Error::BadRequest(format!("There are domains, but no {what} `{DEFAULT}` for the superadmin.")));
        }
    }
    let user = UserRow {
        id: UserId::new(),
        username: Some(username),
        email: first.email,
        need_password_change: false,
        password_changed_at: Some(now),
        full_name: Some("Administrator".to_owned()),
        description: Some("The first superadmin".to_owned()),
        status: UserStatus::Active,
        status_info: Some("initialised".to_owned()),
        created_at: now,
        modified_at: now,
        domain_name: DEFAULT.to_owned(),
        role: UserRole::Superadmin,
        integration_id: None,
        allowed_client_ip: None,
        totp_activated: false,
        totp_activated_at: None,
    };
    users::insert(&mut tx, &user, Some(&hash)).await.map_err(integrity)?;
    let mut keypair = keypair_rules::new_row(&user, DEFAULT.to_owned(), RATE_LIMIT, now);
    keypair.is_admin = true;
    keypair.ssh_public_key = Some(ssh.public);
    keypairs::insert(&mut tx, &keypair, Some(&ssh.private)).await.map_err(integrity)?;
    if let Some(project) = projects::by_name(&mut tx, DEFAULT, DEFAULT).await? {
        projects::join_all(&mut tx, user.id, DEFAULT, &[project.id]).await?;
    }
    revisions::bump(&mut tx, revisions::IDENTITY).await?;
    tx.commit().await?;
    Ok(Installed { user, access_key: keypair.access_key, secret_key: keypair.secret_key })
}

async fn refuse_second<S: quarterdeck_store::Sql>(sql: &mut S) -> Result<()> {
    match users::superadmins(sql).await?.first() {
        Some(user) => Err(Error::BadRequest(format!("This installation has a superadmin already: {}.", user.email))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_store::{scaling_groups, testing};
    use serde_json::json;

    use super::*;

    fn first(email: &str) -> FirstUser {
        FirstUser { email: email.to_owned(), username: Some("root".to_owned()), password: "p".to_owned() }
    }

    #[tokio::test]
    async fn a_fresh_installation_gets_one_superadmin() {
        for db in testing::databases().await {
            let made = initialise(&db.store, first("root@x")).await.unwrap();
            let sql = &mut db.store.reader();
            let pair = keypairs::get(sql, made.access_key.as_str()).await.unwrap().unwrap();
            assert!(pair.is_admin && pair.is_active && pair.secret_key == made.secret_key);
            assert_eq!(projects::of_user(sql, made.user.id).await.unwrap().len(), 1);
            let hash = users::password(sql, made.user.id).await.unwrap();
            assert!(password::verify("p", hash.as_deref(), None).await.unwrap().is_match());
            let group = scaling_groups::get(sql, "default").await.unwrap().unwrap();
            assert_eq!(group.scheduler_opts, json!({"config": {"skip_blocked": true}}));
            let again = initialise(&db.store, first("other@x")).await.unwrap_err();
            assert!(matches!(&again, Error::BadRequest(msg) if msg.contains("root@x")), "{again}");
        }
    }

    #[tokio::test]
    async fn a_server_that_started_first_is_no_obstacle() {
        let db = testing::sqlite().await;
        seed::ensure_defaults(&db.store).await.unwrap();
        assert!(matches!(initialise(&db.store, first("")).await, Err(Error::BadRequest(_))));
        initialise(&db.store, first("root@x")).await.unwrap();
    }
}
