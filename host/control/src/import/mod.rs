//! Taking over what a database of the reference holds: who there is, what they may use, and what belongs to them.
//!
//! One transaction on our side, from one snapshot on theirs: all or nothing, and a second run adds nothing. Rows that can't
//! be taken over are left out with a reason; what is taken over otherwise than it was is noted. The tables' meaning is that
//! of `spec/identity-graphql.md`, `spec/vfolder.md`, `spec/config.md` and `spec/schema.graphql`.

mod belongings;
mod folders;
mod identity;
mod read;
mod resources;

use std::collections::{BTreeMap, HashMap, HashSet};

use indexmap::IndexMap;
use quarterdeck_model::{ImageId, ProjectId, Timestamp, UserId, VfolderId};
use quarterdeck_store::reference::Source;
use quarterdeck_store::{Store, Tx, revisions};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::validate::integrity;

/// Tables without which a database is none of the reference.
const REQUIRED: &[&str] = &["domains", "groups", "users", "keypairs", "keypair_resource_policies", "scaling_groups"];

/// Tables that are read, in this order: what others refer to first.
const READ: &[&str] = &[
    "keypair_resource_policies",
    "domains",
    "groups",
    "users",
    "association_groups_users",
    "keypairs",
    "scaling_groups",
    "sgroups_for_domains",
    "sgroups_for_groups",
    "sgroups_for_keypairs",
    "resource_presets",
    "images",
    "image_aliases",
    "session_templates",
    "vfolders",
    "vfolder_permissions",
    "vfolder_invitations",
];

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Do everything, and then undo it.
    pub dry_run: bool,
    /// Bring rows that are here already to what they are there; without, they stay as they are.
    pub update: bool,
    /// The policy of key pairs whose own isn't there. Without, such key pairs are left out.
    pub fallback_policy: Option<String>,
}

/// What became of a table's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows there.
    pub read: usize,
    /// New here.
    pub added: usize,
    /// Changed here.
    pub updated: usize,
    /// Here already.
    pub existing: usize,
    /// Left out.
    pub skipped: usize,
}

/// Something about one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Its table.
    pub table: &'static str,
    /// The row.
    pub row: String,
    /// What about it.
    pub text: String,
}

/// What an import did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Nothing was written.
    pub dry_run: bool,
    /// The schema's revision there, if it tells.
    pub revision: Option<String>,
    /// By table, in the order in which they were read.
    pub tables: IndexMap<&'static str, Counts>,
    /// Rows that were left out, and why.
    pub skipped: Vec<Remark>,
    /// Rows that were taken over otherwise than they are there.
    pub notes: Vec<Remark>,
    /// Tables that aren't taken over.
    pub other_tables: Vec<String>,
}

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Added,
    Updated,
    Existing,
}

/// Why a row is left out; or why the import can't go on.
enum Refusal {
    Row(String),
    Fatal(Error),
}

impl From<quarterdeck_store::Error> for Refusal {
    fn from(error: quarterdeck_store::Error) -> Self {
        // A broken rule of the schema, or a text that can't be stored, is the row's; everything else is ours.
        match error {
            quarterdeck_store::Error::NulInText => Self::Row(error.to_string()),
            other => match integrity(other) {
                Error::Integrity(text) => Self::Row(text),
                fatal => Self::Fatal(fatal),
            },
        }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Row(reason)
    }
}

type Taken = std::result::Result<Outcome, Refusal>;

fn refuse<T>(reason: impl Into<String>) -> std::result::Result<T, Refusal> {
    Err(Refusal::Row(reason.into()))
}

/// Told, while a table is read: its name, rows done, rows in all.
pub type Progress<'a> = &'a mut (dyn FnMut(&str, usize, usize) + Send);

struct Importer<'o> {
    tx: Tx,
    options: &'o Options,
    now: Timestamp,
    notes: Vec<Remark>,
    /// Their ids → ours: a project or user that was here under the same name keeps its id.
    projects: HashMap<Uuid, (ProjectId, String)>,
    users: HashMap<Uuid, (UserId, String)>,
    images: HashMap<Uuid, ImageId>,
    /// Addresses without regard to case, of their users.
    addresses: BTreeMap<String, String>,
    estates: HashMap<folders::Owner, folders::Estate>,
    /// How many folders there are by host.
    folder_hosts: BTreeMap<String, usize>,
    /// On which folders whom something was granted.
    grants: HashSet<(VfolderId, UserId)>,
}

