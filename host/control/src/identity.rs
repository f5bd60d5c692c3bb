//! Who signs requests, and what they may use: key pairs, their users, projects and scaling groups, kept in memory.
//!
//! A signed request costs no database access while its key pair is cached, and neither do the questions that clients ask
//! all the time. Every transaction that changes identity bumps a revision; [`IdentityCache::refresh`] compares it, and
//! entries that were read under an older revision count as missing from then on.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use quarterdeck_model::{AccessKey, ProjectId, UserStatus};
use quarterdeck_store::lists::keypairs::{self as shown, KeyPairItem};
use quarterdeck_store::scaling_groups::{self, ScalingGroupRow};
use quarterdeck_store::{Store, Tx, keypairs, projects, revisions, users};

use crate::Control;
use crate::error::{Error, Result};
use crate::known::{Known, Revision};
use crate::password;
use crate::principal::Principal;

/// Key pairs kept in memory at most.
const CAPACITY: u64 = 100_000;
/// Scaling groups kept in memory at most, each counted once for everybody who may use it.
const GROUPS: u64 = 50_000;
/// Names and ids of projects kept in memory at most.
const PROJECTS: u64 = 20_000;
/// Key pairs as their owners see them, kept in memory at most.
const SHOWN: u64 = 20_000;
/// Nobody has a longer key, so nothing longer is looked up or kept.
const MAX_ACCESS_KEY: usize = 64;
/// Names that are longer are looked up, but not kept.
const MAX_NAME: usize = 256;

/// What a signature is checked against.
#[derive(Clone)]
pub struct Credential {
    /// The secret that signs.
    pub secret_key: String,
    /// Whether the key pair may sign.
    pub is_active: bool,
    /// Who that is.
    pub principal: Arc<Principal>,
    /// Where the user may sign from; `None` = anywhere.
    pub allowed_client_ip: Option<Vec<IpNet>>,
    /// Whether the user's account is in use.
    pub user_status: UserStatus,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("principal", &self.principal)
            .field("is_active", &self.is_active)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Inner {
    store: Store,
    /// The revision of identity that this host has seen.
    revision: Revision,
    /// Unknown ones too, so that asking for them costs as little as asking for known ones.
    credentials: Known<String, Option<Arc<Credential>>>,
    groups: Known<Holders, Arc<[ScalingGroupRow]>>,
    /// By domain and what was asked for: a project's id, or its name in the domain.
    projects: Known<(String, String), Option<FoundProject>>,
    shown: Known<shown::Scope, Option<Arc<KeyPairItem>>>,
    /// The highest cost of a bcrypt hash that was stored when this host first looked. New hashes aren't of that kind.
    slowest_bcrypt: tokio::sync::OnceCell<Option<u32>>,
    counts: Mutex<HashMap<AccessKey, i64>>,
    /// Held while counts are on their way to the database, so that whoever flushes next finds them there.
    flushing: tokio::sync::Mutex<()>,
}

/// Whose scaling groups are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holders {
    domain: String,
    project: Option<ProjectId>,
    access_key: AccessKey,
}

/// A project that was asked for by its id, or by its name in a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundProject {
    pub(crate) id: ProjectId,
    pub(crate) domain: String,
}

/// What is known of identity in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct IdentityCache {
    inner: Arc<Inner>,
}

impl IdentityCache {
    /// An empty cache over `store`.
    pub fn new(store: Store) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                revision: Revision::default(),
                credentials: Known::new(CAPACITY, |_| 1),
                groups: Known::new(GROUPS, |groups| u32::try_from(groups.len()).unwrap_or(u32::MAX).max(1)),
                projects: Known::new(PROJECTS, |_| 1),
                shown: Known::new(SHOWN, |_| 1),
                slowest_bcrypt: tokio::sync::OnceCell::new(),
                counts: Mutex::default(),
                flushing: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The key pair with its user, if there is one; inactive ones included.
    ///
    /// # Errors
    /// [`Error::Store`] when it is not cached and the database can't be read.
    pub async fn credential(&self, access_key: &str) -> Result<Option<Arc<Credential>>> {
        if access_key.len() > MAX_ACCESS_KEY {
            return Ok(None);
        }
        let read = async {
            let row = keypairs::credential(&mut self.inner.store.reader(), access_key).await?;
            Ok(row.map(credential).transpose()?.map(Arc::new))
        };
        self.inner.credentials.get(&self.inner.revision, access_key, read).await
    }

