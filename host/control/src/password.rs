//! Password hashes: argon2id for new ones; bcrypt ones from elsewhere are understood and replaced.
//!
//! Hashing is slow and takes 19 MiB on purpose, so it happens on the blocking pool and only so often
//! at a time: a burst of logins queues here instead of eating the host's memory.

use std::sync::OnceLock;

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// What bcrypt looks at; it ignores the rest of a password.
const BCRYPT_BYTES: usize = 72;

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

fn verify_now(guess: &str, stored: Option<&str>) -> Check {
    let known = stored.is_some_and(|s| s.starts_with("$argon2") || is_bcrypt(s));
    if !known || guess.contains('\0') {
        let _ = hasher().verify_password(guess.as_bytes(), dummy());
        return Check::Mismatch;
    }
    let stored = stored.unwrap_or_default();
    if is_bcrypt(stored) {
        let bytes = &guess.as_bytes()[..guess.len().min(BCRYPT_BYTES)];
        return match bcrypt::verify(bytes, stored) {
            Ok(true) => Check::MatchOutdated,
            _ => Check::Mismatch,
        };
    }
    match hasher().verify_password(guess.as_bytes(), stored) {
        Ok(()) => Check::Match,
        Err(_) => Check::Mismatch,
    }
}

/// `$2a$`, `$2b$` or `$2y$` with a cost of 4 to 31. Other variants were made by broken implementations.
fn is_bcrypt(stored: &str) -> bool {
    ["$2a$", "$2b$", "$2y$"].iter().any(|p| stored.starts_with(p))
        && stored.get(4..6).and_then(|cost| cost.parse::<u8>().ok()).is_some_and(|cost| (4..=31).contains(&cost))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    static PERMITS: OnceLock<Semaphore> = OnceLock::new();
    let permits = PERMITS.get_or_init(|| {
        Semaphore::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(1, 8))
    });
    let _permit = permits.acquire().await.map_err(|e| Error::Internal(format!("password hashing: {e}")))?;
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Internal(format!("password hashing: {e}")))
}

/// The hash to store for a new password.
///
/// # Errors
/// [`Error::BadRequest`] for a password that could never match.
pub async fn hash(password: &str) -> Result<String> {
    if password.contains('\0') {
        return Err(Error::BadRequest("A password must not contain a NUL character.".to_owned()));
    }
    let password = password.to_owned();
    blocking(move || hash_now(&password)).await?
}

/// Compares a guess to a stored hash. Without one (no such user, no password set, or something that
/// is no hash) the answer is a mismatch that takes as long as any other.
///
/// # Errors
/// [`Error::Internal`] when the host is shutting down.
pub async fn verify(guess: &str, stored: Option<&str>) -> Result<Check> {
    let (guess, stored) = (guess.to_owned(), stored.map(str::to_owned));
    blocking(move || verify_now(&guess, stored.as_deref())).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn new_hashes_are_argon2id_and_match() {
        let hash = hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(verify("correct horse", Some(&hash)).await.unwrap(), Check::Match);
        assert_eq!(verify("correct hors", Some(&hash)).await.unwrap(), Check::Mismatch);
        assert_ne!(hash, super::hash("correct horse").await.unwrap());
    }

    #[tokio::test]
    async fn bcrypt_matches_and_asks_for_a_new_hash() {
        let hash = bcrypt::hash("pässword", 4).unwrap();
        for variant in ["$2a$", "$2b$", "$2y$"] {
            let hash = format!("{variant}{}", &hash[4..]);
            assert_eq!(verify("pässword", Some(&hash)).await.unwrap(), Check::MatchOutdated, "{variant}");
            assert_eq!(verify("password", Some(&hash)).await.unwrap(), Check::Mismatch);
        }
        for variant in ["$2x$", "$2$0"] {
            let hash = format!("{variant}{}", &hash[4..]);
            assert_eq!(verify("pässword", Some(&hash)).await.unwrap(), Check::Mismatch, "{variant}");
        }
    }

    #[tokio::test]
    async fn bcrypt_looks_at_72_bytes() {
        // 71 ASCII bytes and half of a two-byte character.
        let long = format!("{}é tail", "a".repeat(71));
        let hash = bcrypt::hash(&long.as_bytes()[..72], 4).unwrap();
        assert_eq!(verify(&long, Some(&hash)).await.unwrap(), Check::MatchOutdated);
        assert_eq!(verify(&"a".repeat(71), Some(&hash)).await.unwrap(), Check::Mismatch);
    }

    #[tokio::test]
    async fn nonsense_is_a_mismatch_and_takes_its_time() {
        let hash = hash("x").await.unwrap();
        for stored in [None, Some(""), Some("plain"), Some("$argon2id$broken"), Some("$2b$99$xx"), Some("$2b$12$short")]
        {
            assert_eq!(verify("x", stored).await.unwrap(), Check::Mismatch, "{stored:?}");
        }
        assert_eq!(verify("x\0", Some(&hash)).await.unwrap(), Check::Mismatch);
        assert!(super::hash("x\0").await.is_err());
        let time = |stored: Option<String>| async move {
            let start = std::time::Instant::now();
            verify("guess", stored.as_deref()).await.unwrap();
            start.elapsed()
        };
        let (known, unknown) = (time(Some(hash)).await, time(None).await);
        assert!(unknown * 20 > known, "unknown users cost {unknown:?}, wrong passwords {known:?}");
    }
}
