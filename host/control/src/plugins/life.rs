//! How a component comes in: uploaded, verified, compiled, self-tested. Each step is written down when it begins and when
//! it ends, so that others can watch; one that fails ends the revision's way, and says why.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{LifeStep, RevisionStatus, StepStatus};
use quarterdeck_plugin::{LoadError, Outline, Runtime};
use quarterdeck_store::plugins::steps::{self, StepRow};
use quarterdeck_store::plugins::{self, RevisionRow};
use quarterdeck_store::{Tx, revisions};

use super::superadmin;
use crate::Control;
use crate::audit;
use crate::error::{Error, Result};
use crate::policies;
use crate::principal::Principal;
use crate::signatures::{self, Objection};

/// Largest component that may be uploaded, in bytes: room for a Python guest.
pub const MAX_COMPONENT_BYTES: usize = 64 << 20;

/// A revision that has been coming in for longer than this was left by a host that is gone. Compiling, the longest step,
/// is limited to a minute; others may be waiting before it.
const STRANDED_AFTER: Duration = Duration::from_secs(15 * 60);

/// How long whoever pushes what another is taking in already waits for the outcome.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// What somebody uploads.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The component.
    pub component: Arc<[u8]>,
    /// A detached signature of it, if there is one.
    pub signature: Option<Vec<u8>>,
}

/// What became of an upload.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The revision.
    pub revision: RevisionRow,
    /// It came in just now; it was there already otherwise.
    pub created: bool,
    /// The steps of its life, oldest first.
    pub steps: Vec<StepRow>,
}

/// Takes in a component. Nobody is served by it until it is bound. One that fails is kept as a failed revision with its
/// reason, the newest fifty of them; it may be pushed again.
///
/// # Errors
/// [`Error::InvalidParams`] with the precise reason when the component isn't fit, [`Error::Unavailable`] when this host
/// couldn't find out.
pub async fn push(control: &Control, caller: &Principal, upload: Upload) -> Result<Pushed> {
    superadmin(caller)?;
    take_in(control, &caller.email, upload).await
}

/// As [`push`], on behalf of somebody who was let in elsewhere.
///
/// # Errors
/// As [`push`].
pub async fn take_in(control: &Control, actor: &str, upload: Upload) -> Result<Pushed> {
    if upload.component.len() > MAX_COMPONENT_BYTES {
        return Err(Error::invalid(format!("the component is larger than {} MiB", MAX_COMPONENT_BYTES >> 20)));
    }
    // Whoever asked may go away; what has begun is brought to its end all the same.
    let (control, actor) = (control.clone(), actor.to_owned());
    let work = tokio::spawn(audit::carried(async move { admit(&control, &actor, upload).await }));
    work.await.map_err(|e| Error::Internal(format!("taking in a component broke off: {e}")))?
}

async fn admit(control: &Control, actor: &str, upload: Upload) -> Result<Pushed> {
    let started = Instant::now();
    let at = control.clock().now();
    let component = Arc::clone(&upload.component);
    let digest = blocking(move || quarterdeck_plugin::digest(&component)).await?;
    if let Some(act) = audit::current() {
        act.describe(Some(digest.clone()), None);
    }
    let deadline = started + PATIENCE;
    let verifying = loop {
        if let Some(verifying) = begin(control, actor, &digest, &upload, at, started).await? {
            break verifying;
        }
        let row = plugins::revision(&mut control.store().reader(), &digest).await?;
        match row.as_ref().map(|r| r.status) {
            Some(RevisionStatus::Ready | RevisionStatus::Suspended) => {
                sign_later(control, &digest, &upload).await?;
                return pushed(control, &digest, false).await;
            }
            // Somebody else is at it.
            Some(RevisionStatus::Incoming) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Some(RevisionStatus::Incoming) => {
                return Err(Error::Unavailable(format!("the component {digest} is being taken in already")));
            }
            // It has just failed there, or went away: our turn.
            Some(RevisionStatus::Failed) | None => {}
        }
    };
    Admission { control, actor, digest: &digest }.run(&upload, verifying).await?;
    control.policies().reload().await?;
    pushed(control, &digest, true).await
}

/// Takes in the signature of a component that is there already.
async fn sign_later(control: &Control, digest: &str, upload: &Upload) -> Result<()> {
    if upload.signature.is_none() {
        return Ok(());
    }
    match signatures::check(control, &upload.component, upload.signature.as_deref()).await {
        Ok(Some(signed)) => signatures::keep(control, digest, &signed).await,
        Ok(None) => Ok(()),
        Err(Objection::Component(reason)) => Err(Error::invalid(format!("the component was refused: {reason}"))),
        Err(Objection::Host(reason)) => Err(Error::Internal(reason)),
    }
}

