//! One agent's conversation with the host: registration, heartbeats, reports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_rpc::{CallError, HostClient, pb};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::process::files;
use crate::reporter::Reporter;
use crate::runtime::Runtime;
use crate::transfer::Commits;

const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// How long a stopping agent tries to hand over its last reports.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long files of ended kernels may take before heartbeats have their turn.
const FILES: Duration = Duration::from_secs(2);

/// One agent.
pub(crate) struct Member {
    pub(crate) id: String,
    /// What the host presents when it calls this agent.
    pub(crate) host_secret: String,
    pub(crate) boot_id: String,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) commits: Commits,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) announcement: Announcement,
    pub(crate) identity: Identity,
}

/// What proves to the host that an agent is the one it knows, kept over restarts.
pub(crate) struct Identity {
    credential: Mutex<String>,
    /// None: it is forgotten with the process.
    file: Option<PathBuf>,
}

impl Identity {
    /// What an earlier start kept in the file, if it did.
    pub(crate) fn open(file: Option<PathBuf>) -> Self {
        let kept = file.as_deref().and_then(|file| files::read(file).ok());
        let kept = kept.and_then(|kept| String::from_utf8(kept).ok()).unwrap_or_default();
        Self { credential: Mutex::new(kept.trim().to_owned()), file }
    }

    fn credential(&self) -> String {
        self.credential.lock().clone()
    }

    fn keep(&self, credential: &str) {
        credential.clone_into(&mut self.credential.lock());
        if let Some(file) = &self.file
            && let Err(error) = files::write_secret(file, credential.as_bytes())
        {
            let file = file.display();
            tracing::warn!(%file, %error, "can't keep the agent's credential: it can't register at once after a restart");
        }
    }
}

/// What an agent says of itself when it registers.
#[derive(Clone)]
pub(crate) struct Announcement {
    pub(crate) join_token: String,
    pub(crate) addr: String,
    pub(crate) public_host: String,
    pub(crate) region: String,
    pub(crate) scaling_group: String,
    pub(crate) slots: Vec<pb::Slot>,
}

/// What all agents of the process share.
pub(crate) struct Shared {
    pub(crate) host: HostClient,
    pub(crate) server: String,
    /// Bounds how many agents register at the same time.
    pub(crate) registering: Semaphore,
    /// More than one agent: their heartbeats are spread over the interval.
    pub(crate) many: bool,
}

struct Registration {
    credential: String,
    interval: Duration,
}

