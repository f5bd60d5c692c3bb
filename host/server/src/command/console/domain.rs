//! `quarterdeck domain …`

use clap::{Args, Subcommand};
use quarterdeck_control::domains::{self as rules, DomainInput, ModifyDomainInput};
use quarterdeck_store::domains::{self, DomainRow};
use quarterdeck_store::scaling_groups;
use serde_json::{Value as Json, json};

use super::words::Facts;
use super::{Desk, DeskArgs, Sure, Told as _, at, missing};

#[derive(Debug, Args)]
pub(crate) struct DomainArgs {
    #[command(flatten)]
    desk: DeskArgs,
    #[command(subcommand)]
    command: DomainCommand,
}

#[derive(Debug, Subcommand)]
enum DomainCommand {
    /// List domains
    List {
        /// Only those in use
        #[arg(long)]
        active: bool,
    },
    /// Show a domain
    Show {
        /// Its name
        name: String,
    },
    /// Make a domain
    Create {
        /// Its name: letters, digits, and in between . _ -
        name: String,
        #[command(flatten)]
        facts: Facts,
        #[command(flatten)]
        registries: Registries,
    },
    /// Change a domain
    Modify {
        /// Its name
        name: String,
        /// A new name; users and sessions of the domain prevent it
        #[arg(long, value_name = "NAME")]
        rename: Option<String>,
        #[command(flatten)]
        facts: Facts,
        #[command(flatten)]
        registries: Registries,
    },
    /// Put a domain out of use; `modify --active true` takes it back
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Remove a domain for good, with its past sessions; users and projects prevent it
    Purge {
        /// Its name
        name: String,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, Args)]
struct Registries {
    /// A registry whose images may be used; may be repeated. All registries are replaced
    #[arg(long = "registry", value_name = "NAME")]
    registries: Vec<String>,
}

impl Registries {
    /// `None` when nothing was said.
    fn take(self) -> Option<Vec<String>> {
        (!self.registries.is_empty()).then_some(self.registries)
    }
}

pub(crate) async fn run(args: DomainArgs) -> anyhow::Result<()> {
    let desk = args.desk.open().await?;
    let (control, caller) = (&desk.control, &desk.caller);
    match args.command {
        DomainCommand::List { active } => {
            let rows = domains::list(&mut desk.sql(), active.then_some(true)).await?;
            let rows: Vec<Json> = rows.iter().map(document).collect();
            let columns = [
                ("NAME", "name"),
                ("ACTIVE", "is_active"),
                ("SLOTS", "total_resource_slots"),
                ("REGISTRIES", "allowed_docker_registries"),
                ("DESCRIPTION", "description"),
            ];
            desk.list(&columns, &rows)
        }
        DomainCommand::Show { name } => {
            let mut out = document(&there(&desk, &name).await?);
            let groups = scaling_groups::associated(&mut desk.sql(), Some(&name), None, None).await?;
            out["scaling_groups"] = groups.into_iter().map(|g| Json::from(g.name)).collect();
            desk.show(&out)
        }
        DomainCommand::Create { name, facts, registries } => {
            let input = DomainInput {
                allowed_docker_registries: registries.take(),
                description: facts.description,
                is_active: facts.active,
                total_resource_slots: facts.slots,
                allowed_vfolder_hosts: facts.hosts.take(),
                integration_id: facts.integration_id,
            };
            let row = rules::create(control, caller, &name, input).await.told(&name)?;
            desk.done(&format!("domain {name} made"), &document(&row))
        }
        DomainCommand::Modify { name, rename, facts, registries } => {
            let input = ModifyDomainInput {
                allowed_docker_registries: registries.take(),
                name: rename,
                description: facts.description,
                is_active: facts.active,
                total_resource_slots: facts.slots,
                allowed_vfolder_hosts: facts.hosts.take(),
                integration_id: facts.integration_id,
            };
            let row = rules::modify(control, caller, &name, input).await.told(&name)?;
            desk.done(&format!("domain {} is changed", row.name), &document(&row))
        }
        DomainCommand::Delete { name, sure } => {
            there(&desk, &name).await?;
            sure.confirm(&format!("put the domain {name} out of use"))?;
            rules::delete(control, caller, &name).await.told(&name)?;
            desk.done(&format!("domain {name} is out of use"), &json!({"name": name, "is_active": false}))
        }
        DomainCommand::Purge { name, sure } => {
            there(&desk, &name).await?;
            sure.confirm(&format!("remove the domain {name} for good, with its past sessions"))?;
            rules::purge(control, caller, &name).await.told(&name)?;
            desk.done(&format!("domain {name} is removed"), &json!({"name": name, "purged": true}))
        }
    }
}

fn document(row: &DomainRow) -> Json {
    json!({
        "name": row.name,
        "description": row.description,
        "is_active": row.is_active,
        "total_resource_slots": row.total_resource_slots,
        "allowed_vfolder_hosts": row.allowed_vfolder_hosts,
        "allowed_docker_registries": row.allowed_docker_registries,
        "integration_id": row.integration_id,
        "created_at": at(row.created_at),
        "modified_at": at(row.modified_at),
    })
}

async fn there(desk: &Desk, name: &str) -> anyhow::Result<DomainRow> {
    domains::get(&mut desk.sql(), name).await?.ok_or_else(|| missing("domain", name))
}
