//! Networks in which only TLS gets to a router, for the processes that come after this one. [CAR-8]
//!
//! A folder with an empty file for each: `<router's identity>@<address from which packets leave>`. Nobody has to read or
//! lock anything, and its age is the file's. What is wrong here costs a TCP connection that was not needed, or 300 ms.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::create_private_dir;
use crate::transport::{self, Carrier};
use crate::tunnel::Identity;

/// What is known of networks; a clone shares it. The default knows nothing and remembers nothing.
#[derive(Clone, Debug, Default)]
pub struct Networks(Option<PathBuf>);

impl Networks {
    /// Remembered in a folder of a client's home, which is made when there is something to remember.
    pub fn of_home(home: &Path) -> Self {
        Self(Some(home.join("networks")))
    }

    /// Whether the last session with this router, from the network where this machine is now, was over TLS, and not
    /// longer than a week ago.
    pub(super) fn needs_tls(&self, router: Identity, remote: SocketAddr) -> bool {
        let Some(file) = self.file(router, remote) else { return false };
        is_fresh(&file)
    }

    /// What carries a session with this router from now on, and would not have to.
    pub(super) fn note(&self, router: Identity, remote: SocketAddr, carrier: Carrier) {
        let Some(file) = self.file(router, remote) else { return };
        let noted = match carrier {
            Carrier::Tls => remember(&file),
            Carrier::Quic => match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        if let Err(error) = noted {
            tracing::debug!(%error, file = %file.display(), "the network is not remembered");
        }
    }

    /// `None` where nothing is remembered, or no packet would leave.
    fn file(&self, router: Identity, remote: SocketAddr) -> Option<PathBuf> {
        let (folder, from) = (self.0.as_ref()?, transport::source(remote)?);
        // A colon is no part of a name everywhere.
        Some(folder.join(format!("{router}@{}", from.to_string().replace(':', "_"))))
    }
}

fn remember(file: &Path) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    create_private_dir(folder).map_err(io::Error::other)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path != file && !is_fresh(&path) {
            fs::remove_file(path)?;
        }
    }
    File::create(file)?.set_modified(std::time::SystemTime::now())
}

fn is_fresh(file: &Path) -> bool {
    let modified = fs::symlink_metadata(file).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age < MEMORY))
}

/// Networks change hands, and their rules.
const MEMORY: Duration = Duration::from_secs(7 * 24 * 3_600);
