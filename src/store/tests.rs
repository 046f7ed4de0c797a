//! Tests of the store as its users see it.

use std::path::PathBuf;

use tokio::task::JoinSet;

use super::*;
use crate::policy::Permissions;
use crate::tunnel::{Identity, Name};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 60 * 60;
const TICKET: [u8; 8] = [9; 8];

fn new_store() -> (tempfile::TempDir, PathBuf, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("router.db");
    let store = Store::open(&path).expect("a store");
    (folder, path, store)
}

fn key(number: u8) -> Identity {
    Identity::from_bytes([number; 32])
}

fn name(text: &str) -> Name {
    text.parse().expect(text)
}

fn permissions() -> Permissions {
    Permissions::targets(vec!["10.2.0.0/16:80,443".parse().expect("a rule")])
}

fn ticket(uses: u32) -> NewTicket {
    NewTicket {
        id: TICKET,
        public_key: key(200),
        permissions: permissions(),
        name: None,
        uses,
        expires_at: NOW + DAY,
        created_at: NOW,
    }
}

fn client(number: u8, text: &str) -> NewClient {
    NewClient {
        identity: key(number),
        name: name(text),
        permissions: permissions(),
        created_at: NOW,
    }
}

fn admitted(redemption: Redemption) -> ClientRow {
    match redemption {
        Redemption::Admitted(row) => row,
        other => panic!("not admitted: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn h13_of_64_parallel_redemptions_by_different_keys_exactly_one_succeeds() {
    for round in 0..20_u64 {
        let (_folder, path, store) = new_store();
        store.create_ticket(ticket(1)).await.expect("a ticket");
        // Four connections: what decides is the database, not the queue in front of one of them.
        let mut stores = vec![store];
        stores.resize_with(4, || Store::open(&path).expect("the same store"));
        let mut tries = JoinSet::new();
        for number in 0..64_u8 {
            let store = stores[usize::from(number) % stores.len()].clone();
            tries.spawn(async move {
                let proposed = name(&format!("host-{number}"));
                store.redeem(TICKET, key(number), &proposed, NOW + round).await.expect("an answer")
            });
        }
        let results = tries.join_all().await;
        let winners: Vec<_> =
            results.iter().filter(|each| matches!(each, Redemption::Admitted(_))).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        let winner = admitted(winners[0].clone());
        for loser in results.iter().filter(|each| !matches!(each, Redemption::Admitted(_))) {
            let spent = Redemption::Spent { by: vec![winner.name.clone()], at: NOW + round };
            assert_eq!(*loser, spent, "round {round}");
        }
        assert_eq!(stores[3].clients().await.expect("clients"), [winner]);
    }
}

#[tokio::test]
async fn h13_the_same_key_may_ask_again_after_a_lost_answer() {
    let (_folder, _path, store) = new_store();
    store.create_ticket(ticket(1)).await.expect("a ticket");
    let first = store.redeem(TICKET, key(1), &name("one"), NOW).await.expect("an answer");
    let row = admitted(first);
    for later in [NOW, NOW + 100 * DAY] {
        let again = store.redeem(TICKET, key(1), &name("other"), later).await.expect("an answer");
        assert_eq!(again, Redemption::Already(row.clone()));
    }
}

#[tokio::test]
async fn h13_three_uses_are_three_keys_and_then_it_says_who_and_when() {
    let (_folder, _path, store) = new_store();
    store.create_ticket(ticket(3)).await.expect("a ticket");
    for (number, text) in [(1, "ci"), (2, "CI"), (3, "ci")] {
        let at = NOW + u64::from(number);
        let redemption = store.redeem(TICKET, key(number), &name(text), at).await.expect("ok");
        let row = admitted(redemption);
        assert_eq!(row.permissions, permissions());
        assert_eq!(row.created_at, at);
        let again = store.redeem(TICKET, key(number), &name(text), at).await.expect("ok");
        assert_eq!(again, Redemption::Already(row));
    }
    let fourth = store.redeem(TICKET, key(4), &name("ci"), NOW + 9).await.expect("an answer");
    let by = vec![name("ci"), name("CI-2"), name("ci-3")];
    assert_eq!(fourth, Redemption::Spent { by, at: NOW + 3 });
}

#[tokio::test]
async fn h13_an_expired_and_an_unknown_ticket_say_so() {
    let (_folder, _path, store) = new_store();
    store.create_ticket(ticket(1)).await.expect("a ticket");
    let end = NOW + DAY;
    let late = store.redeem(TICKET, key(1), &name("one"), end).await.expect("an answer");
    assert_eq!(late, Redemption::Expired { at: end });
    let other = store.redeem([1; 8], key(1), &name("one"), NOW).await.expect("an answer");
    assert_eq!(other, Redemption::Unknown);
    assert_eq!(store.clients().await.expect("clients"), []);
    let in_time = store.redeem(TICKET, key(1), &name("one"), end - 1).await.expect("an answer");
    admitted(in_time);
}

#[tokio::test]
async fn a_revoked_client_comes_back_by_no_ticket_but_by_authorize() {
    let (_folder, _path, store) = new_store();
    store.create_ticket(ticket(5)).await.expect("a ticket");
    store.create_ticket(NewTicket { id: [2; 8], ..ticket(5) }).await.expect("a ticket");
    admitted(store.redeem(TICKET, key(1), &name("one"), NOW).await.expect("an answer"));

    let revoked = store.revoke(&name("ONE"), NOW + 1).await.expect("ok").expect("a client");
    assert_eq!((revoked.status, revoked.updated_at), (ClientStatus::Revoked, NOW + 1));
    let again = store.revoke(&name("one"), NOW + 2).await.expect("ok");
    assert_eq!(again, Some(revoked));
    for id in [TICKET, [2; 8]] {
        let answer = store.redeem(id, key(1), &name("one"), NOW).await.expect("an answer");
        assert_eq!(answer, Redemption::Revoked);
    }
    assert_eq!(store.ticket([2; 8]).await.expect("ok").expect("a ticket").uses_left, 5);

    let row = store.authorize(client(1, "one")).await.expect("a client");
    assert_eq!(row.status, ClientStatus::Active);
    assert_eq!(store.revoke(&name("nobody"), NOW).await.expect("ok"), None);
}

#[tokio::test]
async fn a_revoked_client_gives_up_its_name() {
    let (_folder, _path, store) = new_store();
    store.authorize(client(1, "web")).await.expect("a client");
    let taken = store.authorize(client(2, "WEB")).await.expect_err("taken");
    assert!(matches!(taken, AuthorizeError::NameTaken { by, .. } if by == key(1)), "{taken}");
    store.revoke(&name("web"), NOW).await.expect("ok");
    store.authorize(client(2, "web")).await.expect("a client");
    // The name now means the active one.
    let row = store.revoke(&name("web"), NOW + 1).await.expect("ok").expect("a client");
    assert_eq!(row.identity, key(2));
    assert_eq!(store.clients().await.expect("clients").len(), 2);
}

#[tokio::test]
async fn authorizing_a_known_key_updates_it() {
    let (_folder, _path, store) = new_store();
    let first = store.authorize(client(1, "old")).await.expect("a client");
    let update =
        NewClient { permissions: Permissions::owner(), created_at: NOW + 5, ..client(1, "new") };
    let second = store.authorize(update).await.expect("a client");
    assert_eq!((second.id, second.created_at, second.updated_at), (first.id, NOW, NOW + 5));
    assert_eq!((second.name.as_str(), &second.permissions), ("new", &Permissions::owner()));
    assert_eq!(store.client(key(1)).await.expect("ok"), Some(second));
    assert_eq!(store.client(key(2)).await.expect("ok"), None);
}

#[tokio::test]
async fn a_known_key_keeps_its_rights_unless_others_are_named() {
    let (_folder, _path, store) = new_store();
    let keep = |number, text, now| store.grant(key(number), name(text), Grant::Keep, now);
    let new = keep(1, "new", NOW).await.expect("a client");
    assert_eq!((new.client.permissions, new.before), (Permissions::owner(), None));

    let known = store.authorize(client(2, "ci")).await.expect("a client");
    let again = keep(2, "build", NOW + 1).await.expect("the same client");
    assert_eq!((&again.client.permissions, again.client.name.as_str()), (&permissions(), "build"));
    assert_eq!(again.before, Some(known));

    store.revoke(&name("build"), NOW + 2).await.expect("ok");
    let back = keep(2, "build", NOW + 3).await.expect("back");
    assert_eq!(
        (back.client.status, back.client.permissions),
        (ClientStatus::Active, permissions())
    );
    assert_eq!(back.before.map(|row| row.status), Some(ClientStatus::Revoked));
}

#[tokio::test]
async fn a_visit_is_noted_without_what_would_spoil_a_terminal() {
    let (_folder, _path, store) = new_store();
    store.authorize(client(1, "one")).await.expect("a client");
    let seen = Seen { version: "1\u{1b}[2J".into(), system: "x".repeat(9_000), at: NOW + 7 };
    store.seen(key(1), seen.clone()).await.expect("ok");
    store.seen(key(2), seen).await.expect("an unknown one is ignored");
    let row = store.client(key(1)).await.expect("ok").expect("a client");
    assert_eq!(row.version.as_deref(), Some("1[2J"));
    assert_eq!(row.system.map(|text| text.len()), Some(128));
    assert_eq!(row.last_seen, Some(NOW + 7));
}

#[tokio::test]
async fn the_tickets_name_wins_and_long_names_leave_room_for_a_number() {
    let (_folder, _path, store) = new_store();
    let long = "n".repeat(64);
    store.create_ticket(NewTicket { name: Some(name(&long)), ..ticket(2) }).await.expect("ok");
    let first = store.redeem(TICKET, key(1), &name("mine"), NOW).await.expect("an answer");
    assert_eq!(admitted(first).name, name(&long));
    let second = store.redeem(TICKET, key(2), &name("mine"), NOW).await.expect("an answer");
    assert_eq!(admitted(second).name, name(&format!("{}-2", "n".repeat(62))));
}

#[tokio::test]
async fn tickets_are_remembered_for_thirty_days() {
    let (_folder, _path, store) = new_store();
    let never = NewTicket { id: [1; 8], expires_at: u64::MAX, ..ticket(1) };
    let open = NewTicket { id: [2; 8], ..never.clone() };
    for ticket in [ticket(1), never, open] {
        store.create_ticket(ticket).await.expect("a ticket");
    }
    admitted(store.redeem([1; 8], key(1), &name("one"), NOW).await.expect("an answer"));
    let month = Store::TICKET_MEMORY;
    assert_eq!(store.purge(NOW + month - 1).await.expect("ok"), 0);
    assert_eq!(store.purge(NOW + month).await.expect("ok"), 1, "the spent one");
    assert_eq!(store.purge(NOW + DAY + month).await.expect("ok"), 1, "the expired one");
    assert_eq!(store.ticket(TICKET).await.expect("ok"), None);
    assert_eq!(store.ticket([2; 8]).await.expect("ok").expect("the open one").uses_left, 1);
    assert_eq!(store.clients().await.expect("clients").len(), 1);
}

#[tokio::test]
async fn a_ticket_is_stored_as_it_was_made_and_only_once() {
    let (_folder, _path, store) = new_store();
    store.create_ticket(ticket(3)).await.expect("a ticket");
    let row = store.ticket(TICKET).await.expect("ok").expect("a ticket");
    assert_eq!((row.public_key, row.uses, row.uses_left), (key(200), 3, 3));
    assert_eq!((row.expires_at, row.created_at, row.name), (NOW + DAY, NOW, None));
    assert!(store.create_ticket(ticket(1)).await.is_err());
    assert!(store.create_ticket(NewTicket { id: [1; 8], ..ticket(0) }).await.is_err());
}

#[tokio::test]
async fn a_token_is_valid_until_it_expires_or_is_revoked() {
    let (_folder, path, store) = new_store();
    let token = NewToken {
        id: [1; 8],
        hash: [7; 32],
        name: name("ci"),
        expires_at: Some(NOW + 10),
        created_at: NOW,
    };
    let row = store.create_token(token.clone()).await.expect("a token");
    assert_eq!(row.state(NOW + 9), TokenState::Valid);
    assert_eq!(row.state(NOW + 10), TokenState::Expired);
    let taken = store.create_token(NewToken { id: [2; 8], ..token.clone() }).await;
    assert!(matches!(taken, Err(CreateTokenError::NameTaken(_))), "{taken:?}");

    let by_name = TokenRef::Name(name("CI"));
    let revoked = store.revoke_token(&by_name, NOW).await.expect("ok").expect("a token");
    assert_eq!(revoked.state(NOW), TokenState::Revoked);
    assert_eq!(store.revoke_token(&by_name, NOW).await.expect("ok"), None);
    let again = store.revoke_token(&TokenRef::Id([1; 8]), NOW + 5).await.expect("ok");
    assert_eq!(again.expect("a token").revoked_at, Some(NOW));

    let forever = NewToken { id: [2; 8], expires_at: None, ..token };
    store.create_token(forever).await.expect("the name is free again");
    // Another process sees all of it.
    let other = Store::open(&path).expect("the same store");
    let ids: Vec<_> = other.tokens().await.expect("tokens").iter().map(|row| row.id).collect();
    assert_eq!(ids, [[1; 8], [2; 8]]);
    let row = other.token([2; 8]).await.expect("ok").expect("a token");
    assert_eq!((row.hash, row.state(u64::MAX)), ([7; 32], TokenState::Valid));
    assert!(!format!("{row:?}").contains('7'), "{row:?}");
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let (_folder, path, store) = new_store();
    let row = store.authorize(client(1, "one")).await.expect("a client");
    drop(store);
    let store = Store::open(&path).expect("the same store");
    assert_eq!(store.clients().await.expect("clients"), [row]);
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_says_so() {
    let (_folder, _path, store) = new_store();
    // SQLite meets its own limit at the same place and with the same code as the disk's.
    store
        .change("limit", |connection| {
            let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
        })
        .await
        .expect("a limit");
    let rules = (0..500).map(|at| format!("host-{at}:*").parse().expect("a rule")).collect();
    let large = NewClient { permissions: Permissions::targets(rules), ..client(1, "one") };
    let error = store.authorize(large).await.expect_err("full").to_string();
    assert!(error.contains("the disk is full") && error.contains("router.db"), "{error}");
    assert_eq!(store.clients().await.expect("reading goes on"), []);
    store.authorize(client(1, "one")).await.expect("what fits is still written");
}

#[tokio::test]
async fn a_database_that_became_read_only_says_so() {
    let (_folder, _path, store) = new_store();
    store
        .change("forbid", |connection| connection.execute_batch("PRAGMA query_only = ON"))
        .await
        .expect("read only");
    let error = store.authorize(client(1, "one")).await.expect_err("read only").to_string();
    assert!(error.contains("it is read-only") && error.contains("router.db"), "{error}");
    assert_eq!(store.clients().await.expect("reading goes on"), []);
}
