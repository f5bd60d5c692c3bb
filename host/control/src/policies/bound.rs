//! Who is asked: the plugins that serve a scaling group, an idle check, an event, with their configurations.

use std::sync::Arc;

use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, Target, TargetKind};
use quarterdeck_plugin::{Failure, Objection, Plugin};
use quarterdeck_store::plugins::{BindingRow, RevisionRow};
use quarterdeck_store::scaling_groups::ScalingGroupRow;
use serde_json::{Map, Value as Json};

use super::{FALLBACK_SCHEDULER, FIRST_IDLE_CHECKER, Policies};
use crate::error::{Error, Result};

/// A plugin revision with the configuration that it serves somebody with.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The compiled plugin.
    pub plugin: Arc<Plugin>,
    /// Its configuration, a JSON object.
    pub config: String,
    /// The binding behind it; `None` where a built-in serves by default.
    pub binding_id: Option<String>,
    /// Whom it serves.
    pub target: Target,
    /// A failing hook lets the operation go on.
    pub fail_open: bool,
}

/// A revision that should serve, and can't even be asked.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// The revision.
    pub digest: String,
    /// What it decides.
    pub kind: PluginKind,
    /// What happened.
    pub failure: Failure,
    /// It is the plugin's fault, not this host's.
    pub to_blame: bool,
}

impl Broken {
    /// One that broke when it was called.
    pub fn of(bound: &Bound, failure: Failure) -> Self {
        Self {
            plugin: bound.plugin.info.name.clone(),
            version: bound.plugin.info.version.clone(),
            digest: bound.plugin.digest.clone(),
            kind: bound.plugin.kind,
            failure,
            to_blame: true,
        }
    }
}

/// Who schedules a group.
#[derive(Clone, Debug)]
pub enum Choice {
    /// The group names no plugin that is there.
    Nobody,
    /// This one.
    Policy(Box<Bound>),
    /// This one should; the fallback has to take over for now.
    Broken(Box<Broken>),
}

/// Why a plugin isn't asked.
pub(super) enum Unfit {
    /// It refuses its configuration.
    Refused(Error),
    /// It broke, or doesn't load.
    Broken(Box<Broken>),
    /// This host has a problem.
    Host(Error),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}

impl Unfit {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Refused(error) | Self::Host(error) => error,
            Self::Broken(broken) => Error::Unavailable(format!("plugin {}: {}", broken.plugin, broken.failure)),
        }
    }
}

impl Policies {
    /// Who schedules a group. A policy that can't be asked has its failure counted.
    ///
    /// Its configuration is `scheduler_opts.config` over `config/plugins/scheduler/<name>`.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] when the plugin refuses that configuration: the group's run fails then.
    pub async fn choose(&self, group: &ScalingGroupRow) -> Result<Choice> {
        match self.scheduler_of(group).await {
            Ok(None) => Ok(Choice::Nobody),
            Ok(Some(bound)) => Ok(Choice::Policy(Box::new(bound))),
            Err(Unfit::Broken(broken)) => {
                self.blame(&broken).await;
                Ok(Choice::Broken(broken))
            }
            Err(Unfit::Refused(error) | Unfit::Host(error)) => Err(error),
        }
    }

    /// As [`Policies::choose`], for those who only want to look: nothing is counted.
    ///
    /// # Errors
    /// As [`Policies::choose`], and [`Error::Unavailable`] when the policy can't be asked.
    pub async fn scheduler(&self, group: &ScalingGroupRow) -> Result<Option<Bound>> {
        self.scheduler_of(group).await.map_err(Unfit::into_error)
    }

    async fn scheduler_of(&self, group: &ScalingGroupRow) -> Result<Option<Bound>, Unfit> {
        let catalogue = self.catalogue.load_full();
        let target = Target::scaling_group(&group.name);
        let binding = catalogue.binding(PluginKind::Scheduler, &group.scheduler, &target);
        let pinned = binding.filter(|b| catalogue.is_ready(&b.digest)).and_then(|b| catalogue.revisions.get(&b.digest));
        let revision = match pinned.or_else(|| catalogue.default_revision(PluginKind::Scheduler, &group.scheduler)) {
            Some(revision) => revision,
            None => return Ok(None),
        };
        let mut config = self.tree_config(&format!("config/plugins/scheduler/{}", group.scheduler)).await;
        if let Some(Json::Object(own)) = group.scheduler_opts.get("config") {
            config.extend(own.clone());
        }
        self.fit(revision, binding, target, config).await.map(Some)
    }

