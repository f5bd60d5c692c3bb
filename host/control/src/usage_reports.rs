//! Reports of what was used, by project and period, and series of the last month (`spec/config.md` §3.4-§3.7).

use std::collections::BTreeSet;

use chrono::{Datelike as _, Days, Months, NaiveDate, NaiveTime, TimeZone as _};
use chrono_tz::Tz;
use indexmap::IndexMap;
use quarterdeck_model::{ProjectId, Timestamp, UserId};
use quarterdeck_store::usage_records::{self as rows, ReportRow, Sums};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use crate::Control;
use crate::error::{Error, Result};
use crate::usage_records;

/// Where the configuration names the time zone that days and months are of.
const TIME_ZONE_KEY: &str = "config/system/timezone";
/// Days that one report may span.
const LONGEST_DAYS: i64 = 100;
/// The bins of a series: a quarter of an hour each, for 30 days.
const BIN_US: i64 = 900 * 1_000_000;
const BINS: i64 = 30 * 86_400 / 900;

/// What a project used.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectUsage {
    domain_name: String,
    g_id: ProjectId,
    g_name: String,
    g_cpu_allocated: f64,
    g_cpu_used: f64,
    g_mem_allocated: i64,
    g_mem_used: i64,
    g_shared_memory: i64,
    g_disk_allocated: i64,
    g_disk_used: i64,
    g_io_read: i64,
    g_io_write: i64,
    g_device_type: BTreeSet<String>,
    g_smp: f64,
    g_gpu_mem_allocated: f64,
    g_gpu_allocated: f64,
    c_infos: Vec<KernelUsage>,
}

/// What a kernel used.
#[derive(Clone, Debug, Serialize)]
pub struct KernelUsage {
    id: String,
    session_id: String,
    container_id: Option<String>,
    domain_name: String,
    group_id: ProjectId,
    group_name: String,
    name: String,
    access_key: String,
    email: String,
    full_name: Option<String>,
    agent: Option<String>,
    cpu_allocated: f64,
    cpu_used: f64,
    mem_allocated: i64,
    mem_used: i64,
    shared_memory: i64,
    disk_allocated: i64,
    disk_used: i64,
    io_read: i64,
    io_write: i64,
    used_time: Option<String>,
    used_days: Option<i64>,
    device_type: BTreeSet<String>,
    smp: f64,
    gpu_mem_allocated: f64,
    gpu_allocated: f64,
    nfs: Option<BTreeSet<String>>,
    image_id: String,
    image_name: String,
    created_at: String,
    terminated_at: String,
    status: String,
    status_info: Option<String>,
    status_changed: String,
    status_history: Json,
    cluster_mode: String,
}

fn invalid_date() -> Error {
    Error::invalid("Invalid date values")
}

/// The time zone of days and months.
fn time_zone(control: &Control) -> Tz {
    let Some(name) = control.config_tree().value(TIME_ZONE_KEY).filter(|name| !name.trim().is_empty()) else {
        return Tz::UTC;
    };
    name.trim().parse().unwrap_or_else(|_| {
        tracing::warn!(key = TIME_ZONE_KEY, name, "the configuration names an unknown time zone");
        Tz::UTC
    })
}

/// When a day begins. Where clocks skip midnight, it is the first moment after.
fn dawn(zone: Tz, day: NaiveDate) -> Result<Timestamp> {
    let midnight = day.and_time(NaiveTime::MIN);
    let at =
        (0..24).find_map(|hours| zone.from_local_datetime(&(midnight + chrono::TimeDelta::hours(hours))).earliest());
    at.map(|at| Timestamp(at.timestamp_micros())).ok_or_else(invalid_date)
}

