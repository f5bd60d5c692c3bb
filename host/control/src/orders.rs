//! Orders to agents to create kernels. Those that come within a moment, or while an agent is being called, go to it in one
//! call.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_model::AgentId;
use quarterdeck_rpc::{CallError, limits, order_size, pb};
use quarterdeck_store::agents::AgentRow;
use tokio::sync::oneshot;

use crate::Control;

/// How long the first order waits for others of its burst.
const GATHER: Duration = Duration::from_millis(1);

/// What waits for each agent that is being called.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    waiting: Mutex<HashMap<AgentId, Vec<Order>>>,
}

#[derive(Debug)]
struct Order {
    agent: Arc<AgentRow>,
    request: pb::CreateKernelsRequest,
    reply: oneshot::Sender<Result<(), CallError>>,
}

impl Orders {
    /// Has an agent create kernels. Returns when it accepted the work.
    ///
    /// # Errors
    /// What became of the call; a refusal is about this order alone.
    pub(crate) async fn place(
        &self,
        control: &Control,
        agent: &Arc<AgentRow>,
        request: pb::CreateKernelsRequest,
    ) -> Result<(), CallError> {
        let (reply, answer) = oneshot::channel();
        let order = Order { agent: Arc::clone(agent), request, reply };
        let is_first = match self.waiting.lock().entry(agent.id.clone()) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push(order);
                false
            }
            Entry::Vacant(free) => {
                free.insert(vec![order]);
                true
            }
        };
        if is_first {
            tokio::spawn(hand_over(control.clone(), agent.id.clone()));
        }
        answer.await.unwrap_or_else(|_| Err(CallError::Unreachable("the host is shutting down".to_owned())))
    }

    /// What goes with the next call to an agent. Nothing: whoever comes next begins anew.
    fn take(&self, agent: &AgentId) -> Vec<Order> {
        let mut waiting = self.waiting.lock();
        let Some(orders) = waiting.get_mut(agent) else { return Vec::new() };
        let mut bytes = 0;
        let fits = |order: &&Order| {
            bytes += order_size(&order.request);
            bytes <= limits::MAX_ORDER_BATCH
        };
        let count = orders.iter().take(limits::MAX_ORDERS).take_while(fits).count().max(1).min(orders.len());
        let batch: Vec<Order> = orders.drain(..count).collect();
        if batch.is_empty() {
            waiting.remove(agent);
        }
        batch
    }
}

/// A task's turn to call an agent. Should it end before nothing waits (by a panic), what waits is given up, so that the
/// next order begins anew.
struct Turn {
    control: Control,
    agent: AgentId,
    is_over: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_over {
            self.control.orders().waiting.lock().remove(&self.agent);
        }
    }
}

/// Calls an agent until nothing waits for it.
async fn hand_over(control: Control, agent: AgentId) {
    let mut turn = Turn { control: control.clone(), agent: agent.clone(), is_over: false };
    tokio::time::sleep(GATHER).await;
    loop {
        let batch = control.orders().take(&agent);
        // An agent that registered anew meanwhile is where its newest row says.
        let Some(row) = batch.last().map(|order| Arc::clone(&order.agent)) else {
            turn.is_over = true;
            return;
        };
        let (requests, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|order| (order.request, order.reply)).unzip();
        let answers = {
            let _permit = control.calls().permit(&agent).await;
            call(&control, &row, requests).await
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Who no longer waits learns it from the rows.
            let _ = reply.send(answer);
        }
    }
}

async fn call(
    control: &Control,
    agent: &AgentRow,
    mut requests: Vec<pb::CreateKernelsRequest>,
) -> Vec<Result<(), CallError>> {
    let handle = match control.rpc().agent(&agent.addr, agent.id.as_str(), &agent.host_secret) {
        Ok(handle) => handle,
        Err(error) => return requests.iter().map(|_| Err(error.clone())).collect(),
    };
    match requests.pop() {
        Some(only) if requests.is_empty() => vec![handle.create_kernels(only).await],
        Some(last) => {
            requests.push(last);
            handle.create_several(requests).await
        }
        None => Vec::new(),
    }
}
