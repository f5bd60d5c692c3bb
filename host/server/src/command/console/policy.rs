//! `quarterdeck policy …`: resource policies of key pairs. Policies that decide are plugins: `quarterdeck plugin`.

use clap::{Args, Subcommand, ValueEnum};
use quarterdeck_control::resource_policies::{self as rules, ModifyPolicyInput, PolicyInput};
use quarterdeck_store::resource_policies::{self, PolicyRow};
use serde_json::{Map, Value as Json, json};

use super::words::{HostArgs, slots};
use super::{Desk, DeskArgs, Sure, Told as _, at, missing};

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    desk: DeskArgs,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// List resource policies
    List,
    /// Show a resource policy
    Show {
        /// Its name
        name: String,
    },
    /// Make a resource policy
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        facts: Facts,
    },
    /// Change a resource policy
    Modify {
        /// Its name
        name: String,
        #[command(flatten)]
        facts: Facts,
    },
    /// Delete a resource policy; key pairs that have it prevent it
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        sure: Sure,
    },
}

/// What slots that the policy doesn't name may be used.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Unspecified {
    /// None of them
    Limited,
    /// Any amount
    Unlimited,
}

impl Unspecified {
    fn word(self) -> String {
        match self {
            Self::Limited => "LIMITED".to_owned(),
            Self::Unlimited => "UNLIMITED".to_owned(),
        }
    }
}

#[derive(Debug, Args)]
struct Facts {
    /// Limits of a key pair's sessions together, e.g. cpu=8,mem=32g; `none` for none
    #[arg(long, value_name = "SLOTS", value_parser = slots)]
    slots: Option<Json>,
    /// How much may be used of slots without a limit
    #[arg(long, value_enum, value_name = "WHAT")]
    unspecified: Option<Unspecified>,
    /// Sessions at a time
    #[arg(long, value_name = "N")]
    max_sessions: Option<i64>,
    /// Kernels of one session
    #[arg(long, value_name = "N")]
    max_kernels: Option<i64>,
    /// Seconds that a session may live; 0 = for ever
    #[arg(long, value_name = "SECONDS")]
    max_lifetime: Option<i64>,
    /// Seconds after which a session counts as idle; 0 = never
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<i64>,
    /// Folders
    #[arg(long, value_name = "N")]
    max_vfolders: Option<i64>,
    /// Bytes of one folder; 0 = any
    #[arg(long, value_name = "BYTES")]
    max_vfolder_size: Option<i64>,
    #[command(flatten)]
    hosts: HostArgs,
}

pub(crate) async fn run(args: PolicyArgs) -> anyhow::Result<()> {
    let desk = args.desk.open().await?;
    let (control, caller) = (&desk.control, &desk.caller);
    match args.command {
        PolicyCommand::List => {
            let rows: Vec<Json> = resource_policies::list(&mut desk.sql()).await?.iter().map(document).collect();
            let columns = [
                ("NAME", "name"),
                ("SLOTS", "total_resource_slots"),
                ("OTHERS", "default_for_unspecified"),
                ("SESSIONS", "max_concurrent_sessions"),
                ("KERNELS", "max_containers_per_session"),
                ("LIFETIME", "max_session_lifetime"),
                ("IDLE", "idle_timeout"),
            ];
            desk.list(&columns, &rows)
        }
        PolicyCommand::Show { name } => desk.show(&document(&there(&desk, &name).await?)),
        PolicyCommand::Create { name, facts } => {
            let input = PolicyInput {
                default_for_unspecified: facts.unspecified.unwrap_or(Unspecified::Unlimited).word(),
                total_resource_slots: facts.slots.unwrap_or_else(|| Json::Object(Map::new())),
                max_session_lifetime: facts.max_lifetime.unwrap_or(0),
                max_concurrent_sessions: facts.max_sessions.unwrap_or(30),
                max_containers_per_session: facts.max_kernels.unwrap_or(16),
                idle_timeout: facts.idle_timeout.unwrap_or(0),
                max_vfolder_count: facts.max_vfolders.unwrap_or(20),
                max_vfolder_size: facts.max_vfolder_size.unwrap_or(0),
                allowed_vfolder_hosts: facts.hosts.take(),
            };
            let row = rules::create(control, caller, &name, input).await.told(&name)?;
            desk.done(&format!("policy {name} made"), &document(&row))
        }
        PolicyCommand::Modify { name, facts } => {
            let input = ModifyPolicyInput {
                default_for_unspecified: facts.unspecified.map(Unspecified::word),
                total_resource_slots: facts.slots,
                max_session_lifetime: facts.max_lifetime,
                max_concurrent_sessions: facts.max_sessions,
                max_containers_per_session: facts.max_kernels,
                idle_timeout: facts.idle_timeout,
                max_vfolder_count: facts.max_vfolders,
                max_vfolder_size: facts.max_vfolder_size,
                allowed_vfolder_hosts: facts.hosts.take(),
            };
            rules::modify(control, caller, &name, input).await.told(&name)?;
            desk.done(&format!("policy {name} is changed"), &document(&there(&desk, &name).await?))
        }
        PolicyCommand::Delete { name, sure } => {
            there(&desk, &name).await?;
            sure.confirm(&format!("delete the policy {name}"))?;
            rules::delete(control, caller, &name).await.told(&name)?;
            desk.done(&format!("policy {name} is deleted"), &json!({"name": name, "deleted": true}))
        }
    }
}

fn document(row: &PolicyRow) -> Json {
    json!({
        "name": row.name,
        "default_for_unspecified": row.default_for_unspecified.as_str(),
        "total_resource_slots": row.total_resource_slots,
        "max_concurrent_sessions": row.max_concurrent_sessions,
        "max_concurrent_sftp_sessions": row.max_concurrent_sftp_sessions,
        "max_containers_per_session": row.max_containers_per_session,
        "max_session_lifetime": row.max_session_lifetime,
        "idle_timeout": row.idle_timeout,
        "max_vfolder_count": row.max_vfolder_count,
        "max_vfolder_size": row.max_vfolder_size,
        "allowed_vfolder_hosts": row.allowed_vfolder_hosts,
        "created_at": at(row.created_at),
    })
}

async fn there(desk: &Desk, name: &str) -> anyhow::Result<PolicyRow> {
    resource_policies::get(&mut desk.sql(), name).await?.ok_or_else(|| missing("resource policy", name))
}
