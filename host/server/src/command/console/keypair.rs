//! `quarterdeck keypair …`

use clap::{Args, Subcommand};
use quarterdeck_control::keypairs::{self as rules, KeypairInput, ModifyKeypairInput};
use quarterdeck_store::lists::keypairs::{self as list, KeyPairItem, Scope};
use quarterdeck_store::{keypairs, scaling_groups, users};
use serde_json::{Value as Json, json};

use super::{Desk, DeskArgs, PageArgs, Sure, Told as _, at, missing, user};

#[derive(Debug, Args)]
pub(crate) struct KeypairArgs {
    #[command(flatten)]
    desk: DeskArgs,
    #[command(subcommand)]
    command: KeypairCommand,
}

#[derive(Debug, Subcommand)]
enum KeypairCommand {
    /// List key pairs, without their secrets
    List {
        /// Of this user
        #[arg(long, value_name = "EMAIL")]
        user: Option<String>,
        /// Of users of this domain
        #[arg(long, value_name = "NAME")]
        domain: Option<String>,
        /// Only those that may sign
        #[arg(long)]
        active: bool,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a key pair
    Show {
        /// The access key
        access_key: String,
        /// With its secret key
        #[arg(long)]
        secret: bool,
    },
    /// Make another key pair for a user; the secret key is shown this once
    Create {
        /// The user's e-mail address
        email: String,
        /// The resource policy
        #[arg(long, default_value = "default", value_name = "NAME")]
        policy: String,
        /// Requests allowed in 15 minutes
        #[arg(long, default_value_t = 10_000, value_name = "N")]
        rate_limit: i64,
        /// Endpoints for administrators accept it
        #[arg(long)]
        admin: bool,
        /// It may not sign yet
        #[arg(long)]
        inactive: bool,
    },
    /// Change a key pair
    Modify {
        /// The access key
        access_key: String,
        /// The resource policy
        #[arg(long, value_name = "NAME")]
        policy: Option<String>,
        /// Requests allowed in 15 minutes
        #[arg(long, value_name = "N")]
        rate_limit: Option<i64>,
        /// Whether endpoints for administrators accept it
        #[arg(long, value_name = "BOOL")]
        admin: Option<bool>,
    },
    /// Let key pairs sign
    Activate {
        /// The access keys
        #[arg(required = true)]
        access_keys: Vec<String>,
    },
    /// Let key pairs sign no more; sessions go on
    Deactivate {
        /// The access keys
        #[arg(required = true)]
        access_keys: Vec<String>,
    },
    /// Give a key pair another secret, shown this once: the old one signs no more, the access key and its sessions stay
    Rotate {
        /// The access key
        access_key: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Delete a key pair; one that sessions refer to can only be deactivated
    Delete {
        /// The access key
        access_key: String,
        #[command(flatten)]
        sure: Sure,
    },
}

pub(crate) async fn run(args: KeypairArgs) -> anyhow::Result<()> {
    let desk = args.desk.open().await?;
    let (control, caller) = (&desk.control, &desk.caller);
    match args.command {
        KeypairCommand::List { user, domain, active, page } => {
            let scope = Scope { domain, email: user, is_active: active.then_some(true), access_key: None };
            let listing = page.listing(list::FIELDS)?;
            let page = list::page(&mut desk.sql(), &scope, &listing).await?;
            let pairs: Vec<Json> = page.items.iter().map(document).collect();
            let columns = [
                ("ACCESS KEY", "access_key"),
                ("USER", "user"),
                ("ACTIVE", "is_active"),
                ("ADMIN", "is_admin"),
                ("POLICY", "resource_policy"),
                ("RATE LIMIT", "rate_limit"),
                ("SESSIONS", "sessions"),
            ];
            desk.page(&columns, &pairs, page.total)
        }
        KeypairCommand::Show { access_key, secret } => {
            let item = item(&desk, &access_key).await?;
            let mut out = document(&item);
            let groups = scaling_groups::associated(&mut desk.sql(), None, None, Some(&item.access_key)).await?;
            out["scaling_groups"] = groups.into_iter().map(|g| Json::from(g.name)).collect();
            out["ssh_public_key"] = Json::from(item.ssh_public_key.as_deref().map(str::trim_end));
            if secret {
                out["secret_key"] = Json::from(item.secret_key);
            }
            desk.show(&out)
        }
        KeypairCommand::Create { email, policy, rate_limit, admin, inactive } => {
            let input =
                KeypairInput { is_active: Some(!inactive), is_admin: Some(admin), resource_policy: policy, rate_limit };
            users::by_email(&mut desk.sql(), &email).await?.ok_or_else(|| missing("user", &email))?;
            let pair = rules::create(&desk.control, &desk.caller, &email, input).await.told(&email)?;
            let mut out = document(&item(&desk, pair.access_key.as_str()).await?);
            out["secret_key"] = Json::from(pair.secret_key.as_str());
            let text = format!("key pair of {email} made; {}", user::once(pair.access_key.as_str(), &pair.secret_key));
            desk.done(&text, &out)
        }
        KeypairCommand::Modify { access_key, policy, rate_limit, admin } => {
            anyhow::ensure!(
                policy.is_some() || rate_limit.is_some() || admin.is_some(),
                "nothing to change: give --policy, --rate-limit or --admin"
            );
            let input = ModifyKeypairInput { resource_policy: policy, rate_limit, is_admin: admin, is_active: None };
            rules::modify(control, caller, &access_key, input).await.told(&access_key)?;
            desk.done(&format!("{access_key} is changed"), &document(&item(&desk, &access_key).await?))
        }
        KeypairCommand::Activate { access_keys } => switch(&desk, &access_keys, true).await,
        KeypairCommand::Deactivate { access_keys } => switch(&desk, &access_keys, false).await,
        KeypairCommand::Rotate { access_key, sure } => {
            item(&desk, &access_key).await?;
            sure.confirm(&format!("make the present secret of {access_key} useless"))?;
            let secret = rules::rotate(control, caller, &access_key).await.told(&access_key)?;
            let text = format!("{access_key} has another secret; {}", user::once(&access_key, &secret));
            desk.done(&text, &json!({"access_key": access_key, "secret_key": secret}))
        }
        KeypairCommand::Delete { access_key, sure } => {
            item(&desk, &access_key).await?;
            sure.confirm(&format!("delete the key pair {access_key}"))?;
            rules::delete(control, caller, &access_key).await.told(&access_key)?;
            desk.done(&format!("{access_key} is deleted"), &json!({"access_key": access_key, "deleted": true}))
        }
    }
}

fn document(pair: &KeyPairItem) -> Json {
    json!({
        "access_key": pair.access_key,
        "user": pair.user_email,
        "full_name": pair.full_name,
        "is_active": pair.is_active,
        "is_admin": pair.is_admin,
        "resource_policy": pair.resource_policy,
        "rate_limit": pair.rate_limit,
        "requests": pair.num_queries,
        "sessions": pair.concurrency_used,
        "created_at": at(pair.created_at),
        "user_id": pair.user_id,
    })
}

async fn item(desk: &Desk, access_key: &str) -> anyhow::Result<KeyPairItem> {
    let scope = Scope { access_key: Some(access_key.into()), ..Scope::default() };
    list::select(&mut desk.sql(), &scope, 1).await?.into_iter().next().ok_or_else(|| missing("keypair", access_key))
}

async fn switch(desk: &Desk, access_keys: &[String], on: bool) -> anyhow::Result<()> {
    // All or none: a mistyped one is told before the first is switched.
    for key in access_keys {
        keypairs::get(&mut desk.sql(), key).await?.ok_or_else(|| missing("keypair", key))?;
    }
    for key in access_keys {
        let input = ModifyKeypairInput { is_active: Some(on), ..ModifyKeypairInput::default() };
        rules::modify(&desk.control, &desk.caller, key, input).await.told(key)?;
    }
    let word = if on { "active" } else { "inactive" };
    desk.done(&format!("{word}: {}", access_keys.join(", ")), &json!({"access_keys": access_keys, "is_active": on}))
}
