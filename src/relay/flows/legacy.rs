//! Flows that one process leaves and the next one takes up. Implements `proto-spec/upgrade.md`. [UPG-7]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::flow::{Flow, FlowIdentity};
use super::opening::{Known, answers};
use crate::ends::{self, UdpPort, Way, adopt};
use crate::relay::{Entry, Faces, Table};
use crate::session::Past;
use crate::task::Tasks;
use crate::tunnel::Protocol;
use crate::wire::handover;
use tokio_util::sync::CancellationToken;

/// A flow, and what lists say of it.
#[derive(Debug)]
pub struct Bequest {
    /// The session that it is of.
    pub session: Past,
    /// What the next process has to know.
    pub left: handover::Flow,
}

impl Table {
    /// Takes every flow that outlives its connection from that. Their sockets stay open until this process is another
    /// program; one that cannot be handed over is over.
    pub fn bequeath_flows(&self) -> Vec<Bequest> {
        let flows = self.lineages().part_all();
        let left = flows.into_iter().filter_map(|flow| {
            let left = flow.left();
            flow.end();
            match left {
                Ok(left) => {
                    let session = flow.identity.session.clone();
                    // Dropped, its socket would be closed before the next program has it.
                    std::mem::forget(flow);
                    Some(Bequest { session, left })
                }
                Err(error) => {
                    tracing::warn!(%error, "a flow cannot be handed over");
                    None
                }
            }
        });
        left.collect()
    }

    /// A flow with a socket of its own that another process has left: it waits here for its session's connection. `stop`
    /// ends all of them.
    pub fn inherit_flow(
        &self,
        session: &Past,
        left: &handover::Flow,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let socket = left.socket.ok_or_else(|| contradicts("it has no socket"))?;
        let port = Arc::new(UdpPort::of(adopt(socket)?.into())?);
        if port.peer().is_none() {
            return Err(contradicts("its socket leads nowhere"));
        }
        let entry = self.inherited(Faces::Target, left, stop);
        let flow =
            Arc::new(Flow::taken_up(session, left, (port, None), (self.clone(), entry), None));
        self.lineages().keep(Arc::clone(&flow));
        tasks.spawn("flow", answers(flow));
        Ok(())
    }

    /// The same of one of the published port `port`, for its [`Front`](super::Front).
    pub fn inherit_visitor(
        &self,
        session: &Past,
        left: &handover::Flow,
        port: &Arc<UdpPort>,
        stop: &CancellationToken,
    ) -> io::Result<Known> {
        let addr = |text: &str| text.parse::<SocketAddr>().map_err(|_| contradicts("no address"));
        let to = addr(&left.sender)?;
        let from = match left.at.as_str() {
            "" => None,
            at => Some(at.parse::<IpAddr>().map_err(|_| contradicts("no address"))?),
        };
        let introduced = Box::new((addr(&left.visitor)?, addr(&left.visited)?));
        let entry = self.inherited(Faces::User, left, stop);
        let way = (Arc::clone(port), Some(Way { to, from }));
        let flow = Flow::taken_up(session, left, way, (self.clone(), entry), Some(introduced));
        Ok(Known::new(Arc::new(flow)))
    }

    /// Ends what was inherited of a session whose client has not come back in time.
    pub fn disinherit_flows(&self, session: &Past) {
        self.lineages().forget(session);
    }

    fn inherited(&self, faces: Faces, left: &handover::Flow, stop: &CancellationToken) -> Entry {
        let entry = self.enter(Protocol::Udp, faces, left.peer.clone(), stop);
        entry.counters.resume(left.sent, left.received);
        if let Some(since) = Instant::now().checked_sub(Duration::from_millis(left.age_ms)) {
            entry.began(since);
        }
        entry
    }
}

impl Flow {
    fn taken_up(
        session: &Past,
        left: &handover::Flow,
        way: (Arc<UdpPort>, Option<Way>),
        table: (Table, Entry),
        introduced: Option<Box<(SocketAddr, SocketAddr)>>,
    ) -> Self {
        let name = (!left.name.is_empty()).then(|| left.name.as_str().into());
        let identity =
            FlowIdentity { session: session.clone(), token: left.token, introduced, name };
        let preface = (!left.preface.is_empty()).then(|| left.preface.as_ref().into());
        let flow = Self::new(None, identity, way, table, preface);
        flow.has_been(left.silent_ms, left.is_conversation);
        flow
    }

