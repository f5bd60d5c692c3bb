//! Key pairs.

use quarterdeck_model::{AccessKey, Timestamp, UserId};

use super::{instant, instant_opt};
use crate::listing::{Conditions, Field, Kind, Listing, Page, Source, field, filter_only};
use crate::{Result, Row, Sql};

/// What clients may filter and order key pairs by.
pub const FIELDS: &[Field] = &[
    field("access_key", "k.access_key", Kind::Text),
    filter_only("user_id", "k.user_id", Kind::Uuid),
    field("email", "u.email", Kind::Text),
    field("full_name", "u.full_name", Kind::Text),
    field("is_active", "k.is_active", Kind::Bool),
    field("is_admin", "k.is_admin", Kind::Bool),
    field("resource_policy", "k.resource_policy", Kind::Text),
    field("created_at", "k.created_at", Kind::Date),
    field("last_used", "k.last_used", Kind::Date),
    field("rate_limit", "k.rate_limit", Kind::Int),
    field("num_queries", "k.num_queries", Kind::Int),
    filter_only("ssh_public_key", "k.ssh_public_key", Kind::Text),
];

const SOURCE: Source = Source {
    columns: "k.access_key, k.secret_key, k.user_id, k.user_email, u.full_name, k.is_active, k.is_admin, \
              k.resource_policy, k.created_at, k.last_used, k.rate_limit, k.num_queries, k.ssh_public_key, \
              COALESCE(c.sessions, 0) AS concurrency_used",
    from: "keypairs k JOIN users u ON u.id = k.user_id LEFT JOIN concurrency c ON c.access_key = k.access_key",
    count_from: "keypairs k JOIN users u ON u.id = k.user_id",
    order: "k.created_at DESC, k.access_key",
    unique: "k.access_key",
};

/// A key pair, without the private halves of anything but itself.
#[derive(Clone, Debug)]
pub struct KeyPairItem {
    /// The public half.
    pub access_key: AccessKey,
    /// The secret half.
    pub secret_key: String,
    /// Its user.
    pub user_id: UserId,
    /// The user's e-mail address.
    pub user_email: String,
    /// The user's name.
    pub full_name: Option<String>,
    /// Whether it opens anything.
    pub is_active: bool,
    /// Whether it opens what is for administrators.
    pub is_admin: bool,
    /// Its resource policy.
    pub resource_policy: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
    /// Requests allowed in a window.
    pub rate_limit: i64,
    /// Requests made and counted so far.
    pub num_queries: i64,
    /// The public half of its SSH key pair.
    pub ssh_public_key: Option<String>,
    /// Sessions that count against its limit now.
    pub concurrency_used: i64,
}

fn read(row: &Row) -> Result<KeyPairItem> {
    Ok(KeyPairItem {
        access_key: row.parse("access_key")?,
        secret_key: row.get("secret_key")?,
        user_id: row.parse("user_id")?,
        user_email: row.get("user_email")?,
        full_name: row.get("full_name")?,
        is_active: row.get("is_active")?,
        is_admin: row.get("is_admin")?,
        resource_policy: row.get("resource_policy")?,
        created_at: instant(row, "created_at")?,
        last_used: instant_opt(row, "last_used")?,
        rate_limit: row.get("rate_limit")?,
        num_queries: row.get("num_queries")?,
        ssh_public_key: row.get("ssh_public_key")?,
        concurrency_used: row.get("concurrency_used")?,
    })
}

/// Which key pairs: every part that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Of users of this domain.
    pub domain: Option<String>,
    /// This one.
    pub access_key: Option<AccessKey>,
    /// Of the user with this e-mail address.
    pub email: Option<String>,
    /// Active ones, or the others.
    pub is_active: Option<bool>,
}

impl Scope {
    /// The texts it compares with.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let access_key = self.access_key.as_ref().map(AccessKey::as_str);
        [self.domain.as_deref(), access_key, self.email.as_deref()].into_iter().flatten()
    }
}

fn conditions<S: Sql>(sql: &S, scope: &Scope) -> Conditions {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(domain) = &scope.domain {
        conditions.equal("u.domain_name", domain);
    }
    if let Some(access_key) = &scope.access_key {
        conditions.equal("k.access_key", access_key.as_str());
    }
    if let Some(email) = &scope.email {
        conditions.equal("u.email", email);
    }
    if let Some(is_active) = scope.is_active {
        conditions.equal("k.is_active", is_active);
    }
    conditions
}

/// One page of the key pairs in scope.
///
/// # Errors
/// The database's.
pub async fn page<S: Sql>(sql: &mut S, scope: &Scope, listing: &Listing) -> Result<Page<KeyPairItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::page(sql, &SOURCE, conditions, listing, read).await
}

/// The key pairs in scope, `limit` at most.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, scope: &Scope, limit: i64) -> Result<Vec<KeyPairItem>> {
    let conditions = conditions(sql, scope);
    crate::listing::select(sql, &SOURCE, conditions, limit, read).await
}
