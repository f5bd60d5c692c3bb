//! What becomes of the folders of users and projects that are purged (`spec/identity-graphql.md`, `purge_user` and
//! `purge_group`).

use std::collections::HashSet;

use quarterdeck_model::vfolder::MAX_NAME;
use quarterdeck_model::{ProjectId, VfolderId};
use quarterdeck_store::users::UserRow;
use quarterdeck_store::vfolders::{self, VfolderChanges, VfolderRow};

use super::life;
use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;

fn ids(rows: &[VfolderRow]) -> Vec<VfolderId> {
    rows.iter().map(|row| row.id).collect()
}

/// Refuses while sessions have one of the folders.
async fn check_unused(control: &Control, rows: &[VfolderRow], refusal: &str) -> Result<()> {
    if vfolders::in_use(&mut control.store().reader(), &ids(rows)).await? {
        return Err(Error::BadRequest(format!("unexpected error: {refusal}")));
    }
    Ok(())
}

/// The folders of a user that is to be purged, none of them in a session.
///
/// # Errors
/// [`Error::BadRequest`] when one is.
pub(crate) async fn of_user(control: &Control, user: &UserRow) -> Result<Vec<VfolderRow>> {
    let rows = vfolders::owned_by(&mut control.store().reader(), Some(user.id), None).await?;
    let refusal = "Some of user's virtual folders are mounted to active kernels. Terminate those kernels first.";
    check_unused(control, &rows, refusal).await?;
    Ok(rows)
}

/// The folders of a project that is to be purged, none of them in a session.
///
/// # Errors
/// As [`of_user`].
pub(crate) async fn of_project(control: &Control, project: ProjectId) -> Result<Vec<VfolderRow>> {
    let rows = vfolders::owned_by(&mut control.store().reader(), None, Some(project)).await?;
    let refusal = "Some of virtual folders that belong to this group are currently mounted to active sessions. \
                   Terminate them first to proceed removal.";
    check_unused(control, &rows, refusal).await?;
    Ok(rows)
}

/// Gives those of a user's folders that others share to `heir`; the others are left over.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn inherit(control: &Control, heir: &Principal, rows: Vec<VfolderRow>) -> Result<Vec<VfolderRow>> {
    let mut tx = control.store().begin().await?;
    let grants = vfolders::grantees(&mut tx, &ids(&rows)).await?;
    let wanted: HashSet<VfolderId> =
        grants.into_iter().filter(|(_, user)| *user != heir.user_id).map(|(folder, _)| folder).collect();
    let (passed, left): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.user != Some(heir.user_id) && wanted.contains(&row.id));
    let mut names: HashSet<String> =
        vfolders::of_user(&mut tx, heir.user_id).await?.into_iter().map(|row| row.name).collect();
    for row in &passed {
        let name = if names.contains(&row.name) {
            let suffix = uuid::Uuid::new_v4().simple().to_string();
            let kept: String = row.name.chars().take(MAX_NAME - 11).collect();
            Some(format!("{kept}-{}", &suffix[..10]))
        } else {
            None
        };
        names.insert(name.clone().unwrap_or_else(|| row.name.clone()));
        let changes = VfolderChanges { name, user: Some(heir.user_id), ..VfolderChanges::default() };
        vfolders::update(&mut tx, row.id, &changes).await?;
    }
    vfolders::drop_invitations_for(&mut tx, &ids(&passed), &heir.email).await?;
    vfolders::drop_grants_of(&mut tx, heir.user_id, &ids(&passed)).await?;
    tx.commit().await?;
    Ok(left)
}

/// Removes folders with everything in them.
///
/// # Errors
/// [`Error::Storage`], [`Error::Store`]; what was removed by then stays so.
pub(crate) async fn dissolve(control: &Control, rows: &[VfolderRow]) -> Result<()> {
    life::remove_all(control, rows).await
}
