//! What can be wrong with the contents of a key file.

/// Why bytes are not a private key that Conduit can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFormatError {
    /// There are no bytes.
    #[error("it is empty")]
    Empty,
    /// There is no PEM block in it.
    #[error("it holds no PEM block: a key file starts with -----BEGIN PRIVATE KEY-----")]
    NotPem,
    /// A PEM block of another sort.
    #[error(
        "it holds a PEM block {0:?}, not PRIVATE KEY: write one with `openssl genpkey -algorithm ed25519`"
    )]
    Label(String),
    /// The PEM block or the PKCS#8 structure in it is damaged.
    #[error("its PEM block is damaged or not PKCS#8")]
    Damaged,
    /// A key of another algorithm.
    #[error("it holds a key of another algorithm ({0}), not Ed25519")]
    Algorithm(String),
    /// The private key has not 32 bytes.
    #[error("its private key has {0} bytes, an Ed25519 key has 32")]
    Length(usize),
    /// The private key is all zeros: nobody made that by chance.
    #[error("its private key is all zeros")]
    Zero,
    /// The file holds a public key that does not belong to the private one.
    #[error("its public key does not belong to its private key")]
    Mismatch,
}
