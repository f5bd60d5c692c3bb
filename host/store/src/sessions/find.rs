//! Which sessions a reference means.

use std::collections::HashMap;

use quarterdeck_model::{AccessKey, SessionId};
use serde_json::{Value, json};

use super::SessionRow;
use crate::error::Result;
use crate::set;
use crate::sql::{Sql, Stmt};

/// Sessions of a key pair that a reference means: by id if it is one, else by name; newest first, at most ten.
pub async fn find<S: Sql>(
    sql: &mut S,
    access_key: &AccessKey,
    reference: &str,
    with_dead: bool,
) -> Result<Vec<SessionRow>> {
    let dead = if with_dead { "" } else { "AND status NOT IN ('TERMINATED', 'CANCELLED')" };
    let order = "ORDER BY created_at DESC, id LIMIT 10";
    if let Ok(id) = reference.parse::<SessionId>() {
        let rows = sql
            .fetch_all(
                Stmt::assembled(format!("SELECT * FROM sessions WHERE id = $1 AND access_key = $2 {dead} {order}"))
                    .bind(id.to_string())
                    .bind(access_key.as_str()),
            )
            .await?;
        if !rows.is_empty() {
            return rows.iter().map(SessionRow::from_row).collect();
        }
    }
    let rows = sql
        .fetch_all(
            Stmt::assembled(format!("SELECT * FROM sessions WHERE name = $1 AND access_key = $2 {dead} {order}"))
                .bind(set::clean(reference).into_owned())
                .bind(access_key.as_str()),
        )
        .await?;
    rows.iter().map(SessionRow::from_row).collect()
}

/// For each of these key pairs and references the live session that is meant, as [`find`] finds it; those that mean none
/// are left out.
///
/// # Errors
/// Database errors.
pub async fn find_live<S: Sql>(
    sql: &mut S,
    wanted: &[(AccessKey, String)],
) -> Result<HashMap<(AccessKey, String), SessionRow>> {
    if let [(access_key, reference)] = wanted {
        let found = find(sql, access_key, reference, false).await?.into_iter().next();
        return Ok(found.into_iter().map(|row| (wanted[0].clone(), row)).collect());
    }
    let ids: Vec<Option<SessionId>> = wanted.iter().map(|(_, reference)| reference.parse().ok()).collect();
    let list: Vec<_> = wanted
        .iter()
        .zip(&ids)
        .enumerate()
        .map(|(at, ((access_key, reference), id))| {
            json!({"at": at, "k": set::clean(access_key.as_str()), "n": set::clean(reference), "d": id})
        })
        .collect();
    let columns = [("at", "bigint"), ("k", "text"), ("n", "text"), ("d", "text")];
    let rows = set::rows(sql.dialect(), "$1", &columns);
    // Live sessions of one key pair have different names.
    let half = |by_id: i64, condition: &str| {
        format!(
            "SELECT x.at AS wanted_at, CAST({by_id} AS BIGINT) AS by_id, s.* FROM {rows} JOIN sessions s ON {condition} \
             AND s.access_key = x.k AND s.status NOT IN ('TERMINATED', 'CANCELLED')"
        )
    };
    let by_name = half(0, "s.name = x.n");
    let statement = match ids.iter().any(Option::is_some) {
        true => format!("{by_name} UNION ALL {}", half(1, "s.id = x.d")),
        false => by_name,
    };
    let mut found: HashMap<(AccessKey, String), (i64, SessionRow)> = HashMap::new();
    for row in &sql.fetch_all(Stmt::assembled(statement).bind(Value::Array(list))).await? {
        let (at, by_id): (i64, i64) = (row.get("wanted_at")?, row.get("by_id")?);
        let Some(wanted) = usize::try_from(at).ok().and_then(|at| wanted.get(at)) else { continue };
        // An id comes before a name that looks like one.
        if found.get(wanted).is_none_or(|(of, _)| by_id > *of) {
            found.insert(wanted.clone(), (by_id, SessionRow::from_row(row)?));
        }
    }
    Ok(found.into_iter().map(|(wanted, (_, row))| (wanted, row)).collect())
}
