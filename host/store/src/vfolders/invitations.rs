//! Invitations to folders.

use quarterdeck_model::vfolder::{FolderPermission, InvitationState};
use quarterdeck_model::{Timestamp, VfolderId};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::error::Result;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// An invitation.
#[derive(Clone, Debug, PartialEq)]
pub struct InvitationRow {
    /// Its id.
    pub id: Uuid,
    /// The folder.
    pub vfolder: VfolderId,
    /// The folder's name.
    pub vfolder_name: String,
    /// Who invites, by e-mail address.
    pub inviter: String,
    /// Who is invited, by e-mail address.
    pub invitee: String,
    /// What the invitee will be allowed.
    pub permission: FolderPermission,
    /// What became of it.
    pub state: InvitationState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub modified_at: Option<Timestamp>,
}

const SELECT: &str = "SELECT i.id, i.vfolder_id, v.name AS vfolder_name, i.inviter, i.invitee, i.permission, i.state, \
                      i.created_at, i.modified_at FROM vfolder_invitations i JOIN vfolders v ON v.id = i.vfolder_id";

fn row(row: &Row) -> Result<InvitationRow> {
    Ok(InvitationRow {
        id: row.parse("id")?,
        vfolder: row.parse("vfolder_id")?,
        vfolder_name: row.get("vfolder_name")?,
        inviter: row.get("inviter")?,
        invitee: row.get("invitee")?,
        permission: row.parse("permission")?,
        state: row.parse("state")?,
        created_at: Timestamp(row.get("created_at")?),
        modified_at: row.get::<Option<i64>>("modified_at")?.map(Timestamp),
    })
}

/// On which side of an invitation somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mine {
    /// Invited.
    Received,
    /// Inviting.
    Sent,
}

/// Somebody's pending invitations, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn invitations<S: Sql>(sql: &mut S, which: Mine, email: &str) -> Result<Vec<InvitationRow>> {
    let column = match which {
        Mine::Received => "i.invitee",
        Mine::Sent => "i.inviter",
    };
    let stmt =
        Stmt::assembled(format!("{SELECT} WHERE {column} = $1 AND i.state = 'pending' ORDER BY i.created_at, i.id"));
    sql.fetch_all(stmt.bind(email)).await?.iter().map(row).collect()
}

/// One invitation.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn invitation<S: Sql>(sql: &mut S, id: Uuid) -> Result<Option<InvitationRow>> {
    let stmt = Stmt::assembled(format!("{SELECT} WHERE i.id = $1")).bind(id.to_string());
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// Whom `inviter` has invited to a folder without an answer so far.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn pending_invitees<S: Sql>(sql: &mut S, vfolder: VfolderId, inviter: &str) -> Result<Vec<String>> {
    let stmt = Stmt::new(
        "SELECT invitee FROM vfolder_invitations WHERE vfolder_id = $1 AND inviter = $2 AND state = 'pending'",
    );
    let rows = sql.fetch_all(stmt.bind(vfolder.to_string()).bind(inviter)).await?;
    rows.iter().map(|r| r.get("invitee")).collect()
}

/// Adds pending invitations to a folder, one an invitee.
///
/// # Errors
/// A foreign-key violation when the folder is gone.
pub async fn insert<S: Sql>(
    sql: &mut S,
    vfolder: VfolderId,
    inviter: &str,
    invitees: &[String],
    permission: FolderPermission,
    now: Timestamp,
) -> Result<()> {
    let stmt = Stmt::assembled(format!(
        "INSERT INTO vfolder_invitations (id, vfolder_id, inviter, invitee, permission, state, created_at) \
         SELECT x.i, $2, $3, x.e, $4, 'pending', $5 FROM {}",
        set::rows(sql.dialect(), "$1", &[("i", "text"), ("e", "text")])
    ));
    let rows: Vec<_> = invitees.iter().map(|email| json!({"i": Uuid::new_v4().to_string(), "e": email})).collect();
    let stmt = stmt.bind(Json::from(rows)).bind(vfolder.to_string()).bind(inviter);
    sql.execute(stmt.bind(permission.as_str()).bind(now.micros())).await?;
    Ok(())
}

/// Adds an invitation as it was elsewhere.
///
/// # Errors
/// A foreign-key violation when the folder is gone, a unique one when it is here already.
pub async fn restore<S: Sql>(sql: &mut S, invitation: &InvitationRow) -> Result<()> {
    let stmt = Stmt::new(
        "INSERT INTO vfolder_invitations (id, vfolder_id, inviter, invitee, permission, state, created_at, modified_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    );
    sql.execute(
        stmt.bind(invitation.id.to_string())
            .bind(invitation.vfolder.to_string())
            .bind(&invitation.inviter)
            .bind(&invitation.invitee)
            .bind(invitation.permission.as_str())
            .bind(invitation.state.as_str())
            .bind(invitation.created_at.micros())
            .bind(invitation.modified_at.map(Timestamp::micros)),
    )
    .await?;
    Ok(())
}

/// Changes what a pending invitation of `inviter` offers; how many there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn reword<S: Sql>(
    sql: &mut S,
    id: Uuid,
    inviter: &str,
    permission: FolderPermission,
    now: Timestamp,
) -> Result<u64> {
    let stmt = Stmt::new(
        "UPDATE vfolder_invitations SET permission = $3, modified_at = $4 \
         WHERE id = $1 AND inviter = $2 AND state = 'pending'",
    );
    sql.execute(stmt.bind(id.to_string()).bind(inviter).bind(permission.as_str()).bind(now.micros())).await
}

/// Ends a pending invitation; whether it was pending.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn settle<S: Sql>(sql: &mut S, id: Uuid, state: InvitationState, now: Timestamp) -> Result<bool> {
    let stmt =
        Stmt::new("UPDATE vfolder_invitations SET state = $2, modified_at = $3 WHERE id = $1 AND state = 'pending'");
    Ok(sql.execute(stmt.bind(id.to_string()).bind(state.as_str()).bind(now.micros())).await? > 0)
}

/// Forgets the invitations of somebody to folders.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn drop_for_user<S: Sql>(sql: &mut S, vfolders: &[VfolderId], email: &str) -> Result<u64> {
    let stmt = Stmt::among("DELETE FROM vfolder_invitations WHERE invitee = $2 AND vfolder_id IN {list}", vfolders);
    sql.execute(stmt.bind(email)).await
}
