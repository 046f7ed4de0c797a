//! What can be wrong with a file, and the line that puts it right.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file or folder was not read, created or replaced.
///
/// Every message names the path and, where a command helps, the command.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is nothing at the path.
    #[error("{} does not exist", shown(.path))]
    NotFound {
        /// What was looked for.
        path: PathBuf,
    },
    /// Something is at the path, and it is left as it is.
    #[error("{} exists already and is not overwritten", shown(.path))]
    AlreadyExists {
        /// What was to be created.
        path: PathBuf,
    },
    /// The mode lets other users in.
    #[error("{} can be used by other users (mode {mode:04o}): run `chmod {wanted:o} {}`", shown(.path), quoted(.path))]
    Mode {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits it should have: 0600 or 0700.
        wanted: u32,
    },
    /// Others can write the folder that a private file is in, and so put another file in its place.
    #[error("{} can be written by other users (mode {mode:04o}), who could replace {}: {}", shown(.folder), shown(.path), folder_advice(.folder, *.mode))]
    FolderMode {
        /// The private file.
        path: PathBuf,
        /// The folder it is in.
        folder: PathBuf,
        /// The folder's permission bits.
        mode: u32,
    },
    /// Another user owns it.
    #[error("{} belongs to uid {owner}, not to the uid {me} that Conduit runs as: run `chown {me} {q} && chmod {wanted:o} {q}`", shown(.path), q = quoted(.path))]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// The user id that owns it.
        owner: u32,
        /// The user id of this process.
        me: u32,
        /// The permission bits it should have: 0600 or 0700.
        wanted: u32,
    },
    /// It is a symbolic link.
    #[error("{} is a symbolic link: name what it points to, and run `chmod {wanted:o}` on that", shown(.path))]
    Symlink {
        /// The link.
        path: PathBuf,
        /// The permission bits that the link's target should have: 0600 or 0700.
        wanted: u32,
    },
    /// It has more than one name; the others may be where other users can reach them.
    #[error("{} has {links} names (hard links): run `cp -p {q} {q}.new && mv {q}.new {q} && chmod 600 {q}`", shown(.path), q = quoted(.path))]
    HardLink {
        /// The file.
        path: PathBuf,
        /// How many names it has.
        links: u64,
    },
    /// It is something else than what was expected: a FIFO, a folder, a socket.
    #[error("{} is a {found}, not a {wanted}", shown(.path))]
    Kind {
        /// What was opened.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// The file is larger than anything of its sort.
    #[error("{} is larger than {max} bytes: is it the right file?", shown(.path))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in bytes.
        max: u64,
    },
    /// The disk or the quota is full; what was there before is untouched.
    #[error("no space left to write {}: free some and try again", shown(.path))]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    #[error("cannot {doing} {}: the file system is read-only", shown(.path))]
    ReadOnly {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
    },
    /// The operating system forbids it.
    #[error("not permitted to {doing} {}: look at its owner and mode with `ls -ld {}`", shown(.path), quoted(.path))]
    Denied {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
    },
    /// Anything else.
    #[error("cannot {doing} {}: {source}", shown(.path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

impl FileError {
    /// The path that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::NotFound { path }
            | Self::AlreadyExists { path }
            | Self::Mode { path, .. }
            | Self::FolderMode { path, .. }
            | Self::Owner { path, .. }
            | Self::Symlink { path, .. }
            | Self::HardLink { path, .. }
            | Self::Kind { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Full { path }
            | Self::ReadOnly { path, .. }
            | Self::Denied { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    /// Whether there was nothing at the path.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether something was at a path that should have been free.
    pub fn already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }

    /// Whether the file could be read but was not trusted: mode, owner, link, or the folder around it.
    pub fn is_unsafe(&self) -> bool {
        matches!(
            self,
            Self::Mode { .. }
                | Self::FolderMode { .. }
                | Self::Owner { .. }
                | Self::Symlink { .. }
                | Self::HardLink { .. }
        )
    }

    /// Sorts an error of the operating system; `doing` is a verb as in "cannot *read* PATH".
    pub(super) fn from_io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, doing },
            io::ErrorKind::PermissionDenied => Self::Denied { path, doing },
            _ => Self::Io { path, doing, source },
        }
    }
}

/// A path for people: as it is, or escaped when it holds something that a terminal would act on.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().any(|c| c.is_control() || is_bidirectional(c)) {
        return format!("{text:?}");
    }
    text.into_owned()
}

/// A path for a shell.
fn quoted(path: &Path) -> String {
    let text = shown(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+,@:~=".contains(c);
    if !text.starts_with(['-', '~']) && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A folder like `/tmp` is shared on purpose: there the file has to move, not the mode.
fn folder_advice(folder: &Path, mode: u32) -> String {
    if mode & STICKY != 0 {
        return "move it into a folder of your own, made with `mkdir -m 700 NAME`".to_owned();
    }
    format!("run `chmod go-w {}`", quoted(folder))
}

/// Characters that reorder the text around them.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The bit of a folder's mode that keeps users from renaming each other's files in it.
const STICKY: u32 = 0o1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_run_survives_a_shell() {
        for (path, line) in [
            ("/home/a/client.key", "`chmod 600 /home/a/client.key`"),
            ("/home/a b/it's", r"`chmod 600 '/home/a b/it'\''s'`"),
        ] {
            let error = FileError::Mode { path: path.into(), mode: 0o644, wanted: 0o600 };
            assert!(error.to_string().ends_with(line), "{error}");
            assert!(error.to_string().contains("mode 0644"), "{error}");
        }
    }

    #[test]
    fn a_path_cannot_write_to_the_terminal() {
        let error = FileError::NotFound { path: "/a\u{1b}[2J\n\u{202e}b".into() };
        let text = error.to_string();
        assert!(!text.chars().any(|c| c.is_control() || is_bidirectional(c)), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_full_disk_and_a_read_only_one_are_named() {
        use rustix::io::Errno;
        let sort = |errno: Errno| FileError::from_io(Path::new("/x"), "write", errno.into());
        assert!(matches!(sort(Errno::NOSPC), FileError::Full { .. }));
        assert!(matches!(sort(Errno::DQUOT), FileError::Full { .. }));
        assert!(matches!(sort(Errno::ROFS), FileError::ReadOnly { .. }));
        assert!(matches!(sort(Errno::ACCESS), FileError::Denied { .. }));
        assert!(matches!(sort(Errno::IO), FileError::Io { .. }));
    }
}
