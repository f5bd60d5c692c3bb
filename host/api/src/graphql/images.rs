//! Images and their aliases.

use async_graphql::{ComplexObject, Context, InputObject, Object, SimpleObject};
use quarterdeck_control::images as use_cases;
use quarterdeck_control::store::images::ImageRow;
use quarterdeck_model::ImageId;
use serde_json::Value as Json;

use super::fault::{Maybe, list, maybe};
use super::loaders::AliasesOf;
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{BigInt, UuidText};
use super::{caller, control, input, loader};

/// The architecture that an image has when nobody says.
const ARCHITECTURE: &str = "x86_64";

/// What sessions start from.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct Image {
    id: Option<UuidText>,
    name: Option<String>,
    humanized_name: Option<String>,
    tag: Option<String>,
    registry: Option<String>,
    architecture: Option<String>,
    is_local: Option<bool>,
    digest: Option<String>,
    labels: Option<Vec<Option<KVPair>>>,
    size_bytes: Maybe<BigInt>,
    resource_limits: Option<Vec<Option<ResourceLimit>>>,
    supported_accelerators: Option<Vec<Option<String>>>,
    /// Agents of this release keep no images.
    installed: Option<bool>,
    hash: Option<String>,
    #[graphql(skip)]
    key: ImageId,
}

/// A name and a value.
#[derive(SimpleObject)]
#[graphql(name = "KVPair", rename_fields = "snake_case")]
pub(crate) struct KVPair {
    key: Option<String>,
    value: Option<String>,
}

/// How much of a slot a session of the image takes.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ResourceLimit {
    key: Option<String>,
    min: Option<String>,
    max: Option<String>,
}

