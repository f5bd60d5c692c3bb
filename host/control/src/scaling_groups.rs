//! Scaling groups: administration, and which ones a caller may use.

pub mod proxy;

use quarterdeck_model::scheduler_opts::SchedulerOpts;
use quarterdeck_model::{AccessKey, ProjectId, SessionType, UserRole};
use quarterdeck_store::scaling_groups::{self, Associate, ScalingGroupChanges, ScalingGroupRow};
use serde_json::Value as Json;

use crate::Control;
use crate::error::{Error, Result};
use crate::identity::commit;
use crate::principal::Principal;
use crate::scope::superadmin_changes;
use crate::validate::{empty, integrity, length, length_opt, no_matching, nothing_to_update};

pub(crate) use proxy::Proxies;

/// What a new scaling group is to be like.
#[derive(Clone, Debug, Default)]
pub struct ScalingGroupInput {
    /// For people; empty without saying.
    pub description: Option<String>,
    /// Whether it is in use; it is without saying.
    pub is_active: Option<bool>,
    /// Whether ordinary sessions may use it; they may without saying.
    pub is_public: Option<bool>,
    /// The application proxy of its sessions.
    pub wsproxy_addr: Option<String>,
    /// Kept for clients.
    pub driver: String,
    /// Kept for clients.
    pub driver_opts: Option<Json>,
    /// The name of its scheduler plugin.
    pub scheduler: String,
    /// The scheduler's options.
    pub scheduler_opts: Option<Json>,
    /// Sessions share the agent's network; they don't without saying.
    pub use_host_network: Option<bool>,
}

/// Changes to a scaling group; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ModifyScalingGroupInput {
    /// For people.
    pub description: Option<String>,
    /// Whether it is in use.
    pub is_active: Option<bool>,
    /// Whether ordinary sessions may use it.
    pub is_public: Option<bool>,
    /// The application proxy of its sessions.
    pub wsproxy_addr: Option<String>,
    /// Kept for clients.
    pub driver: Option<String>,
    /// Kept for clients.
    pub driver_opts: Option<Json>,
    /// The name of its scheduler plugin.
    pub scheduler: Option<String>,
    /// The scheduler's options.
    pub scheduler_opts: Option<Json>,
    /// Sessions share the agent's network.
    pub use_host_network: Option<bool>,
}

/// Options of a scheduler in the form in which they are stored.
fn options(value: &Json) -> Result<Json> {
    match SchedulerOpts::parse(value) {
        Ok(options) => Ok(options.to_json()),
        Err(e) => Err(Error::invalid(e.to_string())),
    }
}

fn driver_options(value: Option<Json>) -> Result<Option<Json>> {
    match value {
        Some(value) if !value.is_object() => Err(Error::invalid("driver_opts must be an object")),
        value => Ok(value),
    }
}

fn check_lengths(description: Option<&str>, wsproxy_addr: Option<&str>, names: [Option<&str>; 2]) -> Result<()> {
    length_opt(description, 512)?;
    length_opt(wsproxy_addr, 1024)?;
    names.into_iter().try_for_each(|name| length_opt(name, 64))
}

/// Makes a scaling group.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::InvalidParams`] for bad options; [`Error::Integrity`]
/// when the name is taken or a text too long.
pub async fn create(
    control: &Control,
    caller: &Principal,
    name: &str,
    input: ScalingGroupInput,
) -> Result<ScalingGroupRow> {
    superadmin_changes(caller)?;
    length(name, 64)?;
    if name.is_empty() {
        return Err(Error::invalid("A scaling group needs a name."));
    }
    check_lengths(
        input.description.as_deref(),
        input.wsproxy_addr.as_deref(),
        [Some(&input.driver), Some(&input.scheduler)],
    )?;
    let row = ScalingGroupRow {
        name: name.to_owned(),
        description: Some(input.description.unwrap_or_default()),
        is_active: input.is_active.unwrap_or(true),
        is_public: input.is_public.unwrap_or(true),
        created_at: control.clock().now(),
        wsproxy_addr: input.wsproxy_addr,
        wsproxy_api_token: None,
        driver: input.driver,
        driver_opts: driver_options(input.driver_opts)?.unwrap_or_else(empty),
        scheduler: input.scheduler,
        scheduler_opts: options(&input.scheduler_opts.unwrap_or_else(empty))?,
        use_host_network: input.use_host_network.unwrap_or(false),
    };
    let mut tx = control.store().begin().await?;
    scaling_groups::insert(&mut tx, &row).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(row)
}

