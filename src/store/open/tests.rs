//! Tests of what opening accepts and refuses.

use std::path::PathBuf;

use crate::store::{Store, StoreError};

fn new_store() -> (tempfile::TempDir, PathBuf, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("router.db");
    let store = Store::open(&path).expect("a store");
    (folder, path, store)
}

#[test]
fn eight_processes_may_meet_a_file_that_is_not_there_yet() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("router.db");
        std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| Store::open(&path))).collect();
            for result in tries {
                result.join().expect("no panic").expect("a store");
            }
        });
    }
}

#[tokio::test]
async fn a_database_from_a_newer_version_is_refused_with_what_to_do() {
    let (_folder, path, store) = new_store();
    store
        .change("pretend", |connection| {
            connection.execute(
                "INSERT INTO refinery_schema_history
                 SELECT version + 41, 'later', applied_on, checksum FROM refinery_schema_history",
                [],
            )
        })
        .await
        .expect("a later version");
    let error = Store::open(&path).expect_err("newer");
    assert!(matches!(error, StoreError::Newer { found: 43, known: 2, .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("install that version again"), "{message}");
    assert!(message.contains("router.db"), "{message}");
}

#[tokio::test]
async fn a_database_of_the_first_schema_keeps_its_rows_and_learns_of_leases() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("router.db");
    super::create_private(&path).expect("a file");
    let mut old = rusqlite::Connection::open(&path).expect("an old database");
    super::embedded::migrations::runner()
        .set_target(refinery::Target::Version(1))
        .run(&mut old)
        .expect("the first schema");
    old.execute(
        "INSERT INTO tokens VALUES (x'0102030405060708', zeroblob(32), 'CI', 'ci', NULL, 7, NULL)",
        [],
    )
    .expect("a token");
    drop(old);
    let store = Store::open(&path).expect("the same database");
    let tokens = store.tokens().await.expect("tokens");
    assert_eq!(tokens.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["CI"]);
    assert_eq!(store.leases().await.expect("leases"), []);
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("router.db");
    let garbage = b"not a database, whatever it says on the door".repeat(100);
    super::create_private(&path).expect("a file");
    std::fs::write(&path, &garbage).expect("write");
    let error = Store::open(&path).expect_err("damaged");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read(&path).expect("read"), garbage);
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[tokio::test]
    async fn h100_all_files_of_the_database_are_private_from_the_start() {
        let (folder, _path, store) = new_store();
        store.purge(0).await.expect("a transaction");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder.path()).expect("a folder") {
            let entry = entry.expect("an entry");
            let mode = entry.metadata().expect("metadata").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{:?}", entry.file_name());
            seen += 1;
        }
        assert_eq!(seen, 3, "database, write-ahead log and its index");
    }

    #[test]
    fn h101_a_database_that_others_can_read_is_refused_with_the_line_to_run() {
        let (_folder, path, store) = new_store();
        drop(store);
        for mode in [0o644, 0o660, 0o606] {
            set_mode(&path, mode);
            let error = Store::open(&path).expect_err("open to others").to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        set_mode(&path, 0o600);
        Store::open(&path).expect("private again");
    }

    #[test]
    fn h102_a_link_a_fifo_and_a_folder_are_no_database() {
        let (folder, path, store) = new_store();
        drop(store);
        let link = folder.path().join("link.db");
        symlink(&path, &link).expect("a link");
        let fifo = folder.path().join("fifo.db");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
        assert!(made.success());
        for other in [&link, &fifo, &folder.path().to_owned()] {
            let error = Store::open(other).expect_err("no database");
            assert!(matches!(error, StoreError::NotPrivate { .. }), "{error}");
        }
        let hard = folder.path().join("hard.db");
        std::fs::hard_link(&path, &hard).expect("a hard link");
        let error = Store::open(&hard).expect_err("two names").to_string();
        assert!(error.contains("hard link"), "{error}");
    }
}
