//! A test in namespaces of its own: it may mount, and its loopback is nobody else's.

use std::time::Duration;

use super::Run;

/// Runs `body` in new user, mount, process and network namespaces with the loopback interface up, by running this very
/// test (`name`, with its module) again in there. `body` may use `mount`, and any port. Whatever it leaves behind ends
/// with the namespaces, and what it prints is printed.
pub(crate) fn in_namespace(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    super::require("ip");
    super::require("mount");
    let mut unshare = Run::program("unshare").args(["--mount", "--net", "--pid", "--mount-proc"]);
    // Without the first process of a process namespace none of the others lives.
    unshare = unshare.args(["--fork", "--kill-child=SIGKILL"]);
    if !rustix::process::geteuid().is_root() {
        unshare = unshare.args(["--user", "--map-root-user"]);
    }
    if let Some(full) = std::env::var_os("CONDUIT_FULL") {
        unshare = unshare.env("CONDUIT_FULL", full);
    }
    let test = std::env::current_exe().expect("this program");
    // What is mounted inside cannot be removed from inside; out here it is gone with its namespace.
    let folder = tempfile::tempdir().expect("a folder");
    // The shell stays: as the first process it collects those that lost their parent.
    let script = "ip link set lo up && \"$0\" --exact \"$1\" --nocapture; exit $?";
    let outcome = unshare
        .args(["sh", "-c", script])
        .arg(test)
        .arg(name)
        .env(INSIDE, "1")
        .env("TMPDIR", folder.path())
        .limit(LIMIT)
        .ends();
    assert!(outcome.stdout.contains("1 passed"), "{outcome}");
    // Its figures.
    print!("{}", outcome.stdout);
}

/// Set for the inner run. No name of Conduit's own: those are removed for what the test starts.
const INSIDE: &str = "E2E_INSIDE_NAMESPACE";
/// For the longest figure of `CONDUIT_FULL=1` and its way there.
const LIMIT: Duration = Duration::from_secs(240);