/// What was used in a month (`YYYYMM`), by some projects or all.
///
/// # Errors
/// [`Error::InvalidParams`] for what is no month or no project's id.
pub async fn month(control: &Control, month: &str, projects: Option<&[String]>) -> Result<Vec<ProjectUsage>> {
    let zone = time_zone(control);
    let first = day(&format!("{month}01"))?;
    let next = first.checked_add_months(Months::new(1)).ok_or_else(invalid_date)?;
    let projects = projects.map(|ids| ids.iter().map(|id| project(id)).collect::<Result<Vec<_>>>()).transpose()?;
    report(control, zone, dawn(zone, first)?, dawn(zone, next)?, projects.as_deref()).await
}

/// What was used from one day to another (`YYYYMMDD`, both included), by a project or all.
///
/// # Errors
/// [`Error::InvalidParams`] for what are no such days, or too many, or no project's id.
pub async fn period(control: &Control, start: &str, end: &str, id: Option<&str>) -> Result<Vec<ProjectUsage>> {
    let zone = time_zone(control);
    let (first, last) = (day(start)?, day(end)?);
    if last < first {
        return Err(Error::invalid("end_date must be later than start_date."));
    }
    let next = last.checked_add_days(Days::new(1)).ok_or_else(invalid_date)?;
    if (next - first).num_days() > LONGEST_DAYS {
        return Err(Error::invalid(format!("Cannot query more than {LONGEST_DAYS} days")));
    }
    let projects = id.map(|id| project(id).map(|id| vec![id])).transpose()?;
    report(control, zone, dawn(zone, first)?, dawn(zone, next)?, projects.as_deref()).await
}

/// `YYYYMMDD`
fn day(text: &str) -> Result<NaiveDate> {
    let fits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit());
    let day = fits.then(|| NaiveDate::parse_from_str(text, "%Y%m%d").ok()).flatten();
    day.filter(|day| day.year() > 0).ok_or_else(invalid_date)
}

fn project(id: &str) -> Result<ProjectId> {
    id.parse().map_err(|_| Error::invalid(format!("'{id}' is not the id of a group")))
}

async fn report(
    control: &Control,
    zone: Tz,
    from: Timestamp,
    to: Timestamp,
    projects: Option<&[ProjectId]>,
) -> Result<Vec<ProjectUsage>> {
    usage_records::record(control, None).await?;
    let rows = rows::report(&mut control.store().reader(), from, to, projects).await?;
    let mut by_project: IndexMap<ProjectId, ProjectUsage> = IndexMap::new();
    for row in rows {
        let usage = by_project.entry(row.project).or_insert_with(|| ProjectUsage::of(&row));
        usage.add(kernel(zone, row));
    }
    Ok(by_project.into_values().collect())
}

impl ProjectUsage {
    fn of(row: &ReportRow) -> Self {
        Self {
            domain_name: row.domain.clone(),
            g_id: row.project,
            g_name: row.project_name.clone(),
            g_cpu_allocated: 0.0,
            g_cpu_used: 0.0,
            g_mem_allocated: 0,
            g_mem_used: 0,
            g_shared_memory: 0,
            g_disk_allocated: 0,
            g_disk_used: 0,
            g_io_read: 0,
            g_io_write: 0,
            g_device_type: BTreeSet::new(),
            g_smp: 0.0,
            g_gpu_mem_allocated: 0.0,
            g_gpu_allocated: 0.0,
            c_infos: Vec::new(),
        }
    }

    fn add(&mut self, kernel: KernelUsage) {
        self.g_cpu_allocated += kernel.cpu_allocated;
        self.g_cpu_used += kernel.cpu_used;
        self.g_mem_allocated = self.g_mem_allocated.saturating_add(kernel.mem_allocated);
        self.g_mem_used = self.g_mem_used.saturating_add(kernel.mem_used);
        self.g_shared_memory = self.g_shared_memory.saturating_add(kernel.shared_memory);
        self.g_disk_allocated = self.g_disk_allocated.saturating_add(kernel.disk_allocated);
        self.g_disk_used = self.g_disk_used.saturating_add(kernel.disk_used);
        self.g_io_read = self.g_io_read.saturating_add(kernel.io_read);
        self.g_io_write = self.g_io_write.saturating_add(kernel.io_write);
        self.g_device_type.extend(kernel.device_type.iter().cloned());
        self.g_smp += kernel.smp;
        self.g_gpu_mem_allocated += kernel.gpu_mem_allocated;
        self.g_gpu_allocated += kernel.gpu_allocated;
        self.c_infos.push(kernel);
    }
}

