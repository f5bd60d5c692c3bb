//! Key pairs: what requests are signed with.

use quarterdeck_model::{AccessKey, Timestamp, UserId, UserRole, UserStatus};

use crate::changes::{self, KEYPAIR, Rows};
use crate::error::Result;
use crate::scaling_groups::{self, Associate};
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

/// A key pair; the private SSH key is read with [`ssh_private_key`] only.
#[derive(Clone, PartialEq)]
pub struct KeypairRow {
    /// The public half, which identifies it.
    pub access_key: AccessKey,
    /// The secret half. It signs, so it can't be stored as a hash.
    pub secret_key: String,
    /// Its user.
    pub user_id: UserId,
    /// Its user's e-mail address.
    pub user_email: String,
    /// Whether it may sign.
    pub is_active: bool,
    /// Whether endpoints for administrators accept it.
    pub is_admin: bool,
    /// Its resource policy.
    pub resource_policy: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Kept for clients; never set.
    pub last_used: Option<Timestamp>,
    /// Requests allowed in a rolling window of 900 seconds.
    pub rate_limit: i64,
    /// Requests it signed.
    pub num_queries: i64,
    /// What sessions accept SSH logins with.
    pub ssh_public_key: Option<String>,
}

impl std::fmt::Debug for KeypairRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeypairRow")
            .field("access_key", &self.access_key)
            .field("user_email", &self.user_email)
            .finish_non_exhaustive()
    }
}

/// Changes to a key pair; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct KeypairChanges {
    /// See [`KeypairRow::is_active`].
    pub is_active: Option<bool>,
    /// See [`KeypairRow::is_admin`].
    pub is_admin: Option<bool>,
    /// See [`KeypairRow::resource_policy`].
    pub resource_policy: Option<String>,
    /// See [`KeypairRow::rate_limit`].
    pub rate_limit: Option<i64>,
}

/// What a signature is checked against: a key pair and the user behind it.
#[derive(Clone, Debug)]
pub struct CredentialRow {
    /// The key pair.
    pub keypair: KeypairRow,
    /// Its user's role.
    pub role: UserRole,
    /// Its user's domain.
    pub domain_name: String,
    /// Whether its user's account is in use.
    pub status: UserStatus,
    /// Its user's e-mail address.
    pub email: String,
    /// Where its user may sign from.
    pub allowed_client_ip: Option<Vec<String>>,
}

const COLUMNS: &str = "k.access_key, k.secret_key, k.user_id, k.user_email, k.is_active, k.is_admin, k.resource_policy, \
                       k.created_at, k.last_used, k.rate_limit, k.num_queries, k.ssh_public_key";

fn row(row: &Row) -> Result<KeypairRow> {
    Ok(KeypairRow {
        access_key: row.parse("access_key")?,
        secret_key: row.get("secret_key")?,
        user_id: row.parse("user_id")?,
        user_email: row.get("user_email")?,
        is_active: row.get("is_active")?,
        is_admin: row.get("is_admin")?,
        resource_policy: row.get("resource_policy")?,
        created_at: Timestamp(row.get("created_at")?),
        last_used: row.get::<Option<i64>>("last_used")?.map(Timestamp),
        rate_limit: row.get("rate_limit")?,
        num_queries: row.get("num_queries")?,
        ssh_public_key: row.get("ssh_public_key")?,
    })
}

