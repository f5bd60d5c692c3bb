//! Looks up for many rows at once what hangs below each of them.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use quarterdeck_control::agents::statistics;
use quarterdeck_control::store::endpoints::{self, RouteRow};
use quarterdeck_control::store::lists::{containers, sessions, vfolders};
use quarterdeck_control::store::vfolders::VfolderRow;
use quarterdeck_control::store::{Reader, images, keypairs, occupancy, projects, scaling_groups};
use quarterdeck_control::{Control, idle};
use quarterdeck_model::slots::{self, SlotKind, SlotMap};
use quarterdeck_model::{
    AccessKey, AgentId, EndpointId, ImageId, KernelId, KernelStatus, ProjectId, SessionId, SessionStatus, UserId,
};
use serde_json::Value as Json;

use super::batches::Loader;
use super::fault::Answer;

/// Everything that is looked up in batches.
#[derive(Debug)]
pub(crate) struct Loaders {
    control: Control,
}

impl Loaders {
    pub(crate) fn new(control: Control) -> Self {
        Self { control }
    }

    fn sql(&self) -> Reader {
        self.control.store().reader()
    }
}

/// Groups the values by key; keys without values have none, too.
fn grouped<K: Hash + Eq, V>(pairs: impl IntoIterator<Item = (K, V)>) -> HashMap<K, Vec<V>> {
    let mut map: HashMap<K, Vec<V>> = HashMap::new();
    for (key, value) in pairs {
        map.entry(key).or_default().push(value);
    }
    map
}

/// The projects of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupsOf(pub(crate) UserId);

impl Loader<GroupsOf> for Loaders {
    type Value = Vec<(ProjectId, String)>;

    async fn load(&self, keys: &[GroupsOf]) -> Answer<HashMap<GroupsOf, Self::Value>> {
        let users: Vec<_> = keys.iter().map(|k| k.0).collect();
        let rows = projects::of_users(&mut self.sql(), &users).await?;
        Ok(grouped(rows.into_iter().map(|(user, project)| (GroupsOf(user), (project.id, project.name)))))
    }
}

/// The scaling groups of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DomainScalingGroups(pub(crate) String);

impl Loader<DomainScalingGroups> for Loaders {
    type Value = Vec<String>;

    async fn load(&self, keys: &[DomainScalingGroups]) -> Answer<HashMap<DomainScalingGroups, Self::Value>> {
        let domains: Vec<_> = keys.iter().map(|k| k.0.clone()).collect();
        let rows = scaling_groups::names_of_domains(&mut self.sql(), &domains).await?;
        Ok(grouped(rows.into_iter().map(|(domain, group)| (DomainScalingGroups(domain), group))))
    }
}

/// The scaling groups of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProjectScalingGroups(pub(crate) ProjectId);

impl Loader<ProjectScalingGroups> for Loaders {
    type Value = Vec<String>;

    async fn load(&self, keys: &[ProjectScalingGroups]) -> Answer<HashMap<ProjectScalingGroups, Self::Value>> {
        let projects: Vec<_> = keys.iter().map(|k| k.0).collect();
        let rows = scaling_groups::names_of_projects(&mut self.sql(), &projects).await?;
        Ok(grouped(rows.into_iter().map(|(project, group)| (ProjectScalingGroups(project), group))))
    }
}

/// The folders of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VfoldersOf(pub(crate) UserId);

impl Loader<VfoldersOf> for Loaders {
    type Value = Vec<VfolderRow>;

    async fn load(&self, keys: &[VfoldersOf]) -> Answer<HashMap<VfoldersOf, Self::Value>> {
        let users: Vec<_> = keys.iter().map(|k| k.0).collect();
        let rows = vfolders::of_users(&mut self.sql(), &users).await?;
        Ok(grouped(rows.into_iter().filter_map(|row| Some((VfoldersOf(row.user?), row)))))
    }
}

/// The routes of a model service, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RoutesOf(pub(crate) EndpointId);

impl Loader<RoutesOf> for Loaders {
    type Value = Vec<RouteRow>;

    async fn load(&self, keys: &[RoutesOf]) -> Answer<HashMap<RoutesOf, Self::Value>> {
        let keys: Vec<_> = keys.iter().map(|k| k.0).collect();
        let rows = endpoints::of_endpoints(&mut self.sql(), &keys).await?;
        Ok(grouped(rows.into_iter().map(|row| (RoutesOf(row.endpoint), row))))
    }
}