/// Thousandths as what they are thousandths of.
fn units(thousandths: i64) -> f64 {
    thousandths as f64 / 1000.0
}

fn kernel(zone: Tz, row: ReportRow) -> KernelUsage {
    let devices = row.attached_devices.get("cuda").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    // Added up from 0: the sum of no floats is -0, and so it would be told.
    let data = |name: &str| {
        let values = devices.iter().filter_map(|device| device.pointer(&format!("/data/{name}")));
        values.map(number).fold(0.0, |sum, value| sum + value)
    };
    let used = row.used;
    let mounts = row.mounts.as_array().filter(|mounts| !mounts.is_empty());
    KernelUsage {
        id: row.kernel.to_string(),
        session_id: row.session,
        container_id: row.container,
        domain_name: row.domain,
        group_id: row.project,
        group_name: row.project_name,
        name: row.name,
        access_key: row.access_key,
        email: row.email,
        full_name: row.full_name,
        agent: row.agent,
        cpu_allocated: units(used.cpu_allocated),
        cpu_used: used.cpu_used,
        mem_allocated: used.mem_allocated,
        mem_used: used.mem_used,
        shared_memory: row.resource_opts.get("shmem").map(number).unwrap_or_default() as i64,
        disk_allocated: 0,
        disk_used: used.disk_used,
        io_read: used.io_read,
        io_write: used.io_write,
        used_time: row.ended_at.map(|end| span(end.micros() - row.begun_at.micros())),
        used_days: row.ended_at.map(|end| {
            let date = |at: Timestamp| at.datetime().with_timezone(&zone).date_naive();
            (date(end) - date(row.begun_at)).num_days() + 1
        }),
        device_type: devices.iter().filter_map(|d| d.get("model_name")?.as_str().map(str::to_owned)).collect(),
        smp: data("smp"),
        gpu_mem_allocated: data("mem"),
        gpu_allocated: units(used.gpu_allocated),
        nfs: mounts.map(|mounts| {
            mounts.iter().filter_map(|mount| mount.get("host_path")?.as_str().map(str::to_owned)).collect()
        }),
        image_id: row.image.clone(),
        image_name: row.image,
        created_at: row.begun_at.spaced(),
        terminated_at: row.ended_at.map_or_else(|| "None".to_owned(), Timestamp::spaced),
        status: row.status,
        status_info: row.status_info,
        status_changed: row.status_changed.spaced(),
        status_history: row.status_history,
        cluster_mode: row.cluster_mode,
    }
}