/// One key pair.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, access_key: &str) -> Result<Option<KeypairRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} FROM keypairs k WHERE k.access_key = $1")).bind(access_key);
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// Those of the key pairs that exist, in no particular order.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn by_access_keys<S: Sql>(sql: &mut S, access_keys: &[AccessKey]) -> Result<Vec<KeypairRow>> {
    let stmt = Stmt::among(&format!("SELECT {COLUMNS} FROM keypairs k WHERE k.access_key IN {{list}}"), access_keys);
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// The key pairs of several users; within a user those for administrators first, then the active ones, then by age.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn of_users<S: Sql>(sql: &mut S, users: &[UserId]) -> Result<Vec<KeypairRow>> {
    let stmt = Stmt::among(
        &format!(
            "SELECT {COLUMNS} FROM keypairs k WHERE k.user_id IN {{list}} \
             ORDER BY k.user_id, k.is_admin DESC, k.is_active DESC, k.created_at, k.access_key"
        ),
        users,
    );
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// The key pair with the user behind it.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn credential<S: Sql>(sql: &mut S, access_key: &str) -> Result<Option<CredentialRow>> {
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS}, u.role, u.domain_name, u.status, u.email, u.allowed_client_ip \
         FROM keypairs k JOIN users u ON u.id = k.user_id WHERE k.access_key = $1"
    ))
    .bind(access_key);
    let Some(r) = sql.fetch_optional(stmt).await? else { return Ok(None) };
    Ok(Some(CredentialRow {
        keypair: row(&r)?,
        role: r.parse("role")?,
        domain_name: r.get("domain_name")?,
        status: r.parse("status")?,
        email: r.get("email")?,
        allowed_client_ip: r.json_opt("allowed_client_ip")?,
    }))
}

/// Adds a key pair.
///
/// # Errors
/// A unique violation when the access key is taken, a foreign-key one for an unknown user or policy.
pub async fn insert<S: Sql>(sql: &mut S, keypair: &KeypairRow, ssh_private_key: Option<&str>) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO keypairs (access_key, secret_key, user_id, user_email, is_active, is_admin, resource_policy, \
         created_at, last_used, rate_limit, num_queries, ssh_public_key, ssh_private_key) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(keypair.access_key.as_str())
    .bind(&keypair.secret_key)
    .bind(keypair.user_id.to_string())
    .bind(&keypair.user_email)
    .bind(keypair.is_active)
    .bind(keypair.is_admin)
    .bind(&keypair.resource_policy)
    .bind(keypair.created_at.micros())
    .bind(keypair.last_used.map(Timestamp::micros))
    .bind(keypair.rate_limit)
    .bind(keypair.num_queries)
    .bind(keypair.ssh_public_key.as_deref())
    .bind(ssh_private_key);
    changes::execute(sql, &KEYPAIR, KEYPAIR.row(keypair.access_key.as_str()), stmt).await?;
    Ok(())
}

/// Changes a key pair; how many there were (0 or 1), or `None` when there is nothing to change.
///
/// # Errors
/// A foreign-key violation for an unknown policy.
pub async fn update<S: Sql>(sql: &mut S, access_key: &str, changes: &KeypairChanges) -> Result<Option<u64>> {
    let update = Update::new("keypairs")
        .maybe("is_active", changes.is_active)
        .maybe("is_admin", changes.is_admin)
        .maybe("resource_policy", changes.resource_policy.as_deref())
        .maybe("rate_limit", changes.rate_limit);
    if update.is_empty() {
        return Ok(None);
    }
    update.run(sql, &KEYPAIR, access_key).await.map(Some)
}

/// Writes a secret key over the stored one; how many key pairs there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_secret<S: Sql>(sql: &mut S, access_key: &str, secret_key: &str) -> Result<u64> {
    let stmt = Stmt::new("UPDATE keypairs SET secret_key = $2 WHERE access_key = $1").bind(access_key).bind(secret_key);
    changes::execute(sql, &KEYPAIR, KEYPAIR.row(access_key), stmt).await
}

fn of(user: UserId) -> Rows {
    Rows::with("user_id = $1", user.to_string())
}

/// Switches off all key pairs of a user; how many there were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn deactivate_all<S: Sql>(sql: &mut S, user: UserId) -> Result<u64> {
    let stmt = Stmt::new("UPDATE keypairs SET is_active = FALSE WHERE user_id = $1").bind(user.to_string());
    changes::execute(sql, &KEYPAIR, of(user), stmt).await
}

/// Makes all key pairs of a user active ones for administrators; how many there were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn promote_all<S: Sql>(sql: &mut S, user: UserId) -> Result<u64> {
    let stmt =
        Stmt::new("UPDATE keypairs SET is_admin = TRUE, is_active = TRUE WHERE user_id = $1").bind(user.to_string());
    changes::execute(sql, &KEYPAIR, of(user), stmt).await
}

