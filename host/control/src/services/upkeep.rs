//! The loop that gives services the sessions that they should have.
//!
//! Each pass compares services, routes and sessions as they stand in the database; nothing has to be remembered. What
//! fails concerns one service only.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use quarterdeck_model::service::{RouteStatus, backoff, plan};
use quarterdeck_model::{EndpointId, RouteId, SessionStatus, Timestamp};
use quarterdeck_store::endpoints::{self, EndpointRow, EndpointScope, Moved, Reached, RouteState};
use quarterdeck_store::{keypairs, projects, vfolders};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::coordinator::{self, addresses, authority};
use super::health::{Target, Verdict};
use super::{no_such_object, session_request};
use crate::error::{Error, Result};
use crate::{Control, enqueue, terminate};

/// The safety net: a pass at least this often.
const TICK: Duration = Duration::from_millis(500);
/// A route that gets nothing new any more leads to its session for so long: requests under way may end.
const DRAIN_MS: i64 = 5_000;
/// Sessions of one service that are made in one pass at most.
const BURST: usize = 20;
/// A session that served for so long was a good one: that it ends doesn't count as a failure.
const PROVEN_MS: i64 = 10_000;
/// Failed checks in a row that a session without a check of its own may have.
const PATIENCE: u32 = 3;
/// How long a session without a check of its own may take until it accepts connections.
const START_S: f64 = 300.0;
/// After a coordinator couldn't be told, how long it is left alone.
const COORDINATOR_PAUSE: Duration = Duration::from_secs(10);

/// Why routes' sessions end.
const SCALED_DOWN: &str = "service-scaled-down";

/// Runs passes until stopped.
pub(crate) async fn run(control: Control, stop: CancellationToken) {
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let coordinators = Coordinators::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = control.signals().services.notified() => {}
            _ = timer.tick() => {}
        }
        match pass(&control, &coordinators).await {
            Ok(()) => control.metrics().passed("services", control.clock().now()),
            Err(error) => tracing::error!(%error, "services can't be looked after"),
        }
    }
}

/// Which services' coordinators are being told, or are left alone for a while.
#[derive(Clone, Debug, Default)]
struct Coordinators {
    busy_until: std::sync::Arc<parking_lot::Mutex<HashMap<EndpointId, Option<std::time::Instant>>>>,
}

impl Coordinators {
    /// Tells a service's coordinator beside the loop, unless that is under way or failed a moment ago.
    fn tell(&self, control: &Control, row: &EndpointRow) {
        let now = std::time::Instant::now();
        let mut busy = self.busy_until.lock();
        match busy.get(&row.id) {
            Some(None) => return,
            Some(Some(until)) if *until > now => return,
            _ => {}
        }
        busy.insert(row.id, None);
        drop(busy);
        let (coordinators, control, row) = (self.clone(), control.clone(), row.clone());
        tokio::spawn(async move {
            let told = coordinator::tell(&control, &row, false).await;
            let mut busy = coordinators.busy_until.lock();
            match told {
                Ok(()) => {
                    busy.remove(&row.id);
                }
                Err(error) => {
                    tracing::warn!(%error, service = row.name, "the coordinator can't be told of a service");
                    busy.insert(row.id, Some(std::time::Instant::now() + COORDINATOR_PAUSE));
                }
            }
        });
    }

    fn keep(&self, alive: &HashSet<EndpointId>) {
        self.busy_until.lock().retain(|id, _| alive.contains(id));
    }
}

