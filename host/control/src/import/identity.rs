//! Policies, domains, projects, users, members and key pairs.

use quarterdeck_model::{AccessKey, ProjectId, UserId, UserStatus};
use quarterdeck_store::domains::{self, DomainChanges, DomainRow};
use quarterdeck_store::dotfiles::{self, Holder};
use quarterdeck_store::keypairs::{self, KeypairChanges, KeypairRow};
use quarterdeck_store::projects::{self, ProjectChanges, ProjectRow};
use quarterdeck_store::resource_policies::{self, PolicyChanges, PolicyRow};
use quarterdeck_store::users::{self, UserChanges, UserRow};
use serde_json::Value as Json;

use super::read::{self, instant, required};
use super::{Importer, Outcome, Refusal, Taken, refuse};
use crate::error::{Error, Result};
use crate::password;
use crate::scope::network;
use crate::validate::length;

/// Requests allowed to a key pair that has no limit of its own.
const RATE_LIMIT: i64 = 10_000;
/// Longest access key.
const MAX_ACCESS_KEY: usize = 64;

fn fits(text: &str, column: &str, most: usize) -> std::result::Result<(), Refusal> {
    length(text, most).map_err(|e| Refusal::Row(format!("{column}: {e}")))
}

impl Importer<'_> {
    pub(super) async fn policy(&mut self, row: Json) -> Taken {
        let r: read::Policy = read::row(row)?;
        let name = required(r.name, "name")?;
        fits(&name, "name", 256)?;
        let kind = r.default_for_unspecified.as_deref().unwrap_or("LIMITED");
        let wanted = PolicyRow {
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            default_for_unspecified: kind
                .parse()
                .map_err(|_| format!("default_for_unspecified: {kind} is neither LIMITED nor UNLIMITED"))?,
            total_resource_slots: read::slots(r.total_resource_slots.as_ref())?,
            max_session_lifetime: r.max_session_lifetime.unwrap_or(0),
            max_concurrent_sessions: required(r.max_concurrent_sessions, "max_concurrent_sessions")?,
            max_concurrent_sftp_sessions: r.max_concurrent_sftp_sessions.unwrap_or(1),
            max_containers_per_session: required(r.max_containers_per_session, "max_containers_per_session")?,
            max_vfolder_count: r.max_vfolder_count.unwrap_or(0),
            max_vfolder_size: r.max_vfolder_size.unwrap_or(0),
            idle_timeout: r.idle_timeout.unwrap_or(0),
            allowed_vfolder_hosts: read::folder_hosts(r.allowed_vfolder_hosts)?,
            name,
        };
        let Some(known) = resource_policies::get(&mut self.tx, &wanted.name).await? else {
            resource_policies::insert(&mut self.tx, &wanted).await?;
            return Ok(Outcome::Added);
        };
        if !self.differs(known != PolicyRow { created_at: known.created_at, ..wanted.clone() }) {
            return Ok(Outcome::Existing);
        }
        let changes = PolicyChanges {
            default_for_unspecified: Some(wanted.default_for_unspecified),
            total_resource_slots: Some(wanted.total_resource_slots),
            max_session_lifetime: Some(wanted.max_session_lifetime),
            max_concurrent_sessions: Some(wanted.max_concurrent_sessions),
            max_concurrent_sftp_sessions: Some(wanted.max_concurrent_sftp_sessions),
            max_containers_per_session: Some(wanted.max_containers_per_session),
            max_vfolder_count: Some(wanted.max_vfolder_count),
            max_vfolder_size: Some(wanted.max_vfolder_size),
            idle_timeout: Some(wanted.idle_timeout),
            allowed_vfolder_hosts: Some(wanted.allowed_vfolder_hosts),
        };
        resource_policies::update(&mut self.tx, &wanted.name, &changes).await?;
        Ok(Outcome::Updated)
    }

    /// The policy that stands in for unknown ones must be one.
    pub(super) async fn check_fallback(&mut self) -> Result<()> {
        let Some(name) = &self.options.fallback_policy else { return Ok(()) };
        match resource_policies::get(&mut self.tx, name).await? {
            Some(_) => Ok(()),
            None => Err(Error::BadRequest(format!("there is no policy `{name}` to fall back to"))),
        }
    }

    pub(super) async fn domain(&mut self, row: Json) -> Taken {
        let r: read::Domain = read::row(row)?;
        let name = required(r.name, "name")?;
        fits(&name, "name", 64)?;
        let packed = self.dotfiles("domains", &name, r.dotfiles.as_deref());
        let known = domains::get(&mut self.tx, &name).await?;
        let wanted = DomainRow {
            description: r.description,
            // As the reference takes it: what isn't said to be in use isn't.
            is_active: r.is_active.unwrap_or(false),
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            modified_at: instant(r.modified_at.as_deref()).unwrap_or(self.now),
            total_resource_slots: read::slots(r.total_resource_slots.as_ref())?,
            allowed_vfolder_hosts: read::folder_hosts(r.allowed_vfolder_hosts)?,
            allowed_docker_registries: r.allowed_docker_registries.unwrap_or_default(),
            integration_id: r.integration_id,
            name,
        };
        let holder = Holder::Domain(wanted.name.clone());
        let Some(known) = known else {
            domains::insert(&mut self.tx, &wanted).await?;
            self.put_dotfiles(&holder, packed).await?;
            return Ok(Outcome::Added);
        };
        let wanted = DomainRow {
            created_at: known.created_at,
            modified_at: known.modified_at,
            description: wanted.description.or_else(|| known.description.clone()),
            integration_id: wanted.integration_id.or_else(|| known.integration_id.clone()),
            ..wanted
        };
        let files = self.other_dotfiles(&holder, packed).await?;
        if !self.differs(known != wanted || files.is_some()) {
            return Ok(Outcome::Existing);
        }
        let changes = DomainChanges {
            name: None,
            description: wanted.description,
            is_active: Some(wanted.is_active),
            total_resource_slots: Some(wanted.total_resource_slots),
            allowed_vfolder_hosts: Some(wanted.allowed_vfolder_hosts),
            allowed_docker_registries: Some(wanted.allowed_docker_registries),
            integration_id: wanted.integration_id,
        };
        domains::update(&mut self.tx, &wanted.name, &changes, self.now).await?;
        self.put_dotfiles(&holder, files).await?;
        Ok(Outcome::Updated)
    }

    pub(super) async fn project(&mut self, row: Json) -> Taken {
        let r: read::Group = read::row(row)?;
        let theirs = required(r.id, "id")?;
        let name = required(r.name, "name")?;
        let domain = required(r.domain_name, "domain_name")?;
        fits(&name, "name", 64)?;
        let packed = self.dotfiles("groups", &name, r.dotfiles.as_deref());
        if domains::get(&mut self.tx, &domain).await?.is_none() {
            return refuse(format!("its domain {domain} isn't there"));
        }
        let known = match projects::get(&mut self.tx, ProjectId(theirs)).await? {
            Some(known) => Some(known),
            // The same project, made here: it keeps its id.
            None => projects::by_name(&mut self.tx, &domain, &name).await?,
        };
        let wanted = ProjectRow {
            id: known.as_ref().map_or(ProjectId(theirs), |known| known.id),
            name,
            domain_name: domain,
            description: r.description,
            is_active: r.is_active.unwrap_or(false),
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            modified_at: instant(r.modified_at.as_deref()).unwrap_or(self.now),
            total_resource_slots: read::slots(r.total_resource_slots.as_ref())?,
            allowed_vfolder_hosts: read::folder_hosts(r.allowed_vfolder_hosts)?,
            integration_id: r.integration_id,
        };
        let holder = Holder::Project(wanted.id);
        self.projects.insert(theirs, (wanted.id, wanted.domain_name.clone()));
        let Some(known) = known else {
            if let Err(error) = projects::insert(&mut self.tx, &wanted).await {
                self.projects.remove(&theirs);
                return Err(error.into());
            }
            self.put_dotfiles(&holder, packed).await?;
            return Ok(Outcome::Added);
        };
        if known.id.0 != theirs {
            self.note(
                "groups",
                &format!("{} {}", wanted.name, wanted.domain_name),
                format!("is here already as {}", known.id),
            );
        }
        let wanted = ProjectRow {
            created_at: known.created_at,
            modified_at: known.modified_at,
            description: wanted.description.or_else(|| known.description.clone()),
            integration_id: wanted.integration_id.or_else(|| known.integration_id.clone()),
            ..wanted
        };
        let files = self.other_dotfiles(&holder, packed).await?;
        if !self.differs(known != wanted || files.is_some()) {
            return Ok(Outcome::Existing);
        }
        let changes = ProjectChanges {
            name: Some(wanted.name),
            domain_name: Some(wanted.domain_name),
            description: wanted.description,
            is_active: Some(wanted.is_active),
            total_resource_slots: Some(wanted.total_resource_slots),
            allowed_vfolder_hosts: Some(wanted.allowed_vfolder_hosts),
            integration_id: wanted.integration_id.map(Some),
        };
        projects::update(&mut self.tx, wanted.id, &changes, self.now).await?;
        self.put_dotfiles(&holder, files).await?;
        Ok(Outcome::Updated)
    }

    pub(super) async fn user(&mut self, row: Json) -> Taken {
        let r: read::User = read::row(row)?;
        let theirs = required(r.uuid, "uuid")?;
        let email = required(r.email.filter(|e| !e.trim().is_empty()), "email")?;
        fits(&email, "email", 64)?;
        for (text, column, most) in
            [(&r.username, "username", 64), (&r.full_name, "full_name", 64), (&r.description, "description", 500)]
        {
            text.as_deref().map_or(Ok(()), |text| fits(text, column, most))?;
        }
        let domain = required(r.domain_name, "domain_name")?;
        if domains::get(&mut self.tx, &domain).await?.is_none() {
            return refuse(format!("its domain {domain} isn't there"));
        }
        let status = required(r.status, "status")?;
        let status: UserStatus = status.parse().map_err(|_| format!("status: {status} is none"))?;
        let role = required(r.role, "role")?;
        let role = role.parse().map_err(|_| format!("role: {role} is none"))?;
        let networks = r.allowed_client_ip.map(|list| {
            list.iter()
                .map(|text| {
                    network(text)
                        .map(|n| n.to_string())
                        .ok_or_else(|| format!("allowed_client_ip: {text} is no network"))
                })
                .collect::<std::result::Result<Vec<_>, _>>()
        });
        let networks = networks.transpose()?;
        let hash = r.password.filter(|hash| !hash.is_empty());
        let usable = |hash: &str| hash.starts_with("$argon2") || password::bcrypt_cost(hash).is_some();
        if hash.as_deref().is_some_and(|hash| !usable(hash)) {
            self.note("users", &email, "the password's hash is of an unknown kind: it needs a new password");
        }
        if r.totp_activated == Some(true) {
            self.note("users", &email, "the second factor isn't taken over");
        }
        let lower = email.to_lowercase();
        match self.addresses.get(&lower) {
            Some(other) if *other != email => {
                let text = format!("differs only by case from {other}");
                self.note("users", &email, text);
            }
            _ => {
                self.addresses.insert(lower, email.clone());
            }
        }
        let known = match users::get(&mut self.tx, UserId(theirs)).await? {
            Some(known) => Some(known),
            None => users::by_email(&mut self.tx, &email).await?,
        };
        if let Some(known) = known.as_ref().filter(|known| known.email != email) {
            return refuse(format!("its id is that of {} here", known.email));
        }
        let mut username = r.username;
        if let Some(name) = &username
            && let Some(other) = users::by_username(&mut self.tx, name).await?
            && known.as_ref().is_none_or(|known| known.id != other.id)
        {
            let text = format!("the name {name} is that of {} here: it is called by its address", other.email);
            self.note("users", &email, text);
            username = Some(email.clone());
        }
        let changed = instant(r.password_changed_at.as_deref());
        let wanted = UserRow {
            id: known.as_ref().map_or(UserId(theirs), |known| known.id),
            username,
            email,
            need_password_change: r.need_password_change.unwrap_or(false),
            password_changed_at: changed,
            full_name: r.full_name,
            description: r.description,
            status,
            status_info: r.status_info,
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            modified_at: instant(r.modified_at.as_deref()).unwrap_or(self.now),
            domain_name: domain,
            role,
            integration_id: r.integration_id,
            allowed_client_ip: networks,
            totp_activated: false,
            totp_activated_at: None,
        };
        let id = wanted.id;
        let ours = (id, wanted.email.clone());
        let outcome = match known {
            None => {
                users::insert(&mut self.tx, &wanted, hash.as_deref()).await?;
                Outcome::Added
            }
            Some(known) => self.update_user(known, wanted, hash).await?,
        };
        self.users.insert(theirs, ours);
        Ok(outcome)
    }

    async fn update_user(&mut self, known: UserRow, wanted: UserRow, hash: Option<String>) -> Taken {
        // Of two passwords the younger is right; a hash that was only made anew here is of the same age.
        let password = match (wanted.password_changed_at, known.password_changed_at) {
            (Some(theirs), Some(ours)) if theirs > ours => hash.map(|hash| (hash, theirs)),
            (Some(theirs), None) => hash.map(|hash| (hash, theirs)),
            _ => None,
        };
        let wanted = UserRow {
            username: wanted.username.or_else(|| known.username.clone()),
            full_name: wanted.full_name.or_else(|| known.full_name.clone()),
            description: wanted.description.or_else(|| known.description.clone()),
            status_info: wanted.status_info.or_else(|| known.status_info.clone()),
            allowed_client_ip: wanted.allowed_client_ip.or_else(|| known.allowed_client_ip.clone()),
            password_changed_at: known.password_changed_at,
            created_at: known.created_at,
            modified_at: known.modified_at,
            integration_id: known.integration_id.clone(),
            totp_activated: known.totp_activated,
            totp_activated_at: known.totp_activated_at,
            ..wanted
        };
        if !self.differs(known != wanted || password.is_some()) {
            return Ok(Outcome::Existing);
        }
        let changes = UserChanges {
            username: wanted.username,
            password,
            need_password_change: Some(wanted.need_password_change),
            full_name: wanted.full_name,
            description: wanted.description,
            status: Some(wanted.status),
            status_info: wanted.status_info,
            domain_name: Some(wanted.domain_name),
            role: Some(wanted.role),
            allowed_client_ip: wanted.allowed_client_ip,
            totp_activated: None,
        };
        users::update(&mut self.tx, wanted.id, &changes, self.now).await?;
        Ok(Outcome::Updated)
    }

    pub(super) async fn member(&mut self, row: Json) -> Taken {
        let r: read::Member = read::row(row)?;
        let user = required(r.user_id, "user_id")?;
        let group = required(r.group_id, "group_id")?;
        let Some((user, email)) = self.users.get(&user).cloned() else { return refuse("its user isn't taken over") };
        let Some((project, domain)) = self.projects.get(&group).cloned() else {
            return refuse("its project isn't taken over");
        };
        if projects::is_member(&mut self.tx, project, user).await? {
            return Ok(Outcome::Existing);
        }
        if projects::add_members(&mut self.tx, project, &[user]).await? == 0 {
            return refuse(format!("{email} is no user of the project's domain {domain}"));
        }
        Ok(Outcome::Added)
    }

    pub(super) async fn keypair(&mut self, row: Json) -> Taken {
        let r: read::Keypair = read::row(row)?;
        let access_key = required(r.access_key.map(|k| k.trim().to_owned()), "access_key")?;
        fits(&access_key, "access_key", MAX_ACCESS_KEY)?;
        let secret_key = required(r.secret_key.map(|k| k.trim().to_owned()), "secret_key")?;
        let user = required(r.user, "user")?;
        let Some((user_id, user_email)) = self.users.get(&user).cloned() else {
            return refuse("its user isn't taken over");
        };
        let policy = match (r.resource_policy, &self.options.fallback_policy) {
            (Some(name), _) if resource_policies::get(&mut self.tx, &name).await?.is_some() => name,
            (missing, Some(fallback)) => {
                let text = match missing {
                    Some(name) => format!("has {fallback} in place of the policy {name}, which isn't there"),
                    None => format!("has {fallback} in place of no policy"),
                };
                let fallback = fallback.clone();
                self.note("keypairs", &access_key, text);
                fallback
            }
            (Some(name), None) => return refuse(format!("its policy {name} isn't there")),
            (None, None) => return refuse("resource_policy is NULL"),
        };
        let packed = self.dotfiles("keypairs", &access_key, r.dotfiles.as_deref());
        let known = keypairs::get(&mut self.tx, &access_key).await?;
        let wanted = KeypairRow {
            access_key: AccessKey(access_key.clone()),
            secret_key,
            user_id,
            user_email,
            is_active: r.is_active.unwrap_or(false),
            is_admin: r.is_admin.unwrap_or(false),
            resource_policy: policy,
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            last_used: instant(r.last_used.as_deref()),
            rate_limit: r.rate_limit.unwrap_or(RATE_LIMIT),
            num_queries: r.num_queries.unwrap_or(0),
            ssh_public_key: r.ssh_public_key,
        };
        let holder = Holder::Keypair(access_key.clone());
        let Some(known) = known else {
            keypairs::insert(&mut self.tx, &wanted, r.ssh_private_key.as_deref()).await?;
            if let Some(script) = r.bootstrap_script.filter(|script| !script.is_empty()) {
                keypairs::set_bootstrap_script(&mut self.tx, &access_key, &script).await?;
            }
            self.put_dotfiles(&holder, packed).await?;
            return Ok(Outcome::Added);
        };
        if known.user_id != wanted.user_id {
            return refuse(format!("it belongs to {} here", known.user_email));
        }
        let files = self.other_dotfiles(&holder, packed).await?;
        let facts =
            |k: &KeypairRow| (k.secret_key.clone(), k.is_active, k.is_admin, k.resource_policy.clone(), k.rate_limit);
        if !self.differs(facts(&known) != facts(&wanted) || files.is_some()) {
            return Ok(Outcome::Existing);
        }
        let changes = KeypairChanges {
            is_active: Some(wanted.is_active),
            is_admin: Some(wanted.is_admin),
            resource_policy: Some(wanted.resource_policy),
            rate_limit: Some(wanted.rate_limit),
        };
        keypairs::update(&mut self.tx, &access_key, &changes).await?;
        keypairs::set_secret(&mut self.tx, &access_key, &wanted.secret_key).await?;
        self.put_dotfiles(&holder, files).await?;
        Ok(Outcome::Updated)
    }

    /// The dotfiles of a row, if they can be read: the row is taken over without them otherwise.
    fn dotfiles(&mut self, table: &'static str, row: &str, column: Option<&str>) -> Option<Vec<u8>> {
        match read::dotfiles(column) {
            Ok(packed) => packed,
            Err(reason) => {
                self.note(table, row, format!("without its dotfiles: {reason}"));
                None
            }
        }
    }

    async fn put_dotfiles(&mut self, holder: &Holder, packed: Option<Vec<u8>>) -> quarterdeck_store::Result<()> {
        match packed {
            Some(packed) => dotfiles::replace(&mut self.tx, holder, packed).await,
            None => Ok(()),
        }
    }

    /// Their dotfiles, if they aren't those that are here.
    async fn other_dotfiles(
        &mut self,
        holder: &Holder,
        packed: Option<Vec<u8>>,
    ) -> quarterdeck_store::Result<Option<Vec<u8>>> {
        let Some(packed) = packed else { return Ok(None) };
        let here = dotfiles::of(&mut self.tx, holder, false).await?.unwrap_or_default();
        Ok((quarterdeck_model::dotfile::pack(&here) != packed).then_some(packed))
    }
}