    /// The built-in scheduler that takes over for a round when the group's own fails. It passes
    /// over sessions that don't fit, as a fresh installation's group does.
    ///
    /// # Errors
    /// [`Error::Internal`] when the built-in isn't there, which is a broken build.
    pub async fn fallback_scheduler(&self) -> Result<Bound> {
        let digest = self
            .catalogue
            .load()
            .default_revision(PluginKind::Scheduler, FALLBACK_SCHEDULER)
            .map(|r| r.digest.clone())
            .ok_or_else(|| Error::Internal("the built-in scheduler is missing".to_owned()))?;
        Ok(Bound {
            plugin: self.plugin(&digest).await?,
            config: r#"{"skip_blocked":true}"#.to_owned(),
            binding_id: None,
            target: Target::everywhere(),
            fail_open: false,
        })
    }

    /// The idle checkers in their order: session lifetime, those that `config/idle/enabled` names,
    /// then those that are only bound. One that can't be asked is left out, logged, and told beside them.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn idle_checkers(&self) -> Result<(Vec<Bound>, Vec<Broken>)> {
        let catalogue = self.catalogue.load_full();
        let enabled = self.config.get("config/idle/enabled").await.unwrap_or_default();
        let mut wanted: Vec<(String, Target)> = vec![(FIRST_IDLE_CHECKER.to_owned(), Target::everywhere())];
        for name in enabled_idle_checkers(&enabled) {
            wanted.push((name.to_owned(), Target::everywhere()));
        }
        for b in &catalogue.bindings {
            let named = wanted.iter().any(|(name, target)| *name == b.plugin && *target == b.target);
            if b.kind == PluginKind::IdleChecker && b.mode == BindingMode::Live && !named {
                wanted.push((b.plugin.clone(), b.target.clone()));
            }
        }
        let (mut out, mut broken) = (Vec::with_capacity(wanted.len()), Vec::new());
        for (name, target) in wanted {
            let binding = catalogue.binding(PluginKind::IdleChecker, &name, &target);
            let pinned =
                binding.filter(|b| catalogue.is_ready(&b.digest)).and_then(|b| catalogue.revisions.get(&b.digest));
            let Some(revision) = pinned.or_else(|| catalogue.default_revision(PluginKind::IdleChecker, &name)) else {
                tracing::warn!(checker = name, "no such idle checker");
                continue;
            };
            let config = self.overlaid(&format!("config/idle/checkers/{name}"), binding).await;
            match self.fit(revision, binding, target, config).await {
                Ok(bound) => out.push(bound),
                Err(Unfit::Broken(one)) => {
                    tracing::error!(checker = name, error = %one.failure, "an idle checker can't be asked");
                    broken.push(*one);
                }
                Err(unfit) => {
                    tracing::error!(checker = name, error = %unfit.into_error(), "an idle checker can't be used");
                }
            }
        }
        Ok((out, broken))
    }

    /// Whether any hook listens to an event, if only to watch: a cheap question before a body is put together.
    pub fn has_hooks(&self, event: &str) -> bool {
        self.catalogue.load().listeners(event).next().is_some() || self.has_listening(event)
    }

    /// The hooks for an event that concerns `domain`, in the order of their calls.
    ///
    /// A hook that can't be loaded is an error unless it was bound fail-open: a closed door must
    /// not open because its lock is broken.
    ///
    /// # Errors
    /// [`Error::RejectedByHook`] for such a hook, [`Error::Store`].
    pub async fn hooks(&self, event: &str, domain: Option<&str>) -> Result<Vec<Bound>> {
        let catalogue = self.catalogue.load_full();
        let mut out = Vec::new();
        for b in catalogue.listeners(event) {
            let concerned = match b.target.kind {
                TargetKind::Everywhere => true,
                TargetKind::Domain => domain == Some(b.target.name.as_str()),
                TargetKind::ScalingGroup => false,
            };
            let Some(revision) = catalogue.revisions.get(&b.digest).filter(|_| concerned) else { continue };
            let fail_open = b.failure_policy == FailurePolicy::FailOpen;
            let closed = |reason: &str| Error::RejectedByHook {
                plugin: b.plugin.clone(),
                reason: format!("the hook {reason}; an administrator has to look at it"),
            };
            if !catalogue.is_ready(&b.digest) {
                if fail_open {
                    continue;
                }
                return Err(closed("is suspended"));
            }
            let config = self.overlaid(&format!("config/plugins/hook/{}", b.plugin), Some(b)).await;
            let unfit = match self.fit(revision, Some(b), b.target.clone(), config).await {
                Ok(bound) => {
                    out.push(bound);
                    continue;
                }
                Err(unfit) => unfit,
            };
            if let Unfit::Broken(broken) = &unfit {
                self.blame(broken).await;
            }
            tracing::error!(hook = b.plugin, error = %unfit.into_error(), "a hook can't be used");
            if !fail_open {
                return Err(closed("can't be used"));
            }
        }
        Ok(out)
    }

    /// A revision, ready to be called with a configuration that it accepts.
    pub(super) async fn fit(
        &self,
        revision: &RevisionRow,
        binding: Option<&BindingRow>,
        target: Target,
        config: Map<String, Json>,
    ) -> Result<Bound, Unfit> {
        let plugin = match self.load(&revision.digest).await? {
            Ok(plugin) => plugin,
            Err(error) => {
                return Err(Unfit::Broken(Box::new(Broken {
                    plugin: revision.name.clone(),
                    version: revision.version.clone(),
                    digest: revision.digest.clone(),
                    kind: revision.kind.unwrap_or(PluginKind::Scheduler),
                    to_blame: error.is_the_components_fault(),
                    failure: Failure::Instantiate { reason: error.to_string() },
                })));
            }
        };
        let bound = Bound {
            plugin,
            config: Json::Object(config).to_string(),
            binding_id: binding.map(|b| b.id.clone()),
            target,
            fail_open: binding.is_some_and(|b| b.failure_policy == FailurePolicy::FailOpen),
        };
        self.check(&bound).await?;
        Ok(bound)
    }

    /// What the configuration tree says, under what the binding says.
    pub(super) async fn overlaid(&self, prefix: &str, binding: Option<&BindingRow>) -> Map<String, Json> {
        let mut config = self.tree_config(prefix).await;
        if let Some(Json::Object(own)) = binding.map(|b| &b.config) {
            config.extend(own.clone());
        }
        config
    }

    async fn tree_config(&self, prefix: &str) -> Map<String, Json> {
        match self.config.prefix(prefix).await {
            Json::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// Whether the plugin accepts the configuration; each pair is asked until it answers.
    async fn check(&self, bound: &Bound) -> Result<(), Unfit> {
        let key = (bound.plugin.digest.clone(), bound.config.clone());
        let known = self.checked.lock().get(&key).cloned();
        let verdict = match known {
            Some(verdict) => verdict,
            None => {
                let (plugin, config) = (Arc::clone(&bound.plugin), bound.config.clone());
                let asked = tokio::task::spawn_blocking(move || plugin.check_config(&config)).await;
                let verdict =
                    match asked.map_err(|e| Error::Internal(format!("a configuration check broke off: {e}")))? {
                        Ok(()) => Ok(()),
                        Err(refusal @ Objection::Refused(_)) => Err(refusal.to_string()),
                        Err(Objection::Failed(failure)) => {
                            return Err(Unfit::Broken(Box::new(Broken::of(bound, failure))));
                        }
                    };
                let mut checked = self.checked.lock();
                // A bound on memory, not a cache policy: configurations are few.
                if checked.len() > 1024 {
                    checked.clear();
                }
                checked.insert(key, verdict.clone());
                verdict
            }
        };
        verdict.map_err(|problem| {
            Unfit::Refused(Error::invalid(format!(
                "plugin {} refuses its configuration: {problem}",
                bound.plugin.info.name
            )))
        })
    }
}

/// The names in the text of `config/idle/enabled`, without `session_lifetime`, which is always on.
/// `timeout`, the name that old configuration comments show, means `network_timeout`.
pub fn enabled_idle_checkers(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && *name != FIRST_IDLE_CHECKER)
        .map(|name| if name == "timeout" { "network_timeout" } else { name })
}

#[cfg(test)]
mod tests {
    use super::enabled_idle_checkers;

    #[test]
    fn enabled_checkers_are_trimmed_and_keep_their_order() {
        let names: Vec<_> =
            enabled_idle_checkers(" utilization , timeout,, session_lifetime,network_timeout").collect();
        assert_eq!(names, ["utilization", "network_timeout", "network_timeout"]);
    }
}
