//! `quarterdeck config get|set|delete|tree`: the shared configuration, which servers follow while they run.

use clap::Subcommand;
use quarterdeck_control::audit::{HIDDEN, is_secret_key};
use quarterdeck_control::config;
use serde_json::{Value as Json, json};

use super::{DeskArgs, Missing, Sure, Told as _};
use crate::table;

#[derive(Debug, Subcommand)]
pub(crate) enum TreeCommand {
    /// Print the value of a key of the shared configuration
    Get {
        /// The key, e.g. config/api/resources/group_resource_visibility
        key: String,
    },
    /// Write a key of the shared configuration; running servers follow within a second
    Set {
        /// The key; a component with a slash is written with %2F
        key: String,
        /// The value: a text, or with --object a JSON object whose leaves go below the key
        value: String,
        /// The value is a JSON object
        #[arg(long)]
        object: bool,
    },
    /// Remove a key of the shared configuration
    Delete {
        /// The key
        key: String,
        /// With everything below it
        #[arg(long)]
        subtree: bool,
        #[command(flatten)]
        sure: Sure,
    },
    /// Print the shared configuration, or what is below a key
    Tree {
        /// The key
        #[arg(default_value = "")]
        key: String,
        /// Also passwords, tokens and secrets
        #[arg(long)]
        secrets: bool,
    },
}

pub(crate) async fn run(desk: DeskArgs, command: TreeCommand) -> anyhow::Result<()> {
    let desk = desk.open().await?;
    let tree = desk.control.config_tree();
    match command {
        TreeCommand::Get { key } => match tree.get(&key).await {
            None => Err(Missing(format!("no such key: {key}")).into()),
            Some(value) if desk.json => Ok(table::json(&json!({"key": key, "value": value}))?),
            Some(value) => Ok(table::text(&[value])?),
        },
        TreeCommand::Set { key, value, object } => {
            anyhow::ensure!(!key.trim().is_empty(), "a key must not be blank");
            let value: Json =
                if object { super::words::object(&value).map_err(anyhow::Error::msg)? } else { Json::from(value) };
            let pairs = config::flatten(&key, &value).told(&key)?;
            tree.set(&pairs).await.told(&key)?;
            let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
            desk.done(&format!("{} keys written", keys.len()), &json!({"keys": keys}))
        }
        TreeCommand::Delete { key, subtree, sure } => {
            anyhow::ensure!(!key.trim().is_empty(), "a key must not be blank");
            let what = if subtree { format!("{key} with everything below it") } else { key.clone() };
            sure.confirm(&format!("remove {what}"))?;
            tree.delete(&key, subtree).await.told(&key)?;
            desk.done(&format!("{what} is removed"), &json!({"key": key, "deleted": true}))
        }
        TreeCommand::Tree { key, secrets } => {
            let rows = quarterdeck_store::config::all(&mut desk.sql()).await?;
            let below = |name: &str| {
                key.is_empty() || name.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let shown = rows.into_iter().filter(|(name, _)| below(name)).map(|(name, value)| {
                let value = if !secrets && is_secret_key(&name) { HIDDEN.to_owned() } else { value };
                (name, value)
            });
            if desk.json {
                let object: serde_json::Map<String, Json> = shown.map(|(k, v)| (k, Json::from(v))).collect();
                return Ok(table::json(&Json::Object(object))?);
            }
            Ok(table::text(&shown.map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>())?)
        }
    }
}
