//! One life of a host, from its start to its end by the fuse.

use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use quarterdeck_model::{Clock, Timestamp};
use quarterdeck_store::testing::Fuse;
use quarterdeck_store::{Options, Sql, Stmt, Store};
use serde_json::Value;
use tokio::runtime::{Builder, Handle, Runtime};

use super::agent::SimAgent;
use crate::keypairs::SshKeypair;
use crate::start::Starter;
use crate::terminate::Terminator;
use crate::{Control, Principal, Settings, agents, seed};

/// Whose sessions they are.
pub(super) const USER: &str = "AKIACONFUSER00000003";

pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A directory in memory, where there is one.
pub(super) fn directory() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("quarterdeck-sim-");
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { builder.tempdir_in(memory).or_else(|_| builder.tempdir()) } else { builder.tempdir() }.unwrap()
}

/// A database with users, images, a scaling group and the built-in policies; and the token that agents join with.
pub(super) fn template() -> &'static (Vec<u8>, String) {
    static TEMPLATE: OnceLock<(Vec<u8>, String)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let dir = directory();
        let path = dir.path().join("template.db");
        let packed = dir.path().join("packed.db");
        let token = runtime().block_on(async {
            let store = Store::open(&format!("sqlite://{}", path.display()), &Options::default()).await.unwrap();
            store.migrate().await.unwrap();
            let document: Value =
                serde_json::from_str(include_str!("../../../../tests/conformance/seed.json")).unwrap();
            seed::load(&store, &document).await.unwrap();
            let control = Control::new(store.clone(), super::plugins(), settings()).await.unwrap();
            let token = agents::new_join_token(control.store(), None, None).await.unwrap();
            let pack = Stmt::assembled(format!("VACUUM INTO '{}'", packed.display()));
            store.reader().execute(pack).await.unwrap();
            token
        });
        (std::fs::read(packed).unwrap(), token)
    })
}

fn settings() -> Settings {
    Settings { node_id: "sim".to_owned(), record_rounds: false, start_attempts: 3, ..Settings::default() }
}

/// A host that lives.
pub(super) struct Host {
    pub(super) control: Control,
    pub(super) starter: Starter,
    pub(super) terminator: Terminator,
    pub(super) user: Arc<Principal>,
    pub(super) since: Timestamp,
    pub(super) fuse: Fuse,
    /// Tasks that live as long as it does.
    tasks: usize,
    runtime: Option<Runtime>,
}

impl Host {
    pub(super) fn start(url: &str, clock: Arc<AtomicI64>, agents: &[SimAgent]) -> Self {
        let (runtime, fuse) = (runtime(), Fuse::default());
        let options = Options { fuse: Some(fuse.clone()), connections: 2, ..Options::default() };
        let (control, user) = runtime.block_on(async {
            let store = Store::open(url, &options).await.unwrap();
            let clock = Clock::Manual(clock);
            let control = Control::with_clock(store, super::plugins(), settings(), clock).await.unwrap();
            let user = Arc::clone(&control.identity().credential(USER).await.unwrap().unwrap().principal);
            (control, user)
        });
        for _ in 0..50 {
            control.key_stock().put(SshKeypair { public: "public".to_owned(), private: "private".to_owned() });
        }
        for agent in agents {
            connect(&control, agent);
        }
        let (starter, terminator) = (Starter::new(control.clone()), Terminator::new(control.clone()));
        let since = control.clock().now();
        let mut host =
            Self { control, starter, terminator, user, since, fuse, tasks: usize::MAX, runtime: Some(runtime) };
        host.tasks = host.block_on(async {
            // What its start set off is over when the number stays as it is.
            let alive = || Handle::current().metrics().num_alive_tasks();
            let (mut before, mut same) = (alive(), 0);
            while same < 20 {
                tokio::task::yield_now().await;
                same = if alive() == before { same + 1 } else { 0 };
                before = alive();
            }
            before
        });
        host.block_on(async {
            host.starter.begin().await.unwrap();
            host.terminator.begin().await.unwrap();
        });
        host
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("it lives").block_on(work)
    }

    /// Waits until nothing is under way any more.
    async fn settle(&self) {
        let start = Instant::now();
        while Handle::current().metrics().num_alive_tasks() > self.tasks {
            tokio::task::yield_now().await;
            // The database works on threads of its own.
            std::thread::sleep(Duration::from_micros(20));
            assert!(start.elapsed() < Duration::from_secs(60), "the host never comes to rest");
        }
    }

    /// Does something, and waits until everything is done that it set off. What it answered, if it did, and whether the
    /// host lived on.
    pub(super) fn run<T>(&self, work: impl AsyncFnOnce(&Self) -> T) -> (Option<T>, bool) {
        self.block_on(async {
            let mut answer = None;
            let done = async {
                answer = Some(work(self).await);
                self.settle().await;
            };
            let lives = tokio::select! {
                biased;
                () = self.fuse.blown() => false,
                () = done => true,
            };
            (answer, lives)
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Puts an agent where its row says that it is, or nothing.
pub(super) fn connect(control: &Control, agent: &SimAgent) {
    let connected = agent.state().connected;
    if connected {
        control.rpc().attach(&agent.addr(), agent.clone());
    } else {
        control.rpc().detach(&agent.addr());
    }
}