/// Takes the administrator flag from `keep` and switches off the user's other key pairs that have it.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn demote<S: Sql>(sql: &mut S, user: UserId, keep: &AccessKey) -> Result<()> {
    let stmt = Stmt::new(
        "UPDATE keypairs SET is_active = FALSE WHERE user_id = $1 AND access_key <> $2 AND is_admin AND is_active",
    );
    changes::execute(sql, &KEYPAIR, of(user), stmt.bind(user.to_string()).bind(keep.as_str())).await?;
    let stmt = Stmt::new("UPDATE keypairs SET is_admin = FALSE WHERE user_id = $1 AND access_key = $2");
    changes::execute(sql, &KEYPAIR, of(user), stmt.bind(user.to_string()).bind(keep.as_str())).await?;
    Ok(())
}

/// Adds to the counters of signed requests.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn count_queries<S: Sql>(sql: &mut S, counts: &[(AccessKey, i64)]) -> Result<()> {
    let counts: serde_json::Value = counts.iter().map(|(key, n)| serde_json::json!([key.as_str(), n])).collect();
    let stmt = Stmt::dialect(
        "UPDATE keypairs SET num_queries = num_queries + c.n FROM (SELECT json_extract(value, '$[0]') AS k, \
         json_extract(value, '$[1]') AS n FROM json_each($1)) AS c WHERE access_key = c.k",
        "UPDATE keypairs SET num_queries = num_queries + c.n FROM (SELECT e ->> 0 AS k, \
         CAST(e ->> 1 AS BIGINT) AS n FROM jsonb_array_elements(CAST($1 AS jsonb)) AS e) AS c WHERE access_key = c.k",
    );
    sql.execute(stmt.bind(counts)).await?;
    Ok(())
}

/// Stores an SSH key pair; how many key pairs there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_ssh_keypair<S: Sql>(sql: &mut S, access_key: &str, public: &str, private: &str) -> Result<u64> {
    let stmt = Stmt::new("UPDATE keypairs SET ssh_public_key = $2, ssh_private_key = $3 WHERE access_key = $1");
    changes::execute(sql, &KEYPAIR, KEYPAIR.row(access_key), stmt.bind(access_key).bind(public).bind(private)).await
}

/// The private SSH key, for sessions.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn ssh_private_key<S: Sql>(sql: &mut S, access_key: &str) -> Result<Option<String>> {
    let stmt = Stmt::new("SELECT ssh_private_key FROM keypairs WHERE access_key = $1").bind(access_key);
    Ok(sql.fetch_optional(stmt).await?.map(|r| r.get::<Option<String>>("ssh_private_key")).transpose()?.flatten())
}

/// Removes a key pair; how many there were (0 or 1).
///
/// # Errors
/// A foreign-key violation while sessions refer to it.
pub async fn delete<S: Sql>(sql: &mut S, access_key: &str) -> Result<u64> {
    let key = AccessKey(access_key.to_owned());
    scaling_groups::disassociate(sql, None, Associate::Keypair(&key)).await?;
    let stmt = Stmt::new("DELETE FROM keypairs WHERE access_key = $1").bind(access_key);
    let count = changes::execute(sql, &KEYPAIR, KEYPAIR.row(access_key), stmt).await?;
    sql.execute(Stmt::new("DELETE FROM occupancy WHERE scope = 'keypair' AND holder = $1").bind(access_key)).await?;
    sql.execute(Stmt::new("DELETE FROM concurrency WHERE access_key = $1").bind(access_key)).await?;
    Ok(count)
}

/// The script that the key pair's sessions run first, when they bring none.
pub async fn bootstrap_script<S: Sql>(sql: &mut S, access_key: &str) -> Result<Option<String>> {
    let stmt = Stmt::new("SELECT bootstrap_script FROM keypairs WHERE access_key = $1").bind(access_key);
    sql.fetch_optional(stmt).await?.map_or(Ok(None), |row| row.get("bootstrap_script"))
}

/// Replaces that script; how many key pairs there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_bootstrap_script<S: Sql>(sql: &mut S, access_key: &str, script: &str) -> Result<u64> {
    let stmt = Stmt::new("UPDATE keypairs SET bootstrap_script = $2 WHERE access_key = $1");
    changes::execute(sql, &KEYPAIR, KEYPAIR.row(access_key), stmt.bind(access_key).bind(script)).await
}
