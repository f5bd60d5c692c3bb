//! Wrong passwords: who tries too many for one account from one address has to wait.
//!
//! Kept in the memory of each host. Only failures count, and a right password forgets them, so nobody is locked out by
//! what happens elsewhere.

use std::net::IpAddr;
use std::time::Duration;

use moka::sync::Cache;

use crate::config::ConfigCache;
use crate::error::{Error, Result};

/// Where the site says how many are allowed; 0: any number.
const LIMIT_KEY: &str = "config/auth/login-attempts";
/// How many are allowed unless it says so.
const LIMIT: u32 = 50;
/// For how long a failure counts.
const WINDOW: Duration = Duration::from_secs(900);
/// Accounts and addresses that are remembered.
const CAPACITY: u64 = 100_000;

/// The failures of the last quarter of an hour.
#[derive(Debug)]
pub(crate) struct Guesses {
    failures: Cache<(IpAddr, String), u32>,
}

impl Default for Guesses {
    fn default() -> Self {
        Self { failures: Cache::builder().max_capacity(CAPACITY).time_to_live(WINDOW).build() }
    }
}

/// Somebody who tries to log in.
#[derive(Clone, Debug)]
pub(crate) struct Guesser((IpAddr, String));

impl Guesser {
    pub(crate) fn new(client: IpAddr, domain: &str, email: &str) -> Self {
        // Long names are nobody's: what is remembered stays small.
        let account: String = format!("{domain}/{email}").to_lowercase().chars().take(160).collect();
        Self((client, account))
    }
}

impl Guesses {
    /// Whether one more guess is allowed.
    ///
    /// # Errors
    /// [`Error::TooManyGuesses`].
    pub(crate) fn check(&self, config: &ConfigCache, who: &Guesser) -> Result<()> {
        let limit = config.value(LIMIT_KEY).and_then(|text| text.trim().parse().ok()).unwrap_or(LIMIT);
        let failed = self.failures.get(&who.0).unwrap_or(0);
        if limit > 0 && failed >= limit {
            return Err(Error::TooManyGuesses { retry_after_s: WINDOW.as_secs() });
        }
        Ok(())
    }

    /// It was wrong.
    pub(crate) fn failed(&self, who: &Guesser) {
        let failed = self.failures.get(&who.0).unwrap_or(0);
        self.failures.insert(who.0.clone(), failed.saturating_add(1));
    }

    /// It was right.
    pub(crate) fn succeeded(&self, who: &Guesser) {
        self.failures.invalidate(&who.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_store::testing;

    use super::*;

    #[tokio::test]
    async fn too_many_wrong_guesses_have_to_wait() {
        let db = testing::sqlite().await;
        let config = ConfigCache::open(db.store.clone()).await.unwrap();
        config.set(&[(LIMIT_KEY.to_owned(), "3".to_owned())]).await.unwrap();
        let guesses = Guesses::default();
        let who = |address: [u8; 4], email: &str| Guesser::new(IpAddr::from(address), "default", email);
        let me = who([10, 0, 0, 1], "A@x");
        for _ in 0..3 {
            guesses.check(&config, &me).unwrap();
            guesses.failed(&me);
        }
        assert!(matches!(guesses.check(&config, &who([10, 0, 0, 1], "a@x")), Err(Error::TooManyGuesses { .. })));
        guesses.check(&config, &who([10, 0, 0, 2], "a@x")).unwrap();
        guesses.check(&config, &who([10, 0, 0, 1], "b@x")).unwrap();
        config.set(&[(LIMIT_KEY.to_owned(), "0".to_owned())]).await.unwrap();
        guesses.check(&config, &me).unwrap();
        config.delete(LIMIT_KEY, false).await.unwrap();
        guesses.check(&config, &me).unwrap();
        guesses.succeeded(&me);
        config.set(&[(LIMIT_KEY.to_owned(), "1".to_owned())]).await.unwrap();
        guesses.check(&config, &me).unwrap();
    }
}
