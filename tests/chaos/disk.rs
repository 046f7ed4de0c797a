//! A disk that forgets: what strace saw a program do to a folder, step by step, and what a power cut would have left of it.
//!
//! A file system promises nothing but this: bytes of a file are kept once the file was synced, and names of a folder once
//! the folder was. Whatever else was done may be kept or not. Of each step there are four outcomes here: names kept or
//! forgotten, bytes kept or forgotten. With both kept it is a process that was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a folder holds: folders are `None`.
pub(crate) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// System calls that matter, for `strace -e trace=…`.
pub(crate) const CALLS: &str = "open,openat,creat,write,writev,pwrite64,pwritev,fsync,fdatasync,sync_file_range,\
    rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,truncate,ftruncate,\
    sendto,sendmsg,sendmmsg";

/// What may be left at one moment.
pub(crate) struct Moment {
    /// The line of strace after which it is.
    pub(crate) after: String,
    /// The different outcomes, the most forgetful one first.
    pub(crate) outcomes: Vec<Tree>,
    /// Whether somebody outside was told something by then: a user on stdout, or a peer.
    pub(crate) told: Told,
}

/// Who has been told.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) user: bool,
    pub(crate) peer: bool,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

/// A folder and everything below it.
struct Disk {
    root: PathBuf,
    files: Vec<File>,
    names: BTreeMap<PathBuf, Option<usize>>,
    synced: BTreeMap<PathBuf, Option<usize>>,
    told: Told,
}

/// One system call that succeeded.
struct Call<'a> {
    name: &'a str,
    /// What its descriptor is open at.
    at: Option<(u32, PathBuf)>,
    strings: Vec<Vec<u8>>,
    last: u64,
    text: &'a str,
}

/// Every moment of a trace (`strace -f -y -xx`) that leaves something which no earlier one left, from `before` on.
pub(crate) fn moments(root: &Path, before: &Tree, trace: &str) -> Vec<Moment> {
    let mut disk = Disk::new(root, before);
    let (mut seen, mut moments) = (BTreeSet::new(), Vec::new());
    for line in whole_lines(trace) {
        let Some(call) = Call::parse(&line) else { continue };
        let told = disk.told;
        let is_changed = disk.takes(&call);
        let is_said = disk.told != told;
        if !is_changed && !is_said {
            continue;
        }
        let mut outcomes = disk.outcomes();
        // What was good enough before may be too little once somebody relies on it.
        outcomes.retain(|outcome| seen.insert(outcome.clone()) || is_said);
        if !outcomes.is_empty() {
            moments.push(Moment { after: line, outcomes, told: disk.told });
        }
    }
    disk.nothing_is_left_to_sync();
    moments
}

/// Reads a folder.
pub(crate) fn tree_of(root: &Path) -> Tree {
    let mut tree = Tree::new();
    for path in crate::world::files_below(root) {
        let kind = fs::symlink_metadata(&path).expect("its kind");
        let content = kind.is_file().then(|| fs::read(&path).expect("its bytes"));
        // Sockets and links are of a moment.
        if kind.is_file() || kind.is_dir() {
            tree.insert(path.strip_prefix(root).expect("below").to_owned(), content);
        }
    }
    tree
}

/// Makes a folder hold exactly this; the folder itself stays.
pub(crate) fn restore(root: &Path, tree: &Tree) {
    for entry in fs::read_dir(root).expect("the folder").flatten() {
        let removed = match entry.file_type().expect("its kind").is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        removed.expect("room");
    }
    for (name, content) in tree {
        let path = root.join(name);
        match content {
            None => {
                fs::create_dir(&path).expect("a folder");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("its mode");
            }
            Some(bytes) => {
                let mut options = fs::OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o600).open(&path);
                let file = file.as_mut().expect("a file");
                std::io::Write::write_all(file, bytes).expect("its bytes");
            }
        }
    }
}

