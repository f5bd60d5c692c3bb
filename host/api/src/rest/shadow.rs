//! `/plugins/shadow` and `/plugins/promote`: candidates beside those that decide.

use quarterdeck_control::shadow::{self, Figures, Summary};
use quarterdeck_control::store::shadow::RunRow;
use serde_json::{Value, json};

use super::plugins::{switched_document, target, target_document};
use crate::call::{Answer, Call, ok};
use crate::openapi::{about, documents};
use crate::params::kinds::{boolish, coerced_int, nullable, text};
use crate::route::Access::Superadmin;
use crate::route::Gate::Open;
use crate::route::{Route, get, post};

/// Runs that one answer holds at most, and unless asked for fewer or more.
const MOST_RUNS: i64 = 100;
const RUNS: i64 = 20;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/plugins/shadow", Superadmin, Open, list).documented(
            about("Candidates that watch what is decided, with what they would have done")
                .answers::<documents::Shadows>(200, "All of them."),
        ),
        get("/plugins/shadow/{binding}", Superadmin, Open, runs).documented(
            about("A candidate, and the rounds, ticks and events in which it differed")
                .query("before", "integer", "Only runs with smaller numbers: the next page.")
                .query("limit", "integer", "Runs on a page, 1 to 100; 20 unless said otherwise.")
                .answers::<documents::ShadowRuns>(200, "The newest first."),
        ),
        post("/plugins/promote", Superadmin, Open, promote).documented(
            about("Lets a candidate that watches decide, with the configuration that it watched with")
                .takes::<documents::PromoteRequest>()
                .answers::<documents::Switched>(200, "It serves."),
        ),
    ]
}

async fn list(call: Call) -> Answer {
    let caller = call.caller()?;
    let all = shadow::list(call.control(), &caller).await?;
    ok(&json!({"shadows": all.iter().map(summary_document).collect::<Vec<_>>()}))
}

/// `before` and `limit` page through the runs; `next` is the next page's `before`.
async fn runs(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let before = params.optional(&["before"], None, nullable(coerced_int(1..=i64::MAX)));
    let limit = params.optional(&["limit"], RUNS, coerced_int(1..=MOST_RUNS));
    params.finish()?;
    let caller = call.caller()?;
    let (summary, runs) = shadow::runs(call.control(), &caller, call.arg(0), before, limit).await?;
    let next = runs.last().map(|run| run.id).filter(|_| runs.len() as i64 == limit);
    let runs = runs.iter().map(run_document).collect::<Result<Vec<_>, _>>()?;
    ok(&json!({"shadow": summary_document(&summary), "runs": runs, "next": next}))
}

async fn promote(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let plugin = params.required(&["plugin"], text);
    let target = target(&mut params);
    let force = params.optional(&["force"], false, boolish);
    params.finish()?;
    let caller = call.caller()?;
    ok(&switched_document(&shadow::promote(call.control(), &caller, &plugin, &target, force).await?))
}

fn summary_document(summary: &Summary) -> Value {
    let (binding, totals) = (&summary.binding, &summary.totals);
    json!({
        "binding": binding.id,
        "plugin": binding.plugin,
        "version": summary.revision.as_ref().map(|r| r.version.as_str()),
        "kind": binding.kind,
        "digest": binding.digest,
        "target": target_document(&binding.target),
        "config": binding.config,
        "bound_by": binding.bound_by,
        "bound_at": binding.bound_at.iso(),
        "last_at": totals.last_at.map(|at| quarterdeck_model::Timestamp(at).iso()),
        "figures": Figures::of(totals),
        "rested": totals.rested.as_ref().map(|(at, reason)| json!({"at": at.iso(), "reason": reason})),
    })
}

fn run_document(row: &RunRow) -> Result<Value, crate::wire::Problem> {
    let run = &row.run;
    Ok(json!({
        "id": row.id,
        "round": run.round,
        "at": quarterdeck_model::Timestamp(run.at).iso(),
        "outcome": run.outcome,
        "same": run.same,
        "elsewhere": run.elsewhere,
        "only_live": run.only_live,
        "only_candidate": run.only_candidate,
        "live": {
            "waited_ms": run.live_waited_ms, "duration_us": run.live_us, "fragmentation": run.live_fragmentation,
        },
        "candidate": {
            "waited_ms": run.candidate_waited_ms, "duration_us": run.candidate_us,
            "fragmentation": run.candidate_fragmentation,
        },
        "details": shadow::details(row)?,
    }))
}
