//! Leases: whose a public port is, remembered across restarts of the router.

use rusqlite::{Row, named_params, params};

use super::{Store, StoreError, columns};
use crate::routes::{Holder, Lease, Route};
use crate::tunnel::{Identity, Name};

impl Store {
    /// Remembers a lease in the place of what was known of its route.
    pub async fn save_lease(&self, lease: Lease, now: u64) -> Result<(), StoreError> {
        self.change("remember a lease", move |connection| {
            let (address, port) = columns::place(&lease.route);
            connection
                .prepare_cached(
                    "INSERT INTO leases (protocol, address, port, identity, name, name_folded,
                         tunnel_group, released_at, created_at, updated_at)
                     VALUES (:protocol, :address, :port, :identity, :name, :folded,
                         :group, :released, :now, :now)
                     ON CONFLICT DO UPDATE SET identity = :identity, name = :name,
                         name_folded = :folded, tunnel_group = :group, released_at = :released,
                         updated_at = :now",
                )?
                .execute(named_params! {
                    ":protocol": lease.route.protocol().as_str(),
                    ":address": address,
                    ":port": port,
                    ":identity": lease.holder.identity.as_bytes(),
                    ":name": lease.holder.name.as_str(),
                    ":folded": lease.holder.name.folded(),
                    ":group": lease.holder.group.as_ref().map(Name::as_str),
                    ":released": lease.released_at.map(columns::seconds),
                    ":now": columns::seconds(now),
                })
                .map(drop)
        })
        .await
    }

    /// Notes that the last server of a route has gone. Repeating it keeps the first time.
    pub async fn release_lease(&self, route: &Route, now: u64) -> Result<(), StoreError> {
        let (protocol, (address, port)) = (route.protocol(), columns::place(route));
        self.change("release a lease", move |connection| {
            connection
                .prepare_cached(
                    "UPDATE leases SET released_at = ?4, updated_at = ?4
                     WHERE protocol = ?1 AND address = ?2 AND port = ?3 AND released_at IS NULL",
                )?
                .execute(params![protocol.as_str(), address, port, columns::seconds(now)])
                .map(drop)
        })
        .await
    }

    /// Notes that nobody serves anything, as when the router starts: one that was killed could not. Says how many
    /// were served.
    pub async fn release_leases(&self, now: u64) -> Result<usize, StoreError> {
        self.change("release the leases", move |connection| {
            connection.execute(
                "UPDATE leases SET released_at = ?1, updated_at = ?1 WHERE released_at IS NULL",
                [columns::seconds(now)],
            )
        })
        .await
    }

    /// All leases, the one that changed last first, as [`Routes::reserve`] takes them.
    ///
    /// [`Routes::reserve`]: crate::routes::Routes::reserve
    pub async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.look("list the leases", |connection| {
            connection
                .prepare_cached(
                    "SELECT * FROM leases ORDER BY updated_at DESC, protocol, port, address",
                )?
                .query_map([], read)?
                .collect()
        })
        .await
    }

    /// Forgets leases that were released at `before` or earlier; says how many.
    pub async fn purge_leases(&self, before: u64) -> Result<usize, StoreError> {
        self.change("forget old leases", move |connection| {
            connection
                .execute("DELETE FROM leases WHERE released_at <= ?1", [columns::seconds(before)])
        })
        .await
    }

    /// Forgets all leases of an identity, served ones too; says how many.
    pub async fn free_leases(&self, identity: Identity) -> Result<usize, StoreError> {
        self.change("free a client's leases", move |connection| {
            connection.execute("DELETE FROM leases WHERE identity = ?1", [identity.as_bytes()])
        })
        .await
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease {
        route: columns::route(row)?,
        holder: Holder {
            identity: columns::identity(row, "identity")?,
            name: columns::name(row, "name")?,
            group: columns::optional_name(row, "tunnel_group")?,
        },
        released_at: columns::optional_time(row, "released_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::Protocol;

    const NOW: u64 = 1_800_000_000;

    fn new_store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("router.db")).expect("a store");
        (folder, store)
    }

    fn route(protocol: Protocol, bind: &str) -> Route {
        Route::new(protocol, &bind.parse().expect(bind)).expect("a place")
    }

    fn lease(identity: u8, bind: &str) -> Lease {
        let holder = Holder {
            identity: Identity::from_bytes([identity; 32]),
            name: "Web".parse().expect("a name"),
            group: None,
        };
        Lease { route: route(Protocol::Tcp, bind), holder, released_at: None }
    }

    #[tokio::test]
    async fn a_lease_reads_back_as_it_was_saved_and_the_last_change_comes_first() {
        let (folder, store) = new_store();
        let mut saved = Vec::new();
        for (at, bind) in
            ["0.0.0.0:80", "[::]:80", "10.0.0.9:65535", "unix:/run/a"].iter().enumerate()
        {
            let mut lease = lease(1, bind);
            lease.released_at = (at == 1).then_some(NOW - 5);
            lease.holder.group = (at == 2).then(|| "Blue".parse().expect("a name"));
            store.save_lease(lease.clone(), NOW + at as u64).await.expect("saved");
            saved.insert(0, lease);
        }
        let udp = Lease { route: route(Protocol::Udp, "0.0.0.0:80"), ..lease(2, "1") };
        store.save_lease(udp.clone(), NOW + 9).await.expect("saved");
        saved.insert(0, udp);
        assert_eq!(store.leases().await.expect("leases"), saved);
        assert_eq!(saved[3].holder.name.as_str(), "Web");
        drop(store);
        let store = Store::open(&folder.path().join("router.db")).expect("the same store");
        assert_eq!(store.leases().await.expect("leases"), saved);
    }

    #[tokio::test]
    async fn a_route_has_one_lease_and_the_newest_holder() {
        let (_folder, store) = new_store();
        for identity in [1, 2] {
            let lease = lease(identity, "[::ffff:127.0.0.1]:80");
            store.save_lease(lease, NOW + u64::from(identity)).await.expect("saved");
        }
        assert_eq!(store.leases().await.expect("leases"), [lease(2, "127.0.0.1:80")]);
        let times = store.look("look", |connection| {
            connection.query_row("SELECT created_at, updated_at FROM leases", [], |row| {
                Ok((columns::time(row, "created_at")?, columns::time(row, "updated_at")?))
            })
        });
        assert_eq!(times.await.expect("one row"), (NOW + 1, NOW + 2));
    }

    #[tokio::test]
    async fn a_lease_is_kept_while_it_is_served_and_until_it_is_purged() {
        let (_folder, store) = new_store();
        for bind in ["1", "2", "3"] {
            store.save_lease(lease(1, bind), NOW).await.expect("saved");
        }
        let released = route(Protocol::Tcp, "2");
        for now in [NOW + 1, NOW + 5] {
            store.release_lease(&released, now).await.expect("released");
        }
        store.release_lease(&route(Protocol::Tcp, "9"), NOW).await.expect("unknown is ignored");
        assert_eq!(store.leases().await.expect("leases")[0].released_at, Some(NOW + 1));
        assert_eq!(store.purge_leases(NOW).await.expect("ok"), 0);
        assert_eq!(store.purge_leases(NOW + 1).await.expect("ok"), 1);
        assert_eq!(store.leases().await.expect("leases"), [lease(1, "1"), lease(1, "3")]);

        assert_eq!(store.release_leases(NOW + 7).await.expect("ok"), 2);
        store.save_lease(lease(1, "1"), NOW + 8).await.expect("it came back");
        assert_eq!(store.purge_leases(u64::MAX).await.expect("ok"), 1);
        assert_eq!(store.leases().await.expect("leases"), [lease(1, "1")]);
    }

    #[tokio::test]
    async fn a_revoked_client_frees_its_ports_and_no_others() {
        let (_folder, store) = new_store();
        for (identity, bind) in [(1, "1"), (2, "2"), (1, "3")] {
            store.save_lease(lease(identity, bind), NOW).await.expect("saved");
        }
        store.release_lease(&route(Protocol::Tcp, "3"), NOW).await.expect("released");
        assert_eq!(store.free_leases(Identity::from_bytes([1; 32])).await.expect("ok"), 2);
        assert_eq!(store.leases().await.expect("leases"), [lease(2, "2")]);
    }

    #[tokio::test]
    async fn a_lease_that_makes_no_sense_is_damage_not_a_guess() {
        for (address, port) in [("127.0.0.1", 0), ("localhost", 80), ("unix:run", 0)] {
            let (_folder, store) = new_store();
            store.save_lease(lease(1, "80"), NOW).await.expect("saved");
            let spoil = store.change("spoil", move |connection| {
                connection
                    .execute("UPDATE leases SET address = ?1, port = ?2", params![address, port])
            });
            assert_eq!(spoil.await.expect("one row"), 1);
            let error = store.leases().await.expect_err(address);
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        }
    }
}
