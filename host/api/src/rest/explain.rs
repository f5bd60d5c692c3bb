//! `/plugins/why` and `/plugins/dry-run`: why a session waits, and whether one would. For everybody, about sessions of
//! their own.

use quarterdeck_control::{dry_run, explain};
use quarterdeck_model::session::RESERVED_NAME;

use super::session_create;
use crate::call::{Answer, Call, ok};
use crate::openapi::{about, documents};
use crate::params::kinds::{boolish, nullable, text};
use crate::route::Access::Auth;
use crate::route::Gate::Reads;
use crate::route::{Route, get, post};
use crate::wire::{INVALID_API_PARAMS, Problem};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/plugins/why/{session}", Auth, Reads, why).documented(
            about("Why a session waits, or what it does instead")
                .in_detail("`session` is a name or an id.")
                .query("owner_access_key", "string", "Whose session, for those who may act for others.")
                .answers::<documents::Why>(200, "Reasons, agents, and what the scheduler says."),
        ),
        post("/plugins/dry-run", Auth, Reads, rehearse).documented(
            about("Whether a session would start now, where, or what is missing; nothing is written")
                .takes::<documents::DryRunRequest>()
                .answers::<documents::DryRun>(200, "What it would come to."),
        ),
    ]
}

async fn why(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let owner = params.optional(&["owner_access_key"], None, nullable(text));
    params.finish()?;
    let caller = call.caller()?;
    ok(&explain::why(call.control(), &caller, call.arg(0), owner.as_deref()).await?)
}

/// The body is that of `POST /session`, with `ahead`: before all others instead of behind them.
async fn rehearse(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let ahead = params.optional(&["ahead"], false, boolish);
    let request = session_create::read(&mut params, call.version());
    params.finish()?;
    if request.name == RESERVED_NAME {
        let msg = format!("Requested session ID {RESERVED_NAME} is reserved word");
        return Err(Problem::new(INVALID_API_PARAMS).msg(msg));
    }
    let caller = call.caller()?;
    ok(&dry_run::dry_run(call.control(), &caller, &request, ahead).await?)
}
