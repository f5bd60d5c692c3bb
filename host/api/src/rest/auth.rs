//! `/auth`: log in and out, sign up, passwords, SSH key pairs.

use quarterdeck_control::auth::{self, Authorize, Signup};
use quarterdeck_control::keypairs;
use quarterdeck_model::ProjectId;
use serde_json::json;

use crate::call::{Answer, Call, created, ok};
use crate::params::kinds::{any_text, nullable, one_of, text, uuid};
use crate::route::Access::{Anonymous, Auth};
use crate::route::Gate::Open;
use crate::route::{Route, get, patch, post};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/auth", Auth, Open, echo),
        post("/auth", Auth, Open, echo),
        get("/auth/test", Auth, Open, echo),
        post("/auth/test", Auth, Open, echo),
        get("/auth/role", Auth, Open, role),
        post("/auth/authorize", Anonymous, Open, authorize),
        post("/auth/signup", Anonymous, Open, signup),
        post("/auth/signout", Auth, Open, signout),
        post("/auth/update-password", Auth, Open, update_password),
        post("/auth/update-password-no-auth", Anonymous, Open, update_expired_password),
        post("/auth/update-full-name", Auth, Open, update_full_name),
        get("/auth/ssh-keypair", Auth, Open, ssh_public_key),
        patch("/auth/ssh-keypair", Auth, Open, new_ssh_keypair),
        post("/auth/ssh-keypair", Auth, Open, put_ssh_keypair),
    ]
}

async fn echo(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let echo = params.required(&["echo"], text);
    params.finish()?;
    ok(&json!({ "authorized": "yes", "echo": echo }))
}

async fn role(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let group = params.optional(&["group"], None, nullable(uuid));
    params.finish()?;
    let caller = call.caller()?;
    let roles = auth::roles(call.control(), &caller, group.map(ProjectId)).await?;
    ok(&json!({
        "global_role": roles.global_role,
        "domain_role": roles.domain_role,
        "group_role": roles.group_role,
    }))
}

async fn authorize(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    params.allow_extra();
    let request = Authorize {
        kind: params.required(&["type"], one_of(&["keypair", "jwt"], "AuthTokenTypes")).to_owned(),
        domain: params.required(&["domain"], text),
        username: params.required(&["username"], text),
        password: params.required(&["password"], text),
    };
    params.finish()?;
    let client = call.client_address()?;
    let login = auth::authorize(call.control(), request, client).await?;
    ok(&json!({
        "data": {
            "access_key": login.access_key,
            "secret_key": login.secret_key,
            "role": login.role.as_str(),
            "status": login.status.as_str(),
        }
    }))
}

async fn signup(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    params.allow_extra();
    let request = Signup {
        domain: params.required(&["domain"], text),
        email: params.required(&["email"], text),
        password: params.required(&["password"], text),
        username: params.optional(&["username"], None, |v| text(v).map(Some)),
        full_name: params.optional(&["full_name"], None, |v| any_text(v).map(Some)),
        description: params.optional(&["description"], None, |v| any_text(v).map(Some)),
    };
    params.finish()?;
    let language = Some(call.header("accept-language"));
    let keypair = auth::signup(call.control(), request, language).await?;
    created(&json!({ "access_key": keypair.access_key, "secret_key": keypair.secret_key }))
}

async fn signout(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let email = params.required(&["email", "username"], text);
    let password = params.required(&["password"], text);
    params.finish()?;
    let caller = call.caller()?;
    auth::signout(call.control(), &caller, &email, &password).await?;
    ok(&json!({}))
}

async fn update_password(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let old = params.required(&["old_password"], text);
    let new = params.required(&["new_password"], text);
    let again = params.required(&["new_password2"], text);
    params.finish()?;
    let caller = call.caller()?;
    auth::update_password(call.control(), &caller, &old, &new, &again).await?;
    ok(&json!({}))
}

async fn update_expired_password(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let domain = params.required(&["domain"], text);
    let email = params.required(&["username"], text);
    let current = params.required(&["current_password"], text);
    let new = params.required(&["new_password"], text);
    params.finish()?;
    let client = call.client_address()?;
    let changed_at = auth::update_expired_password(call.control(), client, &domain, &email, &current, &new).await?;
    created(&json!({ "password_changed_at": changed_at.iso() }))
}

/// The e-mail address is asked for but says nothing: it is the caller's name that changes.
async fn update_full_name(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    params.required(&["email"], text);
    let full_name = params.required(&["full_name"], text);
    params.finish()?;
    let caller = call.caller()?;
    auth::update_full_name(call.control(), &caller, &full_name).await?;
    ok(&json!({}))
}

async fn ssh_public_key(call: Call) -> Answer {
    let caller = call.caller()?;
    let key = keypairs::ssh_public_key(call.control(), &caller).await?;
    ok(&json!({ "ssh_public_key": key }))
}

async fn new_ssh_keypair(call: Call) -> Answer {
    let caller = call.caller()?;
    let pair = keypairs::renew_ssh_keypair(call.control(), &caller).await?;
    ok(&json!({ "ssh_public_key": pair.public, "ssh_private_key": pair.private }))
}

async fn put_ssh_keypair(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let public = params.required(&["pubkey"], text);
    let private = params.required(&["privkey"], text);
    params.finish()?;
    let caller = call.caller()?;
    let pair = keypairs::set_ssh_keypair(call.control(), &caller, &public, &private).await?;
    ok(&json!({ "ssh_public_key": pair.public, "ssh_private_key": pair.private }))
}
