//! Who may act for whom, and what a caller may see.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use quarterdeck_model::UserRole;
use quarterdeck_store::projects::{self, ProjectRow};
use quarterdeck_store::{Sql, domains};

use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// Whose key pair a request is about: the caller's own, or `owner_access_key` if the caller may act for it.
///
/// # Errors
/// [`Error::InvalidParams`] for an unknown key, [`Error::Forbidden`] when it is out of the caller's reach.
pub async fn resolve_owner(
    control: &Control,
    caller: &Principal,
    owner_access_key: Option<&str>,
) -> Result<Arc<Principal>> {
    let Some(key) = owner_access_key.filter(|key| *key != caller.access_key.as_str()) else {
        return Ok(Arc::new(caller.clone()));
    };
    let Some(credential) = control.identity().credential(key).await? else {
        return Err(Error::invalid("Unknown owner access key"));
    };
    may_act_for(caller, credential.principal.role, &credential.principal.domain)?;
    Ok(Arc::clone(&credential.principal))
}

fn may_act_for(caller: &Principal, owner_role: UserRole, owner_domain: &str) -> Result<()> {
    match caller.role {
        UserRole::Superadmin => Ok(()),
        UserRole::Admin if caller.domain != owner_domain => Err(Error::Forbidden(
            "Domain-admins can perform operations on behalf of other users in the same domain only.".to_owned(),
        )),
        UserRole::Admin if owner_role == UserRole::Superadmin => {
            Err(Error::Forbidden("Domain-admins cannot perform operations on behalf of super-admins.".to_owned()))
        }
        UserRole::Admin => Ok(()),
        UserRole::User | UserRole::Monitor => {
            Err(Error::Forbidden("Only admins can perform operations on behalf of other users.".to_owned()))
        }
    }
}

/// The project in which `requester` wants to make something that `owner` will own.
///
/// # Errors
/// [`Error::InvalidParams`] when domain or project are unknown, inactive, or not the owner's.
pub async fn check_domain_and_project(
    control: &Control,
    requester: &Principal,
    owner: &Principal,
    domain: &str,
    project: &str,
) -> Result<ProjectRow> {
    find_project(&mut control.store().reader(), requester, owner, domain, project).await
}

async fn find_project<S: Sql>(
    sql: &mut S,
    requester: &Principal,
    owner: &Principal,
    domain: &str,
    project: &str,
) -> Result<ProjectRow> {
    // For themselves, administrators are users like any other; only for others their owner's role counts.
    let role = if requester.access_key == owner.access_key { UserRole::User } else { owner.role };
    let invalid_domain = || Error::invalid("Invalid domain");
    let invalid_group = || Error::invalid("Invalid group");
    if !domains::get(sql, &owner.domain).await?.is_some_and(|d| d.is_active) {
        return Err(invalid_domain());
    }
    match role {
        UserRole::Superadmin if domain != owner.domain => {
            if !domains::get(sql, domain).await?.is_some_and(|d| d.is_active) {
                return Err(invalid_domain());
            }
        }
        UserRole::Superadmin => {}
        UserRole::Admin if domain != owner.domain => {
            return Err(Error::invalid("You can only set the domain to the owner's domain."));
        }
        UserRole::Admin => {}
        UserRole::User | UserRole::Monitor => {
            if domain != owner.domain {
                return Err(Error::invalid("You can only set the domain to your domain."));
            }
        }
    }
    let row = projects::by_name(sql, domain, project).await?.filter(|p| p.is_active).ok_or_else(invalid_group)?;
    let must_be_member = matches!(role, UserRole::User | UserRole::Monitor);
    if must_be_member && !projects::is_member(sql, row.id, owner.user_id).await? {
        return Err(invalid_group());
    }
    Ok(row)
}

/// Only superadmins may.
///
/// # Errors
/// [`Error::Forbidden`] for anybody else.
pub fn require_superadmin(caller: &Principal) -> Result<()> {
    if caller.is_superadmin() {
        return Ok(());
    }
    Err(Error::Forbidden("superadmin privilege required".to_owned()))
}

