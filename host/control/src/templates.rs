//! Templates of sessions and clusters: who makes them, who sees them, what a session takes from one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quarterdeck_model::template::{self, TemplateError};
use quarterdeck_model::{ProjectId, UserId, UserRole};
use quarterdeck_store::templates::{self, NewTemplate, Sight, TemplateRow};
use quarterdeck_store::{projects, users};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::Control;
use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::scope::{check_domain_and_project, resolve_owner};

pub use quarterdeck_store::templates::TemplateKind;

/// Session templates of one request at most.
const MAX_ITEMS: usize = 100;
/// Templates of a list at most.
const MAX_LISTED: i64 = 10_000;

/// For whom, and where, a template is made.
#[derive(Clone, Debug)]
pub struct Place {
    /// The project's name.
    pub project: String,
    /// The domain.
    pub domain: String,
    /// The owner, when that isn't the caller.
    pub owner_access_key: Option<String>,
}

/// A template as one caller sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The template.
    pub row: TemplateRow,
    /// It is the caller's own.
    pub is_owner: bool,
}

/// A payload: its document, or `None` when it is neither JSON nor YAML.
pub type Payload<'a> = &'a (dyn Fn() -> Option<Value> + Sync);

/// Makes templates from a payload; the id and owner of the last one.
///
/// # Errors
/// [`Error::InvalidParams`] for what is wrong with place or payload, [`Error::Forbidden`] about the owner.
pub async fn create(
    control: &Control,
    caller: &Principal,
    kind: TemplateKind,
    place: &Place,
    payload: Payload<'_>,
) -> Result<(Uuid, UserId)> {
    let owner = resolve_owner(control, caller, place.owner_access_key.as_deref()).await?;
    let project = check_domain_and_project(control, caller, &owner, &place.domain, &place.project).await?;
    let items = match kind {
        TemplateKind::Task => items(read(payload)?)?,
        TemplateKind::Cluster => vec![Item::cluster(&read(payload)?)?],
    };
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let (mut user, mut home, mut domain) = (owner.user_id, project.id, project.domain_name.clone());
        if item.user.is_some() || item.project.is_some() {
            (user, home, domain) = elsewhere(control, caller, &item, (user, home, domain)).await?;
        }
        rows.push(NewTemplate {
            id: Uuid::new_v4(),
            kind,
            name: item.name,
            created_at: control.clock().now(),
            domain_name: domain,
            project: home,
            user,
            document: item.document,
        });
    }
    let last = rows.last().map(|row| (row.id, row.user));
    let last = last.ok_or_else(|| invalid("session_templates: must not be empty"))?;
    let mut tx = control.store().begin().await?;
    for row in &rows {
        templates::insert(&mut tx, row).await?;
    }
    tx.commit().await?;
    Ok(last)
}

/// Another user or project than the request's: for administrators, within their reach.
async fn elsewhere(
    control: &Control,
    caller: &Principal,
    item: &Item,
    (mut user, mut home, mut domain): (UserId, ProjectId, String),
) -> Result<(UserId, ProjectId, String)> {
    let within = |domain: &str| match caller.role {
        UserRole::Superadmin => Ok(()),
        UserRole::Admin if caller.domain == domain => Ok(()),
        _ => Err(Error::Forbidden("Only admins can make templates of other users and groups.".to_owned())),
    };
    let mut sql = control.store().reader();
    if let Some(id) = item.user {
        let row = users::get(&mut sql, id).await?.ok_or_else(|| invalid("user_uuid: no such user"))?;
        within(&row.domain_name)?;
        user = row.id;
    }
    if let Some(id) = item.project {
        let row = projects::get(&mut sql, id).await?.ok_or_else(|| invalid("group_id: no such group"))?;
        within(&row.domain_name)?;
        (home, domain) = (row.id, row.domain_name);
    }
    Ok((user, home, domain))
}