    /// The scaling groups that a domain, a project or a key pair may use, by name; those that aren't in use included.
    ///
    /// # Errors
    /// [`Error::Store`] when they are not cached and the database can't be read.
    pub(crate) async fn scaling_groups(
        &self,
        domain: &str,
        project: Option<ProjectId>,
        access_key: &AccessKey,
    ) -> Result<Arc<[ScalingGroupRow]>> {
        let holders = Holders { domain: domain.to_owned(), project, access_key: access_key.clone() };
        let read = async {
            let sql = &mut self.inner.store.reader();
            Ok(scaling_groups::associated(sql, Some(domain), project, Some(access_key)).await?.into())
        };
        self.inner.groups.get(&self.inner.revision, &holders, read).await
    }

    /// The project with this id, in whatever domain, or of this name in `domain`.
    ///
    /// # Errors
    /// [`Error::Store`] when it is not cached and the database can't be read.
    pub(crate) async fn project(&self, domain: &str, id_or_name: &str) -> Result<Option<FoundProject>> {
        let read = async {
            let sql = &mut self.inner.store.reader();
            let row = match id_or_name.parse::<ProjectId>() {
                Ok(id) => projects::get(sql, id).await?,
                Err(_) if id_or_name.contains('\0') => None,
                Err(_) => projects::by_name(sql, domain, id_or_name).await?,
            };
            Ok(row.map(|row| FoundProject { id: row.id, domain: row.domain_name }))
        };
        if id_or_name.len() > MAX_NAME {
            return read.await;
        }
        let question = (domain.to_owned(), id_or_name.to_owned());
        self.inner.projects.get(&self.inner.revision, &question, read).await
    }

    /// The key pair in scope as its owner sees it, if there is one. What sessions change about it
    /// ([`KeyPairItem::concurrency_used`]) and its counter of requests are those of some time ago.
    ///
    /// # Errors
    /// [`Error::Store`] when it is not cached and the database can't be read.
    pub async fn keypair(&self, scope: &shown::Scope) -> Result<Option<Arc<KeyPairItem>>> {
        let read = async {
            let rows = shown::select(&mut self.inner.store.reader(), scope, 1).await?;
            Ok(rows.into_iter().next().map(Arc::new))
        };
        if scope.texts().any(|text| text.len() > MAX_NAME) {
            return read.await;
        }
        self.inner.shown.get(&self.inner.revision, scope, read).await
    }

    /// The revision of identity that this host has seen: for answers that are kept elsewhere.
    pub(crate) fn revision(&self) -> &Revision {
        &self.inner.revision
    }

    /// The highest cost among the bcrypt hashes of passwords; `None` without any.
    ///
    /// # Errors
    /// [`Error::Store`] when the database can't be read.
    pub async fn slowest_bcrypt(&self) -> Result<Option<u32>> {
        let look = || async {
            let kinds = users::bcrypt_kinds(&mut self.inner.store.reader()).await?;
            Ok(kinds.iter().filter_map(|kind| password::bcrypt_cost(kind)).max())
        };
        self.inner.slowest_bcrypt.get_or_try_init(look).await.copied()
    }

    /// Notes that a key pair signed a request.
    pub fn count_query(&self, access_key: &AccessKey) {
        let mut counts = self.inner.counts.lock();
        match counts.get_mut(access_key) {
            Some(n) => *n += 1,
            None => {
                counts.insert(access_key.clone(), 1);
            }
        }
    }