/// Imports everything.
///
/// # Errors
/// [`Error::BadRequest`] when it is no database of the reference or the fallback policy is unknown; [`Error::Store`]. Then
/// nothing was written.
pub async fn run(store: &Store, source: &mut Source, options: &Options, progress: Progress<'_>) -> Result<Report> {
    if let Some(missing) = REQUIRED.iter().find(|table| !source.tables().contains(**table)) {
        return Err(Error::BadRequest(format!("this is no database of the reference: it has no table `{missing}`")));
    }
    let mut report = Report { dry_run: options.dry_run, ..Report::default() };
    report.revision = source.rows("alembic_version").await?.first().map(|row| read::label(row, &["version_num"]));
    report.other_tables = source
        .tables()
        .iter()
        .filter(|table| !READ.contains(&table.as_str()) && *table != "alembic_version")
        .cloned()
        .collect();

    // Read before the transaction begins, which holds SQLite's only writer: their database may be slow.
    let mut tables = Vec::with_capacity(READ.len());
    for table in READ {
        tables.push((*table, source.rows(table).await?));
    }
    let mut importer = Importer {
        tx: store.begin().await?,
        options,
        now: Timestamp::now(),
        notes: Vec::new(),
        projects: HashMap::new(),
        users: HashMap::new(),
        images: HashMap::new(),
        addresses: BTreeMap::new(),
        estates: HashMap::new(),
        folder_hosts: BTreeMap::new(),
        grants: HashSet::new(),
    };
    for (table, rows) in tables {
        let mut counts = Counts { read: rows.len(), ..Counts::default() };
        let total = rows.len();
        for (done, row) in rows.into_iter().enumerate() {
            if done % 100 == 0 {
                progress(table, done, total);
            }
            let label = read::label(&row, names(table));
            match importer.guarded(table, row).await? {
                Ok(Outcome::Added) => counts.added += 1,
                Ok(Outcome::Updated) => counts.updated += 1,
                Ok(Outcome::Existing) => counts.existing += 1,
                Err(text) => {
                    counts.skipped += 1;
                    report.skipped.push(Remark { table, row: label, text });
                }
            }
        }
        progress(table, total, total);
        report.tables.insert(table, counts);
        match table {
            "keypair_resource_policies" => importer.check_fallback().await?,
            "vfolders" => importer.note_hosts().await?,
            _ => {}
        }
    }
    report.notes = importer.notes;
    let mut tx = importer.tx;
    if options.dry_run {
        tx.rollback().await?;
    } else {
        revisions::bump(&mut tx, revisions::IDENTITY).await?;
        tx.commit().await?;
    }
    Ok(report)
}

/// The columns by which people know a row.
fn names(table: &str) -> &'static [&'static str] {
    match table {
        "users" => &["email", "uuid"],
        "groups" => &["name", "domain_name", "id"],
        "keypairs" => &["access_key", "user_id"],
        "association_groups_users" => &["group_id", "user_id"],
        "sgroups_for_domains" => &["scaling_group", "domain"],
        "sgroups_for_groups" => &["scaling_group", "group"],
        "sgroups_for_keypairs" => &["scaling_group", "access_key"],
        "images" => &["name", "architecture"],
        "image_aliases" => &["alias"],
        "session_templates" => &["name", "id"],
        "vfolders" => &["name", "host", "id"],
        "vfolder_permissions" => &["vfolder", "user"],
        "vfolder_invitations" => &["invitee", "id"],
        _ => &["name"],
    }
}

impl Importer<'_> {
    /// Takes over one row. A row that breaks a rule of the schema takes nothing with it.
    async fn guarded(&mut self, table: &'static str, row: Json) -> Result<std::result::Result<Outcome, String>> {
        self.tx.begin_part().await?;
        let notes = self.notes.len();
        let taken = match table {
            "keypair_resource_policies" => self.policy(row).await,
            "domains" => self.domain(row).await,
            "groups" => self.project(row).await,
            "users" => self.user(row).await,
            "association_groups_users" => self.member(row).await,
            "keypairs" => self.keypair(row).await,
            "scaling_groups" => self.scaling_group(row).await,
            "sgroups_for_domains" => self.group_of_domain(row).await,
            "sgroups_for_groups" => self.group_of_project(row).await,
            "sgroups_for_keypairs" => self.group_of_keypair(row).await,
            "resource_presets" => self.preset(row).await,
            "images" => self.image(row).await,
            "image_aliases" => self.alias(row).await,
            "session_templates" => self.template(row).await,
            "vfolders" => self.folder(row).await,
            "vfolder_permissions" => self.folder_grant(row).await,
            "vfolder_invitations" => self.folder_invitation(row).await,
            other => unreachable!("nobody takes over the table {other}"),
        };
        match taken {
            Ok(outcome) => {
                self.tx.end_part(true).await?;
                Ok(Ok(outcome))
            }
            Err(Refusal::Row(reason)) => {
                self.tx.end_part(false).await?;
                self.notes.truncate(notes);
                Ok(Err(reason))
            }
            Err(Refusal::Fatal(error)) => Err(error),
        }
    }

    fn note(&mut self, table: &'static str, row: &str, text: impl Into<String>) {
        self.notes.push(Remark { table, row: row.to_owned(), text: text.into() });
    }

    /// What to do with a row that is here already: change it, if it differs and that is wanted.
    fn differs(&self, differs: bool) -> bool {
        differs && self.options.update
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_table_that_is_read_has_a_name_for_its_rows() {
        let row = serde_json::json!({"name": "n", "email": "e", "access_key": "k", "alias": "a", "group_id": "g", "domain": "d", "group": "g", "vfolder": "v", "invitee": "i"});
        for table in READ {
            assert!(!read::label(&row, names(table)).is_empty(), "{table}");
        }
    }
}