async fn pass(control: &Control, coordinators: &Coordinators) -> Result<()> {
    let mut sql = control.store().reader();
    let services = endpoints::select(&mut sql, &EndpointScope::default()).await?;
    if services.is_empty() {
        return Ok(());
    }
    let mut routes: HashMap<EndpointId, Vec<RouteState>> = HashMap::new();
    for route in endpoints::states(&mut sql).await? {
        routes.entry(route.endpoint).or_default().push(route);
    }
    let reached: HashMap<RouteId, Reached> =
        endpoints::reached(&mut sql, None).await?.into_iter().map(|r| (r.route, r)).collect();
    control.probes().keep(&routes.values().flatten().map(|r| r.id).collect());
    coordinators.keep(&services.iter().map(|s| s.id).collect());
    for service in services {
        let own = routes.remove(&service.id).unwrap_or_default();
        if let Err(error) = look_after(control, coordinators, &service, own, &reached).await {
            tracing::warn!(%error, service = service.name, "a service can't be looked after");
        }
    }
    Ok(())
}

/// What a pass does with one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stays as it is.
    Stays,
    /// It changes its status.
    Becomes(RouteStatus),
    /// Its session is over.
    Gone {
        /// It was meant to serve on.
        failed: bool,
    },
}

/// What becomes of a route, by its session and its health (`spec/services.md` §5).
fn fate(route: &RouteState, verdict: Option<Verdict>, limits: Limits, now: Timestamp) -> Fate {
    use RouteStatus as R;
    use SessionStatus as S;
    let becomes = |status| if route.status == status { Fate::Stays } else { Fate::Becomes(status) };
    match route.session_status {
        S::Terminated | S::Cancelled => {
            let proven = route.status == R::Healthy && now.0 - route.status_changed.0 >= PROVEN_MS * 1000;
            Fate::Gone { failed: route.status != R::Terminating && !proven }
        }
        _ if route.status == R::Terminating => Fate::Stays,
        S::Terminating => Fate::Becomes(R::Terminating),
        S::Error => becomes(R::FailedToStart),
        S::Running | S::RunningDegraded => match verdict {
            // Nothing to ask: that it runs must do.
            None => becomes(R::Healthy),
            Some(Verdict { good: 1.., .. }) => becomes(R::Healthy),
            Some(Verdict { bad, .. }) if route.status == R::Healthy && bad > limits.retries => {
                Fate::Becomes(R::Unhealthy)
            }
            Some(_) if route.status == R::Provisioning => {
                let late = (now.0 - route.session_changed.0) as f64 / 1e6 > limits.start_s;
                if late { Fate::Becomes(R::FailedToStart) } else { Fate::Stays }
            }
            Some(_) => Fate::Stays,
        },
        // A restart: it serves again when it runs again.
        _ if route.status == R::Healthy => Fate::Becomes(R::Provisioning),
        _ => Fate::Stays,
    }
}

/// How patient the checks of a service are.
#[derive(Clone, Copy, Debug)]
struct Limits {
    retries: u32,
    start_s: f64,
}

impl Limits {
    fn of(service: &EndpointRow) -> Self {
        match service.definition.as_ref().and_then(|d| d.health_check.as_ref()) {
            Some(check) => Self { retries: check.max_retries, start_s: check.initial_delay },
            None => Self { retries: PATIENCE, start_s: START_S },
        }
    }
}

/// What is to be written and made after a pass over the routes of one service.
#[derive(Debug, PartialEq, Eq)]
struct Turn {
    moved: Vec<Moved>,
    gone: Vec<RouteId>,
    make: usize,
}

/// Lets each route meet its fate, and ends those that the service has too many of; `routes` are then as they stand
/// after it.
fn turn(routes: &mut Vec<RouteState>, fates: &[Fate], wanted: usize, now: Timestamp) -> Turn {
    let seen: HashMap<RouteId, RouteStatus> = routes.iter().map(|route| (route.id, route.status)).collect();
    let mut gone = Vec::new();
    for (route, fate) in routes.iter_mut().zip(fates) {
        match *fate {
            Fate::Stays => {}
            Fate::Becomes(to) => (route.status, route.status_changed) = (to, now),
            Fate::Gone { .. } => gone.push(route.id),
        }
    }
    routes.retain(|route| !gone.contains(&route.id));
    let stand: Vec<_> = routes.iter().map(|route| (route.id, route.status)).collect();
    let plan = plan(wanted, &stand);
    for route in routes.iter_mut().filter(|route| plan.end.contains(&route.id)) {
        (route.status, route.status_changed) = (RouteStatus::Terminating, now);
    }
    // From where they stood when they were read, whatever lay between: else the database would take none of it.
    let moved = routes.iter().filter_map(|route| {
        let from = *seen.get(&route.id)?;
        (from != route.status).then_some(Moved { id: route.id, from, to: route.status })
    });
    Turn { moved: moved.collect(), gone, make: plan.make }
}

