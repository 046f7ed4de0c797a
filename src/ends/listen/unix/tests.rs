//! Listening on real Unix sockets, and what else may be in their place.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener as Held;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::*;
use crate::ends::Listener;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    (folder, path)
}

fn bind(path: &Path) -> Result<Listener, ListenError> {
    Listener::bind(&format!("unix:{}", path.display()).parse().expect("a bind"), 16)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_unix_socket_is_private_and_tells_who_connects() {
    let (_folder, path) = place();
    let listener = bind(&path).expect("bound");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(listener.local_bind().to_string(), format!("unix:{}", path.display()));
    let mut user = UnixStream::connect(&path).await.expect("connected");
    let (stream, peer) = listener.accept().await;
    let uid = rustix::process::geteuid().as_raw();
    assert!(matches!(peer, Peer::Unix { uid: Some(seen), .. } if seen == uid), "{peer}");
    if cfg!(target_os = "linux") {
        assert_eq!(peer.to_string(), format!("unix pid {} uid {uid}", std::process::id()));
    }
    drop(stream);
    assert_eq!(user.read(&mut [0]).await.expect("the end"), 0);
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_one_is_in_use() {
    let (_folder, path) = place();
    drop(Held::bind(&path).expect("a socket that stays behind"));
    assert!(path.exists());
    let living = bind(&path).expect("the dead one makes way");
    let error = bind(&path).expect_err("in use");
    assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().expect("UTF-8")), "{error}");
    UnixStream::connect(&path).await.expect("it still listens");
    drop(living);
    assert!(!path.exists(), "a listener takes its file along");
}

#[tokio::test]
async fn a_listener_that_does_not_accept_is_alive_all_the_same() {
    let (_folder, path) = place();
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::unix(&path).expect("a path")).expect("bound");
    socket.listen(0).expect("listens");
    // Its queue is full: Linux says EAGAIN and not ECONNREFUSED.
    let waiting: Vec<_> = (0..4).map(|_| knock(&path)).collect();
    let error = bind(&path).expect_err("in use");
    assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    drop(waiting);
}

#[tokio::test]
async fn what_is_no_socket_stays_as_it_is() {
    let (folder, path) = place();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").expect("written");
    let dead = folder.path().join("dead.sock");
    drop(Held::bind(&dead).expect("a socket that stays behind"));

    for target in [&precious, &dead] {
        symlink(target, &path).expect("linked");
        let error = bind(&path).expect_err("a link").to_string();
        assert!(error.contains("a symbolic link is there"), "{error}");
        fs::remove_file(&path).expect("the link is still there");
        assert!(target.exists());
    }
    fs::create_dir(&path).expect("a folder");
    let error = bind(&path).expect_err("a folder").to_string();
    assert!(error.contains("a folder is there"), "{error}");
    let error = bind(&precious).expect_err("a file").to_string();
    assert!(error.contains("a file that is no socket is there"), "{error}");
    assert_eq!(fs::read_to_string(&precious).expect("still there"), "precious");
    let error = bind(&folder.path().join("none/app.sock")).expect_err("no folder");
    assert!(matches!(error, ListenError::NoFolder { .. }), "{error}");
}

#[tokio::test]
async fn only_the_own_file_is_removed() {
    let (_folder, path) = place();
    let listener = bind(&path).expect("bound");
    fs::remove_file(&path).expect("removed by somebody");
    let other = bind(&path).expect("the place is free");
    drop(listener);
    UnixStream::connect(&path).await.expect("the other one still has its file");
    fs::remove_file(&path).expect("removed by somebody");
    fs::write(&path, "notes").expect("written");
    drop(other);
    assert_eq!(fs::read_to_string(&path).expect("still there"), "notes");
}

#[tokio::test]
async fn of_many_at_once_one_gets_a_dead_sockets_place() {
    let (_folder, path) = place();
    let runtime = tokio::runtime::Handle::current();
    for _ in 0..20 {
        drop(Held::bind(&path).expect("a socket that stays behind"));
        let bound: Vec<_> = std::thread::scope(|scope| {
            let bind = || {
                let _within = runtime.enter();
                bind(&path).ok()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(bound.len(), 1);
        knock(&path).expect("the one that is bound is the one that is found");
    }
}
