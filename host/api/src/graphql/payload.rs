//! What changes answer: `ok`, `msg` and often the thing itself.

use async_graphql::{Context, OutputType};
use futures::future::BoxFuture;
use quarterdeck_control::audit::{self, Act, Via};
use quarterdeck_control::{Error, manager};
use quarterdeck_model::UserRole;
use serde_json::{Map, Value as Json};

use super::fault::{Answer, Fault, Maybe};
use super::{caller, control};

/// The answer of a change.
pub(crate) trait Payload: OutputType + Sized {
    /// The type's name in lower case, as messages use it.
    fn noun() -> String {
        Self::type_name().to_ascii_lowercase()
    }
    /// An answer without a thing.
    fn new(ok: bool, msg: String) -> Self;
    /// Done.
    fn success() -> Self {
        Self::new(true, "success".to_owned())
    }
}

/// Defines payload types, with the thing that they carry.
macro_rules! payloads {
    ($($name:ident $({ $item:ident: $ty:ty })?),+ $(,)?) => {$(
        /// What the change of that name answers.
        #[derive(async_graphql::SimpleObject)]
        #[graphql(rename_fields = "snake_case")]
        pub(crate) struct $name {
            ok: Option<bool>,
            msg: Option<String>,
            $($item: Option<$ty>,)?
        }

        impl $crate::graphql::payload::Payload for $name {
            fn new(ok: bool, msg: String) -> Self {
                Self { ok: Some(ok), msg: Some(msg), $($item: None)? }
            }
        }

        $(impl $name {
            /// Done, and this is the thing.
            #[allow(dead_code, reason = "not every change has one")]
            fn done($item: $ty) -> Self {
                Self { ok: Some(true), msg: Some("success".to_owned()), $item: Some($item) }
            }
        })?
    )+};
}
pub(crate) use payloads;

/// Who may make a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Superadmins.
    Superadmin,
    /// Superadmins and domain administrators; `control` checks the domain.
    Admin,
}

impl Allowed {
    fn includes(self, role: UserRole) -> bool {
        match self {
            Allowed::Superadmin => role == UserRole::Superadmin,
            Allowed::Admin => matches!(role, UserRole::Superadmin | UserRole::Admin),
        }
    }
}

/// Makes a change: nobody while the server is frozen, nobody whose role is too low.
pub(crate) fn change<'a, P: Payload + 'a>(
    ctx: &'a Context<'_>,
    name: &'a str,
    allowed: Allowed,
    work: impl Future<Output = Result<P, Error>> + Send + 'a,
) -> BoxFuture<'a, Maybe<P>> {
    // Dozens of them would make each other's futures large.
    let work = Box::pin(work);
    Box::pin(async move { Some(audit::scope(act(ctx, name), run(ctx, name, allowed, work)).await) })
}

/// The change as the audit tells it: by whoever sent the request, with the field's arguments.
fn act(ctx: &Context<'_>, name: &str) -> Act {
    let actor = match audit::current() {
        Some(request) => request.actor().clone(),
        None => audit::actor(caller(ctx)),
    };
    // Arguments that make no sense never came here.
    let arguments = ctx.field().arguments().unwrap_or_default();
    let asked: Map<String, Json> = arguments
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.into_json().unwrap_or_default()))
        .filter(|(_, value)| !value.is_null())
        .collect();
    let named: Vec<_> = asked.iter().filter(|(_, value)| !value.is_object()).collect();
    let target = match &named[..] {
        [(_, Json::String(only))] => only.clone(),
        several => {
            let words: Vec<_> = several.iter().map(|(name, value)| format!("{name} {value}")).collect();
            words.join(", ").replace('"', "")
        }
    };
    Act::new(Via::Graphql, actor, name).on(target).with(audit::redacted(&Json::Object(asked)))
}

async fn run<P: Payload>(
    ctx: &Context<'_>,
    name: &str,
    allowed: Allowed,
    work: impl Future<Output = Result<P, Error>>,
) -> Answer<P> {
    manager::require_running(control(ctx)).await?;
    if !allowed.includes(caller(ctx).role) {
        return Ok(P::new(false, no_permission(name)));
    }
    match work.await {
        Ok(payload) => Ok(payload),
        Err(error) => refusal(error, name, &P::noun()).map(|msg| P::new(false, msg)),
    }
}

fn no_permission(name: &str) -> String {
    format!("no permission to execute {name}")
}

/// What a change that was refused answers; problems with its arguments are errors of the field.
fn refusal(error: Error, name: &str, noun: &str) -> Answer<String> {
    match error {
        Error::Integrity(_) => Ok(error.to_string()),
        Error::InsufficientPrivilege(_) => Ok(no_permission(name)),
        Error::BadRequest(msg) => Ok(msg),
        Error::NotFound { object: "environment image", .. } => Err(error.into()),
        Error::NotFound { .. } => Ok(format!("no matching {noun}")),
        Error::InvalidParams { msg, .. } => Err(Fault(msg)),
        Error::Store(error) => match error.violation() {
            Some((_, rule)) => Ok(format!("integrity error: {rule}")),
            None => Err(error.into()),
        },
        other => Err(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: Error) -> Result<String, String> {
        refusal(error, "modify_domain", "modifydomain").map_err(|fault| fault.0)
    }

    #[test]
    fn refusals_are_told_as_the_contract_says() {
        assert_eq!(told(Error::Integrity("taken".to_owned())), Ok("integrity error: taken".to_owned()));
        assert_eq!(
            told(Error::InsufficientPrivilege(String::new())),
            Ok("no permission to execute modify_domain".to_owned())
        );
        assert_eq!(told(Error::not_found("domain")), Ok("no matching modifydomain".to_owned()));
        assert_eq!(told(Error::BadRequest("nothing to update".to_owned())), Ok("nothing to update".to_owned()));
        assert_eq!(told(Error::invalid("'x' is not a valid UserRole")), Err("'x' is not a valid UserRole".to_owned()));
        assert_eq!(told(Error::not_found("environment image")), Err("No such environment image.".to_owned()));
        assert_eq!(
            told(Error::ServerFrozen),
            Err("The server is frozen due to maintenance. Please try again later.".to_owned())
        );
    }
}
