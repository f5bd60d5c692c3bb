//! `quarterdeck scaling-group …`

use clap::{Args, Subcommand};
use quarterdeck_control::scaling_groups::{self as rules, ModifyScalingGroupInput, ScalingGroupInput};
use quarterdeck_model::AccessKey;
use quarterdeck_store::lists::agents;
use quarterdeck_store::scaling_groups::{self, Associate, ScalingGroupRow};
use serde_json::{Value as Json, json};

use super::words::object;
use super::{Desk, DeskArgs, Sure, Told as _, at, missing};

#[derive(Debug, Args)]
pub(crate) struct ScalingGroupArgs {
    #[command(flatten)]
    desk: DeskArgs,
    #[command(subcommand)]
    command: ScalingGroupCommand,
}

#[derive(Debug, Subcommand)]
enum ScalingGroupCommand {
    /// List scaling groups
    List {
        /// Only those in use
        #[arg(long)]
        active: bool,
    },
    /// Show a scaling group with its agents and those who may use it
    Show {
        /// Its name
        name: String,
    },
    /// Make a scaling group; nobody may use it until it is associated
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        facts: Facts,
    },
    /// Change a scaling group; the next scheduling round sees it
    Modify {
        /// Its name
        name: String,
        #[command(flatten)]
        facts: Facts,
    },
    /// Let a domain, a project or a key pair use a scaling group
    Associate {
        /// Its name
        name: String,
        #[command(flatten)]
        with: With,
        /// The domain of a project that is given by name
        #[arg(long, default_value = "default", value_name = "NAME")]
        of_domain: String,
    },
    /// Take that back
    Dissociate {
        /// Its name
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        #[command(flatten)]
        with: With,
        /// The domain of a project that is given by name
        #[arg(long, default_value = "default", value_name = "NAME")]
        of_domain: String,
        /// From all scaling groups
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Delete a scaling group; agents and sessions of it prevent it
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, Args)]
struct Facts {
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether it is in use
    #[arg(long, value_name = "BOOL")]
    active: Option<bool>,
    /// Whether ordinary sessions may use it
    #[arg(long, value_name = "BOOL")]
    public: Option<bool>,
    /// The name of its scheduler plugin (new groups: fifo)
    #[arg(long, value_name = "PLUGIN")]
    scheduler: Option<String>,
    /// The scheduler's options, e.g. '{"config": {"skip_blocked": true}, "pending_timeout": "1h"}'; replaced whole
    #[arg(long, value_name = "JSON", value_parser = object)]
    scheduler_opts: Option<Json>,
    /// The application proxy of its sessions
    #[arg(long, value_name = "URL")]
    wsproxy_addr: Option<String>,
    /// Whether sessions share the agent's network
    #[arg(long, value_name = "BOOL")]
    host_network: Option<bool>,
}

/// Who may use it.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct With {
    /// A domain
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// A project, by its id, or by its name in `--of-domain`
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// A key pair
    #[arg(long, value_name = "ACCESS_KEY")]
    keypair: Option<String>,
}