impl Disk {
    fn new(root: &Path, before: &Tree) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            files: Vec::new(),
            names: BTreeMap::new(),
            synced: BTreeMap::new(),
            told: Told::default(),
        };
        for (name, content) in before {
            let file = content.as_ref().map(|bytes| {
                disk.files.push(File { bytes: bytes.clone(), synced: bytes.clone() });
                disk.files.len() - 1
            });
            disk.names.insert(name.clone(), file);
        }
        disk.synced = disk.names.clone();
        disk
    }

    /// Whether a call changed something here.
    fn takes(&mut self, call: &Call<'_>) -> bool {
        let paths: Vec<PathBuf> = call.strings.iter().filter_map(|it| self.below(it)).collect();
        match (call.name, &paths[..]) {
            ("open" | "openat" | "creat", [path]) => self.opened(path, call.text),
            ("mkdir" | "mkdirat", [path]) => self.names.insert(path.clone(), None).is_none(),
            ("unlink" | "unlinkat" | "rmdir", [path]) => self.names.remove(path).is_some(),
            ("rename" | "renameat" | "renameat2", [from, to]) => self.renamed(from, to),
            ("link" | "linkat", [from, to]) => {
                let file = self.names.get(from).copied().flatten();
                self.names.insert(to.clone(), file);
                true
            }
            ("sendto" | "sendmsg" | "sendmmsg", _) => {
                self.told.peer |= call.text.contains("AF_INET");
                false
            }
            ("write", _)
                if call
                    .at
                    .as_ref()
                    .is_some_and(|(number, at)| *number == 1 && !at.starts_with(&self.root)) =>
            {
                self.told.user = true;
                false
            }
            _ => self.changed(call),
        }
    }

    fn opened(&mut self, path: &Path, text: &str) -> bool {
        let known = self.names.get(path).copied();
        match known {
            Some(Some(file)) if text.contains("O_TRUNC") => self.files[file].bytes.clear(),
            None if text.contains("O_CREAT") => {
                self.files.push(File::default());
                self.names.insert(path.to_owned(), Some(self.files.len() - 1));
            }
            _ => return false,
        }
        true
    }

    fn renamed(&mut self, from: &Path, to: &Path) -> bool {
        let file =
            self.names.remove(from).unwrap_or_else(|| panic!("{} is unknown", from.display()));
        if let Some(file) = file.map(|file| &self.files[file])
            && !is_of_the_moment(to)
        {
            assert!(file.bytes == file.synced, "{} is put in place unsynced", to.display());
        }
        self.names.insert(to.to_owned(), file);
        true
    }

    /// A call on a descriptor.
    fn changed(&mut self, call: &Call<'_>) -> bool {
        let Some((_, at)) = &call.at else { return false };
        let Ok(at) = at.strip_prefix(&self.root).map(Path::to_owned) else { return false };
        let is_sync = matches!(call.name, "fsync" | "fdatasync");
        let Some(Some(file)) = self.names.get(&at).copied() else {
            // Of what has no name any more nothing is left.
            return is_sync && self.folder_is_synced(&at);
        };
        let file = &mut self.files[file];
        match call.name {
            _ if is_sync => file.synced.clone_from(&file.bytes),
            "ftruncate" => file.bytes.resize(call.last as usize, 0),
            "write" | "writev" => file.bytes.extend(call.strings.concat()),
            "pwrite64" | "pwritev" => {
                let (start, bytes) = (call.last as usize, call.strings.concat());
                let end = start + bytes.len();
                let length = file.bytes.len().max(end);
                file.bytes.resize(length, 0);
                file.bytes[start..end].copy_from_slice(&bytes);
            }
            _ => return false,
        }
        true
    }

    fn folder_is_synced(&mut self, folder: &Path) -> bool {
        let is_in = |path: &Path| path.parent() == Some(folder);
        self.synced.retain(|path, _| !is_in(path));
        let names = self.names.iter().filter(|(path, _)| is_in(path));
        self.synced.extend(names.map(|(path, file)| (path.clone(), *file)));
        true
    }

    /// A path in here.
    fn below(&self, path: &[u8]) -> Option<PathBuf> {
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        let below = path.strip_prefix(&self.root).ok()?;
        Some(below.to_owned()).filter(|below| !below.as_os_str().is_empty())
    }

    fn outcomes(&self) -> Vec<Tree> {
        let mut outcomes = Vec::new();
        for names in [&self.synced, &self.names] {
            for is_forgetful in [true, false] {
                let mut tree = Tree::new();
                // A folder comes before what is in it; what is in a folder that was forgotten is gone with it.
                for (path, file) in names {
                    let parent = path.parent().expect("a relative path");
                    if parent.as_os_str().is_empty() || tree.contains_key(parent) {
                        let bytes = |file: usize| match is_forgetful {
                            true => self.files[file].synced.clone(),
                            false => self.files[file].bytes.clone(),
                        };
                        tree.insert(path.clone(), file.map(bytes));
                    }
                }
                if !outcomes.contains(&tree) {
                    outcomes.push(tree);
                }
            }
        }
        outcomes
    }

    /// At the end all that is state is on the disk.
    fn nothing_is_left_to_sync(&self) {
        let state = |names: &BTreeMap<PathBuf, Option<usize>>| {
            let names = names.iter().filter(|(path, _)| !is_of_the_moment(path));
            names.map(|(path, file)| (path.clone(), *file)).collect::<Vec<_>>()
        };
        assert_eq!(state(&self.names), state(&self.synced), "names that a power cut changes");
        for (path, file) in state(&self.names) {
            let Some(file) = file.map(|file| &self.files[file]) else { continue };
            assert!(file.bytes == file.synced, "{} is not synced", path.display());
        }
    }
}

