//! What this host remembers of agents between heartbeats.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use quarterdeck_model::{AgentId, KernelId, Timestamp};
use quarterdeck_rpc::pb;
use quarterdeck_store::agents::AgentRow;
use quarterdeck_store::live::{Kind, Statistic};
use serde_json::Value;

use super::Text;

/// A statistic as an agent sent it, and when this host heard it.
pub(crate) type Stat = (Text, Timestamp);

/// Agents as this host hears them, and live statistics. Lost with the process, refilled by heartbeats.
#[derive(Debug, Default)]
pub struct Live {
    agents: RwLock<HashMap<AgentId, Heard>>,
    /// Statistics of kernels, as their own agents sent them. Locked after `agents`, when both are.
    kernels: RwLock<HashMap<KernelId, Stat>>,
    /// When it is written again who was heard, by [`Clock::elapsed`](quarterdeck_model::Clock::elapsed).
    seen_at: Mutex<Duration>,
    /// How many agents were heard lately, and when that is counted again. Locked before `agents`.
    counted: Mutex<(Duration, usize)>,
}

#[derive(Debug)]
struct Heard {
    credential: String,
    boot_id: String,
    scaling_group: String,
    seen: Option<Timestamp>,
    last: Option<Timestamp>,
    slots: Option<Vec<pb::Slot>>,
    stat: Option<Stat>,
    /// Kernels that the host counts on it: it tells how those do, and of no others.
    own: HashSet<KernelId>,
    /// When its kernels are compared with the rows again, by [`Clock::elapsed`](quarterdeck_model::Clock::elapsed).
    reconcile_at: Duration,
    /// Which kernels it had when that time had come: they are compared soon, together with those of other agents.
    due: Option<Vec<pb::KernelState>>,
    /// Kernels that the host counts on it and that it hasn't, since when.
    missing: HashMap<KernelId, Duration>,
}

impl Live {
    /// Remembers an agent as its row says. Another boot, or another credential, forgets what was heard before.
    pub(crate) fn enter(&self, row: &AgentRow) {
        let mut agents = self.agents.write();
        if let Some(heard) = agents.get_mut(&row.id)
            && heard.boot_id == row.boot_id
            && heard.credential == row.credential
        {
            heard.scaling_group.clone_from(&row.scaling_group);
            return;
        }
        let before = agents.insert(
            row.id.clone(),
            Heard {
                credential: row.credential.clone(),
                boot_id: row.boot_id.clone(),
                scaling_group: row.scaling_group.clone(),
                seen: None,
                last: None,
                slots: None,
                stat: None,
                own: HashSet::new(),
                reconcile_at: Duration::ZERO,
                due: None,
                missing: HashMap::new(),
            },
        );
        self.drop_stats(before.into_iter().flat_map(|heard| heard.own));
    }

    /// Forgets an agent that left.
    pub(crate) fn forget(&self, id: &AgentId) {
        let mut agents = self.agents.write();
        let gone = agents.remove(id);
        self.drop_stats(gone.into_iter().flat_map(|heard| heard.own));
    }

    fn drop_stats(&self, gone: impl IntoIterator<Item = KernelId>) {
        let mut kernels = self.kernels.write();
        for kernel in gone {
            kernels.remove(&kernel);
        }
    }

    /// Notes which kernels the host counts on an agent.
    pub(crate) fn owns(&self, id: &AgentId, own: HashSet<KernelId>) {
        let mut agents = self.agents.write();
        let Some(heard) = agents.get_mut(id) else { return };
        let before = std::mem::replace(&mut heard.own, own);
        self.drop_stats(before.into_iter().filter(|kernel| !heard.own.contains(kernel)));
    }

    /// Notes kernels that have begun to run on their agents.
    pub(crate) fn began(&self, began: &[(AgentId, KernelId)]) {
        let mut agents = self.agents.write();
        for (agent, kernel) in began {
            if let Some(heard) = agents.get_mut(agent) {
                heard.own.insert(*kernel);
            }
        }
    }