async fn look_after(
    control: &Control,
    coordinators: &Coordinators,
    service: &EndpointRow,
    mut routes: Vec<RouteState>,
    reached: &HashMap<RouteId, Reached>,
) -> Result<()> {
    let now = control.clock().now();
    let limits = Limits::of(service);
    let fates: Vec<_> = routes
        .iter()
        .map(|route| fate(route, verdict(control, service, route, reached.get(&route.id)), limits, now))
        .collect();
    let mut failed = None;
    for (route, fate) in routes.iter().zip(&fates) {
        match fate {
            Fate::Becomes(RouteStatus::FailedToStart) => {
                failed = Some("its session didn't come to serve in time, or failed".to_owned());
            }
            Fate::Becomes(RouteStatus::Unhealthy) => failed = Some("its session failed its health checks".to_owned()),
            Fate::Gone { failed: true } if !service.is_ending() => {
                failed = Some(route.session_info.clone().unwrap_or_else(|| "its session ended".to_owned()));
            }
            _ => {}
        }
    }
    let proven = fates.contains(&Fate::Becomes(RouteStatus::Healthy));
    let mut failures = service.failures;
    if failed.is_some() {
        failures += 1;
    } else if proven {
        failures = 0;
    }
    let retry_at = match &failed {
        Some(_) => Some(Timestamp(now.0 + backoff(failures) * 1_000_000)),
        None if failures == 0 => None,
        None => service.retry_at,
    };
    let wanted = usize::try_from(service.desired_session_count).unwrap_or(0);
    let Turn { moved, gone, make: missing } = turn(&mut routes, &fates, wanted, now);
    let news = failures != service.failures || retry_at != service.retry_at || failed.is_some();
    if !moved.is_empty() || !gone.is_empty() || news {
        write(control, service, &moved, &gone, news.then_some((failures, retry_at, failed.as_deref())), now).await?;
    }
    end_drained(control, &routes, now).await;
    if service.is_ending() && routes.is_empty() {
        return remove(control, service).await;
    }
    if missing > 0 && retry_at.is_none_or(|at| at <= now) {
        for _ in 0..missing.min(BURST) {
            if let Err(error) = make(control, service).await {
                tracing::warn!(%error, service = service.name, "a session of a service can't be made");
                let failures = failures + 1;
                let retry_at = Some(Timestamp(now.0 + backoff(failures) * 1_000_000));
                let mut tx = control.store().begin().await?;
                endpoints::set_failures(&mut tx, service.id, failures, retry_at, Some(&error.to_string())).await?;
                tx.commit().await?;
                break;
            }
        }
    }
    coordinators.tell(control, service);
    Ok(())
}

/// What probes say of a route; `None` when there is nothing to ask.
fn verdict(control: &Control, service: &EndpointRow, route: &RouteState, reached: Option<&Reached>) -> Option<Verdict> {
    let (_, host, port) = addresses(reached?, service.definition.as_ref()).into_iter().next()?;
    let target = Target {
        route: route.id,
        authority: authority(&host, port),
        check: service.definition.as_ref().and_then(|d| d.health_check.clone()),
        serves: route.status == RouteStatus::Healthy,
    };
    Some(control.probes().look(control, target))
}

type Failures<'f> = (i64, Option<Timestamp>, Option<&'f str>);