/// Changes a scaling group; the next scheduling round sees it.
///
/// # Errors
/// As [`create`], and [`Error::NotFound`]; [`Error::BadRequest`] when there is nothing to change.
pub async fn modify(control: &Control, caller: &Principal, name: &str, input: ModifyScalingGroupInput) -> Result<()> {
    superadmin_changes(caller)?;
    check_lengths(
        input.description.as_deref(),
        input.wsproxy_addr.as_deref(),
        [input.driver.as_deref(), input.scheduler.as_deref()],
    )?;
    let changes = ScalingGroupChanges {
        description: input.description,
        is_active: input.is_active,
        is_public: input.is_public,
        wsproxy_addr: input.wsproxy_addr,
        wsproxy_api_token: None,
        driver: input.driver,
        driver_opts: driver_options(input.driver_opts)?,
        scheduler: input.scheduler,
        scheduler_opts: input.scheduler_opts.as_ref().map(options).transpose()?,
        use_host_network: input.use_host_network,
    };
    let mut tx = control.store().begin().await?;
    match scaling_groups::update(&mut tx, name, &changes).await? {
        None => Err(nothing_to_update()),
        Some(0) => Err(no_matching("scaling group")),
        Some(_) => commit(control, tx).await,
    }
}

/// Deletes a scaling group with its associations.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`]; [`Error::Integrity`] while agents or
/// sessions refer to it.
pub async fn delete(control: &Control, caller: &Principal, name: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    if scaling_groups::delete(&mut tx, name).await.map_err(integrity)? == 0 {
        return Err(no_matching("scaling group"));
    }
    commit(control, tx).await
}

/// Lets a domain, a project or a key pair use a scaling group.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::Integrity`] when it may already, or one of the two is unknown.
pub async fn associate(control: &Control, caller: &Principal, group: &str, with: Associate<'_>) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    scaling_groups::associate(&mut tx, group, with).await.map_err(integrity)?;
    commit(control, tx).await
}

/// Takes that back; with `group` `None`, for all scaling groups of the holder.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::NotFound`] when there was nothing to take back.
pub async fn disassociate(
    control: &Control,
    caller: &Principal,
    group: Option<&str>,
    with: Associate<'_>,
) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    if scaling_groups::disassociate(&mut tx, group, with).await? == 0 {
        return Err(no_matching("scaling group association"));
    }
    commit(control, tx).await
}

/// The scaling groups in use that a domain, a project and a key pair may use together, by name.
///
/// # Errors
/// [`Error::Store`].
pub async fn allowed(
    control: &Control,
    domain: &str,
    project: Option<ProjectId>,
    access_key: &AccessKey,
) -> Result<Vec<ScalingGroupRow>> {
    let rows = control.identity().scaling_groups(domain, project, access_key).await?;
    Ok(rows.iter().filter(|group| group.is_active).cloned().collect())
}

/// The names of the scaling groups that the caller may use with a project, given by id or name.
/// An unknown project adds none.
///
/// # Errors
/// [`Error::Store`].
pub async fn names_for(control: &Control, caller: &Principal, project: &str) -> Result<Vec<String>> {
    let project = find_project(control, caller, project).await?;
    let rows = control.identity().scaling_groups(&caller.domain, project, &caller.access_key).await?;
    let usable = rows.iter().filter(|group| group.is_active && (group.is_public || caller.is_admin));
    Ok(usable.map(|group| group.name.clone()).collect())
}

/// A project that the caller may ask about, by id or name: superadmins about any, others about those of their domain. The
/// rest is unknown to them.
async fn find_project(control: &Control, caller: &Principal, project: &str) -> Result<Option<ProjectId>> {
    let Some(found) = control.identity().project(&caller.domain, project).await? else { return Ok(None) };
    // Clients ask about groups that their user is not in; other domains' are nobody's business.
    let may = caller.role == UserRole::Superadmin || found.domain == caller.domain;
    Ok(may.then_some(found.id))
}

/// A scaling group by name, if the caller may use it (with a project, given by id or name).
///
/// # Errors
/// [`Error::NotFound`] when the caller may not use it.
pub async fn find_allowed(
    control: &Control,
    caller: &Principal,
    name: &str,
    project: Option<&str>,
) -> Result<ScalingGroupRow> {
    let project = match project {
        Some(project) => find_project(control, caller, project).await?,
        None => None,
    };
    let rows = control.identity().scaling_groups(&caller.domain, project, &caller.access_key).await?;
    let found = rows.iter().find(|group| group.is_active && group.name == name);
    found.cloned().ok_or_else(|| Error::not_found("scaling group"))
}