/// The templates that the caller may see; `everything` is for superadmins.
///
/// # Errors
/// [`Error::Store`].
pub async fn list(
    control: &Control,
    caller: &Principal,
    kind: TemplateKind,
    everything: bool,
    project: Option<ProjectId>,
) -> Result<Vec<Seen>> {
    let sight = match caller.role {
        UserRole::Superadmin if everything => Sight::All,
        // Session templates are told by project only: an administrator's list isn't the domain's.
        UserRole::Superadmin | UserRole::Admin if kind == TemplateKind::Cluster => {
            Sight::Domain(caller.user_id, caller.domain.clone())
        }
        _ => Sight::User(caller.user_id),
    };
    let rows = templates::list(&mut control.store().reader(), kind, &sight, MAX_LISTED).await?;
    let wanted = rows.into_iter().filter(|row| project.is_none() || row.project == project);
    Ok(wanted.map(|row| Seen { is_owner: row.user == caller.user_id, row }).collect())
}

/// One template.
///
/// # Errors
/// [`Error::NotFound`] for what isn't there or out of sight, [`Error::Forbidden`] about the owner.
pub async fn get(
    control: &Control,
    caller: &Principal,
    kind: TemplateKind,
    id: &str,
    owner_access_key: Option<&str>,
) -> Result<TemplateRow> {
    let owner = resolve_owner(control, caller, owner_access_key).await?;
    let row = find(control, kind, id).await?;
    if may_change(caller, &owner, &row) {
        return Ok(row);
    }
    let project = row.project.ok_or_else(unknown)?;
    if projects::is_member(&mut control.store().reader(), project, owner.user_id).await? {
        return Ok(row);
    }
    Err(unknown())
}

/// Replaces a template.
///
/// # Errors
/// As [`create`] and [`get`]; [`Error::Forbidden`] for somebody else's.
pub async fn update(
    control: &Control,
    caller: &Principal,
    kind: TemplateKind,
    id: &str,
    place: Option<&Place>,
    owner_access_key: Option<&str>,
    payload: Payload<'_>,
) -> Result<()> {
    let owner = resolve_owner(control, caller, owner_access_key).await?;
    if let Some(place) = place {
        check_domain_and_project(control, caller, &owner, &place.domain, &place.project).await?;
    }
    let row = changeable(control, caller, &owner, kind, id).await?;
    let item = match kind {
        TemplateKind::Task => items(read(payload)?)?.pop(),
        TemplateKind::Cluster => Some(Item::cluster(&read(payload)?)?),
    };
    let item = item.ok_or_else(|| invalid("session_templates: must not be empty"))?;
    let mut tx = control.store().begin().await?;
    if templates::update(&mut tx, row.id, &item.name, &item.document).await? == 0 {
        return Err(unknown());
    }
    tx.commit().await?;
    Ok(())
}

/// Puts a template out of use.
///
/// # Errors
/// As [`get`]; [`Error::Forbidden`] for somebody else's.
pub async fn delete(
    control: &Control,
    caller: &Principal,
    kind: TemplateKind,
    id: &str,
    owner_access_key: Option<&str>,
) -> Result<()> {
    let owner = resolve_owner(control, caller, owner_access_key).await?;
    let row = changeable(control, caller, &owner, kind, id).await?;
    let mut tx = control.store().begin().await?;
    if templates::retire(&mut tx, row.id).await? == 0 {
        return Err(unknown());
    }
    tx.commit().await?;
    Ok(())
}

async fn changeable(
    control: &Control,
    caller: &Principal,
    owner: &Principal,
    kind: TemplateKind,
    id: &str,
) -> Result<TemplateRow> {
    let row = find(control, kind, id).await?;
    if may_change(caller, owner, &row) {
        return Ok(row);
    }
    Err(Error::Forbidden("Only its owner and administrators can change a template.".to_owned()))
}

fn may_change(caller: &Principal, owner: &Principal, row: &TemplateRow) -> bool {
    match caller.role {
        UserRole::Superadmin => true,
        UserRole::Admin if caller.domain == row.domain_name => true,
        _ => row.user == owner.user_id,
    }
}

