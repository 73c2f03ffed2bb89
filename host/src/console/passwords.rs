//! Passwords and their hashes (argon2). A check takes 19 MiB and a processor for a while: there is one at a time.
//!
//! - All checks use the same memory, which is taken at the first: the allocator would keep a piece for every thread.
//! - Few wait for theirs; the others are told to come again.

use std::sync::Arc;

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, Semaphore};

/// Checks that wait or run.
const MOST_WAITING: usize = 16;
/// Bytes of a password that are looked at.
const MOST_PASSWORD: usize = 1_024;
/// Bytes of a hash's result.
const MOST_OUTPUT: usize = 64;

/// The hash of a password, as it stands in the configuration.
///
/// # Errors
/// When the system gives no random numbers.
pub fn hash_password(password: &str) -> Result<String, String> {
    let hash: PasswordHash = Argon2::default().hash_password(password.as_bytes()).map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

/// Whether a text is a password's hash.
pub fn is_hash(text: &str) -> bool {
    text.starts_with("$argon2") && PasswordHash::new(text).is_ok()
}

/// A hash that no password has, made of a random text in hexadecimal digits; checking it costs what any other does.
pub(super) fn nobodys(random: &str) -> String {
    let digits = |from: usize, count: usize| random.get(from..from + count).unwrap_or_default();
    format!("$argon2id$v=19$m=19456,t=2,p=1${}A${}A", digits(0, 21), digits(21, 42))
}

/// Checks passwords.
pub(super) struct Passwords {
    waiting: Semaphore,
    memory: Arc<Mutex<Vec<Block>>>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { waiting: Semaphore::new(MOST_WAITING), memory: Arc::default() }
    }
}

impl Passwords {
    /// Whether a password has this hash; nothing where too many wait already.
    pub(super) async fn fits(&self, hash: &str, password: &str) -> Option<bool> {
        let _waits = self.waiting.try_acquire().ok()?;
        let mut memory = Arc::clone(&self.memory).lock_owned().await;
        let (hash, password) = (hash.to_owned(), password.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            password.len() <= MOST_PASSWORD && fits(&hash, password.as_bytes(), &mut memory).unwrap_or(false)
        });
        Some(checked.await.unwrap_or(false))
    }
}

fn fits(hash: &str, password: &[u8], memory: &mut Vec<Block>) -> Option<bool> {
    let hash = PasswordHash::new(hash).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let (salt, known) = hash.salt.zip(hash.hash)?;
    let blocks = params.block_count();
    if memory.len() < blocks {
        // In one piece: it is never shrunk.
        memory.reserve_exact(blocks - memory.len());
        memory.resize(blocks, Block::new());
    }
    let argon2 = Argon2::new(Algorithm::new(hash.algorithm.as_str()).ok()?, version, params);
    let mut output = [0; MOST_OUTPUT];
    let output = output.get_mut(..known.len())?;
    argon2.hash_password_into_with_memory(password, &salt, output, memory.get_mut(..blocks)?).ok()?;
    Some(bool::from(output.ct_eq(known.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_fits_and_the_same_memory_serves_hashes_of_every_cost() {
        let passwords = Passwords::default();
        let hash = hash_password("right horse").unwrap();
        assert_eq!(passwords.fits(&hash, "right horse").await, Some(true));
        // As another program made it, with other costs: `argon2 saltsaltsalt -id -t 1 -k 64 -p 1`.
        let costly = Argon2::new(Algorithm::Argon2i, Version::V0x13, Params::new(64, 3, 2, Some(16)).unwrap());
        let other: PasswordHash = costly.hash_password_with_salt(b"other", b"saltsaltsalt").unwrap();
        assert_eq!(passwords.fits(&other.to_string(), "other").await, Some(true));
        for (hash, password) in [
            (hash.as_str(), "right horse "),
            (&hash, ""),
            (&hash, &"x".repeat(2_000)),
            (&other.to_string(), "right horse"),
            ("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ", "right horse"),
            ("right horse", "right horse"),
        ] {
            assert_eq!(passwords.fits(hash, password).await, Some(false), "{hash} {password}");
        }
        assert_eq!(passwords.memory.lock().await.len(), 19_456, "taken once");
    }

    #[tokio::test]
    async fn nobodys_hash_costs_what_every_other_does() {
        let random = "0123456789abcdef".repeat(4);
        assert!(is_hash(&nobodys(&random)));
        let passwords = Passwords::default();
        assert_eq!(passwords.fits(&nobodys(&random), "right horse").await, Some(false));
        assert_eq!(passwords.memory.lock().await.len(), 19_456);
    }

    #[tokio::test]
    async fn few_wait() {
        let passwords = Passwords::default();
        let memory = passwords.memory.lock().await;
        let waiting: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(passwords.fits("", ""))).collect();
        let mut all = futures_util::future::join_all(waiting);
        assert!(futures_util::poll!(&mut all).is_pending());
        assert_eq!(passwords.fits("", "").await, None);
        drop(memory);
        assert_eq!(all.await, vec![Some(false); MOST_WAITING]);
    }
}