/// The scaling group of a new session: the requested one, or the first that accepts its type.
/// `private` sessions (the system's own) may use groups that aren't public.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub async fn choose(
    control: &Control,
    owner: &Principal,
    project: ProjectId,
    requested: Option<&str>,
    kind: SessionType,
    private: bool,
) -> Result<ScalingGroupRow> {
    choose_for(control, owner, Some(project), requested, kind, private).await
}

/// As [`choose`], perhaps before the project is known.
///
/// # Errors
/// As [`choose`].
pub(crate) async fn choose_for(
    control: &Control,
    owner: &Principal,
    project: Option<ProjectId>,
    requested: Option<&str>,
    kind: SessionType,
    private: bool,
) -> Result<ScalingGroupRow> {
    let candidates = allowed(control, &owner.domain, project, &owner.access_key).await?;
    choose_among(candidates, requested, kind, private)
}

fn choose_among(
    mut candidates: Vec<ScalingGroupRow>,
    requested: Option<&str>,
    kind: SessionType,
    private: bool,
) -> Result<ScalingGroupRow> {
    let refuse = |msg: String| Error::not_found_msg("scaling group", msg);
    candidates.retain(|group| private || group.is_public);
    if candidates.is_empty() {
        return Err(refuse("You have no scaling groups allowed to use.".to_owned()));
    }
    // Clients know the type by this name.
    let kind_name = format!("SessionTypes.{kind}");
    match requested {
        Some(name) => {
            let Some(group) = candidates.into_iter().find(|group| group.name == name) else {
                return Err(refuse(format!(
                    "The scaling group '{name}' does not exist or you do not have access to the scaling group '{name}'."
                )));
            };
            if !accepts(&group, kind) {
                // The blank at the end is on the wire.
                return Err(refuse(format!(
                    "The scaling group '{name}' does not accept the session type '{kind_name}'. "
                )));
            }
            Ok(group)
        }
        None => candidates
            .into_iter()
            .find(|group| accepts(group, kind))
            .ok_or_else(|| refuse(format!("No scaling groups accept the session type '{kind_name}'."))),
    }
}

fn accepts(group: &ScalingGroupRow, kind: SessionType) -> bool {
    match SchedulerOpts::parse(&group.scheduler_opts) {
        Ok(options) => options.allowed_session_types.contains(&kind),
        Err(error) => {
            tracing::warn!(scaling_group = group.name, %error, "the scheduler's options are malformed");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_model::Timestamp;
    use serde_json::json;

    use super::*;

    fn group(name: &str, is_public: bool, types: &[&str]) -> ScalingGroupRow {
        ScalingGroupRow {
            name: name.into(),
            description: None,
            is_active: true,
            is_public,
            created_at: Timestamp(0),
            wsproxy_addr: None,
            wsproxy_api_token: None,
            driver: "static".into(),
            driver_opts: json!({}),
            scheduler: "fifo".into(),
            scheduler_opts: if types.is_empty() { json!({}) } else { json!({"allowed_session_types": types}) },
            use_host_network: false,
        }
    }

    fn msg(result: Result<ScalingGroupRow>) -> String {
        match result {
            Ok(group) => group.name,
            Err(Error::NotFound { object: "scaling group", msg: Some(msg), .. }) => msg,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_first_candidate_that_accepts_the_type_is_taken() {
        let groups =
            || vec![group("a", true, &["inference"]), group("b", true, &[]), group("c", false, &["inference"])];
        let choose = |requested, kind, private| msg(choose_among(groups(), requested, kind, private));
        assert_eq!(choose(None, SessionType::Batch, false), "b");
        assert_eq!(choose(None, SessionType::Inference, false), "a");
        assert_eq!(choose(Some("c"), SessionType::Inference, true), "c");
        assert_eq!(
            choose(Some("c"), SessionType::Inference, false),
            "The scaling group 'c' does not exist or you do not have access to the scaling group 'c'."
        );
        assert_eq!(
            choose(Some("a"), SessionType::Batch, false),
            "The scaling group 'a' does not accept the session type 'SessionTypes.BATCH'. "
        );
        let only = vec![group("a", true, &["inference"])];
        assert_eq!(
            msg(choose_among(only, None, SessionType::Interactive, false)),
            "No scaling groups accept the session type 'SessionTypes.INTERACTIVE'."
        );
        let hidden = vec![group("a", false, &[])];
        assert_eq!(
            msg(choose_among(hidden, None, SessionType::Interactive, false)),
            "You have no scaling groups allowed to use."
        );
    }
}
