//! `/plugins/rounds`: the flight recorder of scheduling rounds. Our own API, for superadmins.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use quarterdeck_control::rounds::{self, Candidate, Compared, Export, MAX_FUEL, MAX_ROUNDS, Side};
use quarterdeck_control::schedule::{REPLAY_FUEL, Recording};
use quarterdeck_store::rounds::{Filter, RoundRow};
use serde_json::{Value, json};

use crate::call::{Answer, Call, ok};
use crate::openapi::{About, about, documents};
use crate::params::Params;
use crate::params::kinds::{boolish, coerced_int, instant, nullable, object, one_of, text};
use crate::route::Access::Superadmin;
use crate::route::Gate::Open;
use crate::route::{Route, get, post};
use crate::wire::{OBJECT_NOT_FOUND, Problem};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/plugins/rounds", Superadmin, Open, list).documented(
            filtered(about("Scheduling rounds, newest first"))
                .query("limit", "integer", "Rounds on a page, 50 unless said otherwise.")
                .answers::<documents::Rounds>(200, "A page of them."),
        ),
        get("/plugins/rounds/export", Superadmin, Open, export).documented(
            filtered(about("Recordings of rounds, oldest first, as `quarterdeck plugin replay --rounds` reads them"))
                .query("id", "string", "Only these rounds: numbers with commas between.")
                .query("limit", "integer", "The newest so many, 50 unless said otherwise.")
                .query("pseudonymise", "boolean", "Replace names of people, projects, sessions and agents.")
                .query("compression", "string", "`zstd` for a compressed file; `none`.")
                .answers_with(200, "application/x-ndjson", "A recording on each line."),
        ),
        get("/plugins/rounds/{id}", Superadmin, Open, show).documented(
            about("A round, and what its recording holds")
                .query("decisions", "integer", "Decisions that are shown, 1000 unless said otherwise.")
                .answers::<documents::Round>(200, "The round."),
        ),
        post("/plugins/rounds/{id}/replay", Superadmin, Open, replay).documented(
            about("What a stored revision would have decided, beside what was decided")
                .takes::<documents::ReplayRequest>()
                .answers::<documents::Compared>(200, "Both sides, and the sessions that fare differently."),
        ),
        post("/plugins/rounds/{id}/diff", Superadmin, Open, diff).documented(
            about("Two stored revisions or configurations side by side")
                .takes::<documents::DiffRequest>()
                .answers::<documents::Compared>(200, "Both sides, and the sessions that fare differently."),
        ),
    ]
}

/// The parameters by which rounds are chosen.
fn filtered(about: About) -> About {
    about
        .query("scaling_group", "string", "Only rounds of this group.")
        .query("plugin", "string", "Only rounds that this policy decided.")
        .query("outcome", "string", "Only rounds that came out like this.")
        .query("since", "string", "Only rounds since then (RFC 3339).")
        .query("before", "integer", "Only rounds with smaller numbers: the next page.")
        .query("recorded", "boolean", "Only rounds whose recordings are kept.")
}

/// Rounds on a page unless the client says otherwise.
const PAGE: i64 = 50;
/// Rounds that one export may name.
const EXPORT_IDS: usize = 100;
/// Decisions that a look at a round shows unless the client says otherwise.
const DECISIONS: i64 = 1000;

/// Newest first; `next` is the `before` of the next page.
async fn list(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let filter = filter(&mut params);
    let limit = params.optional(&["limit"], PAGE, coerced_int(1..=MAX_ROUNDS));
    params.finish()?;
    let caller = call.caller()?;
    let rows = rounds::list(call.control(), &caller, &filter, limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last().map(|row| row.id)).flatten();
    ok(&json!({"rounds": rows.iter().map(row_document).collect::<Vec<_>>(), "next": next}))
}

fn filter(params: &mut Params) -> Filter {
    Filter {
        scaling_group: params.optional(&["scaling_group"], None, nullable(text)),
        plugin: params.optional(&["plugin"], None, nullable(text)),
        outcome: params.optional(&["outcome"], None, nullable(text)),
        since: params.optional(&["since"], None, nullable(instant)),
        before: params.optional(&["before"], None, nullable(coerced_int(1..=i64::MAX))),
        recorded: params.optional(&["recorded"], false, boolish),
    }
}

fn id(call: &Call) -> Result<i64, Problem> {
    let id = call.arg(0);
    id.parse().map_err(|_| Problem::new(OBJECT_NOT_FOUND).msg(format!("{id} is no round")))
}

async fn show(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let decisions = params.optional(&["decisions"], DECISIONS, coerced_int(0..=100_000));
    params.finish()?;
    let (caller, id) = (call.caller()?, id(&call)?);
    let shown = rounds::show(call.control(), &caller, id).await?;
    let mut document = row_document(&shown.row);
    if let Some(recording) = shown.recording {
        let work = tokio::task::spawn_blocking(move || recording_document(&recording, decisions as usize));
        document["recording"] = work.await.map_err(|error| Problem::internal(error.to_string()))?;
    }
    ok(&document)
}