    fn left(&self) -> io::Result<handover::Flow> {
        let live = self.row().ok_or_else(|| contradicts("it is over"))?;
        let mut left = handover::Flow {
            token: self.identity.token,
            peer: live.peer,
            age_ms: u64::try_from(live.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            silent_ms: self.silent_for(),
            is_conversation: self.has_conversed(),
            sent: live.counters.sent.load(Ordering::Relaxed),
            received: live.counters.received.load(Ordering::Relaxed),
            preface: self.preface().into(),
            name: self.identity.name.as_deref().unwrap_or_default().to_owned(),
            ..handover::Flow::default()
        };
        match (self.way, self.identity.introduced.as_deref()) {
            (Some(way), Some((visitor, visited))) => {
                left.bind = self.port.local_addr().to_string();
                left.sender = way.to.to_string();
                left.at = way.from.map(|at| at.to_string()).unwrap_or_default();
                (left.visitor, left.visited) = (visitor.to_string(), visited.to_string());
            }
            // Thousands of copies might be more than the process may have.
            _ => left.socket = Some(ends::leave_open(&self.port)?),
        }
        Ok(left)
    }
}

fn contradicts(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Settings;

    fn left() -> handover::Flow {
        handover::Flow {
            token: 7,
            bind: "127.0.0.1:0".to_owned(),
            sender: "192.0.2.1:1000".to_owned(),
            at: "192.0.2.2".to_owned(),
            visitor: "192.0.2.1:1000".to_owned(),
            visited: "192.0.2.2:53".to_owned(),
            peer: "192.0.2.1:1000".to_owned(),
            age_ms: 5_000,
            silent_ms: 2_000,
            is_conversation: true,
            sent: 10,
            received: 20,
            name: "dns.internal".to_owned(),
            ..handover::Flow::default()
        }
    }

    fn session() -> Past {
        let left = handover::Past { window_ms: 2_000, ..handover::Past::default() };
        Past::taken_up(&left, &Settings::default())
    }

    fn port() -> Arc<UdpPort> {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("it does not block");
        Arc::new(UdpPort::of(socket).expect("a port"))
    }

    /// [UPG-7]
    #[tokio::test]
    async fn what_one_process_leaves_of_a_visitors_flow_the_next_one_leaves_too() {
        let (table, stop, port) = (Table::default(), CancellationToken::new(), port());
        let known = table.inherit_visitor(&session(), &left(), &port, &stop).expect("taken up");
        let flow = known.kept().expect("a flow");
        assert!(flow.is_parted() && table.active() == 1);
        let again = flow.left().expect("left again");
        assert!(again.age_ms >= 5_000 && again.silent_ms >= 2_000);
        let (age_ms, silent_ms) = (again.age_ms, again.silent_ms);
        let bind = port.local_addr().to_string();
        assert_eq!(again, handover::Flow { age_ms, silent_ms, bind, ..left() });
    }

    /// [UPG-7]
    #[tokio::test]
    async fn a_flow_of_a_socket_of_its_own_waits_for_its_client_and_no_longer() {
        let (table, stop) = (Table::default(), CancellationToken::new());
        let (session, tasks) = (session(), Tasks::new());
        let target = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(target.local_addr().expect("its address")).expect("connected");
        socket.set_nonblocking(true).expect("it does not block");
        let number = ends::leave(&socket).expect("left");
        let left = handover::Flow { socket: Some(number), ..left() };
        table.inherit_flow(&session, &left, &tasks, &stop).expect("taken up");
        assert!(table.lineages().take(&self::session(), 7).is_none(), "another session's");
        assert_eq!(table.active(), 1);
        table.disinherit_flows(&session);
        assert!(table.active() == 0 && table.lineages().take(&session, 7).is_none());
    }

    /// [UPG-5]
    #[tokio::test]
    async fn what_makes_no_sense_is_not_taken_up() {
        let (table, stop, port) = (Table::default(), CancellationToken::new(), port());
        let wrong: [fn(&mut handover::Flow); 4] = [
            |it| it.sender = String::new(),
            |it| it.at = "here".to_owned(),
            |it| it.visitor = "somebody".to_owned(),
            |it| it.visited = "127.0.0.1".to_owned(),
        ];
        for (number, change) in wrong.iter().enumerate() {
            let mut flow = left();
            change(&mut flow);
            assert!(table.inherit_visitor(&session(), &flow, &port, &stop).is_err(), "{number}");
        }
        let listening = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for socket in [None, Some(0), Some(ends::leave(&listening).expect("left"))] {
            let flow = handover::Flow { socket, ..left() };
            let taken = table.inherit_flow(&session(), &flow, &Tasks::new(), &stop);
            assert!(taken.is_err(), "{socket:?}");
        }
        assert_eq!(table.active(), 0, "nothing is left over");
    }
}
