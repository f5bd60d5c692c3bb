//! `quarterdeck user …`

use clap::{Args, Subcommand};
use quarterdeck_control::users::{self as rules, ModifyUserInput, UserInput};
use quarterdeck_model::UserStatus;
use quarterdeck_store::lists::users::{self as list, Scope, UserItem};
use quarterdeck_store::{keypairs, projects, users};
use serde_json::{Value as Json, json};

use super::{Desk, DeskArgs, PageArgs, Sure, Told as _, at, at_opt, missing};
use crate::command::secret::PasswordArgs;

#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    #[command(flatten)]
    desk: DeskArgs,
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// List users
    List(ListArgs),
    /// Show a user with projects and key pairs
    Show {
        /// The e-mail address
        email: String,
    },
    /// Make a user with a key pair; the secret key, and the password when it is random, are shown this once
    #[command(after_long_help = "Example:\n  quarterdeck user create ada@example.org --project default --role user\n")]
    Create(CreateArgs),
    /// Change a user
    Modify(ModifyArgs),
    /// Set a new password: the one given, or a random one that is shown this once
    Password {
        /// The e-mail address
        email: String,
        #[command(flatten)]
        password: PasswordArgs,
        /// Clients ask the user for another one
        #[arg(long)]
        must_change: bool,
    },
    /// Mark a user as deleted and switch off all key pairs; `modify --status active` takes it back
    Delete {
        /// The e-mail address
        email: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Remove a user for good, with key pairs and past sessions
    Purge {
        /// The e-mail address
        email: String,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Of this domain
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Members of this project (name or id)
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// In this status: active, inactive, deleted, before-verification
    #[arg(long)]
    status: Option<UserStatus>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The e-mail address
    email: String,
    /// The name; default: the address
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// The person's name
    #[arg(long, value_name = "TEXT")]
    full_name: Option<String>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The domain
    #[arg(long, default_value = "default", value_name = "NAME")]
    domain: String,
    /// A project (name or id) to join; may be repeated
    #[arg(long = "project", value_name = "PROJECT")]
    projects: Vec<String>,
    /// superadmin, admin, user or monitor
    #[arg(long, default_value = "user")]
    role: String,
    /// active, inactive or before-verification
    #[arg(long, default_value = "active")]
    status: String,
    /// A network from which alone it may sign; may be repeated
    #[arg(long = "allow-from", value_name = "CIDR")]
    networks: Vec<String>,
    #[command(flatten)]
    password: PasswordArgs,
    /// Clients ask the user for another password
    #[arg(long)]
    must_change: bool,
}

#[derive(Debug, Args)]
struct ModifyArgs {
    /// The e-mail address
    email: String,
    /// The name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// The person's name
    #[arg(long, value_name = "TEXT")]
    full_name: Option<String>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// active, inactive, deleted or before-verification
    #[arg(long)]
    status: Option<String>,
    /// superadmin, admin, user or monitor; key pairs follow
    #[arg(long)]
    role: Option<String>,
    /// Another domain; all projects are left
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// A project (name or id) that is to be among the only ones; may be repeated
    #[arg(long = "project", value_name = "PROJECT")]
    projects: Vec<String>,
    /// A network from which alone it may sign; may be repeated
    #[arg(long = "allow-from", value_name = "CIDR")]
    networks: Vec<String>,
    /// It may sign from anywhere
    #[arg(long, conflicts_with = "networks")]
    allow_from_anywhere: bool,
    /// Whether clients ask the user for another password
    #[arg(long, value_name = "BOOL")]
    must_change: Option<bool>,
}

pub(crate) async fn run(args: UserArgs) -> anyhow::Result<()> {
    let desk = args.desk.open().await?;
    let (control, caller) = (&desk.control, &desk.caller);
    match args.command {
        UserCommand::List(args) => list_users(&desk, args).await,
        UserCommand::Show { email } => desk.show(&shown(&desk, &email).await?),
        UserCommand::Create(args) => create(&desk, args).await,
        UserCommand::Modify(args) => modify(&desk, args).await,
        UserCommand::Password { email, password, must_change } => {
            let password = password.take()?;
            let input = ModifyUserInput {
                password: Some(password.text.clone()),
                need_password_change: must_change.then_some(true),
                ..ModifyUserInput::default()
            };
            rules::modify(control, caller, &email, input).await.told(&email)?;
            let text = match password.random {
                true => format!("{email} has a new password, shown this once: {}", password.text),
                false => format!("{email} has a new password"),
            };
            desk.done(&text, &json!({"email": email, "password": password.random.then_some(password.text)}))
        }
        UserCommand::Delete { email, sure } => {
            users::by_email(&mut desk.sql(), &email).await?.ok_or_else(|| missing("user", &email))?;
            sure.confirm(&format!("mark {email} as deleted and switch off all key pairs"))?;
            rules::delete(control, caller, &email).await.told(&email)?;
            desk.done(&format!("{email} is marked as deleted"), &json!({"email": email, "status": "deleted"}))
        }
        UserCommand::Purge { email, sure } => {
            users::by_email(&mut desk.sql(), &email).await?.ok_or_else(|| missing("user", &email))?;
            sure.confirm(&format!("remove {email} for good, with key pairs and past sessions"))?;
            // Nobody is here to inherit folders that others share.
            rules::purge(control, caller, &email, true).await.told(&email)?;
            desk.done(&format!("{email} is removed"), &json!({"email": email, "purged": true}))
        }
    }
}

fn document(user: &UserItem) -> Json {
    json!({
        "email": user.email,
        "username": user.username,
        "full_name": user.full_name,
        "role": user.role.as_str(),
        "status": user.status.as_str(),
        "status_info": user.status_info,
        "domain": user.domain_name,
        "description": user.description,
        "need_password_change": user.need_password_change,
        "allowed_client_ip": user.allowed_client_ip,
        "created_at": at(user.created_at),
        "modified_at": at(user.modified_at),
        "id": user.id,
    })
}

async fn list_users(desk: &Desk, args: ListArgs) -> anyhow::Result<()> {
    let domain = args.domain.as_deref();
    let project = match &args.project {
        Some(reference) => Some(desk.project(domain.unwrap_or("default"), reference).await?.id),
        None => None,
    };
    let scope =
        Scope { domain: args.domain.clone(), project, statuses: args.status.map(|s| vec![s]), ..Scope::default() };
    let listing = args.page.listing(list::FIELDS)?;
    let page = list::page(&mut desk.sql(), &scope, &listing).await?;
    let users: Vec<Json> = page.items.iter().map(document).collect();
    let columns =
        [("EMAIL", "email"), ("NAME", "username"), ("ROLE", "role"), ("STATUS", "status"), ("DOMAIN", "domain")];
    desk.page(&columns, &users, page.total)
}

async fn shown(desk: &Desk, email: &str) -> anyhow::Result<Json> {
    let sql = &mut desk.sql();
    let scope = Scope { email: Some(email.to_owned()), ..Scope::default() };
    let user = list::select(sql, &scope, 1).await?.into_iter().next().ok_or_else(|| missing("user", email))?;
    let mut out = document(&user);
    let projects = projects::of_user(sql, user.id).await?;
    out["projects"] = projects.into_iter().map(|p| Json::from(p.name)).collect();
    let pairs = keypairs::of_users(sql, &[user.id]).await?;
    out["keypairs"] = pairs.iter().map(|k| Json::from(k.access_key.as_str())).collect();
    out["totp_activated"] = Json::from(user.totp_activated);
    out["totp_activated_at"] = at_opt(user.totp_activated_at);
    Ok(out)
}

/// Ids of projects by their names or ids: one that isn't there is a mistake here, and not silently left out.
async fn project_ids(desk: &Desk, domain: &str, references: &[String]) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for reference in references {
        let row = desk.project(domain, reference).await?;
        anyhow::ensure!(row.domain_name == domain, "the project {reference} belongs to the domain {}", row.domain_name);
        ids.push(row.id.to_string());
    }
    Ok(ids)
}

