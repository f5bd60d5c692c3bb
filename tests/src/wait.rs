//! Waiting for conditions instead of sleeping.

use std::future::Future;
use std::time::{Duration, Instant};

/// No turn counts for more: a machine that was suspended meanwhile takes nothing from the patience.
const TURN: Duration = Duration::from_secs(5);

/// Asks `condition` again and again until it yields something.
///
/// # Errors
/// When it didn't within `timeout`; the message names `what`.
pub async fn until<T, F, Fut>(what: &str, timeout: Duration, mut condition: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let (mut waited, mut turn) = (Duration::ZERO, Instant::now());
    loop {
        let last = condition().await;
        waited += turn.elapsed().min(TURN);
        turn = Instant::now();
        match last {
            Ok(Some(value)) => return Ok(value),
            other if waited >= timeout => {
                let last = other.err().map(|e| format!(" (at last: {e:#})")).unwrap_or_default();
                anyhow::bail!("waited {} s in vain for {what}{last}", timeout.as_secs());
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The outcome of a request that must be answered.
///
/// # Panics
/// When no answer comes within half a minute; the message names `what`.
pub async fn within<T>(what: &str, answer: impl Future<Output = anyhow::Result<T>>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), answer).await {
        Ok(answer) => answer.unwrap_or_else(|e| panic!("{what}: no answer: {e:#}")),
        Err(_) => panic!("{what}: no answer in time"),
    }
}
