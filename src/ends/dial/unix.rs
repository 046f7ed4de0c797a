//! Dialling a Unix socket: find out what the path leads to, ask about that, connect to that.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Candidate, DialError, DialSettings};
use crate::policy::Decision;
use crate::tunnel::{Target, UnixPath};

/// [`super::dial`] for a Unix socket.
pub(super) async fn dial(
    path: &UnixPath,
    decide: impl Fn(Candidate<'_>) -> Decision,
    settings: &DialSettings,
) -> Result<UnixStream, DialError> {
    let target = || Target::Unix(path.clone());
    let reaching = async {
        let canonical = canonical(path.path())
            .await
            .map_err(|source| DialError::new(target(), settings, source))?;
        if let Decision::Denied(denial) = decide(Candidate::Unix(&canonical)) {
            return Err(DialError::Denied { target: target(), denial });
        }
        connect(canonical.path()).await.map_err(|source| DialError::new(target(), settings, source))
    };
    let timed_out = |_| DialError::TimedOut { target: target(), after: settings.timeout };
    timeout(settings.timeout, reaching).await.map_err(timed_out)?
}

/// The path without symbolic links. What it leads to may be too long, or have a name that no rule could list.
async fn canonical(path: &Path) -> io::Result<UnixPath> {
    let canonical = tokio::fs::canonicalize(path).await?;
    let text = canonical.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    text.parse().map_err(io::Error::other)
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            // The other side's queue is full. Over TCP the system waits for room; here nobody does.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            connected => return connected,
        }
    }
}

/// Between two tries at a service that is behind with accepting.
const FULL_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use socket2::{Domain, SockAddr, Socket, Type};
    use tempfile::TempDir;
    use tokio::net::UnixListener;

    use super::*;
    use crate::ends::{Stream, dial};
    use crate::policy::Denial;

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = fs::canonicalize(folder.path()).expect("a path without links");
        (folder, path)
    }

    fn target(path: &Path) -> Target {
        format!("unix:{}", path.display()).parse().expect("a target")
    }

    async fn reach(path: &Path, decision: Decision) -> Result<Stream, DialError> {
        let settings =
            DialSettings { timeout: Duration::from_millis(400), ..DialSettings::default() };
        dial(&target(path), |_| decision, &settings).await
    }

    #[tokio::test]
    async fn what_a_link_leads_to_is_asked_about_and_dialled() {
        let (_held, folder) = folder();
        let (path, link) = (folder.join("app.sock"), folder.join("link.sock"));
        let listener = UnixListener::bind(&path).expect("bound");
        symlink(&path, &link).expect("linked");
        let asked = RefCell::new(Vec::new());
        let decide = |candidate: Candidate<'_>| {
            asked.borrow_mut().push(candidate.to_string());
            Decision::Allowed
        };
        let stream = dial(&target(&link), decide, &DialSettings::default()).await;
        assert!(matches!(stream, Ok(Stream::Unix(_))), "{stream:?}");
        assert_eq!(*asked.borrow(), [format!("unix:{}", path.display())]);
        listener.accept().await.expect("accepted");
    }

    #[tokio::test]
    async fn a_denied_socket_is_never_connected_to() {
        let (_held, folder) = folder();
        let path = folder.join("app.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        listener.set_nonblocking(true).expect("non-blocking");
        let error = reach(&path, Decision::Denied(Denial::NotListed)).await.expect_err("denied");
        assert!(matches!(error, DialError::Denied { denial: Denial::NotListed, .. }), "{error}");
        assert!(listener.accept().is_err(), "somebody connected");
    }

    #[tokio::test]
    async fn a_path_that_leads_nowhere_says_so() {
        let (_held, folder) = folder();
        let missing = folder.join("none.sock");
        let error = reach(&missing, Decision::Allowed).await.expect_err("missing");
        assert!(matches!(error, DialError::NotFound { .. }), "{error}");
        let start = format!("cannot find unix:{}: ", missing.display());
        assert!(error.to_string().starts_with(&start), "{error}");

        let dead = folder.join("dead.sock");
        drop(UnixListener::bind(&dead).expect("a socket that stays behind"));
        let error = reach(&dead, Decision::Allowed).await.expect_err("dead");
        assert!(matches!(error, DialError::Refused { .. }), "{error}");

        let long = folder.join("x".repeat(UnixPath::MAX));
        fs::write(&long, "").expect("written");
        let link = folder.join("link");
        symlink(&long, &link).expect("linked");
        let error = reach(&link, Decision::Allowed).await.expect_err("too long");
        assert!(matches!(error, DialError::Other { .. }), "{error}");
    }

    #[tokio::test]
    #[cfg(target_os = "linux")] // Elsewhere a full queue refuses.
    async fn a_full_queue_is_waited_for_up_to_the_limit() {
        let (_held, folder) = folder();
        let path = folder.join("app.sock");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        listener.bind(&SockAddr::unix(&path).expect("a path")).expect("bound");
        listener.listen(0).expect("listens");
        let mut waiting = Vec::new();
        let error = loop {
            match reach(&path, Decision::Allowed).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DialError::TimedOut { .. }), "{error}");
        let (accepted, reached) = tokio::join!(
            tokio::task::spawn_blocking(move || listener.accept().map(|_| listener)),
            reach(&path, Decision::Allowed)
        );
        accepted.expect("no panic").expect("accepted");
        reached.expect("there is room now");
    }
}
