//! What `quarterdeck plugin list` and `inspect` show to people.

use serde_json::{Value as Json, json};

use crate::table;

/// A member of an object as text; nothing when it isn't there.
pub(super) fn text(value: &Json, key: &str) -> String {
    match &value[key] {
        Json::Null => String::new(),
        Json::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// The beginning of a digest: enough to name it.
pub(super) fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// How long a step took.
pub(super) fn took(step: &Json) -> String {
    match step["duration_ms"].as_f64() {
        None => String::new(),
        Some(ms) if ms >= 1000.0 => format!("{:.1} s", ms / 1000.0),
        Some(ms) if ms >= 10.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{ms:.1} ms"),
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn place(target: &Json) -> String {
    match target["kind"].as_str() {
        Some("everywhere") => "everywhere".to_owned(),
        Some(kind) => format!("{kind}:{}", text(target, "name")),
        None => String::new(),
    }
}

fn targets(revision: &Json) -> String {
    let bindings = revision["bindings"].as_array().into_iter().flatten().map(|b| {
        let shadow = if b["mode"] == json!("shadow") { " (shadow)" } else { "" };
        format!("{}{shadow}", place(&b["target"]))
    });
    let by_name = revision["by_name"].as_array().into_iter().flatten().map(|t| format!("{} (by name)", place(t)));
    bindings.chain(by_name).collect::<Vec<_>>().join(",")
}

/// All revisions.
pub(super) fn list(answer: &Json) -> std::io::Result<()> {
    let rows = answer["plugins"].as_array().into_iter().flatten();
    table::print(
        &["KIND", "NAME", "VERSION", "DIGEST", "STATUS", "ORIGIN", "SERVES"],
        rows.map(|r| {
            let origin = if r["builtin"] == json!(true) { "built-in".to_owned() } else { text(r, "uploaded_by") };
            vec![
                or_dash(text(r, "kind")),
                or_dash(text(r, "name")),
                or_dash(text(r, "version")),
                short(&text(r, "digest")),
                text(r, "stage"),
                origin,
                targets(r),
            ]
        }),
    )
}

/// Everything about one plugin.
pub(super) fn inspection(answer: &Json) -> std::io::Result<()> {
    for r in answer["revisions"].as_array().into_iter().flatten() {
        let recent = match r["recent"]["calls"].as_i64() {
            None | Some(0) => String::new(),
            Some(calls) => format!("{} of the last {calls} calls failed", r["recent"]["failed"]),
        };
        let signed = match &r["signature"] {
            Json::Null => String::new(),
            by => format!("{} ({}), {}", text(by, "key"), text(by, "key_id"), text(by, "comment")),
        };
        let rows = [
            ("plugin", format!("{}@{}", or_dash(text(r, "name")), or_dash(text(r, "version")))),
            ("kind", text(r, "kind")),
            ("summary", text(r, "summary")),
            ("digest", text(r, "digest")),
            ("size", format!("{} bytes", text(r, "size_bytes"))),
            ("status", text(r, "stage")),
            ("reason", text(r, "status_reason")),
            ("failures in a row", text(r, "failures")),
            ("on this host", recent),
            ("uploaded", format!("{} by {}", text(r, "uploaded_at"), text(r, "uploaded_by"))),
            ("signed by", signed),
            ("serves", targets(r)),
            ("columns", text(&r["info"], "columns")),
            ("events", text(&r["info"], "events")),
            ("configuration schema", text(&r["info"], "config_schema")),
        ];
        let shown = rows.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| vec![k.to_owned(), v]);
        table::print(&["", ""], shown)?;
        steps(r)?;
    }
    history(answer)
}

fn steps(revision: &Json) -> std::io::Result<()> {
    let steps = revision["steps"].as_array().cloned().unwrap_or_default();
    if steps.is_empty() {
        return Ok(());
    }
    table::print(
        &["STEP", "STATUS", "TOOK", "AT", "BY", "NOTE"],
        steps.iter().map(|s| {
            vec![text(s, "step"), text(s, "status"), took(s), text(s, "at"), text(s, "actor"), text(s, "reason")]
        }),
    )
}

fn history(answer: &Json) -> std::io::Result<()> {
    let history = answer["history"].as_array().cloned().unwrap_or_default();
    if history.is_empty() {
        return Ok(());
    }
    table::print(
        &["AT", "ACTION", "BY", "PLUGIN", "TARGET", "BEFORE", "REASON"],
        history.iter().map(|h| {
            vec![
                text(h, "at"),
                text(h, "action"),
                text(h, "actor"),
                text(h, "plugin"),
                place(&h["target"]),
                text(h, "previous_plugin"),
                text(h, "reason"),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_fitting_units() {
        let step = |ms: f64| took(&json!({ "duration_ms": ms }));
        assert_eq!([step(0.04), step(9.96), step(120.4), step(1234.0)], ["0.0 ms", "10.0 ms", "120 ms", "1.2 s"]);
        assert_eq!(took(&json!({"duration_ms": null})), "");
    }

    #[test]
    fn whom_a_revision_serves_is_told_with_the_way() {
        let revision = json!({
            "bindings": [
                {"target": {"kind": "everywhere", "name": ""}, "mode": "live"},
                {"target": {"kind": "domain", "name": "d"}, "mode": "shadow"},
            ],
            "by_name": [{"kind": "scaling-group", "name": "g"}],
        });
        assert_eq!(targets(&revision), "everywhere,domain:d (shadow),scaling-group:g (by name)");
    }
}
