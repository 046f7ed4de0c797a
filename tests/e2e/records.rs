//! H76 to H78: what may lie in the registry's folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use crate::world::{Service, World, echo, runs};

#[test]
fn h76_records_that_cannot_be_read_are_reported_and_left_alone() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let folder = client.home().join("tunnels");
    let good = fs::read_to_string(client.home().record_file(&tunnel.name)).expect("a record");
    let cases: [(&str, Vec<u8>); 7] = [
        ("empty-0001", Vec::new()),
        ("cut-0002", good.as_bytes()[..good.len() / 2].to_vec()),
        ("binary-0003", (0..=255).cycle().take(4_000).collect()),
        ("schema-0004", good.replace("conduit.record/1", "other.thing/1").into_bytes()),
        ("newer-0005", good.replace("conduit.record/1", "conduit.record/9").into_bytes()),
        ("other-0006", b"[1, 2, 3]".to_vec()),
        ("named-0007", good.clone().into_bytes()),
    ];
    let mut paths: Vec<_> = cases
        .iter()
        .map(|(name, content)| {
            let path = folder.join(format!("{name}.json"));
            fs::write(&path, content).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
            path
        })
        .collect();
    let special = |name: &str| folder.join(format!("{name}.json"));
    fs::File::create(special("huge-0008"))
        .expect("a file")
        .set_len(100 << 20)
        .expect("100 MiB, sparse");
    fs::set_permissions(special("huge-0008"), fs::Permissions::from_mode(0o600)).expect("its mode");
    symlink(client.home().record_file(&tunnel.name), special("link-0009")).expect("a symlink");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, special("fifo-000a"), mode).expect("a FIFO");
    fs::create_dir(special("folder-000b")).expect("a folder");
    paths.extend(["huge-0008", "link-0009", "fifo-000a", "folder-000b"].map(special));
    if rustix::process::geteuid().is_root() {
        let path = special("foreign-000c");
        fs::write(&path, &good).expect("a file");
        std::os::unix::fs::chown(&path, Some(65_534), None).expect("another owner");
        paths.push(path);
    }
    for command in [&["list"][..], &["list", "--all"], &["ps", "-o", "json"]] {
        let mut outcome = client
            .conduit(command)
            .succeeds()
            .took_at_most(Duration::from_secs(3))
            .prints(&tunnel.name);
        for path in &paths {
            outcome = outcome.says(path.file_name().expect("a name").to_str().expect("UTF-8"));
        }
    }
    let second = client.starts("second", target.addr());
    echo(&second.connect(), b"works").expect("the same bytes");
    client.conduit(&["kill", "--all"]).succeeds();
    for path in &paths {
        assert!(fs::symlink_metadata(path).is_ok(), "{} was deleted", path.display());
    }
}

#[test]
fn h77_whatever_lies_where_the_socket_of_a_dead_tunnel_was_is_no_obstacle() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let tunnel_dies = |name: &str, replace: &dyn Fn(&str)| {
        let record = client.home().record(name).expect("a record");
        let socket = record["control_socket"].as_str().expect("a path").to_owned();
        let pid = u32::try_from(record["pid"].as_u64().expect("a pid")).expect("a pid");
        crate::world::kill(pid, rustix::process::Signal::KILL);
        crate::world::eventually("it is gone", || !runs(pid));
        let _ = fs::remove_file(&socket);
        replace(&socket);
        assert!(client.list(&[]).is_empty());
        let again = client.starts(name, target.addr());
        echo(&again.connect(), b"again").expect("the same bytes");
    };
    let name = tunnel.name.as_str();
    tunnel_dies(name, &|_| {});
    tunnel_dies(name, &|socket| fs::write(socket, "a file").expect("a file"));
    tunnel_dies(name, &|socket| fs::create_dir(socket).expect("a folder"));
    tunnel_dies(name, &|socket| symlink("/etc/passwd", socket).expect("a symlink"));
    tunnel_dies(name, &|socket| {
        drop(std::os::unix::net::UnixListener::bind(socket).expect("a stale socket"))
    });
    assert!(fs::read_to_string("/etc/passwd").is_ok_and(|text| text.contains("root")));
}

#[test]
fn h77_a_home_with_a_very_long_path_works() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let deep = (0..6)
        .fold(world.path().to_owned(), |path, n| path.join(format!("{n}-{}", "long".repeat(10))));
    fs::create_dir_all(&deep).expect("folders");
    let runtime = world.home("runtime");
    let home = deep.join("home");
    let conduit = |arguments: &[&str]| {
        let run = crate::world::Run::binary(crate::world::CONDUIT)
            .args(arguments)
            .env("CONDUIT_HOME", &home);
        run.env("XDG_RUNTIME_DIR", runtime.path()).folder(world.path())
    };
    let source = target.addr().to_string();
    let start =
        ["start", "--join", "-", "--source", &source, "--bind", "127.0.0.1:0", "--name", "far"];
    conduit(&start).input(router.invite(&[])).succeeds();
    conduit(&["list"]).succeeds().prints("far").prints("ready");
    conduit(&["kill", "--tunnel", "far"]).succeeds();
}

#[test]
fn h78_a_process_that_got_the_pid_of_a_dead_tunnel_is_never_touched() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let file = client.home().record_file(&tunnel.name);
    tunnel.dies();
    let mut sleeper = Command::new("sleep").arg("300").spawn().expect("a sleeper");
    let record = fs::read_to_string(&file).expect("a record");
    let altered =
        record.replace(&format!("\"pid\": {}", tunnel.pid), &format!("\"pid\": {}", sleeper.id()));
    assert_ne!(altered, record);
    fs::write(&file, altered).expect("the record");
    assert!(client.list(&[]).is_empty());
    for command in [
        &["kill", "--tunnel", &tunnel.name, "--force"][..],
        &["kill", "--all", "--force"],
        &["list", "--all"],
        &["status"],
    ] {
        let outcome = client.conduit(command).ends();
        assert!(runs(sleeper.id()), "the sleeper was killed: {outcome}");
    }
    let again = client.starts(&tunnel.name, target.addr());
    echo(&again.connect(), b"again").expect("the same bytes");
    assert!(runs(sleeper.id()));
    sleeper.kill().expect("the end of the sleeper");
    sleeper.wait().expect("its end");
}

#[test]
fn a_process_one_minor_version_apart_is_spoken_to_and_two_apart_is_named() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let file = client.home().record_file(&tunnel.name);
    let record = fs::read_to_string(&file).expect("a record");
    let own = env!("CARGO_PKG_VERSION");
    let mut parts = own.split('.').map(|part| part.parse::<u32>().expect("a number"));
    let (major, minor) = (parts.next().expect("major"), parts.next().expect("minor"));
    let with = |version: String| {
        fs::write(
            &file,
            record.replace(
                &format!("\"version\": \"{own}\""),
                &format!("\"version\": \"{version}\""),
            ),
        )
        .expect("the record");
    };
    with(format!("{major}.{}.0", minor + 1));
    let outcome = client.conduit(&["list", "-o", "json"]).succeeds();
    assert_eq!(outcome.json()["tunnels"][0]["state"], "ready", "{outcome}");
    with(format!("{major}.{}.0", minor + 2));
    let outcome = client.conduit(&["list"]).ends();
    assert!(
        format!("{}{}", outcome.stdout, outcome.stderr)
            .contains(&format!("{major}.{}.0", minor + 2)),
        "{outcome}"
    );
}
