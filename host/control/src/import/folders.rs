//! Virtual folders, what was granted on them, and invitations: records only. Their files stay where the storage proxy has
//! them, which knows them by volume, quota scope and id; so these three are never changed.

use std::collections::HashMap;

use quarterdeck_model::vfolder::{self as rules, FolderPath, FolderStatus, InvitationState, UsageMode};
use quarterdeck_model::{ProjectId, UserId, VfolderId};
use quarterdeck_store::vfolders::{self, InvitationRow, NewVfolder, Sight, VfolderChanges};
use quarterdeck_store::{config, users};
use serde_json::Value as Json;

use super::read::{self, instant, required};
use super::{Importer, Outcome, Taken, refuse};
use crate::error::Result;

/// Whose a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    User(UserId),
    Project(ProjectId),
}

impl Owner {
    fn user(self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(user),
            Self::Project(_) => None,
        }
    }

    fn project(self) -> Option<ProjectId> {
        match self {
            Self::User(_) => None,
            Self::Project(project) => Some(project),
        }
    }
}

/// The folders that an owner has here, by host and name.
pub(super) type Estate = HashMap<(String, String), VfolderId>;

/// A word of theirs, which may be an enumeration's name or its value.
fn word<T: std::str::FromStr>(text: &str, column: &str) -> std::result::Result<T, String> {
    text.to_lowercase().parse().map_err(|_| format!("{column}: {text} is none"))
}