async fn find(control: &Control, kind: TemplateKind, id: &str) -> Result<TemplateRow> {
    let id = Uuid::parse_str(id).map_err(|_| unknown())?;
    templates::get(&mut control.store().reader(), kind, id).await?.ok_or_else(unknown)
}

fn unknown() -> Error {
    Error::not_found("task template")
}

fn invalid(fault: &str) -> Error {
    Error::InvalidParams {
        msg: "Input validation error".to_owned(),
        data: Some(serde_json::json!({ "payload": fault })),
    }
}

fn read(payload: Payload<'_>) -> Result<Value> {
    payload().ok_or_else(|| Error::invalid("Malformed payload"))
}

impl From<TemplateError> for Error {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Form(fault) => invalid(&fault),
            TemplateError::Rule(msg) => Self::invalid(msg),
        }
    }
}

/// A template of a payload.
struct Item {
    name: String,
    document: Value,
    user: Option<UserId>,
    project: Option<ProjectId>,
}

impl Item {
    fn cluster(document: &Value) -> Result<Self> {
        let document = template::cluster(document)?;
        Ok(Self { name: template::name(&document).to_owned(), document, user: None, project: None })
    }

    fn task(item: &Value) -> Result<Self> {
        let Value::Object(item) = item else { return Err(invalid("session_templates: value is not a dict")) };
        let document = template::task(item.get("template").ok_or_else(|| invalid("template: is required"))?)?;
        let name = text(item, "name")?.map_or_else(|| template::name(&document).to_owned(), str::to_owned);
        let wrong = |key: &str| invalid(&format!("{key}: cannot convert value to UUID"));
        Ok(Self {
            user: text(item, "user_uuid")?.map(|id| id.parse().map_err(|_| wrong("user_uuid"))).transpose()?,
            project: text(item, "group_id")?.map(|id| id.parse().map_err(|_| wrong("group_id"))).transpose()?,
            name,
            document,
        })
    }
}

fn items(payload: Value) -> Result<Vec<Item>> {
    let list = payload.get("session_templates").and_then(Value::as_array);
    let list = list.ok_or_else(|| invalid("session_templates: is required"))?;
    if list.len() > MAX_ITEMS {
        return Err(invalid(&format!("session_templates: more than {MAX_ITEMS}")));
    }
    list.iter().map(Item::task).collect()
}

fn text<'i>(item: &'i Map<String, Value>, key: &str) -> Result<Option<&'i str>> {
    match item.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(invalid(&format!("{key}: value is not a string"))),
    }
}

/// What a session takes from a template, as the body of a request for one would say it.
///
/// # Errors
/// [`Error::NotFound`] for what isn't there or out of the caller's sight.
pub async fn request_of(control: &Control, caller: &Principal, id: Uuid) -> Result<Map<String, Value>> {
    let row = get(control, caller, TemplateKind::Task, &id.to_string(), None).await?;
    Ok(body_of(&row))
}

fn body_of(row: &TemplateRow) -> Map<String, Value> {
    let document = &row.document;
    let (spec, kernel) = (&document["spec"], &document["spec"]["kernel"]);
    let mut body = Map::new();
    let put = |body: &mut Map<String, Value>, key: &str, value: &Value| {
        if !value.is_null() {
            body.insert(key.to_owned(), value.clone());
        }
    };
    put(&mut body, "image", &kernel["image"]);
    put(&mut body, "arch", &kernel["architecture"]);
    put(&mut body, "type", &spec["session_type"]);
    put(&mut body, "tag", &document["metadata"]["tag"]);
    put(&mut body, "startupCommand", &kernel["run"]["startup_command"]);
    if let Some(project) = &row.project_name {
        body.insert("group".to_owned(), project.clone().into());
        body.insert("domain".to_owned(), row.domain_name.clone().into());
    }
    if let Some(script) = bootstrap(kernel) {
        body.insert("bootstrap_script".to_owned(), script.into());
    }
    let mut config = Map::new();
    put(&mut config, "scaling_group", &spec["scaling_group"]);
    put(&mut config, "resources", &spec["resources"]);
    put(&mut config, "environ", &kernel["environ"]);
    put(&mut config, "agent_list", &spec["agent_list"]);
    if let Some(mounts) = spec["mounts"].as_object() {
        config.insert("mounts".to_owned(), mounts.keys().cloned().collect::<Vec<_>>().into());
        let map = mounts.iter().filter(|(_, path)| path.as_str().is_some_and(|p| !p.is_empty()));
        config.insert("mount_map".to_owned(), map.map(|(k, v)| (k.clone(), v.clone())).collect::<Map<_, _>>().into());
    }
    body.insert("config".to_owned(), config.into());
    body
}