/// A bound as a text; the stored map may lack it or hold `null`.
fn bound(limits: &Json, name: &str, missing: &str) -> Option<String> {
    match limits.get(name) {
        None => Some(missing.to_owned()),
        Some(Json::Null) => None,
        Some(Json::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    }
}

impl From<ImageRow> for Image {
    fn from(row: ImageRow) -> Self {
        let limits = row.resources.as_object().into_iter().flatten();
        let limits = limits.map(|(slot, limits)| {
            Some(ResourceLimit {
                key: Some(slot.clone()),
                min: bound(limits, "min", "0"),
                max: bound(limits, "max", "Infinity"),
            })
        });
        let accelerators = row.accelerators.as_deref().unwrap_or_default();
        Self {
            id: Some(UuidText(row.id.0)),
            name: Some(row.image.clone()),
            humanized_name: Some(row.image),
            tag: Some(row.tag),
            registry: Some(row.registry),
            architecture: Some(row.architecture),
            is_local: Some(row.is_local),
            digest: Some(row.config_digest.clone()),
            labels: Some(
                row.labels
                    .into_iter()
                    .map(|(key, value)| Some(KVPair { key: Some(key), value: Some(value) }))
                    .collect(),
            ),
            size_bytes: BigInt::safe(row.size_bytes),
            resource_limits: Some(limits.collect()),
            supported_accelerators: Some(accelerators.split(',').map(|a| Some(a.to_owned())).collect()),
            installed: Some(false),
            hash: Some(row.config_digest),
            key: row.id,
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl Image {
    async fn aliases(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<String>>> {
        maybe(async { Ok(Some(list(loader(ctx).load_one(AliasesOf(self.key)).await?.unwrap_or_default()))) }).await
    }

    /// Hidden from users where agents are.
    async fn installed_agents(&self, ctx: &Context<'_>) -> Option<Vec<Option<String>>> {
        let hidden = control(ctx).settings().hide_agents && !caller(ctx).is_superadmin();
        (!hidden).then(Vec::new)
    }
}

/// What can be asked about images.
#[derive(Default)]
pub(crate) struct ImageQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl ImageQueries {
    async fn image(
        &self,
        ctx: &Context<'_>,
        reference: String,
        #[graphql(default_with = "Some(ARCHITECTURE.to_owned())")] architecture: Option<String>,
    ) -> Maybe<Image> {
        maybe(async {
            let architecture = architecture.as_deref().unwrap_or(ARCHITECTURE);
            Ok(Some(use_cases::visible(control(ctx), caller(ctx), &reference, architecture).await?.into()))
        })
        .await
    }

    async fn images(
        &self,
        ctx: &Context<'_>,
        is_installed: Option<bool>,
        is_operation: Option<bool>,
    ) -> Maybe<Vec<Option<Image>>> {
        maybe(async {
            let rows = use_cases::list(control(ctx), caller(ctx), is_operation).await?;
            let images = rows.into_iter().map(Image::from);
            Ok(Some(
                images.filter(|image| is_installed.is_none_or(|on| image.installed == Some(on))).map(Some).collect(),
            ))
        })
        .await
    }
}

payloads!(AliasImage, DealiasImage, ForgetImage, ClearImages, ModifyImage);

macro_rules! task_payloads {
    ($($name:ident),+) => {$(
        /// What the change of that name answers.
        #[derive(SimpleObject)]
        #[graphql(rename_fields = "snake_case")]
        pub(crate) struct $name {
            ok: Option<bool>,
            msg: Option<String>,
            task_id: Option<String>,
        }

        impl Payload for $name {
            fn new(ok: bool, msg: String) -> Self {
                Self { ok: Some(ok), msg: Some(msg), task_id: None }
            }
        }
    )+};
}
task_payloads!(PreloadImage, UnloadImage);

/// What a scan of registries answers.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct RescanImages {
    ok: Option<bool>,
    msg: Option<String>,
    task_id: Option<UuidText>,
}

impl Payload for RescanImages {
    fn new(ok: bool, msg: String) -> Self {
        Self { ok: Some(ok), msg: Some(msg), task_id: None }
    }
}

/// A label to set.
#[derive(InputObject)]
#[graphql(name = "KVPairInput", rename_fields = "snake_case")]
pub(crate) struct KVPairInput {
    key: Option<String>,
    value: Option<String>,
}

/// A limit to set.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ResourceLimitInput {
    key: Option<String>,
    min: Option<String>,
    max: Option<String>,
}

/// What may be changed about an image.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyImageInput {
    name: Option<String>,
    registry: Option<String>,
    image: Option<String>,
    tag: Option<String>,
    architecture: Option<String>,
    is_local: Option<bool>,
    size_bytes: Option<i32>,
    #[graphql(name = "type")]
    kind: Option<String>,
    digest: Option<String>,
    labels: Option<Vec<Option<KVPairInput>>>,
    supported_accelerators: Option<Vec<Option<String>>>,
    resource_limits: Option<Vec<Option<ResourceLimitInput>>>,
}

impl From<ModifyImageInput> for use_cases::ModifyImageInput {
    fn from(props: ModifyImageInput) -> Self {
        Self {
            name: props.name,
            registry: props.registry,
            image: props.image,
            tag: props.tag,
            architecture: props.architecture,
            is_local: props.is_local,
            size_bytes: props.size_bytes.map(Into::into),
            kind: props.kind,
            digest: props.digest,
            labels: props.labels.map(|labels| {
                labels.into_iter().flatten().filter_map(|l| Some((l.key?, l.value.unwrap_or_default()))).collect()
            }),
            supported_accelerators: input::texts(props.supported_accelerators),
            resource_limits: props
                .resource_limits
                .map(|limits| limits.into_iter().flatten().filter_map(|l| Some((l.key?, l.min, l.max))).collect()),
        }
    }
}

/// What can be changed about images.
#[derive(Default)]
pub(crate) struct ImageMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl ImageMutations {
    /// Scans one registry, or all; the task tells what it finds.
    async fn rescan_images(&self, ctx: &Context<'_>, registry: Option<String>) -> Maybe<RescanImages> {
        change(ctx, "rescan_images", Allowed::Admin, async {
            let task = use_cases::rescan::start(control(ctx), caller(ctx), registry).await?;
            Ok(RescanImages { ok: Some(true), msg: Some(String::new()), task_id: Some(UuidText(task.0)) })
        })
        .await
    }

    /// The contract knows no host that does this.
    async fn preload_image(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "references")] _references: Vec<Option<String>>,
        #[graphql(name = "target_agents")] _target_agents: Vec<Option<String>>,
    ) -> Maybe<PreloadImage> {
        change(ctx, "preload_image", Allowed::Superadmin, async {
            Ok(PreloadImage::new(false, "Not implemented.".to_owned()))
        })
        .await
    }

    /// The contract knows no host that does this.
    async fn unload_image(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "references")] _references: Vec<Option<String>>,
        #[graphql(name = "target_agents")] _target_agents: Vec<Option<String>>,
    ) -> Maybe<UnloadImage> {
        change(ctx, "unload_image", Allowed::Superadmin, async {
            Ok(UnloadImage::new(false, "Not implemented.".to_owned()))
        })
        .await
    }

    async fn modify_image(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "Some(ARCHITECTURE.to_owned())")] architecture: Option<String>,
        props: ModifyImageInput,
        target: String,
    ) -> Maybe<ModifyImage> {
        change(ctx, "modify_image", Allowed::Superadmin, async {
            let architecture = architecture.as_deref().unwrap_or(ARCHITECTURE);
            use_cases::modify(control(ctx), caller(ctx), &target, architecture, props.into()).await?;
            Ok(ModifyImage::new(true, String::new()))
        })
        .await
    }

    async fn forget_image(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "Some(ARCHITECTURE.to_owned())")] architecture: Option<String>,
        reference: String,
    ) -> Maybe<ForgetImage> {
        change(ctx, "forget_image", Allowed::Superadmin, async {
            let architecture = architecture.as_deref().unwrap_or(ARCHITECTURE);
            use_cases::forget(control(ctx), caller(ctx), &reference, architecture).await?;
            Ok(ForgetImage::new(true, String::new()))
        })
        .await
    }

    async fn alias_image(
        &self,
        ctx: &Context<'_>,
        alias: String,
        #[graphql(default_with = "Some(ARCHITECTURE.to_owned())")] architecture: Option<String>,
        target: String,
    ) -> Maybe<AliasImage> {
        change(ctx, "alias_image", Allowed::Superadmin, async {
            let architecture = architecture.as_deref().unwrap_or(ARCHITECTURE);
            use_cases::alias(control(ctx), caller(ctx), &alias, &target, architecture).await?;
            Ok(AliasImage::new(true, String::new()))
        })
        .await
    }

    async fn dealias_image(&self, ctx: &Context<'_>, alias: String) -> Maybe<DealiasImage> {
        change(ctx, "dealias_image", Allowed::Superadmin, async {
            use_cases::dealias(control(ctx), caller(ctx), &alias).await?;
            Ok(DealiasImage::new(true, String::new()))
        })
        .await
    }

    async fn clear_images(&self, ctx: &Context<'_>, registry: Option<String>) -> Maybe<ClearImages> {
        change(ctx, "clear_images", Allowed::Superadmin, async {
            use_cases::clear(control(ctx), caller(ctx), registry.as_deref()).await?;
            Ok(ClearImages::new(true, String::new()))
        })
        .await
    }
}
