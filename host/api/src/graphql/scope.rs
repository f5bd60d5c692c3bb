//! Who may ask for what, where a query has rules of its own. The usual rules are `control::scope`'s.

use async_graphql::Context;
use quarterdeck_control::{Error, Principal, scope};
use quarterdeck_model::UserRole;

use super::caller;
use super::fault::{Answer, Fault};
use crate::wire;

/// For superadmins only.
pub(crate) fn superadmin(ctx: &Context<'_>) -> Answer<()> {
    Ok(scope::require_superadmin(caller(ctx))?)
}

/// The domain of a query for administrators: any for superadmins, their own for domain administrators.
pub(crate) fn administered(caller: &Principal, domain: Option<String>) -> Answer<Option<String>> {
    let low = || Fault::class(wire::INSUFFICIENT_PRIVILEGE);
    match caller.role {
        UserRole::Superadmin => Ok(domain),
        UserRole::Admin if domain.as_ref().is_some_and(|d| *d != caller.domain) => Err(low()),
        UserRole::Admin => Ok(Some(caller.domain.clone())),
        UserRole::User => Err(low()),
        UserRole::Monitor => Err(unknown_role()),
    }
}

/// What roles that no query knows are told.
pub(crate) fn unknown_role() -> Fault {
    Error::invalid("Unknown client role").into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use quarterdeck_model::UserId;

    fn principal(role: UserRole) -> Principal {
        Principal {
            access_key: "AK".into(),
            user_id: UserId::new(),
            email: "me@x".to_owned(),
            role,
            domain: "mine".to_owned(),
            is_admin: false,
            resource_policy: "default".to_owned(),
            rate_limit: 1,
        }
    }

    #[test]
    fn lists_for_administrators() {
        let ask = |role, domain: Option<&str>| administered(&principal(role), domain.map(str::to_owned));
        assert_eq!(ask(UserRole::Superadmin, None).unwrap(), None);
        assert_eq!(ask(UserRole::Superadmin, Some("other")).unwrap().as_deref(), Some("other"));
        assert_eq!(ask(UserRole::Admin, None).unwrap().as_deref(), Some("mine"));
        assert_eq!(ask(UserRole::Admin, Some("other")).unwrap_err().0, "Insufficient privilege.");
        assert_eq!(ask(UserRole::User, None).unwrap_err().0, "Insufficient privilege.");
        let fault = ask(UserRole::Monitor, None).unwrap_err();
        assert_eq!(fault.0, "Missing or invalid API parameters. (Unknown client role)");
    }
}
