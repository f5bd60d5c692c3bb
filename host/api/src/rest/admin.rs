//! `/admin/gql` and its predecessor `/admin/graphql`.

use crate::call::{Answer, Call, ok};
use crate::graphql::Outcome;
use crate::params::kinds::{any_text, nullable, object, text};
use crate::route::Access::Auth;
use crate::route::Gate::Open;
use crate::route::{Route, post};
use crate::wire::{GRAPHQL_ERROR, Problem};

pub(crate) fn routes() -> Vec<Route> {
    vec![post("/admin/gql", Auth, Open, standard), post("/admin/graphql", Auth, Open, legacy)]
}

async fn run(call: &mut Call) -> Result<Outcome, Problem> {
    let mut params = call.untold_params().await?;
    let query = params.required(&["query"], text);
    if !query.is_empty() && query.trim().is_empty() {
        params.fault("query", "blank value is not allowed");
    }
    let variables = params.optional(&["variables"], None, nullable(object));
    let operation = params.optional(&["operation_name", "operationName"], None, nullable(any_text));
    params.finish()?;
    let caller = call.caller()?;
    let operation = operation.filter(|name| !name.is_empty());
    let schema = &call.app().schema;
    Ok(Box::pin(schema.execute(caller, query, operation, variables.unwrap_or_default())).await)
}

/// Errors stand beside the data, and the status is 200 in any case.
async fn standard(mut call: Call) -> Answer {
    ok(&run(&mut call).await?)
}

/// The bare data; with any error, a problem and no data.
async fn legacy(mut call: Call) -> Answer {
    let outcome = run(&mut call).await?;
    if outcome.errors.is_empty() {
        return ok(&outcome.data);
    }
    let errors = serde_json::to_value(&outcome.errors).map_err(|error| Problem::internal(error.to_string()))?;
    Err(Problem::new(GRAPHQL_ERROR).data(errors))
}
