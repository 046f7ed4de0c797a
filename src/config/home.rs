//! `CONDUIT_HOME`: where everything of Conduit lies, and which configuration file is used.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::schema::FileKind;

/// The folder of this user's Conduit: keys, enrolled routers, records of tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither `CONDUIT_HOME` nor the user's home folder is known.
    #[error("no folder for Conduit's files: set CONDUIT_HOME (or HOME) to an absolute path")]
    Unknown,
    /// The working directory, to which `CONDUIT_HOME` is relative, is gone.
    #[error("CONDUIT_HOME is relative and the working directory cannot be found: {0}")]
    WorkingDirectory(std::io::Error),
}

impl Home {
    /// `CONDUIT_HOME`, or `.conduit` in the user's home folder.
    pub fn from_environment(environment: &Environment) -> Result<Self, HomeError> {
        if let Some(root) = environment.variable("CONDUIT_HOME") {
            let root = std::path::absolute(root).map_err(HomeError::WorkingDirectory)?;
            return Ok(Self { root });
        }
        let user = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        environment
            .variable(user)
            .map(PathBuf::from)
            .filter(|user| user.is_absolute())
            .map(|user| Self { root: user.join(".conduit") })
            .ok_or(HomeError::Unknown)
    }

    /// A home at this folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The client's private key.
    pub fn client_key(&self) -> PathBuf {
        self.root.join("client.key")
    }

    /// The client's identity, as text.
    pub fn client_pub(&self) -> PathBuf {
        self.root.join("client.pub")
    }

    /// The enrolled routers.
    pub fn routers_file(&self) -> PathBuf {
        self.root.join("routers.toml")
    }

    /// The records, logs and sockets of tunnels.
    pub fn tunnels_dir(&self) -> PathBuf {
        self.root.join("tunnels")
    }

    /// What belongs to a router on this machine.
    pub fn router_dir(&self) -> PathBuf {
        self.root.join("router")
    }

    /// The router's private key.
    pub fn router_key(&self) -> PathBuf {
        self.router_dir().join("router.key")
    }

    /// The router's secrets that outlive a restart.
    pub fn router_secrets(&self) -> PathBuf {
        self.router_dir().join("secrets")
    }

    /// The router's store.
    pub fn router_store(&self) -> PathBuf {
        self.router_dir().join("router.db")
    }

    /// The configuration file of this kind in the home.
    pub fn config_file(&self, kind: FileKind) -> PathBuf {
        self.root.join(kind.file_name())
    }
}

/// The file to use: the one asked for, else `conduit.toml` in `working_dir`, else the home's; `None` when
/// nobody asked and neither exists. One that was asked for need not exist: reading it says so.
pub fn find_client_file(
    explicit: Option<&Path>,
    working_dir: &Path,
    home: &Home,
) -> Option<PathBuf> {
    if let Some(path) = explicit {
        return Some(path.to_owned());
    }
    let name = FileKind::Client.file_name();
    [working_dir.join(name), home.root().join(name)].into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn conduit_home_wins_over_the_users_home() {
        let environment = Environment::capture([("CONDUIT_HOME", "/a/b"), ("HOME", "/home/u")]);
        let home = Home::from_environment(&environment).expect("a home");
        assert_eq!(home, Home::at("/a/b"));
        assert_eq!(home.router_key(), Path::new("/a/b/router/router.key"));
    }

    #[cfg(unix)]
    #[test]
    fn without_conduit_home_it_lies_in_the_users_home() {
        let environment = Environment::capture([("HOME", "/home/u")]);
        let home = Home::from_environment(&environment).expect("a home");
        assert_eq!(home.root(), Path::new("/home/u/.conduit"));
        let nowhere = Environment::capture([("HOME", "relative")]);
        assert!(matches!(Home::from_environment(&nowhere), Err(HomeError::Unknown)));
    }

    #[test]
    fn the_file_asked_for_comes_first_then_here_then_home() {
        let here = tempfile::tempdir().expect("a folder");
        let there = tempfile::tempdir().expect("a folder");
        let home = Home::at(there.path());
        let find = |explicit| find_client_file(explicit, here.path(), &home);
        assert_eq!(find(None), None);
        std::fs::write(there.path().join("conduit.toml"), "").expect("written");
        assert_eq!(find(None), Some(there.path().join("conduit.toml")));
        std::fs::write(here.path().join("conduit.toml"), "").expect("written");
        assert_eq!(find(None), Some(here.path().join("conduit.toml")));
        let absent = Path::new("/no/such.toml");
        assert_eq!(find(Some(absent)), Some(absent.to_owned()));
    }
}
