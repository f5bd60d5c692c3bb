//! `quarterdeck image …`

use clap::{Args, Subcommand};
use quarterdeck_control::images::{self as rules, LocalImage, ModifyImageInput};
use quarterdeck_store::images::{self, ImageRow};
use serde_json::{Value as Json, json};

use super::words::{limit, pair};
use super::{Desk, DeskArgs, Sure, Told as _, at};

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    desk: DeskArgs,
    /// The architecture, where a name has several
    #[arg(long, global = true, default_value = std::env::consts::ARCH, value_name = "NAME")]
    architecture: String,
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// List images
    List {
        /// Of this registry
        #[arg(long, value_name = "NAME")]
        registry: Option<String>,
    },
    /// Show an image
    Show {
        /// Its canonical name or an alias
        image: String,
    },
    /// Record an image that no registry tells of, such as what agents of the runtime `process` have on their nodes
    #[command(after_long_help = "Example:\n  quarterdeck image add local/python:3 --alias python\n")]
    Add {
        /// REGISTRY/NAME:TAG; the registry is only a name here
        image: String,
        /// What runs in it
        #[arg(long, default_value = "python", value_name = "TYPE")]
        runtime_type: String,
        /// The runtime's path
        #[arg(long, default_value = "/usr/bin/python3", value_name = "PATH")]
        runtime_path: String,
        /// Another name for it; may be repeated
        #[arg(long = "alias", value_name = "NAME")]
        aliases: Vec<String>,
        /// A label; may be repeated
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
        labels: Vec<(String, String)>,
        /// How much of a slot it needs at least and can use at most; may be repeated (default: cpu=1 and mem=64m)
        #[arg(long = "limit", value_name = "SLOT=LEAST:MOST", value_parser = limit)]
        limits: Vec<(String, Option<String>, Option<String>)>,
    },
    /// Give an image another name
    Alias {
        /// The new name
        alias: String,
        /// The image's canonical name or an alias
        image: String,
    },
    /// Take a name from an image
    Dealias {
        /// The name
        alias: String,
    },
    /// Say how much of each slot an image needs at least and can use at most; all limits are replaced
    Limit {
        /// The image's canonical name
        image: String,
        /// SLOT=LEAST:MOST, e.g. cpu=1:8 mem=1g
        #[arg(required = true, value_parser = limit)]
        limits: Vec<(String, Option<String>, Option<String>)>,
    },
    /// Look what registries have, and record it; waits for the end. Registries are in the shared configuration
    #[command(after_long_help = "\
Example:
  quarterdeck config set config/docker/registry/cr.example.org https://cr.example.org
  quarterdeck image rescan cr.example.org
")]
    Rescan {
        /// The registry; without, all of them
        registry: Option<String>,
    },
    /// Remove the record of an image, with its aliases; the image itself stays where it is
    Forget {
        /// Its canonical name or an alias
        image: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Remove the records of all images of a registry, with their aliases
    Clear {
        /// The registry
        registry: String,
        #[command(flatten)]
        sure: Sure,
    },
}