async fn write(
    control: &Control,
    service: &EndpointRow,
    moved: &[Moved],
    gone: &[RouteId],
    failures: Option<Failures<'_>>,
    now: Timestamp,
) -> Result<()> {
    crate::retry(|| async {
        let mut tx = control.store().begin().await?;
        endpoints::set_statuses(&mut tx, moved, now).await?;
        endpoints::forget_routes(&mut tx, gone).await?;
        if let Some((failures, retry_at, info)) = failures {
            endpoints::set_failures(&mut tx, service.id, failures, retry_at, info).await?;
        }
        endpoints::touch(&mut tx).await?;
        Ok(tx.commit().await?)
    })
    .await?;
    control.signals().routes.notify_one();
    Ok(())
}

/// Ends the sessions of routes that have been drained. What can't be ended now is tried again by the next pass.
async fn end_drained(control: &Control, routes: &[RouteState], now: Timestamp) {
    for route in routes {
        let over = matches!(
            route.session_status,
            SessionStatus::Terminating | SessionStatus::Terminated | SessionStatus::Cancelled
        );
        let served = matches!(route.session_status, SessionStatus::Running | SessionStatus::RunningDegraded);
        let drained = !served || now.0 - route.status_changed.0 >= DRAIN_MS * 1000;
        if route.status != RouteStatus::Terminating || over || !drained {
            continue;
        }
        let forced = route.session_status == SessionStatus::Error;
        let ended = match terminate::request(control, &[route.session], SCALED_DOWN, forced).await {
            Ok(mut answers) => answers.pop().unwrap_or(Err(no_such_object())).map(drop),
            Err(error) => Err(error),
        };
        match ended {
            // On its way to an agent: it can be ended when it is there.
            Ok(()) | Err(Error::Forbidden(_) | Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%error, session = %route.session, "a session of a service can't be ended"),
        }
    }
}

/// Makes one more session for a service.
async fn make(control: &Control, service: &EndpointRow) -> Result<()> {
    let mut sql = control.store().reader();
    let model =
        service.model.ok_or_else(|| Error::not_found_msg("virtual folder", "The service has no model folder"))?;
    let folder = vfolders::get(&mut sql, model).await?;
    let folder = folder.ok_or_else(|| Error::not_found_msg("virtual folder", "The model folder is gone"))?;
    let project = projects::get(&mut sql, service.project_id).await?.ok_or_else(|| Error::not_found("project"))?;
    let keys = keypairs::of_users(&mut sql, &[service.session_owner]).await?;
    let key = keys.into_iter().find(|key| key.is_active);
    let key = key.ok_or_else(|| Error::Unavailable("The service's owner has no active key pair".to_owned()))?;
    let owner = control.identity().credential(key.access_key.as_str()).await?;
    let owner = owner.ok_or_else(|| Error::Unavailable("The service's owner has no key pair".to_owned()))?;
    let request = session_request(service, &project.name, &folder.name);
    enqueue::create(control, &owner.principal, request).await.map(drop)
}

