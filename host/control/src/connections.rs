//! Open connections to services and terminals of sessions: they keep a session from counting as idle (`spec/idle.md` §4).
//!
//! The rows are what idle checks look at, whichever host serves the connection. Traffic is noted in memory and written
//! every few seconds. A connection without traffic for a while isn't counted until there is some again; those of a host
//! that is gone end the same way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_model::{KernelId, SessionId, Timestamp};
use quarterdeck_store::connections as rows;
use uuid::Uuid;

use crate::Control;
use crate::error::{Error, Result};
use crate::idle::{self, AccessEvent};

/// How often traffic is written, and quiet connections are looked for.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);
/// Connections of one session on one host.
const MOST: usize = 512;
/// How long a connection counts without traffic, when the configuration doesn't say.
const QUIET_MS: i64 = 300_000;
const QUIET_KEY: &str = "config/idle/app-streaming-packet-timeout";

/// The connections that this host serves.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<Uuid, Arc<Open>>>,
}

#[derive(Debug)]
struct Open {
    session: SessionId,
    kernel: KernelId,
    app: String,
    /// When something last passed, in microseconds since the epoch.
    seen: AtomicI64,
    written: AtomicI64,
}

/// An open connection. Its end is noted when this is dropped.
#[derive(Debug)]
pub struct Connection {
    control: Control,
    id: Uuid,
    open: Arc<Open>,
}

impl Connection {
    /// Something passed.
    pub fn seen(&self) {
        self.open.seen.store(self.control.clock().now().0, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.control.connections().open.lock().remove(&self.id);
        let (control, id, session) = (self.control.clone(), self.id, self.open.session);
        // Without a runtime this host is about to end: the row goes for want of traffic.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = close(&control, id, session).await {
                tracing::warn!(%session, %error, "the end of a connection can't be noted");
            }
        });
    }
}

/// Notes that a connection is open.
///
/// # Errors
/// [`Error::Overloaded`] when the session has too many; [`Error::Store`].
pub async fn open(control: &Control, session: SessionId, kernel: KernelId, app: &str) -> Result<Connection> {
    let now = control.clock().now();
    let (id, app) = (Uuid::new_v4(), app.to_owned());
    let open = Arc::new(Open { session, kernel, app, seen: AtomicI64::new(now.0), written: AtomicI64::new(now.0) });
    {
        let mut all = control.connections().open.lock();
        if all.values().filter(|other| other.session == session).count() >= MOST {
            return Err(Error::Overloaded("Too many connections to the session are open."));
        }
        all.insert(id, Arc::clone(&open));
    }
    let connection = Connection { control: control.clone(), id, open };
    let mut tx = control.store().begin().await?;
    rows::write(&mut tx, &[connection.open.row(id)]).await?;
    idle::note(&mut tx, &[session], AccessEvent::Connected, now).await?;
    tx.commit().await?;
    Ok(connection)
}

impl Open {
    fn row(&self, id: Uuid) -> rows::ConnectionRow {
        rows::ConnectionRow {
            id,
            session: self.session,
            kernel: self.kernel,
            app: self.app.clone(),
            seen_at: Timestamp(self.seen.load(Ordering::Relaxed)),
        }
    }
}

async fn close(control: &Control, id: Uuid, session: SessionId) -> Result<()> {
    crate::retry(|| async {
        let mut tx = control.store().begin().await?;
        rows::remove(&mut tx, id).await?;
        left_alone(control, &mut tx, &[session]).await?;
        Ok(tx.commit().await?)
    })
    .await
}

/// Sessions without any connection left were last used now.
async fn left_alone(control: &Control, tx: &mut quarterdeck_store::Tx, sessions: &[SessionId]) -> Result<()> {
    let alone = rows::without(tx, sessions).await?;
    idle::note(tx, &alone, AccessEvent::Disconnected, control.clock().now()).await
}

/// Writes which connections had traffic, and drops those that had none for too long. Every host, every few seconds.
pub(crate) async fn pass(control: &Control) -> Result<()> {
    let busy: Vec<_> = {
        let all = control.connections().open.lock();
        let moved = |open: &&Arc<Open>| open.seen.load(Ordering::Relaxed) > open.written.load(Ordering::Relaxed);
        all.iter().filter(|(_, open)| moved(open)).map(|(id, open)| (Arc::clone(open), open.row(*id))).collect()
    };
    let quiet = idle::span_ms(QUIET_KEY, control.config_tree().get(QUIET_KEY).await).unwrap_or(QUIET_MS);
    let before = control.clock().now().plus_millis(-quiet);
    if busy.is_empty() && !rows::any_before(&mut control.store().reader(), before).await? {
        return Ok(());
    }
    let mut tx = control.store().begin().await?;
    let list: Vec<_> = busy.iter().map(|(_, row)| row.clone()).collect();
    rows::write(&mut tx, &list).await?;
    let sessions = rows::remove_before(&mut tx, before).await?;
    left_alone(control, &mut tx, &sessions).await?;
    tx.commit().await?;
    for (open, row) in busy {
        open.written.store(row.seen_at.0, Ordering::Relaxed);
    }
    Ok(())
}
