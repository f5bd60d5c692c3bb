//! How many calls to agents are under way at once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quarterdeck_model::AgentId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls to one agent at once.
const PER_AGENT: usize = 8;

/// Bounds the calls that start and end kernels: for each agent, so that a slow one delays only its own kernels, and for
/// all of them together.
#[derive(Debug)]
pub(crate) struct Calls {
    all: Arc<Semaphore>,
    agents: Mutex<HashMap<AgentId, Arc<Semaphore>>>,
}

/// The right to make one call.
#[derive(Debug)]
pub(crate) struct Permit {
    _agent: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

impl Calls {
    pub(crate) fn new(at_once: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(at_once.max(1))), agents: Mutex::default() }
    }

    /// Waits for its turn: first with its agent, so that nobody waits for a slow agent while holding what others need.
    pub(crate) async fn permit(&self, agent: &AgentId) -> Permit {
        let semaphore = {
            let mut agents = self.agents.lock();
            if agents.len() > 4096 {
                agents.retain(|_, semaphore| {
                    Arc::strong_count(semaphore) > 1 || semaphore.available_permits() < PER_AGENT
                });
            }
            Arc::clone(agents.entry(agent.clone()).or_insert_with(|| Arc::new(Semaphore::new(PER_AGENT))))
        };
        // Semaphores are never closed; without a permit the call is merely unbounded.
        let agent = semaphore.acquire_owned().await.ok();
        let all = Arc::clone(&self.all).acquire_owned().await.ok();
        Permit { _agent: agent, _all: all }
    }
}
