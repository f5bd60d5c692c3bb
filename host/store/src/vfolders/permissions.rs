//! What users who don't own a folder may do with it.

use quarterdeck_model::vfolder::{FolderPermission, FolderStatus};
use quarterdeck_model::{ProjectId, UserId, VfolderId};
use serde_json::{Value as Json, json};

use crate::error::Result;
use crate::set;
use crate::sql::{Sql, Stmt};

/// A grant, with what people want to know about it.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedRow {
    /// The folder.
    pub vfolder: VfolderId,
    /// Its name.
    pub vfolder_name: String,
    /// Where it stands.
    pub status: FolderStatus,
    /// Its owner, if that is a user.
    pub user: Option<UserId>,
    /// Its owner, if that is a project.
    pub project: Option<ProjectId>,
    /// Who may use it.
    pub grantee: UserId,
    /// The grantee's e-mail address.
    pub grantee_email: String,
    /// What the grantee may do.
    pub permission: FolderPermission,
}

/// Whose grants somebody may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All.
    All,
    /// On folders that a user owns or is granted, and on those of a domain's projects if one is given.
    Of(UserId, Option<String>),
}

/// The grants that somebody may see, of one folder or of all.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn shared<S: Sql>(sql: &mut S, vfolder: Option<VfolderId>, sight: &Sight) -> Result<Vec<SharedRow>> {
    let (condition, user, domain) = match sight {
        Sight::All => ("$2 = $3", String::new(), String::new()),
        Sight::Of(user, domain) => (
            "(v.user_id = $2 OR p.domain_name = $3 OR EXISTS (SELECT 1 FROM vfolder_permissions o \
             WHERE o.vfolder_id = v.id AND o.user_id = $2))",
            user.to_string(),
            domain.clone().unwrap_or_default(),
        ),
    };
    let stmt = Stmt::assembled(format!(
        "SELECT v.id, v.name, v.status, v.user_id AS owner, v.project_id, g.user_id, u.email, g.permission \
         FROM vfolder_permissions g JOIN vfolders v ON v.id = g.vfolder_id JOIN users u ON u.id = g.user_id \
         LEFT JOIN projects p ON p.id = v.project_id \
         WHERE (CAST($1 AS TEXT) IS NULL OR v.id = $1) AND {condition} ORDER BY v.created_at, v.id, u.email"
    ));
    let rows = sql.fetch_all(stmt.bind(vfolder.map(|v| v.to_string())).bind(user).bind(domain)).await?;
    rows.iter()
        .map(|r| {
            Ok(SharedRow {
                vfolder: r.parse("id")?,
                vfolder_name: r.get("name")?,
                status: r.parse("status")?,
                user: r.parse_opt("owner")?,
                project: r.parse_opt("project_id")?,
                grantee: r.parse("user_id")?,
                grantee_email: r.get("email")?,
                permission: r.parse("permission")?,
            })
        })
        .collect()
}

/// Who was granted something on folders, one pair a grant.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn grantees<S: Sql>(sql: &mut S, vfolders: &[VfolderId]) -> Result<Vec<(VfolderId, UserId)>> {
    let stmt = Stmt::among("SELECT vfolder_id, user_id FROM vfolder_permissions WHERE vfolder_id IN {list}", vfolders);
    sql.fetch_all(stmt).await?.iter().map(|r| Ok((r.parse("vfolder_id")?, r.parse("user_id")?))).collect()
}

/// Grants users something on a folder, over what they were granted before.
///
/// # Errors
/// A foreign-key violation when one of them is gone.
pub async fn grant<S: Sql>(
    sql: &mut S,
    vfolder: VfolderId,
    users: &[UserId],
    permission: FolderPermission,
) -> Result<()> {
    let stmt = Stmt::assembled(format!(
        "INSERT INTO vfolder_permissions (vfolder_id, user_id, permission) SELECT $2, x.u, $3 FROM {} WHERE TRUE \
         ON CONFLICT (vfolder_id, user_id) DO UPDATE SET permission = excluded.permission",
        set::rows(sql.dialect(), "$1", &[("u", "text")])
    ));
    let users: Vec<_> = users.iter().map(|user| json!({ "u": user.to_string() })).collect();
    sql.execute(stmt.bind(Json::from(users)).bind(vfolder.to_string()).bind(permission.as_str())).await?;
    Ok(())
}

/// Changes what a user was granted on a folder; how many grants there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn regrant<S: Sql>(
    sql: &mut S,
    vfolder: VfolderId,
    user: UserId,
    permission: FolderPermission,
) -> Result<u64> {
    let stmt = Stmt::new("UPDATE vfolder_permissions SET permission = $3 WHERE vfolder_id = $1 AND user_id = $2");
    sql.execute(stmt.bind(vfolder.to_string()).bind(user.to_string()).bind(permission.as_str())).await
}

/// Takes back what users were granted on a folder; how many grants there were.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn revoke<S: Sql>(sql: &mut S, vfolder: VfolderId, users: &[UserId]) -> Result<u64> {
    let stmt = Stmt::among("DELETE FROM vfolder_permissions WHERE vfolder_id = $2 AND user_id IN {list}", users);
    sql.execute(stmt.bind(vfolder.to_string())).await
}

/// Takes back what a user was granted on folders.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn drop_grants_of<S: Sql>(sql: &mut S, user: UserId, vfolders: &[VfolderId]) -> Result<()> {
    let stmt = Stmt::among("DELETE FROM vfolder_permissions WHERE user_id = $2 AND vfolder_id IN {list}", vfolders);
    sql.execute(stmt.bind(user.to_string())).await?;
    Ok(())
}
