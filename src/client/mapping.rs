//! How long a NAT on the way remembers a client that says nothing: for `conduit doctor`.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::Access;
use super::connect::{Attempt, Established, establish, retried};
use super::once::close;
use super::probe::{probe, round_trip};
use crate::identity::random_bytes;
use crate::session::Session;
use crate::task::Tasks;
use crate::transport::{self, Connection};
use crate::tunnel::CarrierChoice;

/// How much silence a mapping outlives: the router's packets still come in after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// The longest silence that it has outlived.
    pub lived: Option<Duration>,
    /// The shortest one, longer than that, that it has not.
    pub lapsed: Option<Duration>,
    /// Why another one tells nothing.
    pub untold: Option<String>,
}

/// What became of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// A packet of the router came in after so much silence.
    Lived(Duration),
    /// None did, until this end spoke again.
    Lapsed(Duration),
    /// That cannot be told, and why.
    Untold(String),
}

/// Leaves connections over UDP silent and has the router say something after a while; for each of `silences` (at most
/// 25 s) a connection of its own, all at the same time. Takes as long as the longest of them, and up to 6 s more where it
/// is not outlived. Cancel-safe: dropped, the sessions end. [STR-14]
pub async fn lifetime(access: &Access, silences: &[Duration]) -> Lifetime {
    let mut fates = JoinSet::new();
    for silence in silences.iter().copied() {
        let access = access.clone();
        fates.spawn(async move { fate(&access, silence).await });
    }
    Lifetime::of(fates.join_all().await)
}

impl Lifetime {
    fn of(fates: Vec<Fate>) -> Self {
        let lived = fates.iter().filter_map(|fate| match fate {
            Fate::Lived(silence) => Some(*silence),
            _ => None,
        });
        let lived = lived.max();
        // What was lost after less silence than has been outlived was lost for another reason.
        let lapsed = fates.iter().filter_map(|fate| match fate {
            Fate::Lapsed(silence) if lived.is_none_or(|lived| *silence > lived) => Some(*silence),
            _ => None,
        });
        let lapsed = lapsed.min();
        let untold = fates.into_iter().find_map(|fate| match fate {
            Fate::Untold(why) => Some(why),
            _ => None,
        });
        Self { lived, lapsed, untold }
    }
}

/// What becomes of one mapping.
async fn fate(access: &Access, silence: Duration) -> Fate {
    let transport = transport::Settings {
        carrier: CarrierChoice::Quic,
        keep_alive: false,
        idle_timeout: transport::Settings::default().idle_timeout,
        // Nobody looks whether larger ones get through.
        max_packet: Some(SMALL),
        ..access.transport.clone()
    };
    let access = Access { transport, ..access.clone() };
    let (tasks, introduction) = (Tasks::new(), access.introduction(Uuid::new_v4(), None));
    let attempt = |tries| Attempt::first(&tasks, tries);
    match retried(|tries| establish(&access, &introduction, attempt(tries))).await {
        Ok(Established { session, endpoint, .. }) => {
            let fate = after(&session, silence).await;
            close(&session, &endpoint, &tasks, "measured").await;
            fate
        }
        Err(error) => Fate::Untold(error.to_string()),
    }
}

/// What a session hears after a silence.
async fn after(session: &Session, silence: Duration) -> Fate {
    let payload = match random_bytes::<16>() {
        Ok(bytes) => Bytes::copy_from_slice(&bytes),
        Err(error) => return Fate::Untold(error.to_string()),
    };
    let start = Instant::now();
    let mut quiet = Quiet::on(session.connection());
    let mut back = pin!(round_trip(session, payload, silence));
    // In this order: the answer itself is not what the silence ends with.
    let came = tokio::select! {
        biased;
        came = &mut back => Some(came),
        () = quiet.watch() => None,
        () = tokio::time::sleep_until(start + silence + GRACE + session.path().rtt * 3) => None,
    };
    match came {
        Some(Ok(())) if start.elapsed() < silence => {
            Fate::Untold("the router answers at once: it does not know how to wait".to_owned())
        }
        Some(Ok(())) => match quiet.lasted() {
            lasted if lasted + SLACK >= silence => Fate::Lived(lasted),
            lasted => Fate::Untold(format!("{lasted:.1?} were the longest silence there was")),
        },
        Some(Err(why)) => Fate::Untold(why),
        None => {
            // What the router has said in vain follows as soon as it knows where to.
            let lasted = quiet.lasted();
            let (_, came) = tokio::join!(
                probe(Some(session.clone()), SPEAKS),
                tokio::time::timeout(SPEAKS, back)
            );
            match came {
                Ok(Ok(())) if lasted + SLACK >= silence => Fate::Lapsed(silence),
                Ok(Ok(())) => Fate::Untold("the answer got lost, and not for silence".to_owned()),
                Ok(Err(why)) => Fate::Untold(why),
                Err(_) => Fate::Untold("the router is not heard of any more".to_owned()),
            }
        }
    }
}

/// How long a connection has been silent, by its packets.
struct Quiet<'a> {
    connection: &'a Connection,
    packets: (u64, u64),
    since: Instant,
}

impl<'a> Quiet<'a> {
    fn on(connection: &'a Connection) -> Self {
        Self { connection, packets: connection.packets(), since: Instant::now() }
    }

    /// Looks again and again, which costs no packet. Never returns.
    async fn watch(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let packets = self.connection.packets();
            if packets != self.packets {
                (self.packets, self.since) = (packets, Instant::now());
            }
        }
    }

    fn lasted(&self) -> Duration {
        self.since.elapsed()
    }
}

/// QUIC's smallest largest packet.
const SMALL: u16 = 1_200;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The router repeats what is not acknowledged: about five times by then on a path of 50 ms.
const GRACE: Duration = Duration::from_secs(2);
/// What a path takes at the most to carry the end of the talk before, and an acknowledgement.
const SLACK: Duration = Duration::from_secs(1);
/// For a path that works again.
const SPEAKS: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_the_longest_silence_outlived_and_the_shortest_beyond_that() {
        let second = Duration::from_secs;
        let lived = |seconds| Fate::Lived(second(seconds));
        let lapsed = |seconds| Fate::Lapsed(second(seconds));
        let untold = || Fate::Untold("why".to_owned());
        for (fates, expected) in [
            (vec![lived(7)], (Some(7), None, false)),
            (vec![lapsed(7)], (None, Some(7), false)),
            (vec![lapsed(25), lived(12), lapsed(18), lived(7)], (Some(12), Some(18), false)),
            (vec![lapsed(7), lived(12), untold()], (Some(12), None, true)),
            (vec![untold()], (None, None, true)),
        ] {
            let Lifetime { lived, lapsed, untold } = Lifetime::of(fates.clone());
            let found = (lived, lapsed, untold.is_some());
            let (lived, lapsed, untold) = expected;
            assert_eq!(found, (lived.map(second), lapsed.map(second), untold), "{fates:?}");
        }
    }
}
