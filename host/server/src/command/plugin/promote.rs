//! `quarterdeck plugin promote`: a plugin that watched decides from here on.

use clap::Args;
use hyper::Method;
use serde_json::{Value as Json, json};

use super::TargetArgs;
use crate::client::ApiClient;

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// The plugin's name
    plugin: String,
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Even if it failed, or was shown nothing yet
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(client: &ApiClient, args: &PromoteArgs) -> anyhow::Result<Json> {
    let body = json!({"plugin": args.plugin, "target": args.target.document(), "force": args.force});
    client.call(Method::POST, "/plugins/promote", Some(&body)).await
}
