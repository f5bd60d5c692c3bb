//! Who signs requests: key pairs and their users, kept in memory.
//!
//! A signed request costs no database access while its key pair is cached. Every transaction that
//! changes identity bumps a revision; [`IdentityCache::refresh`] compares it, and entries that were
//! read under an older revision count as missing from then on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ipnet::IpNet;
use parking_lot::Mutex;
use quarterdeck_model::{AccessKey, UserStatus};
use quarterdeck_store::{Store, Tx, keypairs, revisions, users};

use crate::Control;
use crate::error::{Error, Result};
use crate::password;
use crate::principal::Principal;

/// Key pairs kept in memory at most.
const CAPACITY: u64 = 100_000;
/// Nobody has a longer key, so nothing longer is looked up or kept.
const MAX_ACCESS_KEY: usize = 64;

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
    revision: AtomicI64,
    /// Key pair → the revision it was read under, and what was read.
    /// Unknown ones too, so that asking for them costs as little as asking for known ones.
    entries: moka::sync::Cache<String, (i64, Option<Arc<Credential>>)>,
    /// The highest cost of a bcrypt hash that was stored when this host first looked. New hashes aren't of that kind.
    slowest_bcrypt: tokio::sync::OnceCell<Option<u32>>,
    counts: Mutex<HashMap<AccessKey, i64>>,
    /// Held while counts are on their way to the database, so that whoever flushes next finds them there.
    flushing: tokio::sync::Mutex<()>,
}

/// The credentials in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct IdentityCache {
    inner: Arc<Inner>,
}

impl IdentityCache {
    /// An empty cache over `store`.
    pub fn new(store: Store) -> Self {
        let entries = moka::sync::Cache::new(CAPACITY);
        Self {
            inner: Arc::new(Inner {
                store,
                revision: AtomicI64::new(0),
                entries,
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
        // Taken before the read: a change that commits meanwhile raises it and this entry is stale.
        let revision = self.inner.revision.load(Ordering::Acquire);
        if let Some((read_under, credential)) = self.inner.entries.get(access_key)
            && read_under == revision
        {
            return Ok(credential);
        }
        if access_key.len() > MAX_ACCESS_KEY {
            return Ok(None);
        }
        let row = keypairs::credential(&mut self.inner.store.reader(), access_key).await?;
        let credential = row.map(credential).transpose()?.map(Arc::new);
        self.inner.entries.insert(access_key.to_owned(), (revision, credential.clone()));
        Ok(credential)
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
        self.inner.revision.fetch_max(revision, Ordering::AcqRel);
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