/// Stores the bytes with their first step; the running step `verified`, or nothing when the digest is there already.
async fn begin(
    control: &Control,
    actor: &str,
    digest: &str,
    upload: &Upload,
    at: Timestamp,
    started: Instant,
) -> Result<Option<i64>> {
    let bytes = &upload.component;
    let row = RevisionRow {
        digest: digest.to_owned(),
        name: String::new(),
        version: String::new(),
        kind: None,
        summary: String::new(),
        info: serde_json::json!({}),
        size_bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        builtin: false,
        status: RevisionStatus::Incoming,
        status_reason: None,
        uploaded_by: actor.to_owned(),
        uploaded_at: at,
    };
    let mut tx = control.store().begin().await?;
    let ours = plugins::insert_revision(&mut tx, &row, bytes).await?
        || plugins::retry_revision(&mut tx, digest, actor, at, bytes).await?;
    if !ours {
        return Ok(None);
    }
    let policies = control.policies();
    let uploaded = policies.step(digest, LifeStep::Uploaded, StepStatus::Ok, at, actor);
    let uploaded = StepRow { duration_us: Some(micros(started)), ..uploaded };
    steps::record_step(&mut tx, &uploaded).await?;
    let now = control.clock().now();
    let verifying = policies.step(digest, LifeStep::Verified, StepStatus::Running, now, actor);
    let verifying = steps::record_step(&mut tx, &verifying).await?;
    tx.commit().await?;
    Ok(Some(verifying))
}

async fn pushed(control: &Control, digest: &str, created: bool) -> Result<Pushed> {
    let mut sql = control.store().reader();
    let revision = plugins::revision(&mut sql, digest)
        .await?
        .ok_or_else(|| Error::not_found_msg("plugin", format!("the revision {digest} is gone")))?;
    Ok(Pushed { revision, created, steps: steps::of_revision(&mut sql, digest).await? })
}

/// Why a step failed.
struct Fault {
    reason: String,
    /// The component is to blame, not this host.
    component: bool,
}

impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        Self { reason: error.to_string(), component: error.is_the_components_fault() }
    }
}

impl From<Objection> for Fault {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::Component(reason) => Self { reason, component: true },
            Objection::Host(reason) => Self { reason, component: false },
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { reason: error.to_string(), component: false }
    }
}

/// The steps of one component.
struct Admission<'a> {
    control: &'a Control,
    actor: &'a str,
    digest: &'a str,
}

