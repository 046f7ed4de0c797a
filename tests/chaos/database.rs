//! Rows of the router's database: locked, damaged, half deleted or of another version, under a router that runs. What is
//! open goes on, who was in comes back, and who asks for what needs the file hears what is wrong with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::table::{row, told};
use crate::world::{Router, Service, World, echo, figure, within};

fn database_of(router: &Router) -> PathBuf {
    router.home().join("router/router.db")
}

fn open(path: &Path) -> Connection {
    Connection::open(path).expect("a database")
}

/// Nothing of it is in the log that SQLite writes first.
fn checkpoint(path: &Path) {
    open(path)
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .map(|is_busy: i64| assert_eq!(is_busy, 0))
        .expect("a checkpoint");
}

#[test]
fn h81_a_locked_database_keeps_nobody_out_who_was_in() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    let locker = open(&database_of(&router));
    locker.execute_batch("BEGIN EXCLUSIVE").expect("the lock");
    let locked = Instant::now();
    // More of them than could be noted one after the other while the file is locked.
    let mut back = Vec::new();
    for number in 0..figure("tunnels", 8, 50) {
        let asked = Instant::now();
        let another = client.starts(&format!("t{number}"), target.addr());
        echo(&another.connect(), b"in").expect("the same bytes");
        back.push(asked.elapsed());
        assert!(back[number] < Duration::from_secs(3), "{:?}", back[number]);
    }
    let published = client.publishes("published", target.addr());
    echo(&published.connect(), b"in").expect("the same bytes");
    router.command(&["clients"]).succeeds().took_at_most(Duration::from_secs(3));
    let refused = router.command(&["invite"]).exits(1);
    refused.says("is locked by another process: try again").took_at_most(Duration::from_secs(7));
    let patience = Duration::from_secs(figure("seconds", 6, 30) as u64);
    std::thread::sleep(patience.saturating_sub(locked.elapsed()));
    echo(&tunnel.connect(), b"still").expect("the same bytes");

    locker.execute_batch("ROLLBACK").expect("no lock");
    router.invite(&[]);
    within(Duration::from_secs(10), "the published port is written down", || {
        let count = "SELECT count(*) FROM leases WHERE port = ?1";
        let count = locker.query_row(count, [published.bind.port()], |row| row.get::<_, i64>(0));
        (count.expect("a count") == 1).then_some(())
    });
    router.dies();
    router.returns();
    within(Duration::from_secs(20), "the port serves again", || {
        let stream = std::net::TcpStream::connect(published.bind).ok()?;
        echo(&stream, b"back").ok()
    });
    row("H81", "database locked, tunnels that start", &[("ready and used", back)]);
}

#[test]
fn h81_with_a_damaged_database_who_was_in_comes_back_and_nobody_else_enters() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    let unwanted = world.client("U");
    unwanted.joins(&router.invite(&["--name", "unwanted"]), target.addr());
    let ticket = router.invite(&[]);
    let path = database_of(&router);
    checkpoint(&path);
    let whole = fs::read(&path).expect("its bytes");
    fs::write(&path, vec![0xA5; whole.len()]).expect("damage");

    echo(&tunnel.connect(), b"open").expect("the same bytes");
    let asked = Instant::now();
    let another = client.starts("another", target.addr());
    echo(&another.connect(), b"in").expect("the same bytes");
    let back = asked.elapsed();
    let list = router.command(&["clients"]).ends();
    list.exits(1).says("is damaged").says("restore it from a backup");
    world.client("stranger").join(&ticket, target.addr()).exits(69).says("its log says why");
    unwanted.starts("one-more", target.addr());
    let revoked = router.command(&["revoke", "unwanted"]).exits(1);
    revoked.says("is damaged").says("its key is refused until this router ends");
    unwanted.start(target.addr()).exits(77);
    assert!(router.log().contains("is damaged"), "{}", router.log());

    router.dies();
    let refused = router.command(&["--bind", &router.addr().to_string()]).exits(1);
    refused.says("is damaged").says("restore it from a backup");
    for file in ["router.db-wal", "router.db-shm"] {
        let _ = fs::remove_file(path.with_file_name(file));
    }
    fs::write(&path, &whole).expect("the backup");
    router.returns();
    within(Duration::from_secs(20), "the tunnel works again", || {
        let stream = std::net::TcpStream::connect(tunnel.bind).ok()?;
        echo(&stream, b"back").ok()
    });
    world.client("late").joins(&ticket, target.addr());
    row("H81", "database damaged, a tunnel that starts", &[("ready and used", vec![back])]);
}

#[test]
fn h81_a_deleted_log_of_the_database_damages_nothing() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    let path = database_of(&router);
    checkpoint(&path);
    for file in ["router.db-wal", "router.db-shm"] {
        fs::remove_file(path.with_file_name(file)).expect("a file of SQLite");
    }
    echo(&tunnel.connect(), b"open").expect("the same bytes");
    client.starts("another", target.addr());
    router.dies();
    router.returns();
    let check = open(&path).query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(check.as_deref(), Ok("ok"));
    within(Duration::from_secs(20), "the tunnel works again", || {
        let stream = std::net::TcpStream::connect(tunnel.bind).ok()?;
        echo(&stream, b"back").ok()
    });
    router.invite(&[]);
    told("H81", "WAL deleted under the router, then kill -9", "intact, its clients are back");
}

#[test]
fn h81_a_database_of_a_newer_version_is_left_alone() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, _client, tunnel) = world.tunnel_to(target.addr());
    let path = database_of(&router);
    let later = "INSERT INTO refinery_schema_history
         SELECT version + 40, 'later', applied_on, checksum FROM refinery_schema_history
         ORDER BY version DESC LIMIT 1";
    assert_eq!(open(&path).execute(later, []), Ok(1));
    echo(&tunnel.connect(), b"open").expect("the same bytes");
    router.dies();
    checkpoint(&path);
    let before = fs::read(&path).expect("its bytes");
    let refused = router.command(&["--bind", &router.addr().to_string()]).exits(1);
    refused.says("written by a newer Conduit").says("install that version again");
    assert!(before == fs::read(&path).expect("its bytes"), "it was changed");
    told("H81", "database of a newer schema", "refused with what to do, and not changed");
}
