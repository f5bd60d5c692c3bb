//! Templates of sessions and clusters.

use quarterdeck_model::{ProjectId, Timestamp, UserId};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};

/// What a template is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateKind {
    /// A session.
    Task,
    /// A cluster of sessions' templates.
    Cluster,
}

impl TemplateKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Cluster => "cluster",
        }
    }
}

/// A template in use.
#[derive(Clone, Debug)]
pub struct TemplateRow {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its domain.
    pub domain_name: String,
    /// Its project.
    pub project: Option<ProjectId>,
    /// The project's name.
    pub project_name: Option<String>,
    /// Its owner.
    pub user: UserId,
    /// The owner's e-mail address.
    pub user_email: String,
    /// The document in its normal form.
    pub document: Json,
}

/// A template to be stored.
#[derive(Clone, Debug)]
pub struct NewTemplate {
    /// Its id.
    pub id: Uuid,
    /// What it is for.
    pub kind: TemplateKind,
    /// Its name.
    pub name: String,
    /// When it is made.
    pub created_at: Timestamp,
    /// Its domain.
    pub domain_name: String,
    /// Its project.
    pub project: ProjectId,
    /// Its owner.
    pub user: UserId,
    /// The document in its normal form.
    pub document: Json,
}

/// Which templates somebody may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Every template.
    All,
    /// A user's own, and those of the user's projects.
    User(UserId),
    /// A user's own, and those of a domain's projects.
    Domain(UserId, String),
}

const COLUMNS: &str = "t.id, t.name, t.created_at, t.domain_name, t.project_id, p.name AS project_name, t.user_id, \
                       u.email, t.document FROM templates t JOIN users u ON u.id = t.user_id \
                       LEFT JOIN projects p ON p.id = t.project_id";

fn row(row: &Row) -> Result<TemplateRow> {
    Ok(TemplateRow {
        id: row.parse("id")?,
        name: row.get("name")?,
        created_at: Timestamp(row.get("created_at")?),
        domain_name: row.get("domain_name")?,
        project: row.parse_opt("project_id")?,
        project_name: row.get("project_name")?,
        user: row.parse("user_id")?,
        user_email: row.get("email")?,
        document: row.json("document")?,
    })
}

/// Adds a template.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn insert<S: Sql>(sql: &mut S, template: &NewTemplate) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO templates (id, kind, name, created_at, domain_name, project_id, user_id, document) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(template.id.to_string())
        .bind(template.kind.as_str())
        .bind(&template.name)
        .bind(template.created_at.micros())
        .bind(&template.domain_name)
        .bind(template.project.to_string())
        .bind(template.user.to_string())
        .bind(&template.document),
    )
    .await?;
    Ok(())
}

/// A template in use.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, kind: TemplateKind, id: Uuid) -> Result<Option<TemplateRow>> {
    let stmt = Stmt::assembled(format!("SELECT {COLUMNS} WHERE t.id = $1 AND t.kind = $2 AND t.is_active"));
    sql.fetch_optional(stmt.bind(id.to_string()).bind(kind.as_str())).await?.as_ref().map(row).transpose()
}

/// The templates in use that somebody may see, oldest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn list<S: Sql>(sql: &mut S, kind: TemplateKind, sight: &Sight, limit: i64) -> Result<Vec<TemplateRow>> {
    let (condition, user, domain) = match sight {
        Sight::All => ("$2 = $3", String::new(), String::new()),
        Sight::User(user) => (
            "$3 = '' AND (t.user_id = $2 OR t.project_id IN (SELECT project_id FROM project_members WHERE user_id = $2))",
            user.to_string(),
            String::new(),
        ),
        Sight::Domain(user, domain) => ("(t.user_id = $2 OR p.domain_name = $3)", user.to_string(), domain.clone()),
    };
    let stmt = Stmt::assembled(format!(
        "SELECT {COLUMNS} WHERE t.kind = $1 AND t.is_active AND {condition} ORDER BY t.created_at, t.id \
         LIMIT CAST($4 AS BIGINT)"
    ));
    sql.fetch_all(stmt.bind(kind.as_str()).bind(user).bind(domain).bind(limit)).await?.iter().map(row).collect()
}

/// Replaces name and document; how many there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn update<S: Sql>(sql: &mut S, id: Uuid, name: &str, document: &Json) -> Result<u64> {
    let stmt = Stmt::new("UPDATE templates SET name = $2, document = $3 WHERE id = $1 AND is_active");
    sql.execute(stmt.bind(id.to_string()).bind(name).bind(document)).await
}

/// Puts a template out of use; how many there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn retire<S: Sql>(sql: &mut S, id: Uuid) -> Result<u64> {
    let stmt = Stmt::new("UPDATE templates SET is_active = $2 WHERE id = $1 AND is_active");
    sql.execute(stmt.bind(id.to_string()).bind(false)).await
}