async fn create(desk: &Desk, args: CreateArgs) -> anyhow::Result<()> {
    let password = args.password.take()?;
    let input = UserInput {
        username: args.username.unwrap_or_default(),
        password: password.text.clone(),
        need_password_change: args.must_change,
        group_ids: Some(project_ids(desk, &args.domain, &args.projects).await?),
        domain_name: args.domain,
        full_name: args.full_name,
        description: args.description,
        is_active: None,
        status: Some(args.status),
        role: Some(args.role),
        allowed_client_ip: (!args.networks.is_empty()).then_some(args.networks),
        totp_activated: None,
    };
    let user = rules::create(&desk.control, &desk.caller, &args.email, input).await.told(&args.email)?;
    let pairs = keypairs::of_users(&mut desk.sql(), &[user.id]).await?;
    let mut out = shown(desk, &user.email).await?;
    let mut text = format!("user {} made", user.email);
    if let Some(pair) = pairs.first() {
        out["access_key"] = Json::from(pair.access_key.as_str());
        out["secret_key"] = Json::from(pair.secret_key.as_str());
        text.push_str(&format!("; {}", once(pair.access_key.as_str(), &pair.secret_key)));
    }
    if password.random {
        text.push_str(&format!("\n  password    {}", password.text));
        out["password"] = Json::from(password.text);
    }
    desk.done(&text, &out)
}

async fn modify(desk: &Desk, args: ModifyArgs) -> anyhow::Result<()> {
    let user = users::by_email(&mut desk.sql(), &args.email).await?;
    let user = user.ok_or_else(|| missing("user", &args.email))?;
    let domain = args.domain.clone().unwrap_or(user.domain_name);
    let ids = project_ids(desk, &domain, &args.projects).await?;
    let networks =
        if args.allow_from_anywhere { Some(Vec::new()) } else { Some(args.networks).filter(|n| !n.is_empty()) };
    let input = ModifyUserInput {
        username: args.username,
        password: None,
        need_password_change: args.must_change,
        full_name: args.full_name,
        description: args.description,
        is_active: None,
        status: args.status,
        domain_name: args.domain,
        role: args.role,
        group_ids: (!ids.is_empty()).then_some(ids),
        allowed_client_ip: networks,
        totp_activated: None,
    };
    rules::modify(&desk.control, &desk.caller, &args.email, input).await.told(&args.email)?;
    desk.done(&format!("{} is changed", args.email), &shown(desk, &args.email).await?)
}

/// What a new key pair shows once.
pub(super) fn once(access_key: &str, secret_key: &str) -> String {
    format!("this is shown once:\n  access key  {access_key}\n  secret key  {secret_key}")
}