/// The aliases of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AliasesOf(pub(crate) ImageId);

impl Loader<AliasesOf> for Loaders {
    type Value = Vec<String>;

    async fn load(&self, keys: &[AliasesOf]) -> Answer<HashMap<AliasesOf, Self::Value>> {
        let keys: Vec<_> = keys.iter().map(|k| k.0).collect();
        let rows = images::aliases(&mut self.sql(), &keys).await?;
        Ok(rows.into_iter().map(|(image, aliases)| (AliasesOf(image), aliases)).collect())
    }
}

/// The kernels of a session, main kernel first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KernelsOf(pub(crate) SessionId);

impl Loader<KernelsOf> for Loaders {
    type Value = Vec<containers::ContainerItem>;

    async fn load(&self, keys: &[KernelsOf]) -> Answer<HashMap<KernelsOf, Self::Value>> {
        let scope =
            containers::Scope { sessions: Some(keys.iter().map(|k| k.0).collect()), ..containers::Scope::default() };
        let rows = containers::select(&mut self.sql(), &scope).await?;
        let mut map = grouped(rows.into_iter().map(|row| (KernelsOf(row.session_id), row)));
        for kernels in map.values_mut() {
            kernels.sort_by(|a, b| (&a.cluster_role, a.cluster_idx).cmp(&(&b.cluster_role, b.cluster_idx)));
        }
        Ok(map)
    }
}

/// The kernels on an agent, perhaps only those in some statuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KernelsOn(pub(crate) AgentId, pub(crate) Option<Vec<KernelStatus>>);

impl Loader<KernelsOn> for Loaders {
    type Value = Vec<containers::ContainerItem>;

    async fn load(&self, keys: &[KernelsOn]) -> Answer<HashMap<KernelsOn, Self::Value>> {
        let mut map = HashMap::new();
        // One statement for each set of statuses that the document names: one, as a rule.
        for statuses in keys.iter().map(|k| &k.1).collect::<HashSet<_>>() {
            let agents = keys.iter().filter(|k| &k.1 == statuses).map(|k| k.0.clone()).collect();
            let scope =
                containers::Scope { agents: Some(agents), statuses: statuses.clone(), ..containers::Scope::default() };
            let rows = containers::select(&mut self.sql(), &scope).await?;
            map.extend(grouped(
                rows.into_iter()
                    .filter_map(|row| row.agent_id.clone().map(|agent| (KernelsOn(agent, statuses.clone()), row))),
            ));
        }
        Ok(map)
    }
}

/// The sessions of a key pair, perhaps only those in some statuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionsOf(pub(crate) AccessKey, pub(crate) Option<Vec<SessionStatus>>);

impl Loader<SessionsOf> for Loaders {
    type Value = Vec<sessions::SessionItem>;

    async fn load(&self, keys: &[SessionsOf]) -> Answer<HashMap<SessionsOf, Self::Value>> {
        let mut map = HashMap::new();
        for statuses in keys.iter().map(|k| &k.1).collect::<HashSet<_>>() {
            let access_keys = keys.iter().filter(|k| &k.1 == statuses).map(|k| k.0.clone()).collect();
            let scope = sessions::Scope {
                access_keys: Some(access_keys),
                statuses: statuses.clone(),
                ..sessions::Scope::default()
            };
            let rows = sessions::select(&mut self.sql(), &scope, i64::MAX).await?;
            map.extend(grouped(
                rows.into_iter().map(|row| (SessionsOf(row.access_key.clone(), statuses.clone()), row)),
            ));
        }
        Ok(map)
    }
}

/// The sessions that a session depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DependenciesOf(pub(crate) SessionId);

impl Loader<DependenciesOf> for Loaders {
    type Value = Vec<sessions::SessionItem>;

    async fn load(&self, keys: &[DependenciesOf]) -> Answer<HashMap<DependenciesOf, Self::Value>> {
        let of: Vec<_> = keys.iter().map(|k| k.0).collect();
        let mut sql = self.sql();
        let pairs = sessions::dependencies_of(&mut sql, &of).await?;
        let ids: HashSet<_> = pairs.iter().map(|(_, on)| *on).collect();
        let scope = sessions::Scope { ids: Some(ids.into_iter().collect()), ..sessions::Scope::default() };
        let rows: HashMap<_, _> =
            sessions::select(&mut sql, &scope, i64::MAX).await?.into_iter().map(|row| (row.id, row)).collect();
        Ok(grouped(pairs.into_iter().filter_map(|(of, on)| Some((DependenciesOf(of), rows.get(&on)?.clone())))))
    }
}

