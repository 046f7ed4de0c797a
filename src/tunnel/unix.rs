//! Paths of Unix sockets, as an end of a tunnel.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The path of a Unix socket; its text is `unix:/run/app.sock`.
///
/// Absolute, in one spelling only (no `.`, no `..`, no doubled slash), at most [`UnixPath::MAX`] bytes. Whether it is
/// a symbolic link is for whoever opens it to find out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixPath(String);

/// Why a text is not the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnixPathError {
    /// The path does not start with a slash.
    #[error("{0:?} is not absolute: write the whole path, as in unix:/run/app.sock")]
    Relative(String),
    /// The path has a part that leads nowhere, or back.
    #[error("{0:?} has an empty part, `.` or `..`: write the path without them")]
    Detour(String),
    /// A character that no path has, or that no terminal should see.
    #[error("{0:?} has a character that a socket's path must not have")]
    Character(String),
    /// The system could not open it.
    #[error("a socket's path has at most {max} bytes, this one has {0}", max = UnixPath::MAX)]
    Length(usize),
}

impl UnixPath {
    /// What a text starts with that names a Unix socket.
    pub const PREFIX: &'static str = "unix:";
    /// The longest path in bytes: `sun_path` has 104 on macOS, with the final zero.
    pub const MAX: usize = 103;

    /// The path itself.
    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl FromStr for UnixPath {
    type Err = UnixPathError;

    /// Reads the path, without its prefix.
    fn from_str(path: &str) -> Result<Self, UnixPathError> {
        let shown = || path.chars().take(Self::MAX).collect::<String>();
        let Some(parts) = path.strip_prefix('/') else {
            return Err(UnixPathError::Relative(shown()));
        };
        if path.chars().any(char::is_control) {
            return Err(UnixPathError::Character(shown()));
        }
        if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(UnixPathError::Detour(shown()));
        }
        if path.len() > Self::MAX {
            return Err(UnixPathError::Length(path.len()));
        }
        Ok(Self(path.to_owned()))
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{}", Self::PREFIX, self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        let path: UnixPath = "/run/app.sock".parse().expect("a path");
        assert_eq!(path.to_string(), "unix:/run/app.sock");
        for (text, part) in [
            ("", "absolute"),
            ("run/app.sock", "absolute"),
            ("./app.sock", "absolute"),
            ("/", "empty part"),
            ("/run//app.sock", "empty part"),
            ("/run/../etc/app.sock", "`..`"),
            ("/run/./app.sock", "`.`"),
            ("/run/app.sock/", "empty part"),
            ("/run/a\0b", "character"),
            ("/run/a\nb", "character"),
        ] {
            let error = text.parse::<UnixPath>().expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        let long = format!("/{}", "x".repeat(UnixPath::MAX));
        assert_eq!(long.parse::<UnixPath>(), Err(UnixPathError::Length(104)));
    }
}
