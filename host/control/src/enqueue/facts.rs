//! What requests for sessions have in common: read once, and kept in memory until identity changes.

use std::sync::Arc;

use quarterdeck_model::dotfile::Dotfile;
use quarterdeck_model::{AccessKey, UserId};
use quarterdeck_store::images::ImageRow;
use quarterdeck_store::projects::ProjectRow;
use quarterdeck_store::{domains, keypairs, resource_policies};

use crate::error::Result;
use crate::known::Known;
use crate::principal::Principal;
use crate::{Control, dotfiles, images, scope};

/// Bytes of grounds that are kept at most, about.
const GROUNDS_BYTES: u64 = 64 << 20;
/// What grounds take at least: names, limits, the place in the table.
const LEAST_BYTES: usize = 1024;
/// References to images that are kept at most.
const IMAGES: u64 = 10_000;

/// The facts in memory.
#[derive(Debug)]
pub(super) struct Facts {
    grounds: Known<Question, Arc<Grounds>>,
    /// By reference and architecture.
    images: Known<(String, String), Arc<ImageRow>>,
}

/// Who asks for a session of whom, and where. Everything that [`Grounds`] depend on, so that a principal which was read
/// before identity changed doesn't spoil the answer for others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    /// Owners ask for themselves, or others for them.
    by_owner: bool,
    access_key: AccessKey,
    user: UserId,
    role: String,
    owner_domain: String,
    resource_policy: String,
    domain: String,
    project: String,
}

/// What is the same for all sessions of an owner in a project.
#[derive(Debug)]
pub(super) struct Grounds {
    pub(super) project: ProjectRow,
    /// Registries whose images users of the domain may use.
    registries: Vec<String>,
    /// Runs first in sessions that bring no script of their own.
    pub(super) bootstrap_script: Option<String>,
    /// Kernels of a session at most.
    pub(super) most_kernels: i64,
    /// What kernels find in their home.
    pub(super) dotfiles: Vec<Dotfile>,
}

impl Grounds {
    /// Whether users of the domain may use an image.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when they may not.
    pub(super) fn check_registry(&self, image: &ImageRow) -> Result<()> {
        images::check_registry(&self.registries, image)
    }

    fn weight(&self) -> u32 {
        let dotfiles: usize = self.dotfiles.iter().map(|file| file.path.len() + file.data.len()).sum();
        let script = self.bootstrap_script.as_ref().map_or(0, String::len);
        u32::try_from(LEAST_BYTES + dotfiles + script).unwrap_or(u32::MAX)
    }
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            grounds: Known::new(GROUNDS_BYTES, |grounds: &Arc<Grounds>| grounds.weight()),
            images: Known::new(IMAGES, |_| 1),
        }
    }
}

impl Facts {
    /// What a session of `owner` in this project stands on.
    ///
    /// # Errors
    /// Those of [`scope::check_domain_and_project`].
    pub(super) async fn grounds(
        &self,
        control: &Control,
        caller: &Principal,
        owner: &Principal,
        domain: &str,
        project: &str,
    ) -> Result<Arc<Grounds>> {
        let question = Question {
            by_owner: caller.access_key == owner.access_key,
            access_key: owner.access_key.clone(),
            user: owner.user_id,
            role: owner.role.to_string(),
            owner_domain: owner.domain.clone(),
            resource_policy: owner.resource_policy.clone(),
            domain: domain.to_owned(),
            project: project.to_owned(),
        };
        let read = async {
            let project = scope::check_domain_and_project(control, caller, owner, domain, project).await?;
            let mut sql = control.store().reader();
            let registries = domains::get(&mut sql, domain).await?.map(|d| d.allowed_docker_registries);
            let script = keypairs::bootstrap_script(&mut sql, owner.access_key.as_str()).await?;
            let policy = resource_policies::get(&mut sql, &owner.resource_policy).await?;
            let dotfiles = dotfiles::for_session(control, owner, project.id, domain).await?;
            Ok(Arc::new(Grounds {
                project,
                registries: registries.unwrap_or_default(),
                bootstrap_script: script.filter(|script| !script.is_empty()),
                most_kernels: policy.map_or(1, |p| p.max_containers_per_session),
                dotfiles,
            }))
        };
        self.grounds.get(control.identity().revision(), &question, read).await
    }

    /// The image that a reference means.
    ///
    /// # Errors
    /// Those of [`images::resolve`].
    pub(super) async fn image(&self, control: &Control, reference: &str, architecture: &str) -> Result<Arc<ImageRow>> {
        let question = (reference.to_owned(), architecture.to_owned());
        let read = async { Ok(Arc::new(images::resolve(control, reference, architecture).await?)) };
        self.images.get(control.identity().revision(), &question, read).await
    }
}
