//! A private key and its file.

use std::fmt;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

use super::{KeyFormatError, RandomError, pkcs8, random_bytes};
use crate::files::{self, FileError};
use crate::tunnel::Identity;

/// An Ed25519 private key with its public key; wiped from memory when dropped, never shown.
///
/// The key file is PKCS#8 in PEM, 0600; beside it lies the identity as text, under the same name with the
/// extension `pub`.
pub struct Keypair(SigningKey);

/// Why a key was not loaded or created.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file was not read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds no usable key; it is left as it is.
    #[error("{} is not a usable key: {reason}", files::shown(.path))]
    Format {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: KeyFormatError,
    },
    /// A key file cannot end in `.pub`: its public key is written under that name.
    #[error("{} is the name of a public key: name the private key, as in client.key", files::shown(.0))]
    PublicName(PathBuf),
    /// What is where the public key belongs is not an identity, and is not overwritten.
    #[error("{} exists and is not an identity of Conduit: move it away, or choose another name for the key", files::shown(.0))]
    PublicTaken(PathBuf),
    /// There is no randomness for a new key.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl Keypair {
    /// Makes a new key.
    pub fn generate() -> Result<Self, RandomError> {
        let seed = Zeroizing::new(random_bytes::<32>()?);
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The key of a seed (RFC 8032's private key). The caller wipes its copy.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// Loads a key file that is its owner's alone ([`files::read_private`]).
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Self::from_file(path, Zeroizing::new(files::read_private(path, LARGEST)?))
    }

    /// Loads a key file that the configuration names: a mounted secret is accepted too
    /// ([`files::read_mounted_secret`]). The second value says that it was one.
    pub fn load_mounted(path: &Path) -> Result<(Self, bool), KeyError> {
        let (bytes, mounted) = files::read_mounted_secret(path, LARGEST)?;
        Ok((Self::from_file(path, Zeroizing::new(bytes))?, mounted))
    }

    /// Makes a new key and its file, exclusively: a file that exists is never overwritten.
    ///
    /// A missing folder is created for its owner alone. The identity is written beside the key.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        Self::make(path, files::create_private)
    }

    /// Makes a new key in the place of the one in the file, if there is one: what `--force` asks for.
    ///
    /// The old identity goes first: at no moment does it lie beside another key.
    pub fn replace(path: &Path) -> Result<Self, KeyError> {
        Self::make(path, |path, bytes| {
            files::remove(&path.with_extension("pub"))?;
            files::replace(path, bytes)
        })
    }

    /// Loads a key file, or creates it when there is none; the second value says that it was created. An identity that is
    /// missing beside it, because the power went between the two, is written where that is possible.
    /// Of several processes that create one file at once all end up with the same key.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), KeyError> {
        match Self::load(path) {
            Err(KeyError::File(e)) if e.is_not_found() => {}
            loaded => {
                let keypair = loaded?;
                let public = path.with_extension("pub");
                if std::fs::symlink_metadata(&public).is_err() {
                    // Nothing needs it but people: in a home that is read-only it stays missing.
                    let _ = keypair.publish(&public);
                }
                return Ok((keypair, false));
            }
        }
        match Self::create(path) {
            Err(KeyError::File(e)) if e.already_exists() => Ok((Self::load(path)?, false)),
            created => Ok((created?, true)),
        }
    }

    /// Reads PKCS#8 in PEM, with the public key (as [`Self::to_pem`] writes it) or without (as OpenSSL does).
    pub fn from_pem(text: &str) -> Result<Self, KeyFormatError> {
        pkcs8::from_pem(text).map(Self)
    }

    /// The key as PKCS#8 in PEM, with the public key.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pkcs8::to_pem(&self.0)
    }

    /// The key as PKCS#8 in DER, with the public key: what TLS libraries load.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        pkcs8::to_der(&self.0)
    }

    /// The public key.
    pub fn identity(&self) -> Identity {
        Identity::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// Signs a message (RFC 8032, Ed25519). The message should start with a label that says what it is for.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    fn make(
        path: &Path,
        write: fn(&Path, &[u8]) -> Result<(), FileError>,
    ) -> Result<Self, KeyError> {
        let public = public_path(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.exists()) {
            files::create_private_dir(folder)?;
        }
        check_public_is_ours(&public)?;
        let keypair = Self::generate()?;
        write(path, keypair.to_pem().as_bytes())?;
        keypair.publish(&public)?;
        Ok(keypair)
    }

    fn publish(&self, public: &Path) -> Result<(), FileError> {
        files::replace(public, format!("{}\n", self.identity()).as_bytes())
    }

    fn from_file(path: &Path, bytes: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let format = |reason| KeyError::Format { path: path.to_owned(), reason };
        if bytes.is_empty() {
            return Err(format(KeyFormatError::Empty));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| format(KeyFormatError::NotPem))?;
        Self::from_pem(text).map_err(format)
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keypair").field(&self.identity()).finish_non_exhaustive()
    }
}

