//! Resource presets.

use async_graphql::{Context, InputObject, Object, SimpleObject};
use quarterdeck_control::presets as use_cases;
use quarterdeck_control::store::presets::{self, PresetRow};

use super::fault::{Maybe, list, maybe};
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{BigInt, JsonString};
use super::{caller, control};

/// A named choice of resources.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ResourcePreset {
    name: Option<String>,
    resource_slots: Option<JsonString>,
    shared_memory: Maybe<BigInt>,
}

impl From<PresetRow> for ResourcePreset {
    fn from(row: PresetRow) -> Self {
        Self {
            name: Some(row.name),
            resource_slots: Some(JsonString(row.resource_slots)),
            shared_memory: row.shared_memory.filter(|bytes| *bytes != 0).and_then(BigInt::safe),
        }
    }
}

/// What can be asked about presets.
#[derive(Default)]
pub(crate) struct PresetQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl PresetQueries {
    async fn resource_preset(&self, ctx: &Context<'_>, name: Option<String>) -> Maybe<ResourcePreset> {
        maybe(async {
            let Some(name) = name else { return Ok(None) };
            Ok(presets::get(&mut control(ctx).store().reader(), &name).await?.map(Into::into))
        })
        .await
    }

    async fn resource_presets(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<ResourcePreset>>> {
        maybe(async { Ok(Some(list(presets::list(&mut control(ctx).store().reader()).await?))) }).await
    }
}

payloads! {
    CreateResourcePreset { resource_preset: ResourcePreset },
    ModifyResourcePreset,
    DeleteResourcePreset,
}

/// A new preset.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct CreateResourcePresetInput {
    resource_slots: JsonString,
    shared_memory: Option<String>,
}

/// What may be changed about a preset.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyResourcePresetInput {
    resource_slots: Option<JsonString>,
    shared_memory: Option<String>,
}

/// What can be changed about presets.
#[derive(Default)]
pub(crate) struct PresetMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl PresetMutations {
    async fn create_resource_preset(
        &self,
        ctx: &Context<'_>,
        name: String,
        props: CreateResourcePresetInput,
    ) -> Maybe<CreateResourcePreset> {
        change(ctx, "create_resource_preset", Allowed::Superadmin, async {
            let (slots, memory) = (&props.resource_slots.0, props.shared_memory.as_deref());
            let row = use_cases::create(control(ctx), caller(ctx), &name, slots, memory).await?;
            Ok(CreateResourcePreset::done(row.into()))
        })
        .await
    }

    async fn modify_resource_preset(
        &self,
        ctx: &Context<'_>,
        name: String,
        props: ModifyResourcePresetInput,
    ) -> Maybe<ModifyResourcePreset> {
        change(ctx, "modify_resource_preset", Allowed::Superadmin, async {
            let (slots, memory) = (props.resource_slots.as_ref().map(|j| &j.0), props.shared_memory.as_deref());
            use_cases::modify(control(ctx), caller(ctx), &name, slots, memory).await?;
            Ok(ModifyResourcePreset::success())
        })
        .await
    }

    async fn delete_resource_preset(&self, ctx: &Context<'_>, name: String) -> Maybe<DeleteResourcePreset> {
        change(ctx, "delete_resource_preset", Allowed::Superadmin, async {
            use_cases::delete(control(ctx), caller(ctx), &name).await?;
            Ok(DeleteResourcePreset::success())
        })
        .await
    }
}
