//! Password hashes: argon2id for new ones; bcrypt ones from elsewhere are understood and replaced.
//!
//! Hashing is slow and takes 19 MiB on purpose, so it happens on the blocking pool and only so often
//! at a time: a burst of logins queues here instead of eating the host's memory, and a flood is sent away.

use std::sync::OnceLock;

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// What bcrypt looks at; it ignores the rest of a password.
const BCRYPT_BYTES: usize = 72;

/// No mismatch is slowed down beyond this cost of bcrypt (about a second), whatever is stored.
const SLOWEST: u32 = 14;
/// How many may wait for each hash that is computed: their turn comes within some seconds.
const WAITING: usize = 64;

/// How a guess compares to a stored hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Not the password.
    Mismatch,
    /// The password.
    Match,
    /// The password, but the stored hash is of a kind that isn't written any more: store a new one.
    MatchOutdated,
}

impl Check {
    /// Whether the guess was right.
    pub fn is_match(self) -> bool {
        self != Check::Mismatch
    }
}

fn hasher() -> Argon2<'static> {
    static PARAMS: OnceLock<Params> = OnceLock::new();
    let params = PARAMS.get_or_init(|| Params::new(19_456, 2, 1, None).expect("fixed parameters are in range"));
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
}

fn hash_now(password: &str) -> Result<String> {
    match hasher().hash_password(password.as_bytes()) {
        Ok(hash) => Ok(hash.to_string()),
        Err(e) => Err(Error::Internal(format!("hashing a password: {e}"))),
    }
}

/// What guesses for unknown users are compared to, so that they take as long as others.
fn dummy() -> &'static str {
    static DUMMY: OnceLock<String> = OnceLock::new();
    DUMMY.get_or_init(|| hash_now(&uuid::Uuid::new_v4().to_string()).unwrap_or_default())
}

/// What a comparison cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spent {
    argon2: u32,
    /// In rounds of bcrypt: two to the power of the costs.
    bcrypt: u64,
}

/// Compares, and lets no mismatch be cheaper than another: neither whether there is such a user nor which kind of hash is
/// stored shows in the time.
fn verify_now(guess: &str, stored: Option<&str>, slowest_bcrypt: Option<u32>) -> (Check, Spent) {
    let mut spent = Spent::default();
    let check = compare(guess, stored, &mut spent);
    if !check.is_match() {
        if spent.argon2 == 0 {
            let _ = hasher().verify_password(guess.as_bytes(), dummy());
            spent.argon2 += 1;
        }
        let goal = slowest_bcrypt.map_or(0, |cost| 1 << cost);
        while spent.bcrypt < goal {
            // What is missing is a sum of powers of two, and the lowest of them is the next.
            let cost = (goal - spent.bcrypt).trailing_zeros();
            let _ = bcrypt::verify("nothing", &idle_bcrypt(cost));
            spent.bcrypt += 1 << cost;
        }
    }
    (check, spent)
}

fn compare(guess: &str, stored: Option<&str>, spent: &mut Spent) -> Check {
    let Some(stored) = stored.filter(|_| !guess.contains('\0')) else { return Check::Mismatch };
    if let Some(cost) = bcrypt_cost(stored) {
        return match bcrypt::verify(bcrypt_part(guess), stored) {
            Ok(matches) => {
                spent.bcrypt += 1 << cost;
                if matches { Check::MatchOutdated } else { Check::Mismatch }
            }
            Err(_) => Check::Mismatch,
        };
    }
    if !stored.starts_with("$argon2") {
        return Check::Mismatch;
    }
    match hasher().verify_password(guess.as_bytes(), stored) {
        Ok(()) => Check::Match,
        Err(argon2::password_hash::Error::PasswordInvalid) => {
            spent.argon2 += 1;
            Check::Mismatch
        }
        // It is no hash, which took no time.
        Err(_) => Check::Mismatch,
    }
}

/// What no password hashes to, at that cost.
fn idle_bcrypt(cost: u32) -> String {
    format!("$2b${cost:02}${}", ".".repeat(53))
}

fn bcrypt_part(guess: &str) -> &[u8] {
    &guess.as_bytes()[..guess.len().min(BCRYPT_BYTES)]
}

/// The cost of a bcrypt hash: `$2a$`, `$2b$` or `$2y$` and 4 to 31. Other variants were made by broken implementations.
pub fn bcrypt_cost(stored: &str) -> Option<u32> {
    let cost = ["$2a$", "$2b$", "$2y$"].iter().find_map(|p| stored.strip_prefix(p))?.get(..2)?;
    cost.parse().ok().filter(|cost| (4..=31).contains(cost))
}

/// How many hashes are computed at a time, and how many may wait for that.
#[derive(Debug)]
struct Workshop {
    working: Semaphore,
    inside: Semaphore,
}

impl Workshop {
    fn new(at_once: usize, waiting: usize) -> Self {
        Self { working: Semaphore::new(at_once), inside: Semaphore::new(at_once + waiting) }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let _place = self.inside.try_acquire().map_err(|_| Error::Overloaded("Too many logins at once."))?;
        let internal = |e: &dyn std::fmt::Display| Error::Internal(format!("password hashing: {e}"));
        let _turn = self.working.acquire().await.map_err(|e| internal(&e))?;
        tokio::task::spawn_blocking(work).await.map_err(|e| internal(&e))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    static WORKSHOP: OnceLock<Workshop> = OnceLock::new();
    let workshop = WORKSHOP.get_or_init(|| {
        let at_once = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(1, 8);
        Workshop::new(at_once, at_once * WAITING)
    });
    workshop.run(work).await
}

/// A password that nobody has to think of: 144 random bits in 24 characters.
pub fn random() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE.encode(rand::random::<[u8; 18]>())
}

