//! Randomness for keys and secrets.

/// Why there are no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes: is /dev/urandom or getrandom(2) blocked?")]
pub struct RandomError;

/// `N` bytes that nobody can guess.
///
/// The first call of a process seeds the generator and takes some 20 ms.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| RandomError)?;
    Ok(bytes)
}