/// Removes a service that has no routes left, from its coordinator too.
///
/// # Errors
/// [`Error::Store`].
pub(super) async fn remove(control: &Control, service: &EndpointRow) -> Result<()> {
    if let Err(error) = coordinator::withdraw(control, service).await {
        tracing::warn!(%error, service = service.name, "the coordinator can't be told of a service's end");
    }
    let mut tx = control.store().begin().await?;
    if endpoints::delete_ended(&mut tx, service.id).await? {
        endpoints::touch(&mut tx).await?;
    }
    tx.commit().await?;
    control.signals().routes.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_model::SessionId;

    use super::*;

    fn route(status: RouteStatus, session_status: SessionStatus) -> RouteState {
        RouteState {
            id: RouteId::new(),
            endpoint: EndpointId::new(),
            session: SessionId::new(),
            status,
            status_changed: Timestamp(0),
            session_status,
            session_changed: Timestamp(0),
            session_info: None,
        }
    }

    const GOOD: Option<Verdict> = Some(Verdict { good: 1, bad: 0 });
    const UNKNOWN: Option<Verdict> = Some(Verdict { good: 0, bad: 0 });

    fn of(status: RouteStatus, session: SessionStatus, verdict: Option<Verdict>, at_s: i64) -> Fate {
        let limits = Limits { retries: 2, start_s: 60.0 };
        fate(&route(status, session), verdict, limits, Timestamp(at_s * 1_000_000))
    }

    #[test]
    fn routes_follow_their_sessions_and_their_health() {
        use RouteStatus as R;
        use SessionStatus as S;
        assert_eq!(of(R::Provisioning, S::Pending, None, 1), Fate::Stays);
        assert_eq!(of(R::Provisioning, S::Running, None, 1), Fate::Becomes(R::Healthy));
        assert_eq!(of(R::Provisioning, S::Running, UNKNOWN, 1), Fate::Stays);
        assert_eq!(of(R::Provisioning, S::Running, UNKNOWN, 61), Fate::Becomes(R::FailedToStart));
        assert_eq!(of(R::Provisioning, S::Running, GOOD, 1), Fate::Becomes(R::Healthy));
        assert_eq!(of(R::Healthy, S::Running, GOOD, 1), Fate::Stays);
        let bad = |bad| Some(Verdict { good: 0, bad });
        assert_eq!(of(R::Healthy, S::Running, bad(2), 1), Fate::Stays);
        assert_eq!(of(R::Healthy, S::Running, bad(3), 1), Fate::Becomes(R::Unhealthy));
        assert_eq!(of(R::Unhealthy, S::Running, GOOD, 1), Fate::Becomes(R::Healthy));
        assert_eq!(of(R::Healthy, S::Restarting, GOOD, 1), Fate::Becomes(R::Provisioning));
        assert_eq!(of(R::Healthy, S::Terminating, GOOD, 1), Fate::Becomes(R::Terminating));
        assert_eq!(of(R::Terminating, S::Running, GOOD, 1), Fate::Stays);
        assert_eq!(of(R::Provisioning, S::Error, None, 1), Fate::Becomes(R::FailedToStart));
        assert_eq!(of(R::Provisioning, S::Cancelled, None, 1), Fate::Gone { failed: true });
        assert_eq!(of(R::Healthy, S::Terminated, None, 1), Fate::Gone { failed: true });
        assert_eq!(of(R::Healthy, S::Terminated, None, 60), Fate::Gone { failed: false });
        assert_eq!(of(R::Terminating, S::Terminated, None, 1), Fate::Gone { failed: false });
    }

    #[test]
    fn what_is_written_begins_where_the_routes_stood() {
        use RouteStatus as R;
        let mut routes: Vec<_> =
            [R::Healthy, R::Provisioning, R::Healthy].map(|status| route(status, SessionStatus::Running)).into();
        let ids: Vec<_> = routes.iter().map(|route| route.id).collect();
        let fates = [Fate::Becomes(R::Unhealthy), Fate::Becomes(R::Healthy), Fate::Gone { failed: true }];
        let turn = turn(&mut routes, &fates, 2, Timestamp(7));
        // A broken one is ended in the same pass, and what takes its place is made.
        let moved = vec![
            Moved { id: ids[0], from: R::Healthy, to: R::Terminating },
            Moved { id: ids[1], from: R::Provisioning, to: R::Healthy },
        ];
        assert_eq!(turn, Turn { moved, gone: vec![ids[2]], make: 1 });
        let stand: Vec<_> = routes.iter().map(|route| (route.id, route.status, route.status_changed)).collect();
        assert_eq!(stand, [(ids[0], R::Terminating, Timestamp(7)), (ids[1], R::Healthy, Timestamp(7))]);
    }
}
