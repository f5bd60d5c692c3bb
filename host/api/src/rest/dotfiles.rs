//! `/user-config`, `/group-config` and `/domain-config`: dotfiles, and the bootstrap script.

use http::Method;
use quarterdeck_control::dotfiles::{self, Owner};
use quarterdeck_model::dotfile::{Dotfile, MAX_DATA, is_permission};
use serde_json::{Value, json};

use crate::call::{Answer, Call, ok};
use crate::params::kinds::{any_text, nullable, text, text_up_to};
use crate::params::{Fault, Params};
use crate::route::Access::{Admin, Auth};
use crate::route::Gate::Reads;
use crate::route::{Access, Route, get, post};
use crate::wire::Problem;

/// Whose dotfiles a path is about: how the request names them.
type Named = fn(&mut Params) -> Owner;

pub(crate) fn routes() -> Vec<Route> {
    let mut routes = vec![
        get("/user-config/bootstrap-script", Auth, Reads, bootstrap_script),
        post("/user-config/bootstrap-script", Auth, Reads, set_bootstrap_script),
    ];
    let families: [(&'static str, Access, Named); 3] = [
        ("/user-config/dotfiles", Auth, keypair),
        ("/group-config/dotfiles", Admin, project),
        ("/domain-config/dotfiles", Admin, domain),
    ];
    for (path, writers, named) in families {
        routes.extend([
            Route::new(Method::GET, path, Auth, Reads, move |call| read(call, named)),
            Route::new(Method::POST, path, writers, Reads, move |call| create(call, named)),
            Route::new(Method::PATCH, path, writers, Reads, move |call| update(call, named)),
            Route::new(Method::DELETE, path, writers, Reads, move |call| delete(call, named)),
        ]);
    }
    routes
}

fn keypair(params: &mut Params) -> Owner {
    Owner::Keypair { access_key: params.optional(&["owner_access_key"], None, nullable(text)) }
}

fn project(params: &mut Params) -> Owner {
    Owner::Project {
        project: params.required(&["group", "groupId", "group_id"], text),
        domain: params.optional(&["domain"], None, nullable(text)),
    }
}

fn domain(params: &mut Params) -> Owner {
    Owner::Domain { name: params.required(&["domain"], text) }
}

async fn read(mut call: Call, named: Named) -> Answer {
    let mut params = call.params().await?;
    let owner = named(&mut params);
    let path = params.optional(&["path"], None, nullable(text));
    params.finish()?;
    let caller = call.caller()?;
    if let Some(path) = path {
        let file = dotfiles::get(call.control(), &caller, &owner, &path).await?;
        return ok(&json!({ "path": file.path, "perm": file.perm, "data": file.data }));
    }
    let files = dotfiles::list(call.control(), &caller, &owner).await?;
    let entry = |f: &Dotfile| json!({ "path": f.path, "permission": f.perm, "data": f.data });
    ok(&files.iter().map(entry).collect::<Vec<_>>())
}

async fn create(mut call: Call, named: Named) -> Answer {
    let (owner, file) = owner_and_file(&mut call, named).await?;
    let caller = call.caller()?;
    dotfiles::create(call.control(), &caller, &owner, file).await?;
    ok(&json!({}))
}

async fn update(mut call: Call, named: Named) -> Answer {
    let (owner, file) = owner_and_file(&mut call, named).await?;
    let caller = call.caller()?;
    dotfiles::update(call.control(), &caller, &owner, file).await?;
    ok(&json!({}))
}

async fn delete(mut call: Call, named: Named) -> Answer {
    let mut params = call.params().await?;
    let owner = named(&mut params);
    let path = params.required(&["path"], text);
    params.finish()?;
    let caller = call.caller()?;
    dotfiles::delete(call.control(), &caller, &owner, &path).await?;
    ok(&json!({ "success": true }))
}

async fn owner_and_file(call: &mut Call, named: Named) -> Result<(Owner, Dotfile), Problem> {
    let mut params = call.params().await?;
    let owner = named(&mut params);
    let file = Dotfile {
        path: params.required(&["path"], text),
        perm: params.required(&["permission"], permission),
        data: params.required(&["data"], text_up_to(MAX_DATA)),
    };
    params.finish()?;
    Ok((owner, file))
}

fn permission(value: Value) -> Result<String, Fault> {
    let text = text(value)?;
    if is_permission(&text) { Ok(text) } else { Err("value does not match pattern ^[0-7]{3}$".into()) }
}

async fn bootstrap_script(call: Call) -> Answer {
    let caller = call.caller()?;
    ok(&dotfiles::bootstrap_script(call.control(), &caller).await?)
}

async fn set_bootstrap_script(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let script = params.required(&["script"], script);
    params.finish()?;
    let caller = call.caller()?;
    dotfiles::set_bootstrap_script(call.control(), &caller, &script).await?;
    ok(&json!({}))
}

fn script(value: Value) -> Result<String, Fault> {
    let text = any_text(value)?;
    if text.chars().count() > MAX_DATA {
        return Err(format!("String is longer than {MAX_DATA} characters").into());
    }
    Ok(text)
}
