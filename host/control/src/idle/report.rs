//! What checkers say, as users see it.

use std::collections::HashMap;

use quarterdeck_model::SessionId;
use quarterdeck_plugin::idling::RemainingType;
use quarterdeck_store::idle::{self as rows, Report};
use serde_json::{Map, Value as Json, json};

use super::{REPORT_LIFETIME_MS, checkers};
use crate::Control;
use crate::error::Result;

/// What the checkers last said about these sessions, as session information and GraphQL show it: one
/// entry per checker, in their order.
///
/// # Errors
/// [`crate::Error::Store`].
pub async fn report(control: &Control, sessions: &[SessionId]) -> Result<HashMap<SessionId, Json>> {
    let since = control.clock().now().plus_millis(-REPORT_LIFETIME_MS);
    let reports = rows::reports(&mut control.store().reader(), sessions, since).await?;
    let checkers: Vec<(String, RemainingType)> =
        // Somebody only looks: what is broken is counted by the rounds.
        checkers(control).await?.0.into_iter().map(|c| (c.bound.plugin.info.name.clone(), c.traits.remaining)).collect();
    let mut by_session: HashMap<SessionId, Vec<Report>> = HashMap::new();
    for report in reports {
        by_session.entry(report.session_id).or_default().push(report);
    }
    Ok(sessions.iter().map(|id| (*id, document(&checkers, by_session.get(id).map_or(&[], Vec::as_slice)))).collect())
}

pub(super) fn document(checkers: &[(String, RemainingType)], reports: &[Report]) -> Json {
    let mut out = Map::new();
    for (name, kind) in checkers {
        let report = reports.iter().find(|r| r.checker == *name);
        let remaining = match report.and_then(|r| r.remaining) {
            None => Json::Null,
            Some(left) if left < 0.0 => json!(-1),
            Some(left) => json!(left),
        };
        let kind = match kind {
            RemainingType::ExpireAfter => "expire_after",
            RemainingType::GracePeriod => "grace_period",
        };
        let extra = report.and_then(|r| r.extra.clone()).unwrap_or(Json::Null);
        out.insert(name.clone(), json!({"remaining": remaining, "remaining_time_type": kind, "extra": extra}));
    }
    Json::Object(out)
}