/// Where the public key of a key file lies: `client.key`, `client.pub`.
fn public_path(path: &Path) -> Result<PathBuf, KeyError> {
    let public = path.with_extension("pub");
    if public == path { Err(KeyError::PublicName(public)) } else { Ok(public) }
}

/// The identity of a lost key may be replaced; somebody's `id_ed25519.pub` may not.
fn check_public_is_ours(public: &Path) -> Result<(), KeyError> {
    match files::read_bounded(public, LARGEST) {
        Ok(bytes) if bytes.starts_with(Identity::PREFIX.as_bytes()) => Ok(()),
        Err(e) if e.is_not_found() => Ok(()),
        _ => Err(KeyError::PublicTaken(public.to_owned())),
    }
}

/// No key file is larger, in bytes; one of ours has 168.
const LARGEST: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64;
    use std::fs;

    /// As `openssl genpkey -algorithm ed25519` (3.0.19) writes it, and what it says of its public key.
    const OPENSSL: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIEAuCVSwYWpJLx9eAsFQFJU7zvqc4qhnVn7ZwRkBbxw/\n\
        -----END PRIVATE KEY-----\n";
    const OPENSSL_PUBLIC: &str = "MCowBQYDK2VwAyEAvLkg1R2kDUqDaO7GkVax46xvaQlwpDm+NpOVYf1qj/g=";

    fn pem(label: &str, der: &[u8]) -> String {
        let body = BASE64.encode(der);
        let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    /// PKCS#8 version 1 of an Ed25519 key with so many bytes.
    fn version_1(seed: &[u8]) -> Vec<u8> {
        let n = u8::try_from(seed.len()).expect("short");
        let mut der = vec![0x30, n + 14, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
        der.extend([4, n + 2, 4, n]);
        der.extend(seed);
        der
    }

    #[test]
    fn a_key_reads_back_from_its_pem() {
        let keypair = Keypair::generate().expect("a key");
        let pem = keypair.to_pem();
        assert_eq!(pem.len(), 168, "{LARGEST} is far above");
        assert!(pem.lines().all(|line| line.len() <= 64));
        let read = Keypair::from_pem(&pem).expect("read");
        assert_eq!(read.identity(), keypair.identity());
        assert_eq!(read.to_pkcs8_der(), keypair.to_pkcs8_der());
        let windows = pem.replace('\n', "\r\n");
        assert_eq!(Keypair::from_pem(&windows).expect("read").identity(), keypair.identity());
    }

    #[test]
    fn a_key_from_openssl_is_read() {
        let keypair = Keypair::from_pem(OPENSSL).expect("read");
        let public = BASE64.decode(OPENSSL_PUBLIC.as_bytes()).expect("base64");
        assert_eq!(crate::identity::spki(&keypair.identity()).as_slice(), public);
    }

    #[test]
    fn rustls_loads_the_key_and_signs_the_same() {
        use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
        let keypair = Keypair::from_pem(OPENSSL).expect("read");
        let der = PrivatePkcs8KeyDer::from(keypair.to_pkcs8_der().to_vec());
        let any = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&der).expect("an EdDSA key");
        let public = any.public_key().expect("a public key");
        assert_eq!(public.as_ref(), crate::identity::spki(&keypair.identity()));
        let signer = any.choose_scheme(&[rustls::SignatureScheme::ED25519]).expect("a signer");
        assert_eq!(signer.sign(b"message").expect("signed"), keypair.sign(b"message"));
        let der = PrivateKeyDer::Pkcs8(der);
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).expect("a supported key");
        // The strict loader compares the public key in the file with the private one.
        aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(der.secret_der()).expect("version 2");
    }

    #[test]
    fn debug_shows_the_identity_and_nothing_else() {
        let keypair = Keypair::from_seed([0xa5; 32]);
        let shown = format!("{keypair:?}");
        assert_eq!(shown, format!("Keypair({}, ..)", keypair.identity()));
    }

    #[test]
    fn h16_what_is_no_key_is_refused_with_the_path_and_never_overwritten() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("client.key");
        let good = Keypair::from_seed([7; 32]);
        let mut mismatch = good.to_pkcs8_der().to_vec();
        *mismatch.last_mut().expect("bytes") ^= 1;
        let mut trailing = version_1(&[7; 32]);
        trailing.push(0);
        let mut x25519 = version_1(&[7; 32]);
        x25519[11] = 0x6e;
        let cut = &good.to_pem()[..100];
        use KeyFormatError as E;
        for (contents, reason) in [
            (String::new(), E::Empty),
            (" \n".into(), E::Empty),
            ("k".repeat(31), E::NotPem),
            ("k".repeat(33), E::NotPem),
            (pem("PRIVATE KEY", &version_1(&[7; 31])), E::Length(31)),
            (pem("PRIVATE KEY", &version_1(&[7; 33])), E::Length(33)),
            (pem("PRIVATE KEY", &version_1(&[])), E::Length(0)),
            (pem("PRIVATE KEY", &version_1(&[0; 32])), E::Zero),
            (pem("PRIVATE KEY", &mismatch), E::Mismatch),
            (pem("PRIVATE KEY", &trailing), E::Damaged),
            (pem("PRIVATE KEY", &x25519), E::Algorithm("1.3.101.110".into())),
            (pem("PRIVATE KEY", &[]), E::Damaged),
            (pem("CERTIFICATE", &version_1(&[7; 32])), E::Label("CERTIFICATE".into())),
            (pem("OPENSSH PRIVATE KEY", b"openssh-key-v1"), E::Label("OPENSSH PRIVATE KEY".into())),
            (pem("ENCRYPTED PRIVATE KEY", b"x"), E::Label("ENCRYPTED PRIVATE KEY".into())),
            (cut.to_owned(), E::Damaged),
        ] {
            let _ = fs::remove_file(&path);
            files::create_private(&path, contents.as_bytes()).expect("written");
            for error in [Keypair::load(&path).err(), Keypair::load_or_create(&path).err()] {
                let Some(KeyError::Format { path: at, reason: found }) = error else {
                    panic!("{contents:?}: {error:?}");
                };
                assert_eq!((at, &found), (path.clone(), &reason), "{contents:?}");
            }
            let text = Keypair::load(&path).expect_err("refused").to_string();
            assert!(text.starts_with(&path.display().to_string()), "{text}");
            assert_eq!(fs::read_to_string(&path).expect("there"), contents);
            assert!(!home.path().join("client.pub").exists());
        }
    }

    #[test]
    fn h16_raw_bytes_and_huge_files_are_refused() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("client.key");
        files::create_private(&path, &[0xff; 32]).expect("written");
        let error = Keypair::load(&path).expect_err("refused");
        assert!(
            matches!(error, KeyError::Format { reason: KeyFormatError::NotPem, .. }),
            "{error}"
        );
        files::replace(&path, &[b'a'; 20_000]).expect("written");
        let error = Keypair::load(&path).expect_err("refused");
        assert!(matches!(error, KeyError::File(FileError::TooLarge { .. })), "{error}");
    }

    #[test]
    fn a_key_is_created_once_with_its_identity_beside_it() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("keys/client.key");
        let (keypair, created) = Keypair::load_or_create(&path).expect("created");
        assert!(created);
        let public = home.path().join("keys/client.pub");
        let published = || fs::read_to_string(&public).expect("written").trim().parse();
        assert_eq!(published(), Ok(keypair.identity()));
        let (again, created) = Keypair::load_or_create(&path).expect("loaded");
        assert!(!created);
        assert_eq!(again.identity(), keypair.identity());
        let error = Keypair::create(&path).expect_err("refused");
        assert!(matches!(&error, KeyError::File(e) if e.already_exists()), "{error}");
        assert_eq!(Keypair::load(&path).expect("loaded").identity(), keypair.identity());
        let (mounted, flag) = Keypair::load_mounted(&path).expect("loaded");
        assert_eq!((mounted.identity(), flag), (keypair.identity(), false));
        let forced = Keypair::replace(&path).expect("replaced");
        assert_ne!(forced.identity(), keypair.identity());
        assert_eq!(Keypair::load(&path).expect("loaded").identity(), forced.identity());
        assert_eq!(published(), Ok(forced.identity()));
        fs::remove_file(&public).expect("as if the power had gone before it was written");
        Keypair::load_or_create(&path).expect("loaded");
        assert_eq!(published(), Ok(forced.identity()));
    }

    #[test]
    fn a_public_key_of_another_program_is_not_overwritten() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("id_ed25519");
        let public = home.path().join("id_ed25519.pub");
        fs::write(&public, "ssh-ed25519 AAAA").expect("written");
        let error = Keypair::create(&path).expect_err("refused");
        assert!(matches!(error, KeyError::PublicTaken(_)) && !path.exists(), "{error}");
        let error = Keypair::create(&public).expect_err("refused");
        assert!(matches!(error, KeyError::PublicName(_)), "{error}");
        assert_eq!(fs::read_to_string(&public).expect("kept"), "ssh-ed25519 AAAA");
        // The identity of a key that was lost makes way.
        fs::write(&public, format!("{}\n", Keypair::from_seed([1; 32]).identity()))
            .expect("written");
        let keypair = Keypair::create(&path).expect("created");
        let written = fs::read_to_string(&public).expect("written");
        assert_eq!(written.trim(), keypair.identity().to_string());
    }

    #[test]
    fn of_many_that_create_one_key_all_have_the_same() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("client.key");
        let identities: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| Keypair::load_or_create(&path).expect("a key").0.identity())
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("ran")).collect()
        });
        assert_eq!(identities.len(), 1);
        let public = fs::read_to_string(home.path().join("client.pub")).expect("written");
        assert_eq!(public.trim().parse().ok(), identities.first().copied());
    }

    #[cfg(unix)]
    #[test]
    fn h100_h101_h103_an_unsafe_key_file_is_refused_with_the_line_to_run() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let home = crate::files::private_tempdir();
        let path = home.path().join("client.key");
        Keypair::create(&path).expect("created");
        let link = home.path().join("link.key");
        symlink(&path, &link).expect("linked");
        let refused = |path: &Path| match Keypair::load_or_create(path) {
            Err(KeyError::File(e)) if e.is_unsafe() => e.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(refused(&link).contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(refused(&path).contains(&format!("chmod 600 {}", path.display())));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        assert!(refused(&path).contains(&format!("chmod go-w {}", home.path().display())));
    }
}
