//! Whoever comes to a published port is handed on.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Listening, Server, Socket, lock};
use crate::ends::{Listener, UdpPort};
use crate::relay::{Destination, Front, Scope, front};
use crate::router::{Shared, visitor};
use crate::routes::Route;
use crate::session::Past;
use crate::task::{OnPanic, Tasks};

/// Serves visitors until nobody is there to be handed to, or the router stops.
pub(super) fn serve(shared: &Arc<Shared>, tasks: &Tasks, route: Route, socket: Socket) {
    let stop = shared.connections.child_token();
    let socket = Arc::new(socket);
    let listening = Listening { stop: stop.clone(), socket: Arc::downgrade(&socket) };
    let earlier = lock(&shared.published.listening).insert(route.clone(), listening);
    debug_assert!(
        earlier.is_none_or(|earlier| earlier.stop.is_cancelled()),
        "two listeners: {route}"
    );
    tracing::info!(%route, "port published");
    attend(shared, tasks, Attended { route, socket, stop }, Duration::ZERO);
}

/// What a task attends to.
#[derive(Clone)]
struct Attended {
    route: Route,
    socket: Arc<Socket>,
    stop: CancellationToken,
}

/// A panic there ends what it was about, and not the port: clients are told that it is served.
fn attend(shared: &Arc<Shared>, tasks: &Tasks, place: Attended, after: Duration) {
    let again = {
        let (shared, tasks, place) = (Arc::clone(shared), tasks.clone(), place.clone());
        OnPanic::new(move || attend(&shared, &tasks, place, AGAIN_AFTER))
    };
    let (shared, spawner) = (Arc::clone(shared), tasks.clone());
    tasks.spawn("published port", async move {
        let _again = again;
        tokio::time::sleep(after).await;
        let Attended { route, socket, stop } = &place;
        match &**socket {
            Socket::Tcp(listener) => accept(&shared, &spawner, route, listener, stop).await,
            Socket::Udp(port) => packets(&shared, route, Arc::clone(port), stop).await,
        }
        tracing::info!(%route, "port no longer published");
    });
}

async fn accept(
    shared: &Arc<Shared>,
    tasks: &Tasks,
    route: &Route,
    listener: &Listener,
    stop: &CancellationToken,
) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
            () = shared.accepting.cancelled() => return,
        };
        match shared.published.pick(route) {
            Some(server) => {
                let place = (route.clone(), server);
                tasks.spawn("visitor", visitor::serve(Arc::clone(shared), place, stream, peer));
            }
            // The last server has just left.
            None => stream.reset(),
        }
    }
}

async fn packets(shared: &Shared, route: &Route, port: Arc<UdpPort>, stop: &CancellationToken) {
    let inherited = lock(&shared.published.visitors).remove(route);
    let visitors = inherited.unwrap_or_else(|| Front::new(port, &shared.table));
    let pick = |session: Option<&Past>| {
        let server = match session {
            Some(session) => shared.published.server_of(route, session)?,
            None => shared.published.pick(route)?,
        };
        let Server { flows, rules, max_flows, trusted, .. } = server;
        Some(Destination { flows, rules, max_flows, trusted })
    };
    let scope = Scope { stop: stop.clone(), ..shared.scope() };
    front(&visitors, pick, &scope).await;
}

/// What always panics must not take a processor.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