/// A change that only superadmins may make.
///
/// # Errors
/// [`Error::InsufficientPrivilege`] for anybody else; as a mutation's result it is
/// `no permission to execute …`.
pub(crate) fn superadmin_changes(caller: &Principal) -> Result<()> {
    if caller.is_superadmin() {
        return Ok(());
    }
    Err(Error::InsufficientPrivilege("superadmin privilege required".to_owned()))
}

/// A change that superadmins may make, and administrators in their own domain.
///
/// # Errors
/// As [`superadmin_changes`].
pub(crate) fn admin_changes(caller: &Principal, domain: &str) -> Result<()> {
    match caller.role {
        UserRole::Superadmin => Ok(()),
        UserRole::Admin if caller.domain == domain => Ok(()),
        _ => Err(Error::InsufficientPrivilege("admin privilege over the domain required".to_owned())),
    }
}

/// What a scoped query is confined to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Only this domain.
    pub domain: Option<String>,
    /// Only this user, by whichever key the query uses (access key, e-mail address or id).
    pub user_key: Option<String>,
}

impl Scope {
    /// The scope of a list: by role, `domain_name` and the key of a user are free, forced or refused.
    /// `own_key` is the caller's own value of that key.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when the caller asks for what is out of reach, [`Error::InvalidParams`]
    /// for roles that have no such queries.
    pub fn for_list(
        caller: &Principal,
        domain_name: Option<&str>,
        user_key: Option<&str>,
        own_key: &str,
    ) -> Result<Self> {
        let forbidden = || Error::Forbidden(String::new());
        let own_domain = || match domain_name {
            Some(domain) if domain != caller.domain => Err(forbidden()),
            _ => Ok(Some(caller.domain.clone())),
        };
        match caller.role {
            UserRole::Superadmin => {
                Ok(Self { domain: domain_name.map(str::to_owned), user_key: user_key.map(str::to_owned) })
            }
            UserRole::Admin => Ok(Self { domain: own_domain()?, user_key: user_key.map(str::to_owned) }),
            UserRole::User => {
                let domain = own_domain()?;
                if user_key.is_some_and(|key| key != own_key) {
                    return Err(forbidden());
                }
                Ok(Self { domain, user_key: Some(own_key.to_owned()) })
            }
            UserRole::Monitor => Err(Error::invalid("Unknown client role")),
        }
    }

    /// As [`Scope::for_list`] for queries of one object: without a key it is the caller's own.
    ///
    /// # Errors
    /// As [`Scope::for_list`].
    pub fn for_one(
        caller: &Principal,
        domain_name: Option<&str>,
        user_key: Option<&str>,
        own_key: &str,
    ) -> Result<Self> {
        let mut scope = Self::for_list(caller, domain_name, user_key, own_key)?;
        scope.user_key.get_or_insert_with(|| own_key.to_owned());
        Ok(scope)
    }
}