    /// Forgets kernels that are over.
    pub(crate) fn over(&self, over: &[(Option<AgentId>, KernelId)]) {
        let mut agents = self.agents.write();
        for (agent, kernel) in over {
            if let Some(heard) = agent.as_ref().and_then(|agent| agents.get_mut(agent)) {
                heard.own.remove(kernel);
                // It had the kernel when it said so; that it has it still, it says the next time.
                if let Some(due) = &mut heard.due {
                    due.retain(|state| state.kernel_id.parse().ok() != Some(*kernel));
                }
            }
        }
        self.drop_stats(over.iter().map(|(_, kernel)| *kernel));
    }

    /// Notes how an agent's own kernels do.
    pub(crate) fn measure(&self, id: &AgentId, stats: &[pb::KernelStat], now: Timestamp) {
        let agents = self.agents.read();
        let Some(heard) = agents.get(id) else { return };
        let mut kernels = self.kernels.write();
        for stat in stats {
            if let Ok(kernel) = stat.kernel_id.parse()
                && heard.own.contains(&kernel)
            {
                kernels.insert(kernel, (stat.stat.as_str().into(), now));
            }
        }
    }

    /// The hash of the credential that an agent presents.
    pub(crate) fn credential(&self, id: &AgentId) -> Option<String> {
        self.agents.read().get(id).map(|heard| heard.credential.clone())
    }

    /// Whether that is the boot of the agent's that this host knows.
    pub(crate) fn is_boot(&self, id: &AgentId, boot_id: &str) -> bool {
        self.agents.read().get(id).is_some_and(|heard| heard.boot_id == boot_id)
    }

    /// The agent's scaling group.
    pub(crate) fn scaling_group(&self, id: &AgentId) -> Option<String> {
        self.agents.read().get(id).map(|heard| heard.scaling_group.clone())
    }

    /// Notes a heartbeat; returns whether the slots differ from those heard last.
    pub(crate) fn hear(&self, id: &AgentId, beat: &pb::HeartbeatRequest, now: Timestamp) -> bool {
        let mut changed = false;
        if let Some(heard) = self.agents.write().get_mut(id) {
            heard.seen = Some(now);
            heard.last = Some(now);
            if !beat.node_stat.is_empty() {
                heard.stat = Some((beat.node_stat.as_str().into(), now));
            }
            if heard.slots.as_ref() != Some(&beat.slots) {
                heard.slots = Some(beat.slots.clone());
                changed = true;
            }
        }
        changed
    }

    /// Notes the slots that were written at registration.
    pub(crate) fn slots_written(&self, id: &AgentId, slots: Vec<pb::Slot>) {
        if let Some(heard) = self.agents.write().get_mut(id) {
            heard.slots = Some(slots);
        }
    }

    /// Has the slots of the next heartbeat written again.
    pub(crate) fn slots_failed(&self, id: &AgentId) {
        if let Some(heard) = self.agents.write().get_mut(id) {
            heard.slots = None;
        }
    }

    /// Has the agent's kernels compared with the rows at its next heartbeat.
    pub(crate) fn reconcile_soon(&self, id: &AgentId) {
        if let Some(heard) = self.agents.write().get_mut(id) {
            heard.reconcile_at = Duration::ZERO;
        }
    }

    /// Notes which kernels an agent has, if it is time to compare them with the rows, and says when the next time is. They
    /// are compared with those of [others](Live::take_due); or at once, and are given back, when this host hasn't done
    /// it since the agent came or since somebody wanted it.
    pub(crate) fn due(
        &self,
        id: &AgentId,
        kernels: Vec<pb::KernelState>,
        every: Duration,
        now: Duration,
    ) -> Option<Vec<pb::KernelState>> {
        let mut agents = self.agents.write();
        let heard = agents.get_mut(id)?;
        if now < heard.reconcile_at {
            return None;
        }
        let at_once = heard.reconcile_at.is_zero();
        heard.reconcile_at = now + every;
        if at_once {
            heard.due = None;
            return Some(kernels);
        }
        heard.due = Some(kernels);
        None
    }

    /// The agents whose kernels are to be compared with the rows since the last call, and which they have.
    pub(crate) fn take_due(&self) -> Vec<(AgentId, Vec<pb::KernelState>)> {
        let mut agents = self.agents.write();
        agents.iter_mut().filter_map(|(id, heard)| Some((id.clone(), heard.due.take()?))).collect()
    }

