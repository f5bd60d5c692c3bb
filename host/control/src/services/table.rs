//! What our own app proxy serves: read from the database by each host that runs one.

use std::collections::HashMap;
use std::time::Duration;

use quarterdeck_model::EndpointId;
use quarterdeck_model::service::RouteStatus;
use quarterdeck_proxy::{Replica, Service};
use quarterdeck_store::endpoints::{self, EndpointScope};
use quarterdeck_store::{meta, revisions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::coordinator::{EMBEDDED_URL, addresses, authority};
use crate::error::Result;
use crate::{Control, secrets};

/// The safety net: routes are looked at so often when nobody says that they changed.
const LOOK: Duration = Duration::from_millis(500);
const SECRET: &str = "app-proxy-secret";

/// What signs the tokens of services: the same on every host.
///
/// # Errors
/// [`crate::Error::Store`].
pub async fn secret(control: &Control) -> Result<String> {
    secrets::of(control.store(), SECRET).await
}

/// Publishes where this host's app proxy is reached, and follows the services: `table` always has the newest.
///
/// # Errors
/// [`crate::Error::Store`] when the address can't be written; later errors are logged, and the last table stays.
pub async fn follow(
    control: Control,
    url: String,
    table: watch::Sender<Vec<Service>>,
    shutdown: CancellationToken,
) -> Result<()> {
    let mut tx = control.store().begin().await?;
    meta::set(&mut tx, EMBEDDED_URL, &url).await?;
    tx.commit().await?;
    let mut seen = None;
    loop {
        match changed(&control, &mut seen).await {
            Ok(None) => {}
            Ok(Some(services)) => {
                table.send_if_modified(|current| {
                    let news = *current != services;
                    *current = services;
                    news
                });
            }
            Err(error) => tracing::error!(%error, "services can't be read; the app proxy goes on with what it knows"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = control.signals().routes.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn changed(control: &Control, seen: &mut Option<i64>) -> Result<Option<Vec<Service>>> {
    let mut sql = control.store().reader();
    // Before the rows: what changes meanwhile raises it once more.
    let revision = revisions::get(&mut sql, revisions::ROUTES).await?;
    if *seen == Some(revision) {
        return Ok(None);
    }
    let services = read(control).await?;
    *seen = Some(revision);
    Ok(Some(services))
}

async fn read(control: &Control) -> Result<Vec<Service>> {
    let mut sql = control.store().reader();
    let rows = endpoints::select(&mut sql, &EndpointScope::default()).await?;
    let mut by_service: HashMap<EndpointId, Vec<_>> = HashMap::new();
    for route in endpoints::reached(&mut sql, None).await? {
        if route.status == RouteStatus::Healthy {
            by_service.entry(route.endpoint).or_default().push(route);
        }
    }
    let served = rows.into_iter().filter(|row| !row.is_ending()).map(|row| {
        let routes = by_service.remove(&row.id).unwrap_or_default();
        let replicas = routes.iter().filter_map(|route| {
            // One port of a session is enough: its first.
            let (_, host, port) = addresses(route, row.definition.as_ref()).into_iter().next()?;
            Some(Replica { route: route.route.0, authority: authority(&host, port), weight: route.traffic_ratio })
        });
        Service { id: row.id.0, is_public: row.open_to_public, replicas: replicas.collect(), name: row.name }
    });
    Ok(served.collect())
}