impl Importer<'_> {
    pub(super) async fn folder(&mut self, row: Json) -> Taken {
        let r: read::Folder = read::row(row)?;
        let id = VfolderId(required(r.id, "id")?);
        let name = required(r.name, "name")?;
        let (owner, theirs, email) = match (r.user, r.group) {
            (Some(theirs), None) => match self.users.get(&theirs) {
                Some((user, email)) => (Owner::User(*user), theirs, email.clone()),
                None => return refuse(format!("its owner, the user {theirs}, isn't taken over")),
            },
            (None, Some(theirs)) => match self.projects.get(&theirs) {
                Some((project, _)) => (Owner::Project(*project), theirs, String::new()),
                None => return refuse(format!("its owner, the project {theirs}, isn't taken over")),
            },
            (None, None) => return refuse("it has no owner"),
            (Some(_), Some(_)) => return refuse("it has two owners"),
        };
        if !rules::is_name(&name) {
            return refuse("its name is none that a folder may have");
        }
        if rules::is_reserved_name(&name) {
            return refuse("its name is reserved");
        }
        if owner.project().is_some() && rules::is_dot_folder(&name) && name != ".local" {
            return refuse("a project's folder must not begin with a dot");
        }
        let host = r.host.unwrap_or_default();
        let unmanaged_path = r.unmanaged_path.filter(|path| !path.is_empty());
        let (proxy, volume) = rules::split_host(&host);
        match &unmanaged_path {
            Some(_) if host.is_empty() => {}
            Some(_) => return refuse(format!("it has both a path of the agents' own and the host {host}")),
            None if proxy.is_empty() || volume.is_empty() => {
                return refuse(format!("host: `{host}` is no <proxy>:<volume>"));
            }
            None => {}
        }
        // Where the first releases with quota scopes had none yet, it is the owner's id: theirs, as their storage has it.
        let quota_scope_id =
            r.quota_scope_id.filter(|scope| !scope.is_empty()).unwrap_or_else(|| theirs.simple().to_string());
        if !rules::is_scope(&quota_scope_id) {
            return refuse(format!("quota_scope_id: {quota_scope_id} is none"));
        }
        let wanted = NewVfolder {
            id,
            host,
            quota_scope_id,
            usage_mode: r.usage_mode.map_or(Ok(UsageMode::General), |text| word(&text, "usage_mode"))?,
            permission: read::permission(r.permission.as_deref())?,
            max_size: r.max_size.filter(|size| *size > 0),
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            creator: r.creator.filter(|creator| !creator.is_empty()).unwrap_or(email),
            unmanaged_path,
            user: owner.user(),
            project: owner.project(),
            cloneable: r.cloneable.unwrap_or(false),
            name,
        };
        let status = required(r.status, "status")?;
        match word(&status, "status")? {
            FolderStatus::Ready => {}
            // Nothing here goes on with it.
            other @ (FolderStatus::Performing | FolderStatus::Cloning | FolderStatus::Mounted) => {
                let text = format!("is ready; it was {other}");
                self.note("vfolders", &format!("{} {}", wanted.name, wanted.host), text);
            }
            // Taking it over would mean to remove its files.
            FolderStatus::Deleting => {
                let path = FolderPath { scope: wanted.quota_scope_id, id };
                return refuse(format!("it is being deleted; what is left of it is {path} on {}", wanted.host));
            }
        }
        if let Some(known) = vfolders::get(&mut self.tx, id).await? {
            if (known.host.as_str(), known.quota_scope_id.as_str()) != (&*wanted.host, &*wanted.quota_scope_id) {
                return refuse(format!("it is here already, as {} on {}", known.path(), known.host));
            }
            if (known.user, known.project) != (wanted.user, wanted.project) {
                return refuse("it has another owner here");
            }
            *self.folder_hosts.entry(known.host.clone()).or_default() += 1;
            let changes = VfolderChanges {
                name: (known.name != wanted.name).then_some(wanted.name),
                permission: (known.permission != wanted.permission).then_some(wanted.permission),
                cloneable: (known.cloneable != wanted.cloneable).then_some(wanted.cloneable),
                max_size: (known.max_size != wanted.max_size).then(|| wanted.max_size.unwrap_or(0)),
                user: None,
            };
            let differs = changes.name.is_some()
                || changes.permission.is_some()
                || changes.cloneable.is_some()
                || changes.max_size.is_some_and(|size| size != known.max_size.unwrap_or(0));
            if !self.differs(differs) {
                return Ok(Outcome::Existing);
            }
            vfolders::update(&mut self.tx, id, &changes).await?;
            return Ok(Outcome::Updated);
        }
        let place = (wanted.host.clone(), wanted.name.clone());
        if let Some(other) = self.estate(owner).await?.get(&place) {
            return refuse(format!("its owner has another folder of that name there: {other}"));
        }
        vfolders::insert(&mut self.tx, &wanted).await?;
        if let Some(at) = instant(r.last_used.as_deref()) {
            vfolders::set_last_used(&mut self.tx, id, at).await?;
        }
        if !wanted.host.is_empty() {
            *self.folder_hosts.entry(wanted.host.clone()).or_default() += 1;
        }
        self.estates.entry(owner).or_default().insert(place, id);
        Ok(Outcome::Added)
    }

    /// What an owner has here.
    async fn estate(&mut self, owner: Owner) -> quarterdeck_store::Result<&Estate> {
        if !self.estates.contains_key(&owner) {
            let rows = vfolders::owned_by(&mut self.tx, owner.user(), owner.project()).await?;
            let estate = rows.into_iter().map(|row| ((row.host, row.name), row.id)).collect();
            self.estates.insert(owner, estate);
        }
        Ok(self.estates.entry(owner).or_default())
    }

    /// Tells of the hosts that the shared configuration knows no proxy of: files there can't be reached before it does,
    /// unless the server has the volume itself.
    pub(super) async fn note_hosts(&mut self) -> Result<()> {
        for (host, count) in std::mem::take(&mut self.folder_hosts) {
            let (proxy, _) = rules::split_host(&host);
            let key = format!("volumes/proxies/{}", crate::config::quote(proxy));
            if config::subtree(&mut self.tx, &key).await?.is_empty() {
                let text = format!("{count} folders lie there, and the shared configuration has no {key}");
                self.note("vfolders", &host, text);
            }
        }
        Ok(())
    }

    pub(super) async fn folder_grant(&mut self, row: Json) -> Taken {
        let r: read::FolderGrant = read::row(row)?;
        let id = VfolderId(required(r.vfolder, "vfolder")?);
        let user = required(r.user, "user")?;
        let permission = read::permission(Some(&required(r.permission, "permission")?))?;
        let Some(folder) = vfolders::get(&mut self.tx, id).await? else { return refuse("its folder isn't taken over") };
        let Some((user, _)) = self.users.get(&user).cloned() else { return refuse("its user isn't taken over") };
        if folder.user == Some(user) {
            return refuse("the user owns the folder");
        }
        if !self.grants.insert((id, user)) {
            return refuse("the user has another permission on that folder");
        }
        let known = vfolders::shared(&mut self.tx, Some(id), &Sight::All).await?;
        let known = known.into_iter().find(|grant| grant.grantee == user).map(|grant| grant.permission);
        match known {
            None => {
                vfolders::grant(&mut self.tx, id, &[user], permission).await?;
                Ok(Outcome::Added)
            }
            Some(known) if self.differs(known != permission) => {
                vfolders::grant(&mut self.tx, id, &[user], permission).await?;
                Ok(Outcome::Updated)
            }
            Some(_) => Ok(Outcome::Existing),
        }
    }

    pub(super) async fn folder_invitation(&mut self, row: Json) -> Taken {
        let r: read::FolderInvitation = read::row(row)?;
        let id = required(r.id, "id")?;
        let vfolder = VfolderId(required(r.vfolder, "vfolder")?);
        let inviter = required(r.inviter.filter(|address| !address.is_empty()), "inviter")?;
        let invitee = required(r.invitee.filter(|address| !address.is_empty()), "invitee")?;
        let state: InvitationState = word(&required(r.state, "state")?, "state")?;
        let Some(folder) = vfolders::get(&mut self.tx, vfolder).await? else {
            return refuse("its folder isn't taken over");
        };
        for (who, address) in [("inviter", &inviter), ("invitee", &invitee)] {
            if users::by_email(&mut self.tx, address).await?.is_none() {
                return refuse(format!("its {who} {address} isn't there"));
            }
        }
        let permission = read::permission(r.permission.as_deref())?;
        let modified_at = instant(r.modified_at.as_deref());
        if let Some(known) = vfolders::invitation(&mut self.tx, id).await? {
            // What was answered on either side is answered.
            let answered = known.state == InvitationState::Pending && state != InvitationState::Pending;
            if !self.differs(answered) {
                return Ok(Outcome::Existing);
            }
            vfolders::settle_invitation(&mut self.tx, id, state, modified_at.unwrap_or(self.now)).await?;
            return Ok(Outcome::Updated);
        }
        if state == InvitationState::Pending
            && vfolders::pending_invitees(&mut self.tx, vfolder, &inviter).await?.contains(&invitee)
        {
            return refuse("the same invitation is pending already");
        }
        let wanted = InvitationRow {
            id,
            vfolder,
            vfolder_name: folder.name,
            inviter,
            invitee,
            permission,
            state,
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            modified_at,
        };
        vfolders::restore_invitation(&mut self.tx, &wanted).await?;
        Ok(Outcome::Added)
    }
}
