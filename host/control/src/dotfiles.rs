//! Dotfiles of key pairs, projects and domains, and the key pair's bootstrap script.

use quarterdeck_model::dotfile::{self, Dotfile};
use quarterdeck_model::{ProjectId, UserRole};
use quarterdeck_store::dotfiles::{self, Holder};
use quarterdeck_store::{domains, keypairs, projects};

use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::scope::resolve_owner;
use crate::{Control, identity};

/// Whose dotfiles a request is about, as the request says it.
#[derive(Clone, Debug)]
pub enum Owner {
    /// The caller's key pair, or this one.
    Keypair {
        /// An access key other than the caller's.
        access_key: Option<String>,
    },
    /// A project.
    Project {
        /// Its id or name.
        project: String,
        /// The domain to which the name belongs.
        domain: Option<String>,
    },
    /// A domain.
    Domain {
        /// Its name.
        name: String,
    },
}

/// What somebody wants to do with dotfiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Look at them.
    Read,
    /// Add one.
    Create,
    /// Change one.
    Update,
    /// Remove one.
    Delete,
}

impl Act {
    fn verb(self) -> &'static str {
        match self {
            Self::Read => "access",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// The dotfiles that the caller may see of somebody.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`] and [`Error::InvalidParams`] about the owner.
pub async fn list(control: &Control, caller: &Principal, owner: &Owner) -> Result<Vec<Dotfile>> {
    let holder = holder(control, caller, owner, Act::Read).await?;
    let files = dotfiles::of(&mut control.store().reader(), &holder, false).await?;
    files.ok_or_else(|| missing(&holder))
}

/// One of them.
///
/// # Errors
/// As [`list`], and [`Error::NotFound`] when there is no such file.
pub async fn get(control: &Control, caller: &Principal, owner: &Owner, path: &str) -> Result<Dotfile> {
    let files = list(control, caller, owner).await?;
    files.into_iter().find(|f| f.path == path).ok_or_else(|| Error::not_found("dotfile"))
}

/// Adds a dotfile.
///
/// # Errors
/// As [`list`]; [`Error::InvalidParams`] for a reserved path, [`Error::BadRequestTitled`] when the path
/// is taken or there is no room.
pub async fn create(control: &Control, caller: &Principal, owner: &Owner, file: Dotfile) -> Result<()> {
    change(control, caller, owner, Act::Create, |files| {
        if files.iter().any(|f| f.path == file.path) {
            return Err(Error::BadRequestTitled { title: "Dotfile already exists.", msg: None });
        }
        if files.len() >= dotfile::MAX_ENTRIES {
            return Err(no_room("Dotfile creation limit reached"));
        }
        if dotfile::is_reserved(&file.path) {
            return Err(Error::invalid("dotfile path is reserved for internal operations."));
        }
        files.push(file);
        Ok(())
    })
    .await
}

/// Replaces a dotfile; it moves to the end.
///
/// # Errors
/// As [`list`]; [`Error::NotFound`] when there is no such file, [`Error::BadRequestTitled`] when there
/// is no room.
pub async fn update(control: &Control, caller: &Principal, owner: &Owner, file: Dotfile) -> Result<()> {
    change(control, caller, owner, Act::Update, |files| {
        remove(files, &file.path)?;
        files.push(file);
        Ok(())
    })
    .await
}

/// Removes a dotfile.
///
/// # Errors
/// As [`list`]; [`Error::NotFound`] when there is no such file.
pub async fn delete(control: &Control, caller: &Principal, owner: &Owner, path: &str) -> Result<()> {
    change(control, caller, owner, Act::Delete, |files| remove(files, path)).await
}

/// The script that the caller's sessions run first when they bring none.
///
/// # Errors
/// [`Error::Store`].
pub async fn bootstrap_script(control: &Control, caller: &Principal) -> Result<String> {
    let script = keypairs::bootstrap_script(&mut control.store().reader(), caller.access_key.as_str()).await?;
    Ok(script.unwrap_or_default())
}

/// Replaces it; blanks around it go.
///
/// # Errors
/// [`Error::Store`].
pub async fn set_bootstrap_script(control: &Control, caller: &Principal, script: &str) -> Result<()> {
    let mut tx = control.store().begin().await?;
    keypairs::set_bootstrap_script(&mut tx, caller.access_key.as_str(), script.trim()).await?;
    identity::commit(control, tx).await
}

/// What a session of this owner, project and domain finds in its home.
pub(crate) async fn for_session(
    control: &Control,
    owner: &Principal,
    project: ProjectId,
    domain: &str,
) -> Result<Vec<Dotfile>> {
    Ok(dotfiles::for_session(&mut control.store().reader(), owner.access_key.as_str(), project, domain).await?)
}

async fn change(
    control: &Control,
    caller: &Principal,
    owner: &Owner,
    act: Act,
    edit: impl FnOnce(&mut Vec<Dotfile>) -> Result<()>,
) -> Result<()> {
    let holder = holder(control, caller, owner, act).await?;
    let mut tx = control.store().begin().await?;
    let mut files = dotfiles::of(&mut tx, &holder, true).await?.ok_or_else(|| missing(&holder))?;
    edit(&mut files)?;
    let packed = dotfile::pack(&files);
    // Removing always helps, even where a list of another system was too long.
    if act != Act::Delete && packed.len() > dotfile::MAX_PACKED {
        return Err(no_room("No leftover space for dotfile storage"));
    }
    dotfiles::replace(&mut tx, &holder, packed).await?;
    identity::commit(control, tx).await
}

fn remove(files: &mut Vec<Dotfile>, path: &str) -> Result<()> {
    let at = files.iter().position(|f| f.path == path).ok_or_else(|| Error::not_found("dotfile"))?;
    files.remove(at);
    Ok(())
}

fn no_room(msg: &str) -> Error {
    Error::BadRequestTitled { title: "Dotfile creation has failed.", msg: Some(msg.to_owned()) }
}

fn missing(holder: &Holder) -> Error {
    match holder {
        Holder::Keypair(_) => Error::invalid("Unknown owner access key"),
        Holder::Project(_) => Error::not_found("user group (or project)"),
        Holder::Domain(_) => Error::not_found("domain"),
    }
}

/// Finds out whose dotfiles are meant and whether the caller may.
async fn holder(control: &Control, caller: &Principal, owner: &Owner, act: Act) -> Result<Holder> {
    match owner {
        Owner::Keypair { access_key } => {
            let owner = resolve_owner(control, caller, access_key.as_deref()).await?;
            Ok(Holder::Keypair(owner.access_key.to_string()))
        }
        Owner::Domain { name } => {
            may_domain(caller, name, act)?;
            let domain = domains::get(&mut control.store().reader(), name).await?;
            domain.map(|d| Holder::Domain(d.name)).ok_or_else(|| Error::not_found("domain"))
        }
        Owner::Project { project, domain } => {
            let mut sql = control.store().reader();
            let row = match (project.parse::<ProjectId>(), domain) {
                (Ok(id), _) => projects::get(&mut sql, id).await?,
                (Err(_), Some(domain)) => projects::by_name(&mut sql, domain, project).await?,
                (Err(_), None) => return Err(Error::invalid("Missing parameter 'domain'")),
            };
            let row = row.ok_or_else(|| Error::not_found("user group (or project)"))?;
            let is_member = projects::is_member(&mut sql, row.id, caller.user_id).await?;
            may_project(caller, &row.domain_name, is_member, act)?;
            Ok(Holder::Project(row.id))
        }
    }
}

fn may_domain(caller: &Principal, domain: &str, act: Act) -> Result<()> {
    let own = caller.domain == domain;
    match (caller.role, act) {
        (UserRole::Superadmin, _) => Ok(()),
        (_, Act::Read) if own => Ok(()),
        (UserRole::Admin, _) if own => Ok(()),
        (_, Act::Read) => Err(Error::Forbidden("Users cannot access dotfiles of other domains".to_owned())),
        (_, act) => Err(Error::Forbidden(format!("Domain admins cannot {} dotfiles of other domains", act.verb()))),
    }
}

fn may_project(caller: &Principal, domain: &str, is_member: bool, act: Act) -> Result<()> {
    let own = caller.domain == domain;
    let refusal = match (caller.role, act) {
        (UserRole::Superadmin, _) => return Ok(()),
        (UserRole::Admin, _) if own => return Ok(()),
        (_, Act::Read) if is_member => return Ok(()),
        (UserRole::Admin, Act::Read) => "Domain admins cannot access group dotfiles of other domains",
        (_, Act::Read) => "Users cannot access group dotfiles of other groups",
        (_, Act::Create) => "Admins cannot create group dotfiles of other domains",
        (_, Act::Update) => "Admins cannot update group dotfiles of other domains",
        (_, Act::Delete) => "Admins cannot delete dotfiles of other domains",
    };
    Err(Error::Forbidden(refusal.to_owned()))
}
