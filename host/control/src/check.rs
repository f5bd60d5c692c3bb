//! Whether a database is sound: its file, its references, its books, its documents and its configuration.

use quarterdeck_model::UserStatus;
use quarterdeck_model::scheduler_opts::SchedulerOpts;
use quarterdeck_model::slots::{SlotKind, SlotMap};
use quarterdeck_store::{
    Store, backup, check, config, domains, images, keypairs, lists, presets, projects, resource_policies,
    scaling_groups, users,
};
use serde_json::Value as Json;

use crate::error::Result;
use crate::scope::network;
use crate::validate;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something is broken.
    Fault,
    /// Works, but probably not as meant.
    Warning,
}

impl Severity {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Warning => "warning",
        }
    }
}

/// Something that isn't as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which check found it.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, for people.
    pub detail: String,
    /// It was put right.
    pub repaired: bool,
}

/// What a look at a database found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was looked at.
    pub checks: Vec<&'static str>,
    /// What isn't as it should be.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Nothing is broken, or all of it was put right.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|f| f.repaired || f.severity == Severity::Warning)
    }

    fn add(&mut self, check: &'static str, severity: Severity, detail: String) {
        self.findings.push(Finding { check, severity, detail, repaired: false });
    }

    fn fault(&mut self, check: &'static str, detail: String) {
        self.add(check, Severity::Fault, detail);
    }

    fn warn(&mut self, check: &'static str, detail: String) {
        self.add(check, Severity::Warning, detail);
    }
}

/// Looks at everything; with `repair`, counters are put right. Safe beside a running server.
///
/// # Errors
/// [`crate::Error::Store`] when the database can't be read at all.
pub async fn run(store: &Store, repair: bool) -> Result<Report> {
    let mut report = Report {
        checks: vec!["file", "references", "orphans", "counters", "documents", "configuration", "access"],
        ..Report::default()
    };
    for line in backup::file_faults(store).await? {
        report.fault("file", line);
    }
    let mut sql = store.begin_read().await?;
    for lost in check::broken_references(&mut sql).await? {
        report.fault(
            "references",
            format!("{} rows of {} ({}) point to nothing in {}", lost.rows, lost.table, lost.columns, lost.parent),
        );
    }
    for lost in check::orphans(&mut sql).await? {
        report.fault("orphans", format!("{} rows of {} belong to nobody in {}", lost.rows, lost.table, lost.parent));
    }
    documents(&mut sql, &mut report).await?;
    configuration(&mut sql, &mut report).await?;
    access(&mut sql, &mut report).await?;
    sql.rollback().await?;
    counters(store, repair, &mut report).await?;
    Ok(report)
}

