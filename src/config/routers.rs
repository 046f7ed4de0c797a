//! `routers.toml`: the routers that this client is enrolled at, remembered by the enrolment.

use std::fmt::Write as _;
use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::document::parse;
use super::error::{ConfigErrors, Problem};
use super::home::Home;
use super::source::{MAX_FILE, Source};
use super::value::toml_string;
use crate::files::{FileError, create_private_dir, read_private, replace};
use crate::tunnel::{HostPort, Identity, Name};

/// A router that knows this client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledRouter {
    /// What it is called here.
    pub name: Name,
    /// Where it is reached, the preferred address first.
    pub addresses: Vec<HostPort>,
    /// Its pin.
    pub identity: Identity,
}

/// The enrolled routers, in the order of enrolment; identities and names are unique.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routers {
    routers: Vec<EnrolledRouter>,
}

/// Why `routers.toml` could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RoutersError {
    /// The file or its folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// What stands in it.
    #[error(transparent)]
    Content(#[from] ConfigErrors),
    /// Another process holds the lock, or it cannot be taken.
    #[error("cannot lock {path}: {source}")]
    Lock {
        /// The lock file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Routers {
    /// Reads the home's file; without one, nothing is enrolled.
    pub fn read(home: &Home) -> Result<Self, RoutersError> {
        let path = home.routers_file();
        match read_private(&path, MAX_FILE) {
            Ok(bytes) => Ok(Self::from_bytes(&path, bytes)?),
            Err(error) if error.is_not_found() => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes the home's file: reads it, lets `change` work on it and replaces it in one step. Two
    /// processes that enrol at the same time wait for each other.
    pub fn update<T>(home: &Home, change: impl FnOnce(&mut Self) -> T) -> Result<T, RoutersError> {
        create_private_dir(home.root())?;
        let lock_path = home.root().join("routers.lock");
        let lock_error = |source| RoutersError::Lock { path: lock_path.clone(), source };
        let mut options = std::fs::OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let lock = options.open(&lock_path).map_err(lock_error)?;
        lock.lock().map_err(lock_error)?;
        let mut routers = Self::read(home)?;
        let before = routers.clone();
        let outcome = change(&mut routers);
        if routers != before {
            replace(&home.routers_file(), routers.to_toml().as_bytes())?;
        }
        Ok(outcome)
    }

    /// The routers, in the order of enrolment.
    pub fn iter(&self) -> impl Iterator<Item = &EnrolledRouter> {
        self.routers.iter()
    }

    /// The router, when exactly one is enrolled.
    pub fn only(&self) -> Option<&EnrolledRouter> {
        match self.routers.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The router with this pin.
    pub fn by_identity(&self, identity: &Identity) -> Option<&EnrolledRouter> {
        self.routers.iter().find(|router| router.identity == *identity)
    }

    /// The router that is reached at this address.
    pub fn by_address(&self, addr: &HostPort) -> Option<&EnrolledRouter> {
        self.routers.iter().find(|router| router.addresses.contains(addr))
    }

    /// Remembers a router. One with the same pin is updated and keeps its name; an address that another
    /// router had belongs to the new one from now on; a name that is taken gets `-2`, `-3` and so on.
    pub fn remember(&mut self, router: EnrolledRouter) {
        let EnrolledRouter { name, addresses, identity } = router;
        for other in self.routers.iter_mut().filter(|other| other.identity != identity) {
            other.addresses.retain(|addr| !addresses.contains(addr));
        }
        if let Some(known) = self.routers.iter_mut().find(|known| known.identity == identity) {
            known.addresses = addresses;
        } else {
            let name = self.free_name(name);
            self.routers.push(EnrolledRouter { name, addresses, identity });
        }
        // Without an address it could not be reached, nor written.
        self.routers.retain(|router| !router.addresses.is_empty());
    }

    /// Forgets the router with this pin; whether it was known.
    pub fn forget(&mut self, identity: &Identity) -> bool {
        let before = self.routers.len();
        self.routers.retain(|router| router.identity != *identity);
        self.routers.len() != before
    }

    fn free_name(&self, wanted: Name) -> Name {
        let taken = |name: &Name| self.routers.iter().any(|router| router.name == *name);
        if !taken(&wanted) {
            return wanted;
        }
        let base: String = wanted.as_str().chars().take(Name::MAX - 6).collect();
        (2..=self.routers.len() + 2)
            .filter_map(|number| format!("{base}-{number}").parse::<Name>().ok())
            .find(|name| !taken(name))
            .unwrap_or(wanted)
    }

    fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ConfigErrors> {
        let source = Source::from_bytes(path, bytes)?;
        let table = parse(&source)?;
        let mut routers = Self::default();
        let mut problems = Vec::new();
        for (key, value) in &table {
            if key.get_ref() != "routers" {
                let place = source.place(key.span().start);
                let message = "unknown key: this file has tables [[routers]] only";
                problems.push(Problem::new(place, message));
                continue;
            }
            let items = value.get_ref().as_array().map(|items| items.iter()).unwrap_or_default();
            for item in items {
                match read_router(item) {
                    Ok(router) => routers.remember(router),
                    Err((at, message)) => problems.push(Problem::new(source.place(at), message)),
                }
            }
        }
        ConfigErrors::check(problems)?;
        Ok(routers)
    }

    fn to_toml(&self) -> String {
        let mut out = String::from(HEADER);
        for router in &self.routers {
            let addresses: Vec<String> =
                router.addresses.iter().map(|addr| toml_string(&addr.to_string())).collect();
            let _ = write!(
                out,
                "\n[[routers]]\nname = {}\naddresses = [{}]\nidentity = {}\n",
                toml_string(router.name.as_str()),
                addresses.join(", "),
                toml_string(&router.identity.to_string()),
            );
        }
        out
    }
}

/// Reads one table; the error is a byte offset and a message.
fn read_router(item: &Spanned<DeValue<'_>>) -> Result<EnrolledRouter, (usize, String)> {
    let at = item.span().start;
    let part = |key: &str| {
        item.get_ref().get(key).ok_or_else(|| (at, format!("routers.{key} is missing")))
    };
    let addresses = part("addresses")?;
    let items = addresses.get_ref().as_array().map(|items| items.iter()).unwrap_or_default();
    let addresses_read =
        items.map(|addr| text::<HostPort>("addresses", addr)).collect::<Result<Vec<_>, _>>()?;
    if addresses_read.is_empty() {
        let message = "routers.addresses: legal is a list of HOST:PORT".to_owned();
        return Err((addresses.span().start, message));
    }
    Ok(EnrolledRouter {
        name: text("name", part("name")?)?,
        addresses: addresses_read,
        identity: text("identity", part("identity")?)?,
    })
}

fn text<T>(key: &str, value: &Spanned<DeValue<'_>>) -> Result<T, (usize, String)>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let wrong = |why: String| (value.span().start, format!("routers.{key}: {why}"));
    let text = value.get_ref().as_str().ok_or_else(|| wrong("legal is a text".to_owned()))?;
    text.parse().map_err(|error: T::Err| wrong(error.to_string()))
}

const HEADER: &str = "# The routers that this client is enrolled at. Written by conduit.\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn router(name: &str, addr: &str, key: u8) -> EnrolledRouter {
        EnrolledRouter {
            name: name.parse().expect("a name"),
            addresses: vec![addr.parse().expect("an address")],
            identity: Identity::from_bytes([key; 32]),
        }
    }

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::at(folder.path().join("home"));
        (folder, home)
    }

    #[test]
    fn what_was_remembered_is_read_back() {
        let (_folder, home) = home();
        assert_eq!(Routers::read(&home).expect("nothing yet"), Routers::default());
        let first = router("gw", "203.0.113.7:9999", 1);
        let second = router("gw", "[2001:db8::1]:9999", 2);
        Routers::update(&home, |routers| routers.remember(first.clone())).expect("written");
        assert_eq!(Routers::read(&home).expect("read").only(), Some(&first));
        Routers::update(&home, |routers| routers.remember(second.clone())).expect("written");
        let routers = Routers::read(&home).expect("read");
        assert_eq!(routers.only(), None);
        let names: Vec<_> = routers.iter().map(|router| router.name.as_str()).collect();
        assert_eq!(names, ["gw", "gw-2"]);
        assert_eq!(
            routers.by_address(&second.addresses[0]).map(|r| r.identity),
            Some(second.identity)
        );
    }

    #[test]
    fn a_moved_router_keeps_its_name_and_takes_its_address_from_a_former_one() {
        let mut routers = Routers::default();
        routers.remember(router("old", "203.0.113.7:9999", 1));
        routers.remember(router("moved", "203.0.113.8:9999", 2));
        routers.remember(router("another", "203.0.113.7:9999", 2));
        let left = routers.only().expect("the old one has no address any more");
        assert_eq!(*left, router("moved", "203.0.113.7:9999", 2));
        assert!(routers.forget(&left.identity.clone()));
    }

    #[test]
    fn enrolments_at_the_same_time_lose_nothing() {
        let (_folder, home) = home();
        std::thread::scope(|scope| {
            for number in 0..8_u8 {
                let home = &home;
                scope.spawn(move || {
                    let one = router("gw", &format!("10.0.0.{number}:1"), number);
                    Routers::update(home, |routers| routers.remember(one)).expect("written");
                });
            }
        });
        assert_eq!(Routers::read(&home).expect("read").iter().count(), 8);
    }

    #[test]
    fn a_broken_file_names_the_line() {
        for (text, place) in [
            ("x = 1\n", "r.toml:1:1: "),
            ("[[routers]]\nname = \"a\"\n", "r.toml:1:1: routers.addresses is missing"),
            ("[[routers]]\nname = \"a/b\"\naddresses = [\"h:1\"]\nidentity = \"\"", "r.toml:2:8: "),
            ("[[routers]]\nname = \"a\"\naddresses = [\"h\"]\nidentity = \"\"", "r.toml:3:14: "),
            (
                "[[routers]]\nname = \"a\"\naddresses = [\"h:1\"]\nidentity = \"cdk1_\"",
                "r.toml:4:12: ",
            ),
            ("[[routers]\n", "r.toml:1:"),
        ] {
            let errors = Routers::from_bytes(Path::new("r.toml"), text.into()).expect_err(text);
            assert!(errors.to_string().starts_with(place), "{errors}");
        }
    }
}
