//! Who gets in when the router has trouble of its own, and how much one key may take.

use std::sync::Arc;
use std::time::Duration;

use conduit::client::Failure;
use conduit::identity::Keypair;
use conduit::policy::Permissions;
use conduit::registry::Request;

use crate::stage::{Stage, Target, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_router_whose_store_fails_does_not_call_the_key_unknown() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    stage.database().execute_batch("ALTER TABLE clients RENAME TO gone").expect("broken");
    let error = stage.try_tunnel(target.addr, |_| {}).await.expect_err("not admitted");
    assert_eq!(error.failure(), Failure::Network, "{error}");
    assert!(error.to_string().contains("cannot decide right now"), "{error}");
    stage.database().execute_batch("ALTER TABLE gone RENAME TO clients").expect("repaired");
    stage.tunnel_to(target.addr).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_cannot_be_written_holds_while_the_router_runs() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let tunnel = stage.tunnel_to(target.addr).await;
    let full = "CREATE TRIGGER full BEFORE UPDATE ON clients WHEN new.status = 'revoked'
        BEGIN SELECT RAISE(FAIL, 'no room'); END";
    stage.database().execute_batch(full).expect("a trigger");
    let revoke = Request::Revoke { name: Stage::name_of(stage.owner.identity()) };
    let error = stage.router.admin().handle(revoke.clone()).await.expect_err("not written");
    let said = &error.message;
    assert!(said.contains("no room") && said.contains("1 sessions"), "{said}");
    within(Duration::from_secs(1), "the session ends", || tunnel.session().is_none()).await;
    let error = stage.try_tunnel(target.addr, |_| {}).await.expect_err("not admitted");
    assert_eq!(error.failure(), Failure::Authentication, "{error}");

    stage.database().execute_batch("DROP TRIGGER full").expect("room again");
    stage.router.admin().handle(revoke).await.expect("written");
    stage.admits(stage.owner.identity(), Permissions::owner()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_does_not_take_every_place() {
    let stage = Stage::with(|settings| settings.max_clients = 16).await;
    let target = Target::echo().await;
    let mut tunnels = Vec::new();
    for _ in 0..8 {
        tunnels.push(stage.tunnel_to(target.addr).await);
    }
    let error = stage.try_tunnel(target.addr, |_| {}).await.expect_err("one too many");
    assert!(error.to_string().contains("as many sessions"), "{error}");
    let other = Arc::new(Keypair::generate().expect("a key"));
    stage.admits(other.identity(), Permissions::owner()).await;
    stage.tunnel_with(target.addr, |settings| settings.access.keypair = other).await;
}