/// A network as users write it: CIDR, a single address, or IPv4 with `*` for the last numbers.
/// `None` for anything else, also for a CIDR with host bits.
pub fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    if text.contains('*') {
        let parts: Vec<&str> = text.split('.').collect();
        let stars = parts.iter().position(|p| *p == "*")?;
        if parts.len() != 4 || parts[stars..].iter().any(|p| *p != "*") {
            return None;
        }
        let address = text.replace('*', "0").parse().ok()?;
        let bits = u8::try_from(stars * 8).ok()?;
        return Ipv4Net::new(address, bits).ok().map(IpNet::V4);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    text.parse::<IpNet>().ok().filter(|net| net.addr() == net.network())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_model::UserId;
    use quarterdeck_store::testing;

    use super::*;
    use crate::seed;

    fn principal(role: UserRole, domain: &str, key: &str) -> Principal {
        Principal {
            access_key: key.into(),
            user_id: UserId::new(),
            email: format!("{key}@x"),
            role,
            domain: domain.into(),
            is_admin: false,
            resource_policy: "default".into(),
            rate_limit: 1,
        }
    }

    #[test]
    fn acting_for_others() {
        use UserRole::{Admin, Monitor, Superadmin, User};
        let may = |caller, own: &str, role, other: &str| may_act_for(&principal(caller, own, "k"), role, other).is_ok();
        assert!(may(Superadmin, "a", Superadmin, "b"));
        assert!(may(Admin, "a", User, "a") && may(Admin, "a", Admin, "a"));
        assert!(!may(Admin, "a", User, "b") && !may(Admin, "a", Superadmin, "a"));
        assert!(!may(User, "a", User, "a") && !may(Monitor, "a", User, "a"));
    }

    #[test]
    fn scopes_by_role() {
        use UserRole::{Admin, Monitor, Superadmin, User};
        let scope = |role, domain, key| Scope::for_list(&principal(role, "d", "me"), domain, key, "me");
        let is = |domain: Option<&str>, key: Option<&str>| Scope {
            domain: domain.map(str::to_owned),
            user_key: key.map(str::to_owned),
        };
        assert_eq!(scope(Superadmin, None, None).unwrap(), is(None, None));
        assert_eq!(scope(Superadmin, Some("x"), Some("k")).unwrap(), is(Some("x"), Some("k")));
        assert_eq!(scope(Admin, None, Some("k")).unwrap(), is(Some("d"), Some("k")));
        assert!(scope(Admin, Some("x"), None).is_err());
        assert_eq!(scope(User, None, None).unwrap(), is(Some("d"), Some("me")));
        assert!(scope(User, None, Some("k")).is_err() && scope(User, Some("x"), None).is_err());
        assert!(matches!(scope(Monitor, None, None), Err(Error::InvalidParams { .. })));
        let one = Scope::for_one(&principal(Superadmin, "d", "me"), None, None, "me").unwrap();
        assert_eq!(one, is(None, Some("me")));
    }

    #[test]
    fn networks() {
        let is = |text: &str, expected: &str| assert_eq!(network(text).unwrap().to_string(), expected, "{text}");
        is("10.0.0.0/8", "10.0.0.0/8");
        is("10.1.2.3", "10.1.2.3/32");
        is("::1", "::1/128");
        is("fd00::/8", "fd00::/8");
        is("192.10.*.*", "192.10.0.0/16");
        for bad in ["10.0.0.1/8", "1.2.3", "*", "1.*.3.4", "x", "", "10.0.0.0/33", "1.2.3.4.*"] {
            assert!(network(bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn projects_are_checked_against_the_owner() {
        for db in testing::databases().await {
            seed::load(&db.store, &seed::tests::conformance_seed()).await.unwrap();
            let sql = &mut db.store.reader();
            let user = quarterdeck_store::users::by_email(sql, "user@conf.test").await.unwrap().unwrap();
            let member = Principal { user_id: user.id, ..principal(UserRole::User, "default", "AKIA1") };
            let stranger = principal(UserRole::User, "default", "AKIA2");
            let admin = principal(UserRole::Admin, "default", "AKIA3");
            let superadmin = principal(UserRole::Superadmin, "default", "AKIA4");
            let msg = |r: Result<ProjectRow>| match r {
                Ok(row) => row.name,
                Err(Error::InvalidParams { msg, .. }) => msg,
                Err(other) => panic!("{other}"),
            };
            assert_eq!(msg(find_project(sql, &member, &member, "default", "default").await), "default");
            assert_eq!(msg(find_project(sql, &stranger, &stranger, "default", "default").await), "Invalid group");
            assert_eq!(msg(find_project(sql, &superadmin, &superadmin, "default", "default").await), "Invalid group");
            assert_eq!(msg(find_project(sql, &superadmin, &admin, "default", "default").await), "default");
            assert_eq!(msg(find_project(sql, &admin, &superadmin, "nope", "default").await), "Invalid domain");
            assert_eq!(
                msg(find_project(sql, &member, &member, "other", "default").await),
                "You can only set the domain to your domain."
            );
            let lost = principal(UserRole::User, "gone", "AKIA5");
            assert_eq!(msg(find_project(sql, &lost, &lost, "gone", "default").await), "Invalid domain");
        }
    }
}
