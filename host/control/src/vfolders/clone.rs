//! Copies of folders, made in the background (`spec/vfolder.md` §6.8).

use std::time::Duration;

use quarterdeck_model::vfolder::{
    self as rules, FolderAccess, FolderPermission, FolderStatus, HostPermission, OwnershipType, UsageMode, split_host,
};
use quarterdeck_model::{TaskId, VfolderId};
use quarterdeck_storage::Place;
use quarterdeck_store::dotfiles;
use quarterdeck_store::vfolders::{self, NewVfolder, VfolderRow};

use super::life::{back_to_ready, check_count, insert, is_taken, or_default_host, reserved, scope_of};
use super::{Seen, hosts, is_enabled, place, require_status};
use crate::Control;
use crate::background_tasks;
use crate::error::{Error, Result};
use crate::principal::Principal;

/// How often a copy under way gives a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What a copy is to be like.
#[derive(Clone, Debug)]
pub struct CloneFolder {
    /// Its name.
    pub name: String,
    /// Its host; the default one when none is given.
    pub host: Option<String>,
    /// What it is for.
    pub usage_mode: UsageMode,
    /// For whom it may be shared with.
    pub permission: FolderPermission,
    /// Whether it may be copied in turn.
    pub cloneable: bool,
}

/// A copy that is being made.
#[derive(Clone, Debug)]
pub struct Cloned {
    /// What it will be.
    pub folder: NewVfolder,
    /// The task to follow.
    pub task: TaskId,
}

/// Begins to copy a folder into one of the caller's own.
///
/// # Errors
/// Those of `spec/vfolder.md` §6.8, in its order.
pub async fn duplicate(control: &Control, caller: &Principal, seen: &Seen, request: CloneFolder) -> Result<Cloned> {
    require_status(&seen.row, FolderAccess::Updatable)?;
    if !seen.row.cloneable {
        return Err(Error::Forbidden("The source vfolder is not permitted to be cloned.".to_owned()));
    }
    let host = or_default_host(control, request.host).await?;
    reserved(&request.name)?;
    if split_host(&host).0 != split_host(&seen.row.host).0 {
        return Err(Error::invalid("proxy name of source and target vfolders must be equal."));
    }
    hosts::check(&hosts::of_caller(control, caller, None).await?, &host, HostPermission::Create)?;
    let mut reader = control.store().reader();
    check_count(&mut reader, caller).await?;
    if is_taken(control, caller, &request.name, Some(&host)).await? {
        return Err(Error::FolderExists(None));
    }
    if rules::is_dot_folder(&request.name) {
        let holder = dotfiles::Holder::Keypair(caller.access_key.to_string());
        let files = dotfiles::of(&mut reader, &holder, false).await?.unwrap_or_default();
        if files.iter().any(|f| f.path == request.name) {
            return Err(Error::invalid("vFolder name conflicts with your dotfile."));
        }
    }
    if !is_enabled(control, OwnershipType::User).await {
        return Err(Error::invalid("user vfolder cannot be created in this host"));
    }
    if host != seen.row.host {
        return Err(Error::invalid("The volumes of source and target vfolders must be equal."));
    }
    let folder = NewVfolder {
        id: VfolderId::new(),
        name: request.name,
        quota_scope_id: scope_of(caller.user_id, None),
        host,
        usage_mode: request.usage_mode,
        permission: request.permission,
        max_size: None,
        created_at: control.clock().now(),
        creator: caller.email.clone(),
        unmanaged_path: None,
        user: Some(caller.user_id),
        project: None,
        cloneable: request.cloneable,
    };
    let now = control.clock().now();
    let mut tx = control.store().begin().await?;
    if !vfolders::change_status(&mut tx, seen.row.id, FolderStatus::Ready, FolderStatus::Cloning, now).await? {
        return Err(Error::FolderStatus);
    }
    tx.commit().await?;
    let (source, target, host, owner) = (seen.row.clone(), folder.clone(), control.clone(), caller.clone());
    let begun = background_tasks::start(control, "clone-vfolder", Some(caller.user_id), move |progress| async move {
        progress.add_total(2);
        progress.advance(0, format!("Copying {} to {}", source.name, target.name));
        let copied = copy(&host, &owner, &source, &target).await;
        back_to_ready(&host, source.id).await?;
        copied?;
        progress.advance(2, format!("Copied {} to {}", source.name, target.name));
        Ok(format!("The folder {} is ready.", target.name))
    });
    match begun.await {
        Ok(task) => Ok(Cloned { folder, task }),
        Err(error) => {
            back_to_ready(control, seen.row.id).await?;
            Err(error)
        }
    }
}

async fn copy(control: &Control, caller: &Principal, source: &VfolderRow, target: &NewVfolder) -> Result<()> {
    let storage = control.storages().of_host(&source.host)?;
    let from = place(source)?;
    let to = Place {
        volume: from.volume.clone(),
        folder: rules::FolderPath { scope: target.quota_scope_id.clone(), id: target.id },
    };
    // Both go on at once: a copy doesn't wait until its sign of life is written.
    // The first is due later: that the folder is being copied has just been written.
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    let alive = async {
        loop {
            timer.tick().await;
            let touched = async {
                let mut tx = control.store().begin().await?;
                vfolders::touch(&mut tx, source.id, FolderStatus::Cloning, control.clock().now()).await?;
                tx.commit().await
            };
            if let Err(error) = touched.await {
                break error;
            }
        }
    };
    tokio::select! {
        copied = storage.duplicate(&from, &to) => copied?,
        error = alive => return Err(error.into()),
    }
    let inserted = insert(control, caller, target, Some(&target.host)).await;
    if inserted.is_err()
        && let Err(error) = storage.delete(&to).await
    {
        tracing::warn!(%error, folder = %to.folder, "a copy without a folder stays");
    }
    inserted.map(drop)
}