impl Admission<'_> {
    async fn run(&self, upload: &Upload, verifying: i64) -> Result<()> {
        let runtime = self.control.runtime();
        let mut row = plugins::revision(&mut self.control.store().reader(), self.digest)
            .await?
            .ok_or_else(|| Error::not_found("plugin"))?;

        let started = Instant::now();
        let outline = match verify(self.control, self.digest, upload).await {
            Ok(outline) => outline,
            Err(fault) => return self.fail(verifying, started, fault).await,
        };
        row.kind = Some(outline.kind);
        let compiling = self.advance(verifying, started, None, &row, Some(LifeStep::Compiled)).await?;

        let started = Instant::now();
        let component = Arc::clone(&upload.component);
        let host = runtime.clone();
        if let Err(error) = blocking(move || host.compile_blocking(&component)).await? {
            return self.fail(compiling, started, error.into()).await;
        }
        let testing = self.advance(compiling, started, None, &row, Some(LifeStep::SelfTested)).await?;

        let started = Instant::now();
        let component = Arc::clone(&upload.component);
        let host = runtime.clone();
        let (plugin, notes) = match blocking(move || test(&host, &component)).await? {
            Ok(sound) => sound,
            Err(fault) => {
                // It was loaded for the test; nobody else may come by it.
                runtime.forget(self.digest);
                return self.fail(testing, started, fault).await;
            }
        };
        let row = RevisionRow {
            uploaded_at: row.uploaded_at,
            ..policies::revision_of(&plugin, upload.component.len(), self.actor, false)
        };
        self.advance(testing, started, notes, &row, None).await?;
        tracing::info!(
            plugin = row.name,
            version = row.version,
            digest = self.digest,
            by = self.actor,
            "plugin pushed"
        );
        Ok(())
    }

    /// Ends a step well and begins the next, if there is one; its number.
    async fn advance(
        &self,
        step: i64,
        started: Instant,
        notes: Option<String>,
        row: &RevisionRow,
        next: Option<LifeStep>,
    ) -> Result<i64> {
        let mut tx = self.control.store().begin().await?;
        self.end(&mut tx, step, started, StepStatus::Ok, notes.as_deref()).await?;
        if !plugins::introduce_revision(&mut tx, row).await? {
            // Somebody gave it up for lost.
            return Err(Error::Unavailable(format!("taking in {} took too long", self.digest)));
        }
        let begun = match next {
            Some(next) => {
                let now = self.control.clock().now();
                let next = self.control.policies().step(self.digest, next, StepStatus::Running, now, self.actor);
                steps::record_step(&mut tx, &next).await?
            }
            None => {
                revisions::bump(&mut tx, revisions::BINDINGS).await?;
                0
            }
        };
        tx.commit().await?;
        Ok(begun)
    }

    /// Ends a step badly, and with it the revision's way.
    async fn fail<T>(&self, step: i64, started: Instant, fault: Fault) -> Result<T> {
        let mut tx = self.control.store().begin().await?;
        self.end(&mut tx, step, started, StepStatus::Failed, Some(&fault.reason)).await?;
        plugins::fail_revision(&mut tx, self.digest, &fault.reason).await?;
        tx.commit().await?;
        tracing::info!(digest = self.digest, by = self.actor, reason = fault.reason, "a component was refused");
        if fault.component {
            Err(Error::InvalidParams {
                msg: format!("the component was refused: {}", fault.reason),
                data: Some(serde_json::json!({"digest": self.digest})),
            })
        } else {
            Err(Error::Unavailable(format!("the component can't be taken in now: {}", fault.reason)))
        }
    }

    async fn end(
        &self,
        tx: &mut Tx,
        step: i64,
        started: Instant,
        status: StepStatus,
        reason: Option<&str>,
    ) -> Result<()> {
        steps::end_step(tx, step, status, micros(started), reason).await?;
        Ok(())
    }
}

/// Whether the outside of a component fits the contract, and its signature what the site demands: all of it before
/// anything is compiled. Whose signature it bears is kept.
async fn verify(control: &Control, digest: &str, upload: &Upload) -> Result<Outline, Fault> {
    let signed = signatures::check(control, &upload.component, upload.signature.as_deref()).await?;
    let (runtime, component) = (control.runtime().clone(), Arc::clone(&upload.component));
    let outline = blocking(move || runtime.outline(&component)).await??;
    if let Some(signed) = signed {
        signatures::keep(control, digest, &signed).await?;
    }
    Ok(outline)
}

/// Lets a compiled component describe itself, and puts it to the test.
fn test(runtime: &Runtime, component: &[u8]) -> Result<(Arc<quarterdeck_plugin::Plugin>, Option<String>), Fault> {
    let plugin = runtime.load_blocking(component)?;
    match plugin.self_test() {
        Ok(test) => Ok((plugin, (!test.notes.is_empty()).then(|| test.notes.join("; ")))),
        Err(unsound) => {
            Err(Fault { reason: format!("the component failed its self-test: {unsound}"), component: true })
        }
    }
}

/// Gives up revisions whose host went away while it took them in.
///
/// # Errors
/// [`Error::Store`].
pub async fn tidy(control: &Control) -> Result<usize> {
    let before = control.clock().now().plus_millis(-i64::try_from(STRANDED_AFTER.as_millis()).unwrap_or(i64::MAX));
    give_up(control, before).await
}

/// As [`tidy`], of all that came in before `before`: a host that is alone on its database needn't wait for others.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn give_up(control: &Control, before: Timestamp) -> Result<usize> {
    if plugins::stranded(&mut control.store().reader(), before).await?.is_empty() {
        return Ok(0);
    }
    let reason = "the host that took it in went away; push it again";
    let mut tx = control.store().begin().await?;
    let stranded = plugins::stranded(&mut tx, before).await?;
    for digest in &stranded {
        steps::break_off(&mut tx, digest, reason).await?;
        plugins::fail_revision(&mut tx, digest, reason).await?;
    }
    tx.commit().await?;
    Ok(stranded.len())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Internal(format!("work broke off: {e}")))
}

fn micros(started: Instant) -> i64 {
    i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX)
}