    /// Writes the counters of signed requests. Counts of a failed write are kept for the next one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn flush(&self) -> Result<()> {
        let _turn = self.inner.flushing.lock().await;
        let counts = std::mem::take(&mut *self.inner.counts.lock());
        if counts.is_empty() {
            return Ok(());
        }
        let counts: Vec<_> = counts.into_iter().collect();
        let written = async {
            let mut tx = self.inner.store.begin_bookkeeping().await?;
            keypairs::count_queries(&mut tx, &counts).await?;
            tx.commit().await
        };
        if let Err(error) = written.await {
            let mut kept = self.inner.counts.lock();
            for (access_key, n) in counts {
                *kept.entry(access_key).or_default() += n;
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Looks whether identity has changed anywhere, and forgets what was read before that.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn refresh(&self) -> Result<()> {
        let revision = revisions::get(&mut self.inner.store.reader(), revisions::IDENTITY).await?;
        self.inner.revision.reached(revision);
        Ok(())
    }
}

fn credential(row: keypairs::CredentialRow) -> Result<Credential> {
    let networks = match row.allowed_client_ip {
        Some(list) if !list.is_empty() => Some(
            list.iter()
                .map(|text| {
                    crate::scope::network(text).ok_or_else(|| {
                        Error::Internal(format!("a stored network of {} is malformed: {text}", row.email))
                    })
                })
                .collect::<Result<_>>()?,
        ),
        _ => None,
    };
    Ok(Credential {
        secret_key: row.keypair.secret_key,
        is_active: row.keypair.is_active,
        principal: Arc::new(Principal {
            access_key: row.keypair.access_key,
            user_id: row.keypair.user_id,
            email: row.email,
            role: row.role,
            domain: row.domain_name,
            is_admin: row.keypair.is_admin,
            resource_policy: row.keypair.resource_policy,
            rate_limit: row.keypair.rate_limit,
        }),
        allowed_client_ip: networks,
        user_status: row.status,
    })
}

/// Commits a change of identity so that the next request of this host sees it, and other hosts soon do.
pub(crate) async fn commit(control: &Control, mut tx: Tx) -> Result<()> {
    revisions::bump(&mut tx, revisions::IDENTITY).await?;
    tx.commit().await?;
    // The change is made; a host that can't look now looks again within a second.
    if let Err(error) = control.identity().refresh().await {
        tracing::warn!(%error, "cached credentials can't be refreshed now");
    }
    // A raised limit or another scheduler may let a waiting session through.
    control.signals().schedule.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_store::testing;

    use super::*;
    use crate::seed;

    #[tokio::test]
    async fn a_warm_cache_needs_no_database_and_follows_revisions() {
        for db in testing::databases().await {
            seed::load(&db.store, &seed::tests::conformance_seed()).await.unwrap();
            let cache = IdentityCache::new(db.store.clone());
            cache.refresh().await.unwrap();
            let key = "AKIACONFUSER00000003";
            let first = cache.credential(key).await.unwrap().unwrap();
            assert_eq!((first.principal.email.as_str(), first.is_active), ("user@conf.test", true));
            assert!(cache.credential("AKIANOBODY").await.unwrap().is_none());

            let mut tx = db.store.begin().await.unwrap();
            let off = keypairs::KeypairChanges { is_active: Some(false), ..Default::default() };
            keypairs::update(&mut tx, key, &off).await.unwrap();
            revisions::bump(&mut tx, revisions::IDENTITY).await.unwrap();
            tx.commit().await.unwrap();
            // Nobody has told this cache yet: it answers from memory.
            assert!(Arc::ptr_eq(&first, &cache.credential(key).await.unwrap().unwrap()));
            cache.refresh().await.unwrap();
            assert!(!cache.credential(key).await.unwrap().unwrap().is_active);
        }
    }

    #[tokio::test]
    async fn queries_are_counted_in_batches() {
        for db in testing::databases().await {
            seed::load(&db.store, &seed::tests::conformance_seed()).await.unwrap();
            let cache = IdentityCache::new(db.store.clone());
            let key = AccessKey::from("AKIACONFUSER00000003");
            for _ in 0..3 {
                cache.count_query(&key);
            }
            cache.flush().await.unwrap();
            cache.flush().await.unwrap();
            let row = keypairs::get(&mut db.store.reader(), key.as_str()).await.unwrap().unwrap();
            assert_eq!(row.num_queries, 3);
        }
    }
}