pub(crate) async fn run(args: ScalingGroupArgs) -> anyhow::Result<()> {
    let desk = args.desk.open().await?;
    let (control, caller) = (&desk.control, &desk.caller);
    match args.command {
        ScalingGroupCommand::List { active } => {
            let rows = scaling_groups::list(&mut desk.sql(), active.then_some(true)).await?;
            let rows: Vec<Json> = rows.iter().map(document).collect();
            let columns = [
                ("NAME", "name"),
                ("ACTIVE", "is_active"),
                ("PUBLIC", "is_public"),
                ("SCHEDULER", "scheduler"),
                ("DESCRIPTION", "description"),
            ];
            desk.list(&columns, &rows)
        }
        ScalingGroupCommand::Show { name } => {
            let mut out = document(&there(&desk, &name).await?);
            let sql = &mut desk.sql();
            let users = scaling_groups::associates(sql, &name).await?;
            out["domains"] = Json::from(users.domains);
            out["projects"] = users.projects.iter().map(|(id, name)| json!({"id": id, "name": name})).collect();
            out["keypairs"] = Json::from(users.access_keys);
            let scope = agents::Scope { scaling_groups: Some(vec![name]), ..agents::Scope::default() };
            let agents = agents::select(sql, &scope).await?;
            out["agents"] = agents.iter().map(|a| json!({"id": a.id, "status": a.status.as_str()})).collect();
            desk.show(&out)
        }
        ScalingGroupCommand::Create { name, facts } => {
            let input = ScalingGroupInput {
                description: facts.description,
                is_active: facts.active,
                is_public: facts.public,
                wsproxy_addr: facts.wsproxy_addr,
                driver: "static".to_owned(),
                driver_opts: None,
                scheduler: facts.scheduler.unwrap_or_else(|| "fifo".to_owned()),
                scheduler_opts: facts.scheduler_opts,
                use_host_network: facts.host_network,
            };
            let row = rules::create(control, caller, &name, input).await.told(&name)?;
            desk.done(&format!("scaling group {name} made"), &document(&row))
        }
        ScalingGroupCommand::Modify { name, facts } => {
            let input = ModifyScalingGroupInput {
                description: facts.description,
                is_active: facts.active,
                is_public: facts.public,
                wsproxy_addr: facts.wsproxy_addr,
                driver: None,
                driver_opts: None,
                scheduler: facts.scheduler,
                scheduler_opts: facts.scheduler_opts,
                use_host_network: facts.host_network,
            };
            rules::modify(control, caller, &name, input).await.told(&name)?;
            desk.done(&format!("scaling group {name} is changed"), &document(&there(&desk, &name).await?))
        }
        ScalingGroupCommand::Associate { name, with, of_domain } => {
            there(&desk, &name).await?;
            let whom = whom(&desk, &with, &of_domain).await?;
            rules::associate(control, caller, &name, whom.associate()).await.told(&name)?;
            desk.done(
                &format!("{whom} may use {name}"),
                &json!({"scaling_group": name, "associated": whom.to_string()}),
            )
        }
        ScalingGroupCommand::Dissociate { name, with, of_domain, all: _ } => {
            let whom = whom(&desk, &with, &of_domain).await?;
            let about = name.as_deref().unwrap_or("all scaling groups");
            let told = format!("{about} with {whom}");
            rules::disassociate(control, caller, name.as_deref(), whom.associate()).await.told(&told)?;
            desk.done(
                &format!("{whom} may use {about} no more"),
                &json!({"scaling_group": name, "dissociated": whom.to_string()}),
            )
        }
        ScalingGroupCommand::Delete { name, sure } => {
            there(&desk, &name).await?;
            sure.confirm(&format!("delete the scaling group {name}"))?;
            rules::delete(control, caller, &name).await.told(&name)?;
            desk.done(&format!("scaling group {name} is deleted"), &json!({"name": name, "deleted": true}))
        }
    }
}

/// Somebody who may use a group.
enum Whom {
    Domain(String),
    Project(Box<quarterdeck_store::projects::ProjectRow>),
    Keypair(AccessKey),
}

impl Whom {
    fn associate(&self) -> Associate<'_> {
        match self {
            Self::Domain(name) => Associate::Domain(name),
            Self::Project(row) => Associate::Project(row.id),
            Self::Keypair(key) => Associate::Keypair(key),
        }
    }
}

impl std::fmt::Display for Whom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Domain(name) => write!(f, "domain {name}"),
            Self::Project(row) => write!(f, "project {}", row.name),
            Self::Keypair(key) => write!(f, "key pair {key}"),
        }
    }
}

async fn whom(desk: &Desk, with: &With, domain: &str) -> anyhow::Result<Whom> {
    match (&with.domain, &with.project, &with.keypair) {
        (Some(name), ..) => Ok(Whom::Domain(name.clone())),
        (_, Some(project), _) => Ok(Whom::Project(Box::new(desk.project(domain, project).await?))),
        (.., Some(key)) => Ok(Whom::Keypair(key.as_str().into())),
        (None, None, None) => unreachable!("the group of arguments is required"),
    }
}

fn document(row: &ScalingGroupRow) -> Json {
    json!({
        "name": row.name,
        "description": row.description,
        "is_active": row.is_active,
        "is_public": row.is_public,
        "scheduler": row.scheduler,
        "scheduler_opts": row.scheduler_opts,
        "wsproxy_addr": row.wsproxy_addr,
        "use_host_network": row.use_host_network,
        "created_at": at(row.created_at),
    })
}

async fn there(desk: &Desk, name: &str) -> anyhow::Result<ScalingGroupRow> {
    scaling_groups::get(&mut desk.sql(), name).await?.ok_or_else(|| missing("scaling group", name))
}