/// A number, or its text.
fn number(value: &Json) -> f64 {
    let number = match value {
        Json::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    number.filter(|n: &f64| n.is_finite()).unwrap_or_default()
}

/// `1:02:03.000004`, `1 day, 0:00:00`, `2 days, 3:04:05`
fn span(micros: i64) -> String {
    let micros = micros.max(0);
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (days, seconds) = (seconds / 86_400, seconds % 86_400);
    let mut text = match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    text.push_str(&format!("{}:{:02}:{:02}", seconds / 3_600, seconds % 3_600 / 60, seconds % 60));
    if fraction > 0 {
        text.push_str(&format!(".{fraction:06}"));
    }
    text
}

/// What was in use in each quarter of an hour of the last 30 days; by one user or by all.
///
/// # Errors
/// [`Error::Store`].
pub async fn last_month(control: &Control, user: Option<UserId>) -> Result<Vec<Json>> {
    usage_records::record(control, user).await?;
    let from = control.clock().now().plus_micros(-BINS * BIN_US);
    let changes = rows::changes(&mut control.store().reader(), from, BIN_US, BINS, user).await?;
    Ok(series(from, &changes))
}

fn series(from: Timestamp, changes: &[(i64, Sums)]) -> Vec<Json> {
    let mut changes = changes.iter().peekable();
    let mut now = Sums::default();
    (0..BINS)
        .map(|bin| {
            while let Some((_, change)) = changes.next_if(|(at, _)| *at <= bin) {
                now = Sums {
                    kernels: now.kernels + change.kernels,
                    cpu_allocated: now.cpu_allocated + change.cpu_allocated,
                    mem_allocated: now.mem_allocated + change.mem_allocated,
                    gpu_allocated: now.gpu_allocated + change.gpu_allocated,
                    io_read: now.io_read + change.io_read,
                    io_write: now.io_write + change.io_write,
                    disk_used: now.disk_used + change.disk_used,
                };
            }
            let mut point = Map::new();
            point.insert("date".to_owned(), json!(from.plus_micros(bin * BIN_US).seconds()));
            let mut add = |name: &str, value: Json, unit: &str| {
                point.insert(name.to_owned(), json!({"value": value, "unit_hint": unit}));
            };
            add("num_sessions", json!(now.kernels), "count");
            add("cpu_allocated", count(now.cpu_allocated), "count");
            add("mem_allocated", json!(now.mem_allocated), "bytes");
            add("gpu_allocated", json!(units(now.gpu_allocated)), "count");
            add("io_read_bytes", json!(now.io_read), "bytes");
            add("io_write_bytes", json!(now.io_write), "bytes");
            add("disk_used", json!(now.disk_used), "bytes");
            Json::Object(point)
        })
        .collect()
}

/// A whole number where it is one.
fn count(thousandths: i64) -> Json {
    if thousandths % 1000 == 0 { json!(thousandths / 1000) } else { json!(units(thousandths)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spans_look_as_clients_know_them() {
        assert_eq!(span(0), "0:00:00");
        assert_eq!(span(3_723_000_004), "1:02:03.000004");
        assert_eq!(span(86_400_000_000), "1 day, 0:00:00");
        assert_eq!(span(2 * 86_400_000_000 + 11_045_500_000), "2 days, 3:04:05.500000");
        assert_eq!(span(-5), "0:00:00");
    }

    #[test]
    fn days_are_days() {
        assert!(day("20230228").is_ok());
        for bad in ["20230229", "20231301", "2023-01-01", "202301", "tomorrow", "00000101", "+2023011"] {
            assert!(day(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn days_begin_where_the_site_is() {
        let at = |zone: Tz, text: &str| dawn(zone, day(text).unwrap()).unwrap().iso();
        assert_eq!(at(Tz::UTC, "20230601"), "2023-06-01T00:00:00.000000+00:00");
        assert_eq!(at(Tz::Asia__Seoul, "20230601"), "2023-05-31T15:00:00.000000+00:00");
        // Clocks there skipped that midnight.
        assert_eq!(at(Tz::America__Sao_Paulo, "20181104"), "2018-11-04T03:00:00.000000+00:00");
    }

    #[test]
    fn series_add_up_their_changes() {
        let step = |kernels, cpu_allocated| Sums { kernels, cpu_allocated, ..Sums::default() };
        let points = series(Timestamp(0), &[(0, step(1, 1500)), (2, step(1, 500)), (3, step(-2, -2000))]);
        assert_eq!(points.len(), 2880);
        let read = |bin: usize| {
            let value = |name: &str| points[bin][name]["value"].clone();
            (value("num_sessions"), value("cpu_allocated"))
        };
        assert_eq!(read(0), (json!(1), json!(1.5)));
        assert_eq!(read(1), (json!(1), json!(1.5)));
        assert_eq!(read(2), (json!(2), json!(2)));
        assert_eq!(read(3), (json!(0), json!(0)));
        assert_eq!(points[1]["date"].as_f64().unwrap() - points[0]["date"].as_f64().unwrap(), 900.0);
    }
}