impl Member {
    /// Talks to the host until told to stop. Fails only when the host turns the agent away at its first registration.
    pub(crate) async fn run(&self, shared: &Shared, shutdown: &CancellationToken) -> Result<(), Error> {
        let mut first = true;
        let mut registration = None;
        let mut wait = RETRY_FIRST;
        while !shutdown.is_cancelled() {
            let current = match registration.take() {
                Some(current) => current,
                None => match self.register(shared, shutdown, first).await? {
                    Some(current) => current,
                    None => break,
                },
            };
            let since = Instant::now();
            if self.serve(shared, shutdown, &current, first).await {
                registration = Some(current);
            } else {
                // Whoever is sent to register again and again does so ever more slowly.
                wait = if since.elapsed() > RETRY_MOST { RETRY_FIRST } else { (wait * 2).min(RETRY_MOST) };
                tokio::select! {
                    () = sleep(jittered(wait)) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            first = false;
        }
        self.runtime.shutdown("agent-termination").await;
        if let Some(registration) = registration {
            self.farewell(shared, &registration).await;
        }
        Ok(())
    }

    /// Registers, however long it takes; nothing when told to stop.
    async fn register(
        &self,
        shared: &Shared,
        shutdown: &CancellationToken,
        first: bool,
    ) -> Result<Option<Registration>, Error> {
        let mut wait = RETRY_FIRST;
        loop {
            let call = async {
                let _turn = shared.registering.acquire().await;
                shared.host.register(&self.identity.credential(), self.registration()).await
            };
            let answer = tokio::select! {
                answer = call => answer,
                () = shutdown.cancelled() => return Ok(None),
            };
            match answer {
                Ok(answer) => {
                    tracing::info!(
                        agent = self.id,
                        server = shared.server,
                        addr = self.announcement.addr,
                        "registered"
                    );
                    self.identity.keep(&answer.credential);
                    let interval = interval(answer.heartbeat_interval_ms);
                    return Ok(Some(Registration { credential: answer.credential, interval }));
                }
                Err(CallError::Unauthenticated(message)) if first => {
                    return Err(Error::Refused { server: shared.server.clone(), message });
                }
                Err(error) => tracing::warn!(agent = self.id, server = shared.server, %error, "can't register yet"),
            }
            tokio::select! {
                () = sleep(jittered(wait)) => {}
                () = shutdown.cancelled() => return Ok(None),
            }
            wait = (wait * 2).min(RETRY_MOST);
        }
    }

    fn registration(&self) -> pb::RegisterRequest {
        let about = &self.announcement;
        pb::RegisterRequest {
            agent_id: self.id.clone(),
            join_token: about.join_token.clone(),
            addr: about.addr.clone(),
            public_host: about.public_host.clone(),
            region: about.region.clone(),
            scaling_group: about.scaling_group.clone(),
            architecture: std::env::consts::ARCH.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            runtime: self.runtime.name().into(),
            runtime_types: self.runtime.runtime_types(),
            slots: about.slots.clone(),
            compute_plugins: self.runtime.compute_plugins().to_string(),
            boot_id: self.boot_id.clone(),
            host_secret: self.host_secret.clone(),
        }
    }

    /// Heartbeats and reports. Ends when told to stop (true) or when the agent has to register again (false).
    async fn serve(&self, shared: &Shared, stop: &CancellationToken, current: &Registration, first: bool) -> bool {
        let mut interval = current.interval;
        let mut beat = Instant::now();
        if shared.many && first {
            beat += interval.mul_f64(rand::random::<f64>());
        }
        // When reports may be sent (again), if there are any.
        let mut report = Some(Instant::now());
        let mut wait = RETRY_FIRST;
        loop {
            tokio::select! {
                () = stop.cancelled() => return true,
                () = sleep_until(beat) => {
                    match self.heartbeat(shared, &current.credential).await {
                        Ok(answer) if answer.register_again => return false,
                        Ok(answer) if answer.heartbeat_interval_ms > 0 => interval = self::interval(answer.heartbeat_interval_ms),
                        Ok(_) => {}
                        Err(CallError::Unauthenticated(_)) => return false,
                        Err(error) => tracing::warn!(agent = self.id, %error, "heartbeat failed"),
                    }
                    beat = Instant::now() + jittered(interval);
                }
                () = self.reporter.woken(), if report.is_none() => report = Some(Instant::now()),
                () = at(report), if report.is_some() => {
                    match self.report(shared, &current.credential).await {
                        Ok(Some(())) => { report = Some(Instant::now()); wait = RETRY_FIRST; }
                        Ok(None) => { report = None; wait = RETRY_FIRST; }
                        Err(Some(error)) => {
                            tracing::warn!(agent = self.id, %error, "reports wait for the host");
                            report = Some(Instant::now() + jittered(wait));
                            wait = (wait * 2).min(RETRY_MOST);
                        }
                        Err(None) => return false,
                    }
                }
            }
        }
    }

    async fn heartbeat(&self, shared: &Shared, credential: &str) -> Result<pb::HeartbeatResponse, CallError> {
        let statistics = self.runtime.statistics();
        let kernel_stats = statistics
            .kernels
            .into_iter()
            .map(|(kernel_id, stat)| pb::KernelStat { kernel_id, stat: stat.to_string() })
            .collect();
        let request = pb::HeartbeatRequest {
            boot_id: self.boot_id.clone(),
            slots: self.announcement.slots.clone(),
            kernels: self.runtime.kernels(),
            node_stat: statistics.node.as_ref().map(Value::to_string).unwrap_or_default(),
            kernel_stats,
        };
        shared.host.heartbeat(&self.id, credential, request).await
    }

    /// Sends the oldest reports. `Ok(None)` = nothing is left, `Err(None)` = register again.
    async fn report(&self, shared: &Shared, credential: &str) -> Result<Option<()>, Option<CallError>> {
        let reporter = self.reporter.clone();
        let read = tokio::task::spawn_blocking(move || reporter.batch());
        let reports = timeout(FILES, read).await.map_err(|_| Some(CallError::Timeout))?.unwrap_or_default();
        let Some(first) = reports.first().map(|report| report.seq) else { return Ok(None) };
        let request = pb::ReportRequest { boot_id: self.boot_id.clone(), reports };
        match shared.host.report(&self.id, credential, request).await {
            Ok(answer) if answer.register_again => Err(None),
            Ok(answer) => {
                for settled in self.reporter.acknowledged(answer.acknowledged) {
                    self.runtime.forget(&settled.kernel_id);
                    if let Some(remains) = settled.remains {
                        let _ = timeout(FILES, tokio::fs::remove_dir_all(remains)).await;
                    }
                }
                match answer.acknowledged >= first {
                    true => Ok(Some(())),
                    false => Err(Some(CallError::Refused("the host acknowledged nothing".into()))),
                }
            }
            Err(CallError::Unauthenticated(_)) => Err(None),
            Err(error) => Err(Some(error)),
        }
    }

    /// Hands over the last reports and says good-bye.
    async fn farewell(&self, shared: &Shared, registration: &Registration) {
        let hand_over = async {
            loop {
                match self.report(shared, &registration.credential).await {
                    Ok(Some(())) => {}
                    Ok(None) | Err(None) => break,
                    Err(Some(_)) => sleep(RETRY_FIRST).await,
                }
            }
            let request = pb::LeaveRequest { boot_id: self.boot_id.clone(), reason: "agent-termination".into() };
            let _ = shared.host.leave(&self.id, &registration.credential, request).await;
        };
        if timeout(FAREWELL, hand_over).await.is_err() {
            tracing::warn!(agent = self.id, "left without the host's word");
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn interval(millis: u32) -> Duration {
    Duration::from_millis(if millis == 0 { 3000 } else { u64::from(millis) })
}

/// Give or take a tenth, so that agents that start together drift apart.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}