    /// Notes which kernels are missing on an agent; returns those missing for at least `patience`.
    /// While some are missing but not long enough, the next heartbeat looks again.
    pub(crate) fn missing(
        &self,
        id: &AgentId,
        missing: &[KernelId],
        patience: Duration,
        now: Duration,
    ) -> Vec<KernelId> {
        let mut agents = self.agents.write();
        let Some(heard) = agents.get_mut(id) else { return Vec::new() };
        heard.missing.retain(|kernel, _| missing.contains(kernel));
        let mut lost = Vec::new();
        for kernel in missing {
            let since = *heard.missing.entry(*kernel).or_insert(now);
            if now.saturating_sub(since) >= patience {
                lost.push(*kernel);
            }
        }
        if lost.len() < missing.len() {
            heard.reconcile_at = now;
        }
        lost
    }

    /// How many agents this host heard since then. Counted once a second at most.
    pub(crate) fn count(&self, since: Timestamp, now: Duration) -> usize {
        let mut counted = self.counted.lock();
        let (again_at, count) = &mut *counted;
        if now >= *again_at {
            *again_at = now + Duration::from_secs(1);
            let agents = self.agents.read();
            *count = agents.values().filter(|heard| heard.last.is_some_and(|last| last >= since)).count();
        }
        *count
    }

    /// When this host heard the agent's last heartbeat.
    pub(crate) fn last_heard(&self, id: &AgentId) -> Option<Timestamp> {
        self.agents.read().get(id)?.last
    }

    /// Whether it is time to write who was heard; then says when the next time is.
    pub(crate) fn is_seen_due(&self, every: Duration, now: Duration) -> bool {
        let mut seen_at = self.seen_at.lock();
        let is_due = now >= *seen_at;
        if is_due {
            *seen_at = now + every;
        }
        is_due
    }

    /// Whether any of these agents was heard since that was written.
    pub(crate) fn were_seen(&self, ids: &[AgentId]) -> bool {
        let agents = self.agents.read();
        ids.iter().any(|id| agents.get(id).is_some_and(|heard| heard.seen.is_some()))
    }

    /// Agents heard since the last call, and when.
    pub(crate) fn take_seen(&self) -> Vec<(AgentId, Timestamp)> {
        let mut agents = self.agents.write();
        agents.iter_mut().filter_map(|(id, heard)| heard.seen.take().map(|at| (id.clone(), at))).collect()
    }

    /// What this host heard of an agent last, and when.
    pub(crate) fn agent_heard(&self, id: &AgentId) -> Option<Stat> {
        self.agents.read().get(id)?.stat.clone()
    }

    /// What this host heard of a kernel last, and when.
    pub(crate) fn kernel_heard(&self, id: KernelId) -> Option<Stat> {
        self.kernels.read().get(&id).cloned()
    }

    /// The statistics of kernels and agents that were heard since then.
    pub(crate) fn heard_since(&self, since: Timestamp) -> Vec<Statistic> {
        let statistic = |kind, id: String, (stat, at): &Stat| {
            (*at >= since).then(|| Statistic { kind, id, stat: stat.to_string(), at: *at })
        };
        let agents = self.agents.read();
        let agents = agents.iter().filter_map(|(id, heard)| Some((id, heard.stat.as_ref()?)));
        let agents = agents.filter_map(|(id, stat)| statistic(Kind::Agent, id.to_string(), stat));
        let mut all: Vec<Statistic> = agents.collect();
        let kernels = self.kernels.read();
        all.extend(kernels.iter().filter_map(|(id, stat)| statistic(Kind::Kernel, id.to_string(), stat)));
        all
    }

    /// A kernel's live statistics, if its agent reports to this host.
    pub fn kernel_stat(&self, id: KernelId) -> Option<Value> {
        serde_json::from_str(&self.kernel_stat_text(id)?).ok()
    }

    /// Live statistics of all kernels that this host hears of.
    pub fn kernel_stats(&self) -> Vec<(KernelId, Value)> {
        let texts: Vec<(KernelId, Text)> =
            self.kernels.read().iter().map(|(id, (text, _))| (*id, text.clone())).collect();
        texts.into_iter().filter_map(|(id, text)| Some((id, serde_json::from_str(&text).ok()?))).collect()
    }

    /// A kernel's live statistics, as the agent sent them to this host.
    pub(crate) fn kernel_stat_text(&self, id: KernelId) -> Option<Text> {
        self.kernel_heard(id).map(|(text, _)| text)
    }
}
