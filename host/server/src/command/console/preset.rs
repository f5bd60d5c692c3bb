//! `quarterdeck preset …`: named amounts that users choose from.

use clap::{Args, Subcommand};
use quarterdeck_control::presets as rules;
use quarterdeck_store::presets::{self, PresetRow};
use serde_json::{Value as Json, json};

use super::words::slots;
use super::{Desk, DeskArgs, Sure, Told as _, missing};

#[derive(Debug, Args)]
pub(crate) struct PresetArgs {
    #[command(flatten)]
    desk: DeskArgs,
    #[command(subcommand)]
    command: PresetCommand,
}

#[derive(Debug, Subcommand)]
enum PresetCommand {
    /// List resource presets
    List,
    /// Make a resource preset
    #[command(after_long_help = "Example:\n  quarterdeck preset create small cpu=2,mem=4g --shared-memory 64m\n")]
    Create {
        /// Its name
        name: String,
        /// Its amounts
        #[arg(value_parser = slots)]
        slots: Json,
        /// Shared memory
        #[arg(long, value_name = "SIZE")]
        shared_memory: Option<String>,
    },
    /// Change a resource preset
    Modify {
        /// Its name
        name: String,
        /// Its amounts
        #[arg(long, value_name = "SLOTS", value_parser = slots)]
        slots: Option<Json>,
        /// Shared memory; an empty text for none
        #[arg(long, value_name = "SIZE")]
        shared_memory: Option<String>,
    },
    /// Delete a resource preset
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        sure: Sure,
    },
}

pub(crate) async fn run(args: PresetArgs) -> anyhow::Result<()> {
    let desk = args.desk.open().await?;
    let (control, caller) = (&desk.control, &desk.caller);
    match args.command {
        PresetCommand::List => {
            let rows: Vec<Json> = presets::list(&mut desk.sql()).await?.iter().map(document).collect();
            desk.list(&[("NAME", "name"), ("SLOTS", "resource_slots"), ("SHARED MEMORY", "shared_memory")], &rows)
        }
        PresetCommand::Create { name, slots, shared_memory } => {
            let row = rules::create(control, caller, &name, &slots, shared_memory.as_deref()).await.told(&name)?;
            desk.done(&format!("preset {name} made"), &document(&row))
        }
        PresetCommand::Modify { name, slots, shared_memory } => {
            let memory = shared_memory.as_deref();
            rules::modify(control, caller, &name, slots.as_ref(), memory).await.told(&name)?;
            desk.done(&format!("preset {name} is changed"), &document(&there(&desk, &name).await?))
        }
        PresetCommand::Delete { name, sure } => {
            there(&desk, &name).await?;
            sure.confirm(&format!("delete the preset {name}"))?;
            rules::delete(control, caller, &name).await.told(&name)?;
            desk.done(&format!("preset {name} is deleted"), &json!({"name": name, "deleted": true}))
        }
    }
}

fn document(row: &PresetRow) -> Json {
    json!({"name": row.name, "resource_slots": row.resource_slots, "shared_memory": row.shared_memory})
}

async fn there(desk: &Desk, name: &str) -> anyhow::Result<PresetRow> {
    presets::get(&mut desk.sql(), name).await?.ok_or_else(|| missing("resource preset", name))
}