/// What the kernels on an agent hold: slot → decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OccupiedOn(pub(crate) AgentId);

impl Loader<OccupiedOn> for Loaders {
    type Value = Json;

    async fn load(&self, keys: &[OccupiedOn]) -> Answer<HashMap<OccupiedOn, Self::Value>> {
        let agents: Vec<_> = keys.iter().map(|k| k.0.clone()).collect();
        let kinds = self.control.config_tree().slot_types();
        let mut maps: HashMap<OccupiedOn, SlotMap> = HashMap::new();
        for row in occupancy::agent_slots(&mut self.sql(), Some(&agents)).await? {
            let kind = kinds.get(&row.slot).copied().unwrap_or(SlotKind::Count);
            let amount = slots::from_units(kind, u64::try_from(row.occupied).unwrap_or_default());
            maps.entry(OccupiedOn(row.agent)).or_default().insert(row.slot, amount);
        }
        Ok(maps.into_iter().map(|(agent, map)| (agent, map.to_json())).collect())
    }
}

/// What the idle checkers last said about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IdleChecksOf(pub(crate) SessionId);

impl Loader<IdleChecksOf> for Loaders {
    type Value = Json;

    async fn load(&self, keys: &[IdleChecksOf]) -> Answer<HashMap<IdleChecksOf, Self::Value>> {
        let sessions: Vec<_> = keys.iter().map(|k| k.0).collect();
        let reports = idle::report(&self.control, &sessions).await?;
        Ok(reports.into_iter().map(|(session, report)| (IdleChecksOf(session), report)).collect())
    }
}

/// How a kernel does, as its agent said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StatOfKernel(pub(crate) KernelId);

impl Loader<StatOfKernel> for Loaders {
    type Value = Json;

    async fn load(&self, keys: &[StatOfKernel]) -> Answer<HashMap<StatOfKernel, Self::Value>> {
        let kernels: Vec<_> = keys.iter().map(|k| k.0).collect();
        let stats = statistics::of_kernels(&self.control, &kernels).await?;
        Ok(stats.into_iter().map(|(kernel, stat)| (StatOfKernel(kernel), stat)).collect())
    }
}

/// How an agent does, as it said last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StatOfAgent(pub(crate) AgentId);

impl Loader<StatOfAgent> for Loaders {
    type Value = Json;

    async fn load(&self, keys: &[StatOfAgent]) -> Answer<HashMap<StatOfAgent, Self::Value>> {
        let agents: Vec<_> = keys.iter().map(|k| k.0.clone()).collect();
        let stats = statistics::of_agents(&self.control, &agents).await?;
        Ok(stats.into_iter().map(|(agent, stat)| (StatOfAgent(agent), stat)).collect())
    }
}

/// Whether a session is being committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CommitOf(pub(crate) SessionId);

impl Loader<CommitOf> for Loaders {
    type Value = bool;

    async fn load(&self, keys: &[CommitOf]) -> Answer<HashMap<CommitOf, Self::Value>> {
        let sessions: Vec<_> = keys.iter().map(|k| k.0).collect();
        let ongoing = quarterdeck_control::sessions::being_committed(&self.control, &sessions).await?;
        Ok(ongoing.into_iter().map(|session| (CommitOf(session), true)).collect())
    }
}

/// How many requests a key pair has signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueriesOf(pub(crate) AccessKey);

impl Loader<QueriesOf> for Loaders {
    type Value = i64;

    async fn load(&self, keys: &[QueriesOf]) -> Answer<HashMap<QueriesOf, Self::Value>> {
        // Hosts count in memory and write now and then; this one writes now, so that clients see themselves counted.
        self.control.identity().flush().await?;
        let access_keys: Vec<_> = keys.iter().map(|k| k.0.clone()).collect();
        let rows = keypairs::by_access_keys(&mut self.sql(), &access_keys).await?;
        Ok(rows.into_iter().map(|row| (QueriesOf(row.access_key), row.num_queries)).collect())
    }
}
