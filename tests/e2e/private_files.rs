//! H100 to H104: files and folders that others could read or change.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use crate::world::{Client, Outcome, Router, Service, World, echo, files_below};

/// A router and a client with a key that works.
fn cast(world: &World) -> (Router, Client) {
    let router = world.router();
    let client = world.client("C");
    let identity = client.conduit(&["init", "--quiet"]).succeeds().stdout.trim().to_owned();
    router.command(&["authorize", &identity, "--name", "known"]).succeeds();
    (router, client)
}

/// Refused, naming the file, at once.
#[track_caller]
fn refused(client: &Client, router: &Router, file: &str) -> Outcome {
    let outcome = client.pin(router, "127.0.0.1:9").ends();
    assert!(matches!(outcome.code, Some(1 | 77 | 78)), "{outcome}");
    outcome.says(file).took_at_most(Duration::from_secs(3))
}

#[test]
fn h100_a_key_that_others_can_read_is_refused_with_the_line_to_run() {
    let world = World::new();
    let (router, client) = cast(&world);
    let key = client.home().join("client.key");
    for mode in [0o644, 0o640, 0o660, 0o604, 0o666, 0o620] {
        chmod(&key, mode);
        refused(&client, &router, "client.key").says(&format!("chmod 600 {}", key.display()));
    }
    chmod(&key, 0o600);
    client.pin(&router, "127.0.0.1:9").succeeds();
}

#[test]
fn h101_a_home_that_others_can_enter_is_refused_with_the_line_to_run() {
    let world = World::new();
    let (router, client) = cast(&world);
    for mode in [0o777, 0o755, 0o770, 0o701] {
        chmod(client.home().path(), mode);
        let line = format!("chmod 700 {}", client.home().path().display());
        refused(&client, &router, "chmod").says(&line);
    }
    chmod(client.home().path(), 0o700);
    client.pin(&router, "127.0.0.1:9").succeeds();
    chmod(router.home().path(), 0o777);
    router.command(&["invite"]).ends().says("chmod 700");
}

#[test]
fn h102_links_and_fifos_in_place_of_a_key_are_refused_and_never_block() {
    let world = World::new();
    let (router, client) = cast(&world);
    let (key, real) = (client.home().join("client.key"), client.home().join("real.key"));
    fs::rename(&key, &real).expect("the key moved");
    symlink(&real, &key).expect("a symlink");
    refused(&client, &router, "client.key").says("link");
    fs::remove_file(&key).expect("no symlink");
    fs::hard_link(&real, &key).expect("a hard link");
    refused(&client, &router, "client.key").says("link");
    fs::remove_file(&key).expect("no hard link");
    rustix::fs::mkfifoat(rustix::fs::CWD, &key, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .expect("a FIFO");
    refused(&client, &router, "client.key");
    fs::remove_file(&key).expect("no FIFO");
    fs::create_dir(&key).expect("a folder");
    refused(&client, &router, "client.key");
    fs::remove_dir(&key).expect("no folder");
    fs::rename(&real, &key).expect("the key back");
    client.pin(&router, "127.0.0.1:9").succeeds();
}

#[test]
fn h103_files_of_another_user_are_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give files away; everybody else cannot make the case.
        let shadow = fs::metadata("/etc/shadow").expect("a file of root");
        assert_eq!(shadow.uid(), 0);
        let world = World::new();
        let (router, client) = cast(&world);
        let key = client.home().join("client.key");
        fs::remove_file(&key).expect("no key");
        symlink("/etc/shadow", &key).expect("a symlink");
        refused(&client, &router, "client.key");
        return;
    }
    let world = World::new();
    let (router, client) = cast(&world);
    let key = client.home().join("client.key");
    std::os::unix::fs::chown(&key, Some(65_534), None).expect("another owner");
    refused(&client, &router, "client.key");
    std::os::unix::fs::chown(&key, Some(0), None).expect("the owner");
    std::os::unix::fs::chown(client.home().path(), Some(65_534), None).expect("another owner");
    refused(&client, &router, client.home().path().to_str().expect("UTF-8"));
}

#[test]
fn h104_everything_that_is_created_is_its_owners_alone() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, tunnel) = world.tunnel_to(target.addr());
    echo(&tunnel.connect(), b"work").expect("the same bytes");
    client
        .conduit(&["init", "--dir", client.home().join("other").to_str().expect("UTF-8")])
        .succeeds();
    let mut seen = 0;
    for home in [router.home(), client.home()] {
        for path in files_below(home.path()) {
            let metadata = fs::symlink_metadata(&path).expect("its metadata");
            let mode = metadata.permissions().mode() & 0o7777;
            let public = path.extension().is_some_and(|e| e == "pub" || e == "toml");
            let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
            assert!(
                mode == expected || public && mode & 0o022 == 0,
                "{} has mode {mode:o}",
                path.display()
            );
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen}");
}

#[test]
fn h104_a_database_or_a_token_list_that_others_can_read_is_refused_by_the_router() {
    let world = World::new();
    let mut router = world.router();
    router.invite(&[]);
    router.dies();
    for file in ["router.db", "router.key", "secrets"] {
        let path = router.home().join("router").join(file);
        chmod(&path, 0o644);
        let outcome =
            router.command(&["--bind", "127.0.0.1:0"]).limit(Duration::from_secs(10)).ends();
        assert!(matches!(outcome.code, Some(1 | 77 | 78)), "{file}: {outcome}");
        outcome.says(file).says("chmod 600");
        chmod(&path, 0o600);
    }
    router.returns();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}
