//! `/resource`: presets, and what they would cost.

use quarterdeck_control::{presets, usage};
use serde_json::json;

use crate::call::{Answer, Call, ok};
use crate::params::kinds::{nullable, text};
use crate::route::Access::{Auth, Superadmin};
use crate::route::Gate::{Open, Reads};
use crate::route::{Route, get, post};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/resource/presets", Auth, Open, list),
        post("/resource/check-presets", Auth, Reads, check),
        post("/resource/recalculate-usage", Superadmin, Reads, recalculate),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&presets::list(call.control()).await?)
}

async fn check(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let scaling_group = params.optional(&["scaling_group"], None, nullable(text));
    let project = params.optional(&["group"], "default".to_owned(), text);
    params.finish()?;
    let caller = call.caller()?;
    ok(&presets::check(call.control(), &caller, scaling_group.as_deref(), &project).await?)
}

async fn recalculate(call: Call) -> Answer {
    usage::recalculate(call.control()).await?;
    ok(&json!({}))
}