/// The template's script, and what fetches its repository. Scripts may be written in base64.
fn bootstrap(kernel: &Value) -> Option<String> {
    let script = kernel["run"]["bootstrap"].as_str().map(|text| {
        let decoded = STANDARD.decode(text.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        decoded.unwrap_or_else(|| text.to_owned())
    });
    let Some(repository) = kernel["git"]["repository"].as_str() else { return script };
    let git = &kernel["git"];
    let target = git["dest_dir"].as_str().unwrap_or_else(|| {
        let last = repository.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        last.strip_suffix(".git").unwrap_or(last)
    });
    let mut script = script.unwrap_or_default();
    if !script.is_empty() && !script.ends_with('\n') {
        script.push('\n');
    }
    script.push_str("git clone ");
    script.push_str(&quoted(&with_credential(repository, &git["credential"])));
    if let Some(branch) = git["branch"].as_str() {
        script.push_str(&format!(" -b {}", quoted(branch)));
    }
    script.push_str(&format!(" {}\n", quoted(target)));
    if let Some(commit) = git["commit"].as_str() {
        script.push_str(&format!("(cd {} && git checkout {})\n", quoted(target), quoted(commit)));
    }
    Some(script)
}

fn with_credential(repository: &str, credential: &Value) -> String {
    match (repository.split_once("://"), credential["username"].as_str(), credential["password"].as_str()) {
        (Some((scheme, rest)), Some(user), Some(password)) => {
            let escape = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
            format!("{scheme}://{}:{}@{rest}", escape(user), escape(password))
        }
        _ => repository.to_owned(),
    }
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_repository_is_fetched_after_the_script() {
        let script = bootstrap(&json!({
            "run": {"bootstrap": STANDARD.encode("echo hi")},
            "git": {
                "repository": "https://example.org/a/b.git", "branch": "it's", "commit": "c0ffee",
                "credential": {"username": "me", "password": "p:w"},
            },
        }));
        assert_eq!(
            script.unwrap(),
            "echo hi\ngit clone 'https://me:p%3Aw@example.org/a/b.git' -b 'it'\\''s' 'b'\n(cd 'b' && git checkout 'c0ffee')\n"
        );
        assert_eq!(bootstrap(&json!({"run": {"bootstrap": "echo plain"}})).unwrap(), "echo plain");
        assert_eq!(bootstrap(&json!({"run": null, "git": null})), None);
    }

    #[test]
    fn items_name_what_is_wrong() {
        let fault = |payload: Value| match items(payload).err() {
            Some(Error::InvalidParams { data: Some(data), .. }) => data["payload"].as_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(json!({})), "session_templates: is required");
        assert_eq!(fault(json!({"session_templates": [5]})), "session_templates: value is not a dict");
        assert_eq!(fault(json!({"session_templates": [{}]})), "template: is required");
        let template = json!({"api_version": "1", "kind": "taskTemplate", "metadata": {"name": "n"}, "spec": {"kernel": {"image": "i"}}});
        let user = json!({"session_templates": [{"template": template, "user_uuid": "x"}]});
        assert_eq!(fault(user), "user_uuid: cannot convert value to UUID");
    }
}