/// Recordings as lines of JSON, oldest first, as `quarterdeck plugin replay --rounds` reads them.
async fn export(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let chosen = params.optional(&["id"], Vec::new(), ids);
    let filter = filter(&mut params);
    let limit = params.optional(&["limit"], PAGE, coerced_int(1..=MAX_ROUNDS));
    let pseudonymise = params.optional(&["pseudonymise"], false, boolish);
    let asked = params.optional(&["compression"], "", one_of(&["", "none", "zstd"], "compression")) == "zstd";
    params.finish()?;
    let caller = call.caller()?;
    let accepts = call.header("accept-encoding").split(',').any(|coding| {
        let (coding, quality) = coding.split_once(';').unwrap_or((coding, ""));
        coding.trim().eq_ignore_ascii_case("zstd") && !matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    });
    let export = Export::begin(call.control(), &caller, pseudonymise, asked || accepts).await?;
    // What can go wrong is looked for now: once the answer has begun, it can only break off.
    let ids = match chosen.as_slice() {
        [] => rounds::recorded(call.control(), &caller, filter, limit).await?,
        [one] => {
            rounds::show(call.control(), &caller, *one).await?;
            chosen
        }
        several => {
            rounds::all_recorded(call.control(), &caller, several).await?;
            chosen
        }
    };
    let state = (call.control().clone(), Arc::new(export), ids.into_iter());
    let lines = futures::stream::try_unfold(state, |(control, export, mut ids)| async move {
        for id in ids.by_ref() {
            if let Some(line) = export.line(&control, id).await? {
                return Ok::<_, quarterdeck_control::Error>(Some((bytes::Bytes::from(line), (control, export, ids))));
            }
        }
        Ok(None)
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    let media_type = if asked { "application/zstd" } else { "application/x-ndjson" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if accepts && !asked {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    Ok(response)
}

/// Ids with commas between them.
fn ids(value: Value) -> Result<Vec<i64>, Value> {
    let text = text(value)?;
    let ids: Result<Vec<i64>, _> = text.split(',').map(|id| id.trim().parse()).collect();
    match ids {
        Ok(ids) if ids.len() <= EXPORT_IDS => Ok(ids),
        Ok(_) => Err(Value::from(format!("value has more than {EXPORT_IDS} ids"))),
        Err(_) => Err(Value::from("value is no list of ids")),
    }
}

/// What a stored revision would have decided, beside what was decided.
async fn replay(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let right = Side::Candidate(candidate(&mut params));
    compare(call, params, Side::Recorded, right).await
}

/// Two stored revisions or configurations side by side; a missing side, or `null`, is what was decided.
async fn diff(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let left = side(&mut params, "left");
    let right = side(&mut params, "right");
    compare(call, params, left, right).await
}

async fn compare(call: Call, mut params: Params, left: Side, right: Side) -> Answer {
    let fuel = params.optional(&["fuel"], REPLAY_FUEL as i64, coerced_int(1..=MAX_FUEL as i64));
    params.finish()?;
    let (caller, id) = (call.caller()?, id(&call)?);
    let compared: Compared = rounds::compare(call.control(), &caller, id, left, right, fuel as u64).await?;
    ok(&compared)
}

fn candidate(params: &mut Params) -> Candidate {
    Candidate {
        plugin: params.optional(&["plugin"], None, nullable(text)),
        config: params.optional(&["config"], None, nullable(object)),
    }
}

fn side(params: &mut Params, name: &str) -> Side {
    match params.optional(&[name], None, nullable(object)) {
        None => Side::Recorded,
        Some(map) => {
            let mut inner = Params::new(map);
            let candidate = candidate(&mut inner);
            if let Err(faults) = inner.finish() {
                params.fault(name, faults.sentence());
            }
            Side::Candidate(candidate)
        }
    }
}

fn row_document(row: &RoundRow) -> Value {
    json!({
        "id": row.id,
        "at": row.at.iso(),
        "scaling_group": row.scaling_group,
        "plugin": row.plugin,
        "version": row.version,
        "digest": row.digest,
        "outcome": row.outcome,
        "pending": row.pending,
        "placed": row.placed,
        "deferred": row.deferred,
        "refused": row.refused,
        "stale": row.stale,
        "duration_us": row.duration_us,
        "recorded": row.bytes.is_some(),
        "recording_bytes": row.bytes,
    })
}

/// What people want to see of a recording: names instead of rows, and no matrices.
fn recording_document(recording: &Recording, limit: usize) -> Value {
    let mut decisions = rounds::decisions(recording);
    let left_out = decisions.len().saturating_sub(limit);
    decisions.truncate(limit);
    let snapshot = &recording.snapshot;
    json!({
        "format": recording.format,
        "round": snapshot.round,
        "plugin": recording.plugin,
        "call": recording.call,
        "sizes": {
            "pending": snapshot.pending.count,
            "running": snapshot.running.count,
            "agents": snapshot.agents.count,
            "owners": snapshot.owners.count,
            "projects": snapshot.projects.count,
            "domains": snapshot.domains.count,
        },
        "fallback": recording.fallback.as_ref().map(|fallback| &fallback.plugin),
        "stale": recording.stale.iter().map(|row| &recording.facts.sessions[*row as usize].id).collect::<Vec<_>>(),
        "malformed": recording.facts.malformed,
        "metrics": rounds::metrics(recording),
        "timings": recording.timings,
        "journal": recording.journal,
        "decisions": decisions,
        "decisions_left_out": left_out,
    })
}
