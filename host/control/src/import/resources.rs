//! Scaling groups and who may use them, presets, images and their aliases.

use quarterdeck_model::scheduler_opts::SchedulerOpts;
use quarterdeck_model::{AccessKey, ImageId};
use quarterdeck_store::images::{self, ImageRow};
use quarterdeck_store::presets::{self, PresetChanges, PresetRow};
use quarterdeck_store::scaling_groups::{self, Associate, ScalingGroupChanges, ScalingGroupRow};
use quarterdeck_store::{domains, keypairs};
use serde_json::Value as Json;

use super::read::{self, instant, required};
use super::{Importer, Outcome, Taken, refuse};
use crate::images::normalise_architecture;
use crate::validate::empty;

/// The options of a scheduler (`spec/scheduler.md` §2.1).
const OPTIONS: [&str; 3] = ["allowed_session_types", "pending_timeout", "config"];

impl Importer<'_> {
    pub(super) async fn scaling_group(&mut self, row: Json) -> Taken {
        let r: read::ScalingGroup = read::row(row)?;
        let name = required(r.name.filter(|name| !name.is_empty()), "name")?;
        let mut options = r.scheduler_opts.filter(|options| !options.is_null()).unwrap_or_else(empty);
        // Other options mean nothing here; those that are known go on to hold.
        if let Json::Object(map) = &mut options {
            let unknown: Vec<String> = map.keys().filter(|key| !OPTIONS.contains(&key.as_str())).cloned().collect();
            for key in unknown {
                map.shift_remove(&key);
                self.note("scaling_groups", &name, format!("without the option {key}, which is unknown here"));
            }
        }
        let scheduler_opts = match SchedulerOpts::parse(&options) {
            Ok(options) => options.to_json(),
            Err(error) => {
                self.note("scaling_groups", &name, format!("has the default options: {error}"));
                empty()
            }
        };
        let wanted = ScalingGroupRow {
            description: r.description,
            is_active: r.is_active.unwrap_or(false),
            is_public: r.is_public.unwrap_or(true),
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            wsproxy_addr: r.wsproxy_addr,
            wsproxy_api_token: r.wsproxy_api_token,
            driver: r.driver.unwrap_or_else(|| "static".to_owned()),
            driver_opts: r.driver_opts.filter(Json::is_object).unwrap_or_else(empty),
            scheduler: r.scheduler.unwrap_or_else(|| "fifo".to_owned()),
            scheduler_opts,
            use_host_network: r.use_host_network.unwrap_or(false),
            name,
        };
        let Some(known) = scaling_groups::get(&mut self.tx, &wanted.name).await? else {
            scaling_groups::insert(&mut self.tx, &wanted).await?;
            return Ok(Outcome::Added);
        };
        let wanted = ScalingGroupRow {
            created_at: known.created_at,
            description: wanted.description.or_else(|| known.description.clone()),
            wsproxy_addr: wanted.wsproxy_addr.or_else(|| known.wsproxy_addr.clone()),
            wsproxy_api_token: wanted.wsproxy_api_token.or_else(|| known.wsproxy_api_token.clone()),
            ..wanted
        };
        if !self.differs(known != wanted) {
            return Ok(Outcome::Existing);
        }
        let changes = ScalingGroupChanges {
            description: wanted.description,
            is_active: Some(wanted.is_active),
            is_public: Some(wanted.is_public),
            wsproxy_addr: wanted.wsproxy_addr,
            wsproxy_api_token: wanted.wsproxy_api_token,
            driver: Some(wanted.driver),
            driver_opts: Some(wanted.driver_opts),
            scheduler: Some(wanted.scheduler),
            scheduler_opts: Some(wanted.scheduler_opts),
            use_host_network: Some(wanted.use_host_network),
        };
        scaling_groups::update(&mut self.tx, &wanted.name, &changes).await?;
        Ok(Outcome::Updated)
    }

    pub(super) async fn group_of_domain(&mut self, row: Json) -> Taken {
        let r: read::Association = read::row(row)?;
        let domain = required(r.domain, "domain")?;
        if domains::get(&mut self.tx, &domain).await?.is_none() {
            return refuse("its domain isn't there");
        }
        let known = scaling_groups::associated(&mut self.tx, Some(&domain), None, None).await?;
        self.associate(r.scaling_group, &known, Associate::Domain(&domain)).await
    }

    pub(super) async fn group_of_project(&mut self, row: Json) -> Taken {
        let r: read::Association = read::row(row)?;
        let group = required(r.group, "group")?;
        let Some((project, _)) = self.projects.get(&group).cloned() else {
            return refuse("its project isn't taken over");
        };
        let known = scaling_groups::associated(&mut self.tx, None, Some(project), None).await?;
        self.associate(r.scaling_group, &known, Associate::Project(project)).await
    }

    pub(super) async fn group_of_keypair(&mut self, row: Json) -> Taken {
        let r: read::Association = read::row(row)?;
        let key = AccessKey(required(r.access_key.map(|k| k.trim().to_owned()), "access_key")?);
        if keypairs::get(&mut self.tx, key.as_str()).await?.is_none() {
            return refuse("its key pair isn't there");
        }
        let known = scaling_groups::associated(&mut self.tx, None, None, Some(&key)).await?;
        self.associate(r.scaling_group, &known, Associate::Keypair(&key)).await
    }

    async fn associate(&mut self, group: Option<String>, known: &[ScalingGroupRow], with: Associate<'_>) -> Taken {
        let group = required(group, "scaling_group")?;
        if known.iter().any(|known| known.name == group) {
            return Ok(Outcome::Existing);
        }
        if scaling_groups::get(&mut self.tx, &group).await?.is_none() {
            return refuse("its scaling group isn't there");
        }
        scaling_groups::associate(&mut self.tx, &group, with).await?;
        Ok(Outcome::Added)
    }

    pub(super) async fn preset(&mut self, row: Json) -> Taken {
        let r: read::Preset = read::row(row)?;
        let wanted = PresetRow {
            name: required(r.name, "name")?,
            resource_slots: read::slots(r.resource_slots.as_ref())?,
            shared_memory: r.shared_memory.filter(|bytes| *bytes != 0),
        };
        let Some(known) = presets::get(&mut self.tx, &wanted.name).await? else {
            presets::insert(&mut self.tx, &wanted).await?;
            return Ok(Outcome::Added);
        };
        if !self.differs(known.resource_slots != wanted.resource_slots || known.shared_memory != wanted.shared_memory) {
            return Ok(Outcome::Existing);
        }
        let changes =
            PresetChanges { resource_slots: Some(wanted.resource_slots), shared_memory: Some(wanted.shared_memory) };
        presets::update(&mut self.tx, &wanted.name, &changes).await?;
        Ok(Outcome::Updated)
    }

    pub(super) async fn image(&mut self, row: Json) -> Taken {
        let r: read::Image = read::row(row)?;
        let theirs = required(r.id, "id")?;
        let name = required(r.name, "name")?;
        let architecture = normalise_architecture(&required(r.architecture, "architecture")?).to_owned();
        let labels = r.labels.unwrap_or_default().into_iter().map(|(key, value)| match value {
            Json::String(text) => (key, text),
            other => (key, other.to_string()),
        });
        let known = images::by_name(&mut self.tx, &name).await?;
        let known = known.into_iter().find(|known| known.architecture == architecture);
        let wanted = ImageRow {
            id: known.as_ref().map_or(ImageId(theirs), |known| known.id),
            image: required(r.image, "image")?,
            tag: required(r.tag, "tag")?,
            registry: required(r.registry, "registry")?,
            architecture,
            // CHAR(72): blanks at its end.
            config_digest: r.config_digest.unwrap_or_default().trim().to_owned(),
            size_bytes: r.size_bytes.unwrap_or(0),
            is_local: r.is_local.unwrap_or(false),
            kind: r.kind.map_or_else(|| "COMPUTE".to_owned(), |kind| kind.to_uppercase()),
            accelerators: r.accelerators,
            labels: labels.collect(),
            resources: r.resources.filter(Json::is_object).unwrap_or_else(empty),
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            name,
        };
        let id = wanted.id;
        let outcome = match known {
            None => {
                images::upsert(&mut self.tx, &wanted).await?;
                Outcome::Added
            }
            Some(known) if self.differs(known != ImageRow { created_at: known.created_at, ..wanted.clone() }) => {
                images::upsert(&mut self.tx, &wanted).await?;
                Outcome::Updated
            }
            Some(_) => Outcome::Existing,
        };
        self.images.insert(theirs, id);
        Ok(outcome)
    }

    pub(super) async fn alias(&mut self, row: Json) -> Taken {
        let r: read::Alias = read::row(row)?;
        let alias = required(r.alias.filter(|alias| !alias.is_empty()), "alias")?;
        let image = required(r.image, "image")?;
        let Some(image) = self.images.get(&image).copied() else { return refuse("its image isn't taken over") };
        match images::by_alias(&mut self.tx, &alias).await? {
            None => {
                images::insert_alias(&mut self.tx, &alias, image).await?;
                Ok(Outcome::Added)
            }
            Some(known) if self.differs(known.id != image) => {
                images::set_alias(&mut self.tx, &alias, image).await?;
                Ok(Outcome::Updated)
            }
            Some(_) => Ok(Outcome::Existing),
        }
    }
}
