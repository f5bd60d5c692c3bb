//! Who is asking.

use quarterdeck_model::{AccessKey, UserId, UserRole};

/// An authenticated caller: a key pair and the user behind it.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The key pair that signed the request.
    pub access_key: AccessKey,
    /// Its user.
    pub user_id: UserId,
    /// The user's e-mail address.
    pub email: String,
    /// The user's role.
    pub role: UserRole,
    /// The user's domain.
    pub domain: String,
    /// The *key pair's* administrator flag: what endpoints for administrators look at.
    pub is_admin: bool,
    /// The key pair's resource policy.
    pub resource_policy: String,
    /// Requests allowed in a rolling window of 900 seconds.
    pub rate_limit: i64,
}

impl Principal {
    /// Whoever works at the server's console, with its database at hand: may do everything, and is known by `name`.
    pub fn console(name: &str) -> Self {
        Self {
            access_key: AccessKey(String::new()),
            user_id: UserId(uuid::Uuid::nil()),
            email: format!("{name}@console"),
            role: UserRole::Superadmin,
            domain: String::new(),
            is_admin: true,
            resource_policy: String::new(),
            rate_limit: 0,
        }
    }

    /// Whether the user may do everything.
    pub fn is_superadmin(&self) -> bool {
        self.role == UserRole::Superadmin
    }
}