/// Locks, sockets and logs may be lost. SQLite puts its files in order when it opens them: they are for the commands to judge.
fn is_of_the_moment(path: &Path) -> bool {
    let name = path.to_string_lossy();
    let ends = [".lock", ".sock", ".log", ".new", ".db", "-shm", "-wal", "-journal"];
    ends.iter().any(|end| name.ends_with(end))
}

impl<'a> Call<'a> {
    /// Reads `4711  fsync(9<\x2f…>) = 0`; what failed changed nothing.
    fn parse(line: &'a str) -> Option<Self> {
        let (_, line) = line.split_once(char::is_whitespace)?;
        let (name, rest) = line.trim_start().split_once('(')?;
        let (text, result) = rest.rsplit_once(" = ")?;
        if result.starts_with('-') {
            return None;
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let at = text[digits..].strip_prefix('<').and_then(|rest| {
            let (path, _) = rest.split_once('>')?;
            let path = std::ffi::OsString::from_vec(unescaped(path));
            Some((text[..digits].parse().ok()?, PathBuf::from(path)))
        });
        let strings = text.split('"').skip(1).step_by(2).map(unescaped).collect();
        let last = text.trim_end().trim_end_matches(')').rsplit(", ").next().unwrap_or_default();
        Some(Self { name, at, strings, last: last.parse().unwrap_or_default(), text })
    }
}

/// `\x2f` and what stands for itself.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut parts = text.split("\\x");
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let (hex, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(hex, 16).expect("two digits"));
        bytes.extend(rest.bytes());
    }
    bytes
}

/// Lines in the order in which calls returned, those put together that another thread has cut in two.
fn whole_lines(trace: &str) -> Vec<String> {
    let (mut begun, mut lines) = (BTreeMap::new(), Vec::new());
    for line in trace.lines() {
        let thread = line.split_whitespace().next().unwrap_or_default();
        if let Some(start) = line.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, start);
        } else if let Some((_, end)) = line.split_once(" resumed>") {
            let start = begun.remove(thread).unwrap_or_default();
            lines.push(format!("{start}{end}"));
        } else {
            lines.push(line.to_owned());
        }
    }
    lines
}
