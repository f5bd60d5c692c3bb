//! `quarterdeck plugin drops`: what became of the files in the watched directories.

use hyper::Method;
use serde_json::Value as Json;

use super::show::{short, text};
use crate::client::ApiClient;
use crate::table;

pub(super) async fn run(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let answer = client.call(Method::GET, "/plugins/drops", None).await?;
    if as_json {
        table::json(&answer)?;
        return Ok(());
    }
    let drops = answer["drops"].as_array().cloned().unwrap_or_default();
    let rows = drops.iter().map(|d| {
        vec![
            text(d, "file"),
            text(d, "host"),
            text(d, "state"),
            text(d, "plugin"),
            short(&text(d, "digest")),
            serves(&d["binding"]),
            text(d, "at"),
            text(d, "reason"),
        ]
    });
    table::print(&["FILE", "HOST", "STATE", "PLUGIN", "DIGEST", "SERVES", "AT", "REASON"], rows)?;
    Ok(())
}

fn serves(binding: &Json) -> String {
    let target = &binding["target"];
    match target["kind"].as_str() {
        None => String::new(),
        Some("everywhere") => "everywhere".to_owned(),
        Some(kind) => format!("{kind}:{}", text(target, "name")),
    }
}