/// The hash to store for a new password.
///
/// # Errors
/// [`Error::BadRequest`] for a password that could never match, [`Error::Overloaded`].
pub async fn hash(password: &str) -> Result<String> {
    if password.contains('\0') {
        return Err(Error::BadRequest("A password must not contain a NUL character.".to_owned()));
    }
    let password = password.to_owned();
    blocking(move || hash_now(&password)).await?
}

/// Compares a guess to a stored hash. Without one (no such user, no password set, or something that
/// is no hash) the answer is a mismatch that takes as long as any other. `slowest_bcrypt` is the highest cost among the
/// bcrypt hashes that are stored, if there are any: mismatches take that long, whatever they are compared to.
///
/// # Errors
/// [`Error::Overloaded`] when too many wait already; [`Error::Internal`] when the host is shutting down.
pub async fn verify(guess: &str, stored: Option<&str>, slowest_bcrypt: Option<u32>) -> Result<Check> {
    let (guess, stored) = (guess.to_owned(), stored.map(str::to_owned));
    let slowest = slowest_bcrypt.map(|cost| cost.min(SLOWEST));
    blocking(move || verify_now(&guess, stored.as_deref(), slowest).0).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn new_hashes_are_argon2id_and_match() {
        let hash = hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(verify("correct horse", Some(&hash), None).await.unwrap(), Check::Match);
        assert_eq!(verify("correct hors", Some(&hash), None).await.unwrap(), Check::Mismatch);
        assert_ne!(hash, super::hash("correct horse").await.unwrap());
    }

    #[tokio::test]
    async fn bcrypt_matches_and_asks_for_a_new_hash() {
        let hash = bcrypt::hash("pässword", 4).unwrap();
        for variant in ["$2a$", "$2b$", "$2y$"] {
            let hash = format!("{variant}{}", &hash[4..]);
            assert_eq!(verify("pässword", Some(&hash), None).await.unwrap(), Check::MatchOutdated, "{variant}");
            assert_eq!(verify("password", Some(&hash), None).await.unwrap(), Check::Mismatch);
        }
        for variant in ["$2x$", "$2$0"] {
            let hash = format!("{variant}{}", &hash[4..]);
            assert_eq!(verify("pässword", Some(&hash), None).await.unwrap(), Check::Mismatch, "{variant}");
        }
    }

    #[tokio::test]
    async fn bcrypt_looks_at_72_bytes() {
        // 71 ASCII bytes and half of a two-byte character.
        let long = format!("{}é tail", "a".repeat(71));
        let hash = bcrypt::hash(&long.as_bytes()[..72], 4).unwrap();
        assert_eq!(verify(&long, Some(&hash), None).await.unwrap(), Check::MatchOutdated);
        assert_eq!(verify(&"a".repeat(71), Some(&hash), None).await.unwrap(), Check::Mismatch);
    }

    #[tokio::test]
    async fn nonsense_is_a_mismatch_and_takes_its_time() {
        let hash = hash("x").await.unwrap();
        for stored in [None, Some(""), Some("plain"), Some("$argon2id$broken"), Some("$2b$99$xx"), Some("$2b$12$short")]
        {
            assert_eq!(verify("x", stored, None).await.unwrap(), Check::Mismatch, "{stored:?}");
        }
        assert_eq!(verify("x\0", Some(&hash), None).await.unwrap(), Check::Mismatch);
        assert!(super::hash("x\0").await.is_err());
    }

    /// Counted, not timed: machines may be busy.
    #[test]
    fn mismatches_cost_the_same_whatever_is_stored() {
        let argon2 = hash_now("x").unwrap();
        let [bcrypt4, bcrypt6] = [4, 6].map(|cost| bcrypt::hash("x", cost).unwrap());
        let nonsense = "$argon2id$broken";
        for (slowest, rounds) in [(None, 0), (Some(6), 64)] {
            for stored in [None, Some("plain"), Some(nonsense), Some(&*argon2), Some(&*bcrypt4), Some(&*bcrypt6)] {
                if slowest.is_none() && stored.is_some_and(|s| bcrypt_cost(s).is_some()) {
                    continue;
                }
                for guess in ["guess", "x\0"] {
                    let expected = Spent { argon2: 1, bcrypt: rounds };
                    assert_eq!(verify_now(guess, stored, slowest), (Check::Mismatch, expected), "{guess} {stored:?}");
                }
            }
        }
        assert_eq!(verify_now("x", Some(&bcrypt4), Some(6)).0, Check::MatchOutdated);
        assert!(!bcrypt::verify("nothing", &idle_bcrypt(4)).unwrap(), "it is computed, not refused");
    }

    #[tokio::test]
    async fn a_flood_is_sent_away() {
        let workshop = std::sync::Arc::new(Workshop::new(1, 2));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let first = {
            let workshop = workshop.clone();
            tokio::spawn(async move { workshop.run(move || wait.recv().unwrap()).await })
        };
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let workshop = workshop.clone();
                tokio::spawn(async move { workshop.run(|| ()).await })
            })
            .collect();
        while workshop.inside.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(workshop.run(|| ()).await, Err(Error::Overloaded(_))));
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        for waiter in waiting {
            waiter.await.unwrap().unwrap();
        }
        workshop.run(|| ()).await.unwrap();
    }
}
