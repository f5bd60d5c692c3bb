//! Records of what kernels were given and have used.
//!
//! The kernels' rows are the truth: a pass records what ended without a record, whoever ended it and however often hosts
//! fell meanwhile, and brings the records of running kernels up to date from what hosts hear of them. Reports run a
//! pass first.

use parking_lot::Mutex;
use quarterdeck_model::duration::Duration as Span;
use quarterdeck_model::{Timestamp, UserId};
use quarterdeck_store::usage_records::{self as rows, Source, Use};
use serde_json::{Map, Value as Json};

use crate::error::Result;
use crate::{Control, agents};

/// Where the configuration says how long records are kept: a duration.
pub const RETENTION_KEY: &str = "config/usage/retention";
/// Two years.
const RETENTION_MS: i64 = 730 * 86_400_000;
/// Kernels recorded in one transaction.
const BATCH: i64 = 500;
/// What ended so shortly before a pass is looked for again by the next one: transactions commit late, clocks differ.
const SLACK_MS: i64 = 5 * 60_000;

/// Up to when this host knows that what ended is recorded.
#[derive(Debug, Default)]
pub(crate) struct State(Mutex<Option<Timestamp>>);

fn retention_ms(control: &Control) -> i64 {
    let configured = control.config_tree().value(RETENTION_KEY).filter(|text| !text.trim().is_empty());
    match configured.as_deref().map(Span::parse_text) {
        None => RETENTION_MS,
        Some(Ok(span)) => span.millis(),
        Some(Err(error)) => {
            tracing::warn!(key = RETENTION_KEY, %error, "a duration of the configuration makes no sense");
            RETENTION_MS
        }
    }
}

/// Records what ended and what runs; of one user, or of all.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store).
pub(crate) async fn record(control: &Control, user: Option<UserId>) -> Result<()> {
    let begun = control.clock().now();
    let horizon = begun.plus_millis(-retention_ms(control));
    let known = *control.usage_state().0.lock();
    let since = known.map_or(horizon, |known| known.plus_millis(-SLACK_MS).max(horizon));
    loop {
        let ended = rows::ended(&mut control.store().reader(), since, user, BATCH).await?;
        let is_last = (ended.len() as i64) < BATCH;
        let records = ended.into_iter().map(|source| {
            let stat = source.last_stat.as_deref().and_then(|text| serde_json::from_str(text).ok());
            (of(&source, stat.as_ref()), source)
        });
        write(control, records.collect()).await?;
        if is_last {
            break;
        }
    }
    if user.is_none() {
        *control.usage_state().0.lock() = Some(begun);
    }
    let mut after = String::new();
    loop {
        let running = rows::running(&mut control.store().reader(), &after, user, BATCH).await?;
        let Some(last) = running.last() else { return Ok(()) };
        after = last.kernel.to_string();
        let ids: Vec<_> = running.iter().map(|source| source.kernel).collect();
        let stats = agents::statistics::of_kernels(control, &ids).await?;
        let records = running.into_iter().filter_map(|mut source| {
            source.ended_at = None;
            let stat = stats.get(&source.kernel);
            // Without news there is nothing to write but a first record.
            (stat.is_some() || !source.is_recorded).then(|| (of(&source, stat), source))
        });
        write(control, records.collect()).await?;
    }
}

async fn write(control: &Control, records: Vec<(Use, Source)>) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let records: Vec<_> = records.into_iter().map(|(used, source)| (source, used)).collect();
    crate::retry(|| async {
        let mut tx = control.store().begin().await?;
        rows::write(&mut tx, &records).await?;
        tx.commit().await?;
        Ok(())
    })
    .await
}

/// Forgets records that are older than the configuration keeps them.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store).
pub(crate) async fn expire(control: &Control) -> Result<u64> {
    let horizon = control.clock().now().plus_millis(-retention_ms(control));
    let mut tx = control.store().begin().await?;
    let dropped = rows::drop_before(&mut tx, horizon).await?;
    tx.commit().await?;
    Ok(dropped)
}

/// What a kernel was given, by its row, and used, by what its agent told.
fn of(source: &Source, stat: Option<&Json>) -> Use {
    let slots: Map<String, Json> = serde_json::from_str(&source.occupied_slots).unwrap_or_default();
    let amount = |slot: &str, scale: f64| {
        let text = slots.get(slot).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        whole(text.and_then(|text| text.parse::<f64>().ok()).unwrap_or_default() * scale)
    };
    let gpu = match amount("cuda.shares", 1000.0) {
        0 => amount("cuda.device", 1000.0),
        shares => shares,
    };
    let stat = stat.and_then(Json::as_object);
    let metric = |name: &str, part: &str| measured(stat, name, part);
    Use {
        cpu_allocated: amount("cpu", 1000.0),
        mem_allocated: amount("mem", 1.0),
        gpu_allocated: gpu,
        measured: stat.is_some(),
        cpu_used: metric("cpu_used", "current"),
        mem_used: whole(metric("mem", "capacity")),
        disk_used: whole(metric("io_scratch_size", "stats.max")),
        io_read: whole(metric("io_read", "current")),
        io_write: whole(metric("io_write", "current")),
    }
}

/// A number of a metric; agents write numbers as texts. What is none counts as 0.
fn measured(stat: Option<&Map<String, Json>>, metric: &str, part: &str) -> f64 {
    let value = stat.and_then(|stat| stat.get(metric)?.get(part));
    let number = match value {
        Some(Json::String(text)) => text.trim().parse().ok(),
        Some(Json::Number(number)) => number.as_f64(),
        _ => None,
    };
    number.filter(|n: &f64| n.is_finite()).unwrap_or_default()
}

/// The nearest whole number, up to a petabyte or so: sums of what agents tell must not overflow.
fn whole(number: f64) -> i64 {
    const MOST: f64 = (1_i64 << 50) as f64;
    // What is no number becomes 0.
    number.round().clamp(0.0, MOST) as i64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_model::KernelId;
    use serde_json::json;

    use super::*;

    #[test]
    fn agents_may_tell_nonsense() {
        let source = Source {
            kernel: KernelId::new(),
            user: UserId::new(),
            begun_at: Timestamp(0),
            ended_at: None,
            occupied_slots: r#"{"cpu":"1.5","mem":"1073741824","cuda.device":"2"}"#.to_owned(),
            last_stat: None,
            is_recorded: false,
        };
        let given = Use { cpu_allocated: 1500, mem_allocated: 1 << 30, gpu_allocated: 2000, ..Use::default() };
        assert_eq!(of(&source, None), given);
        assert_eq!(of(&source, Some(&json!("nonsense"))), given);
        let stat = json!({
            "cpu_used": {"current": "12.5"}, "mem": {"capacity": "4096"}, "io_read": {"current": 7},
            "io_write": {"current": "NaN"}, "io_scratch_size": {"stats.max": "1e300"},
        });
        assert_eq!(
            of(&source, Some(&stat)),
            Use { measured: true, cpu_used: 12.5, mem_used: 4096, io_read: 7, disk_used: 1 << 50, ..given }
        );
        let shares = Source { occupied_slots: r#"{"cuda.shares":"0.25","cuda.device":"1"}"#.to_owned(), ..source };
        assert_eq!(of(&shares, None).gpu_allocated, 250);
    }
}
