//! `quarterdeck project …`

use clap::{Args, Subcommand};
use quarterdeck_control::projects::{self as rules, ModifyProjectInput, ProjectInput};
use quarterdeck_store::lists::users::{self as list, Scope};
use quarterdeck_store::projects::{self, ProjectRow};
use quarterdeck_store::{scaling_groups, users};
use serde_json::{Value as Json, json};

use super::words::Facts;
use super::{Desk, DeskArgs, Sure, Told as _, at, missing};

#[derive(Debug, Args)]
pub(crate) struct ProjectArgs {
    #[command(flatten)]
    desk: DeskArgs,
    /// The domain in which projects are named
    #[arg(long, global = true, default_value = "default", value_name = "NAME")]
    domain: String,
    #[command(subcommand)]
    command: ProjectCommand,
}

#[derive(Debug, Subcommand)]
enum ProjectCommand {
    /// List projects
    List {
        /// Of all domains
        #[arg(long)]
        all_domains: bool,
        /// Only those in use
        #[arg(long)]
        active: bool,
    },
    /// Show a project
    Show {
        /// Its name or id
        project: String,
    },
    /// Make a project
    Create {
        /// Its name: letters, digits, and in between . _ -
        name: String,
        #[command(flatten)]
        facts: Facts,
    },
    /// Change a project
    Modify {
        /// Its name or id
        project: String,
        /// A new name
        #[arg(long, value_name = "NAME")]
        rename: Option<String>,
        #[command(flatten)]
        facts: Facts,
    },
    /// List the members of a project
    Members {
        /// Its name or id
        project: String,
    },
    /// Let users join a project; they must be of its domain
    AddMember {
        /// Its name or id
        project: String,
        /// E-mail addresses
        #[arg(required = true)]
        emails: Vec<String>,
    },
    /// Take users out of a project
    RemoveMember {
        /// Its name or id
        project: String,
        /// E-mail addresses
        #[arg(required = true)]
        emails: Vec<String>,
    },
    /// Put a project out of use; `modify --active true` takes it back
    Delete {
        /// Its name or id
        project: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Remove a project for good, with its past sessions
    Purge {
        /// Its name or id
        project: String,
        #[command(flatten)]
        sure: Sure,
    },
}

pub(crate) async fn run(args: ProjectArgs) -> anyhow::Result<()> {
    let desk = args.desk.open().await?;
    let domain = args.domain.as_str();
    let (control, caller) = (&desk.control, &desk.caller);
    match args.command {
        ProjectCommand::List { all_domains, active } => {
            let domain = (!all_domains).then_some(domain);
            let rows = projects::list(&mut desk.sql(), domain, None, active.then_some(true)).await?;
            let rows: Vec<Json> = rows.iter().map(document).collect();
            let columns = [
                ("NAME", "name"),
                ("DOMAIN", "domain"),
                ("ACTIVE", "is_active"),
                ("SLOTS", "total_resource_slots"),
                ("ID", "id"),
            ];
            desk.list(&columns, &rows)
        }
        ProjectCommand::Show { project } => {
            let row = desk.project(domain, &project).await?;
            let mut out = document(&row);
            let groups = scaling_groups::associated(&mut desk.sql(), None, Some(row.id), None).await?;
            out["scaling_groups"] = groups.into_iter().map(|g| Json::from(g.name)).collect();
            out["members"] = members(&desk, &row).await?.iter().map(|m| m["email"].clone()).collect();
            desk.show(&out)
        }
        ProjectCommand::Create { name, facts } => {
            let input = ProjectInput {
                domain_name: domain.to_owned(),
                description: facts.description,
                is_active: facts.active,
                total_resource_slots: facts.slots,
                allowed_vfolder_hosts: facts.hosts.take(),
                integration_id: facts.integration_id,
            };
            let row = rules::create(control, caller, &name, input).await.told(&name)?;
            desk.done(&format!("project {name} made"), &document(&row))
        }
        ProjectCommand::Modify { project, rename, facts } => {
            let row = desk.project(domain, &project).await?;
            let input = ModifyProjectInput {
                name: rename,
                description: facts.description,
                is_active: facts.active,
                total_resource_slots: facts.slots,
                allowed_vfolder_hosts: facts.hosts.take(),
                integration_id: facts.integration_id,
                ..ModifyProjectInput::default()
            };
            let row = rules::modify(control, caller, row.id, input).await.told(&project)?.unwrap_or(row);
            desk.done(&format!("project {} is changed", row.name), &document(&row))
        }
        ProjectCommand::Members { project } => {
            let row = desk.project(domain, &project).await?;
            let columns = [("EMAIL", "email"), ("NAME", "username"), ("ROLE", "role"), ("STATUS", "status")];
            desk.list(&columns, &members(&desk, &row).await?)
        }
        ProjectCommand::AddMember { project, emails } => {
            let row = desk.project(domain, &project).await?;
            change_members(&desk, &row, "add", &emails).await?;
            desk.done(
                &format!("{} joined {}", emails.join(", "), row.name),
                &json!({"project": row.name, "added": emails}),
            )
        }
        ProjectCommand::RemoveMember { project, emails } => {
            let row = desk.project(domain, &project).await?;
            change_members(&desk, &row, "remove", &emails).await?;
            desk.done(
                &format!("{} left {}", emails.join(", "), row.name),
                &json!({"project": row.name, "removed": emails}),
            )
        }
        ProjectCommand::Delete { project, sure } => {
            let row = desk.project(domain, &project).await?;
            sure.confirm(&format!("put the project {} of {} out of use", row.name, row.domain_name))?;
            rules::delete(control, caller, row.id).await.told(&project)?;
            desk.done(&format!("project {} is out of use", row.name), &json!({"id": row.id, "is_active": false}))
        }
        ProjectCommand::Purge { project, sure } => {
            let row = desk.project(domain, &project).await?;
            sure.confirm(&format!("remove the project {} of {} for good", row.name, row.domain_name))?;
            rules::purge(control, caller, row.id).await.told(&project)?;
            desk.done(&format!("project {} is removed", row.name), &json!({"id": row.id, "purged": true}))
        }
    }
}

fn document(row: &ProjectRow) -> Json {
    json!({
        "name": row.name,
        "domain": row.domain_name,
        "description": row.description,
        "is_active": row.is_active,
        "total_resource_slots": row.total_resource_slots,
        "allowed_vfolder_hosts": row.allowed_vfolder_hosts,
        "integration_id": row.integration_id,
        "created_at": at(row.created_at),
        "modified_at": at(row.modified_at),
        "id": row.id,
    })
}

async fn members(desk: &Desk, row: &ProjectRow) -> anyhow::Result<Vec<Json>> {
    let scope = Scope { project: Some(row.id), ..Scope::default() };
    let users = list::select(&mut desk.sql(), &scope, i64::MAX).await?;
    Ok(users
        .iter()
        .map(|u| json!({"email": u.email, "username": u.username, "role": u.role.as_str(), "status": u.status.as_str(), "id": u.id}))
        .collect())
}

async fn change_members(desk: &Desk, row: &ProjectRow, mode: &str, emails: &[String]) -> anyhow::Result<()> {
    let known = users::by_emails(&mut desk.sql(), emails).await?;
    for email in emails {
        if !known.iter().any(|user| user.email == *email) {
            return Err(missing("user", email));
        }
    }
    let input = ModifyProjectInput {
        user_update_mode: Some(mode.to_owned()),
        user_uuids: Some(known.iter().map(|user| user.id.to_string()).collect()),
        ..ModifyProjectInput::default()
    };
    rules::modify(&desk.control, &desk.caller, row.id, input).await.told(&row.name)?;
    Ok(())
}
