//! `/plugins/drops`: what became of the files in the watched directories.

use quarterdeck_control::drops;
use quarterdeck_store::drops::DropRow;
use serde_json::{Value, json};

use crate::call::{Answer, Call, ok};
use crate::openapi::{about, documents};
use crate::route::Access::Superadmin;
use crate::route::Gate::Open;
use crate::route::{Route, get};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/plugins/drops", Superadmin, Open, list).documented(
            about("What became of the files in the watched directories")
                .answers::<documents::Drops>(200, "The newest 1000, newest first."),
        ),
    ]
}

async fn list(call: Call) -> Answer {
    let caller = call.caller()?;
    let rows = drops::list(call.control(), &caller).await?;
    ok(&json!({"drops": rows.iter().map(document).collect::<Vec<_>>()}))
}

fn document(row: &DropRow) -> Value {
    let (host, directory) = row.place.split_once(':').unwrap_or(("", &row.place));
    json!({
        "host": host,
        "directory": directory,
        "file": row.file,
        "digest": row.digest,
        "plugin": row.plugin,
        "state": row.state,
        "reason": row.reason,
        "binding": row.binding,
        "at": row.at.iso(),
    })
}