pub(crate) async fn run(args: ImageArgs) -> anyhow::Result<()> {
    let desk = args.desk.open().await?;
    let (control, caller) = (&desk.control, &desk.caller);
    let architecture = args.architecture.as_str();
    match args.command {
        ImageCommand::List { registry } => {
            let mut rows = images::list(&mut desk.sql()).await?;
            rows.retain(|row| registry.as_ref().is_none_or(|name| row.registry == *name));
            let rows = documents(&desk, &rows).await?;
            let columns = [
                ("NAME", "name"),
                ("ARCHITECTURE", "architecture"),
                ("LIMITS", "resource_limits"),
                ("ALIASES", "aliases"),
            ];
            desk.list(&columns, &rows)
        }
        ImageCommand::Show { image } => {
            let row = rules::resolve(control, &image, architecture).await.told(&image)?;
            desk.show(&document(&desk, row).await?)
        }
        ImageCommand::Add { image, runtime_type, runtime_path, aliases, labels, limits } => {
            let least = |slot: &str, amount: &str| (slot.to_owned(), Some(amount.to_owned()), None);
            let limits = if limits.is_empty() { vec![least("cpu", "1"), least("mem", "64m")] } else { limits };
            let local = LocalImage {
                reference: image.clone(),
                architecture: architecture.to_owned(),
                runtime_type,
                runtime_path,
                labels,
                resource_limits: limits,
                aliases,
            };
            let row = rules::add_local(control, caller, local).await.told(&image)?;
            desk.done(&format!("image {} recorded", row.name), &document(&desk, row).await?)
        }
        ImageCommand::Alias { alias, image } => {
            rules::alias(control, caller, &alias, &image, architecture).await.told(&image)?;
            desk.done(&format!("{alias} means {image}"), &json!({"alias": alias, "image": image}))
        }
        ImageCommand::Dealias { alias } => {
            rules::dealias(control, caller, &alias).await.told(&alias)?;
            desk.done(&format!("{alias} means nothing any more"), &json!({"alias": alias, "removed": true}))
        }
        ImageCommand::Limit { image, limits } => {
            let input = ModifyImageInput { resource_limits: Some(limits), ..ModifyImageInput::default() };
            rules::modify(control, caller, &image, architecture, input).await.told(&image)?;
            let row = rules::resolve(control, &image, architecture).await.told(&image)?;
            desk.done(&format!("image {} is changed", row.name), &document(&desk, row).await?)
        }
        ImageCommand::Rescan { registry } => {
            let name = registry.clone().unwrap_or_else(|| "all registries".to_owned());
            let (mut updated, mut skipped) = (0, 0);
            let told = |step: &str| {
                if step.starts_with("Skipped") {
                    skipped += 1
                } else {
                    updated += 1
                }
                eprintln!("{step}");
            };
            rules::rescan::wait(control, caller, registry.clone(), told).await.told(&name)?;
            let text = format!("{name}: {updated} images recorded, {skipped} skipped");
            desk.done(&text, &json!({"registry": registry, "recorded": updated, "skipped": skipped}))
        }
        ImageCommand::Forget { image, sure } => {
            let row = rules::resolve(control, &image, architecture).await.told(&image)?;
            sure.confirm(&format!("remove the record of {} for {}, with its aliases", row.name, row.architecture))?;
            rules::forget(control, caller, &image, architecture).await.told(&image)?;
            desk.done(&format!("image {} is forgotten", row.name), &json!({"name": row.name, "forgotten": true}))
        }
        ImageCommand::Clear { registry, sure } => {
            let count = images::list(&mut desk.sql()).await?.iter().filter(|row| row.registry == registry).count();
            sure.confirm(&format!("remove the records of {count} images of {registry}"))?;
            rules::clear(control, caller, Some(&registry)).await.told(&registry)?;
            desk.done(
                &format!("{count} images of {registry} are forgotten"),
                &json!({"registry": registry, "forgotten": count}),
            )
        }
    }
}

async fn documents(desk: &Desk, rows: &[ImageRow]) -> anyhow::Result<Vec<Json>> {
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let aliases = images::aliases(&mut desk.sql(), &ids).await?;
    Ok(rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "architecture": row.architecture,
                "registry": row.registry,
                "tag": row.tag,
                "aliases": aliases.get(&row.id).cloned().unwrap_or_default(),
                "is_local": row.is_local,
                "size_bytes": row.size_bytes,
                "resource_limits": row.resources,
                "accelerators": row.accelerators,
                "labels": row.labels,
                "digest": row.config_digest,
                "created_at": at(row.created_at),
                "id": row.id,
            })
        })
        .collect())
}

async fn document(desk: &Desk, row: ImageRow) -> anyhow::Result<Json> {
    Ok(documents(desk, &[row]).await?.pop().unwrap_or_default())
}