async fn counters(store: &Store, repair: bool, report: &mut Report) -> Result<()> {
    let mut tx = store.begin().await?;
    let drift = check::recount(&mut tx).await?;
    if repair && !drift.is_empty() {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    for d in drift {
        let detail = format!("{}: {} on the books, {} counted", d.counter, d.stored, d.counted);
        report.findings.push(Finding { check: "counters", severity: Severity::Fault, detail, repaired: repair });
    }
    Ok(())
}

/// Rows that can't be read, and documents in them that mean nothing.
async fn documents(sql: &mut quarterdeck_store::Tx, report: &mut Report) -> Result<()> {
    const CHECK: &str = "documents";
    macro_rules! rows {
        ($what:literal, $read:expr) => {
            match $read.await {
                Ok(rows) => rows,
                Err(quarterdeck_store::Error::Corrupt { column, reason }) => {
                    report.fault(CHECK, format!("{}: the column {column} holds something unexpected: {reason}", $what));
                    Vec::new()
                }
                Err(error) => return Err(error.into()),
            }
        };
    }
    let slots = |value: &Json| SlotMap::from_stored(value).map(|_| ()).map_err(|e| e.to_string());
    let hosts = |value: &Json| validate::folder_hosts(value.clone()).map(|_| ()).map_err(|e| e.to_string());
    let all_users = lists::users::Scope::default();
    for d in rows!("domains", domains::list(sql, None)) {
        for fault in
            [slots(&d.total_resource_slots), hosts(&d.allowed_vfolder_hosts)].into_iter().filter_map(Result::err)
        {
            report.fault(CHECK, format!("domain {}: {fault}", d.name));
        }
    }
    for p in rows!("projects", projects::list(sql, None, None, None)) {
        for fault in
            [slots(&p.total_resource_slots), hosts(&p.allowed_vfolder_hosts)].into_iter().filter_map(Result::err)
        {
            report.fault(CHECK, format!("project {} of {}: {fault}", p.name, p.domain_name));
        }
    }
    for p in rows!("resource policies", resource_policies::list(sql)) {
        for fault in
            [slots(&p.total_resource_slots), hosts(&p.allowed_vfolder_hosts)].into_iter().filter_map(Result::err)
        {
            report.fault(CHECK, format!("policy {}: {fault}", p.name));
        }
    }
    for p in rows!("resource presets", presets::list(sql)) {
        if let Err(fault) = slots(&p.resource_slots) {
            report.fault(CHECK, format!("preset {}: {fault}", p.name));
        }
    }
    for g in rows!("scaling groups", scaling_groups::list(sql, None)) {
        if let Err(fault) = SchedulerOpts::parse(&g.scheduler_opts) {
            report.fault(CHECK, format!("scaling group {}: {fault}", g.name));
        }
    }
    for u in rows!("users", lists::users::select(sql, &all_users, i64::MAX)) {
        for text in u.allowed_client_ip.iter().flatten().filter(|text| network(text).is_none()) {
            report.fault(CHECK, format!("user {}: {text} is no network; nobody signs as this user", u.email));
        }
    }
    rows!("images", images::list(sql));
    Ok(())
}

/// The configuration tree.
async fn configuration(sql: &mut quarterdeck_store::Tx, report: &mut Report) -> Result<()> {
    const SLOTS: &str = "config/resource_slots/";
    for (key, value) in config::all(sql).await? {
        if key.strip_prefix(SLOTS).is_some_and(|slot| !slot.is_empty()) && value.parse::<SlotKind>().is_err() {
            report.fault("configuration", format!("{key}: {value} is no kind of slot"));
        }
    }
    Ok(())
}

/// Whether anybody can administer this.
async fn access(sql: &mut quarterdeck_store::Tx, report: &mut Report) -> Result<()> {
    let superadmins: Vec<_> =
        users::superadmins(sql).await?.into_iter().filter(|u| u.status == UserStatus::Active).collect();
    if superadmins.is_empty() {
        report.warn("access", "there is no active superadmin: `quarterdeck init` makes one".to_owned());
        return Ok(());
    }
    let ids: Vec<_> = superadmins.iter().map(|u| u.id).collect();
    if !keypairs::of_users(sql, &ids).await?.iter().any(|k| k.is_active && k.is_admin) {
        report.warn("access", "no superadmin has an active key pair for administrators".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_store::{Sql as _, Stmt, testing};

    use super::*;
    use crate::seed;

    #[tokio::test]
    async fn what_is_wrong_is_told_and_counters_are_repaired() {
        for db in testing::databases().await {
            let fresh = run(&db.store, false).await.unwrap();
            assert!(fresh.is_sound() && fresh.findings.len() == 1 && fresh.findings[0].check == "access", "{fresh:?}");
            seed::load(&db.store, &seed::tests::conformance_seed()).await.unwrap();
            assert_eq!(run(&db.store, false).await.unwrap().findings, []);
            let mut tx = db.store.begin().await.unwrap();
            for statement in [
                "INSERT INTO occupancy (scope, holder, slot, amount) VALUES ('domain', 'default', 'cpu', 7)",
                "UPDATE scaling_groups SET scheduler_opts = '{\"colour\": 1}'",
                "UPDATE domains SET total_resource_slots = 'nonsense'",
                "UPDATE users SET allowed_client_ip = '[\"everywhere\"]' WHERE email = 'user@conf.test'",
                "INSERT INTO config (name, value) VALUES ('config/resource_slots/x.device', 'colour')",
            ] {
                tx.execute(Stmt::new(statement)).await.unwrap();
            }
            tx.commit().await.unwrap();
            let found = run(&db.store, false).await.unwrap();
            let checks: Vec<_> = found.findings.iter().map(|f| f.check).collect();
            assert_eq!(checks, ["documents", "documents", "documents", "configuration", "counters"], "{found:?}");
            assert!(!found.is_sound());
            let counters = |report: &Report| report.findings.iter().find(|f| f.check == "counters").cloned();
            assert!(counters(&run(&db.store, true).await.unwrap()).unwrap().repaired);
            assert_eq!(counters(&run(&db.store, false).await.unwrap()), None);
        }
    }
}
