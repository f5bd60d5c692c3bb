//! Whether sessions of services serve.
//!
//! Probes run beside the loop, which asks for them and reads what came of them: a session that hangs delays nobody.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarterdeck_model::RouteId;
use quarterdeck_model::service::HealthCheck;
use quarterdeck_outgoing::{Certificates, Client, Reach, Request, Url};

use crate::Control;

/// Between two probes of a session that doesn't serve yet.
const EAGER: Duration = Duration::from_millis(500);
/// Between two probes of one that serves and names no time of its own.
const CALM: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// Bytes of an answer that are read.
const ANSWER: usize = 64 * 1024;

/// What the newest probes of a route said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Good ones since the last bad one.
    pub(super) good: u32,
    /// Bad ones since the last good one.
    pub(super) bad: u32,
}

#[derive(Debug)]
struct Probed {
    verdict: Verdict,
    under_way: bool,
    at: Option<Instant>,
}

/// What this host knows of the health of routes. Lost with it, and found out again.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    routes: Arc<Mutex<HashMap<RouteId, Probed>>>,
}

/// What is probed.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) route: RouteId,
    /// `host:port`
    pub(super) authority: String,
    pub(super) check: Option<HealthCheck>,
    /// It gets requests now.
    pub(super) serves: bool,
}

impl Probes {
    /// What is known of a route; a probe begins if it is time for one.
    pub(super) fn look(&self, control: &Control, target: Target) -> Verdict {
        let mut routes = self.routes.lock();
        let probed = routes.entry(target.route).or_insert_with(|| Probed {
            verdict: Verdict::default(),
            under_way: false,
            at: None,
        });
        let pause = match (&target.check, target.serves && probed.verdict.bad == 0) {
            (_, false) => EAGER,
            (Some(check), true) => Duration::from_secs_f64(check.interval),
            (None, true) => CALM,
        };
        if !probed.under_way && probed.at.is_none_or(|at| at.elapsed() >= pause) {
            probed.under_way = true;
            let (probes, control) = (self.clone(), control.clone());
            tokio::spawn(async move {
                let good = probe(&target).await;
                if probes.note(target.route, good) {
                    control.signals().services.notify_one();
                }
            });
        }
        probed.verdict
    }

    /// Notes what came of a probe; whether that is news.
    fn note(&self, route: RouteId, good: bool) -> bool {
        let mut routes = self.routes.lock();
        let Some(probed) = routes.get_mut(&route) else { return false };
        probed.under_way = false;
        probed.at = Some(Instant::now());
        let verdict = &mut probed.verdict;
        if good {
            *verdict = Verdict { good: verdict.good.saturating_add(1), bad: 0 };
        } else {
            *verdict = Verdict { good: 0, bad: verdict.bad.saturating_add(1) };
        }
        !good || verdict.good == 1
    }

    /// Forgets the routes that are no more.
    pub(super) fn keep(&self, alive: &HashSet<RouteId>) {
        self.routes.lock().retain(|route, _| alive.contains(route));
    }
}

async fn probe(target: &Target) -> bool {
    let Some(check) = &target.check else {
        let connected = tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(&target.authority)).await;
        return matches!(connected, Ok(Ok(_)));
    };
    let Ok(url) = Url::parse(&format!("http://{}{}", target.authority, check.path)) else { return false };
    // Kernels are the site's own, wherever they are.
    let client = Client::new(Reach::Anywhere, Certificates::Checked);
    let Ok(request) = Request::get(url) else { return false };
    let request = request.within(Duration::from_secs_f64(check.max_wait_time)).at_most(ANSWER).follow(0);
    match client.send(request).await {
        Ok(response) => response.status() == check.expected_status_code,
        Err(error) => {
            tracing::debug!(%error, route = %target.route, "a health check failed");
            false
        }
    }
}
