//! A look at the way to a router and beyond it, for `conduit doctor`: what a tunnel would meet, without one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::connect::{Attempt, Established, establish, retried};
use super::once::{Line, Once, close};
use super::probe::{probe, rate};
use super::sources::served;
use super::{Access, StartError};
use crate::session::Terms;
use crate::task::Tasks;
use crate::transport::{Negotiated, PathStats};
use crate::tunnel::HostPort;
use crate::wire::Code;

/// What was found out about the way to a router.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The address that answered.
    pub addr: HostPort,
    /// From the first packet to being admitted.
    pub admitted_in: Duration,
    /// What was agreed on.
    pub terms: Terms,
    /// What TLS agreed on.
    pub tls: Option<Negotiated>,
    /// Round trips through a stream, in their order.
    pub round_trips: Vec<Duration>,
    /// By how much the router's clock is ahead of this one, in seconds; less than a round trip tells nothing.
    pub clock_ahead: Option<f64>,
    /// Bits per second there and back, at least.
    pub rate: Option<f64>,
    /// Why a probe did not come back.
    pub failed: Option<String>,
    /// The path, afterwards.
    pub path: PathStats,
}

impl Examination {
    /// The middle one of the round trips.
    pub fn median(&self) -> Option<Duration> {
        let mut sorted = self.round_trips.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied()
    }

    /// By how much a round trip differs from the one before, on average (RFC 3550, 6.4.1, without its smoothing).
    pub fn jitter(&self) -> Option<Duration> {
        let pairs = self.round_trips.windows(2);
        let count = u32::try_from(pairs.len()).ok().filter(|count| *count > 0)?;
        let sum: Duration = pairs.map(|pair| pair[0].abs_diff(pair[1])).sum();
        Some(sum / count)
    }
}

/// Connects, is admitted, and sends `probes` probes, one after the other. Declares nothing. Cancel-safe: dropped, the
/// session ends.
pub async fn examine(access: &Access, probes: usize) -> Result<Examination, StartError> {
    let (tasks, introduction) = (Tasks::new(), access.introduction(Uuid::new_v4(), None));
    let start = Instant::now();
    let attempt = |tries| Attempt::first(&tasks, tries);
    let established = retried(|tries| establish(access, &introduction, attempt(tries))).await?;
    let admitted_in = start.elapsed();
    let Established { session, endpoint, addr, .. } = established;
    let clock_ahead = clock_ahead(session.terms().router_time, session.path().rtt);
    let (mut round_trips, mut failed) = (Vec::with_capacity(probes), None);
    for _ in 0..probes {
        let sent = Instant::now();
        let outcome = probe(Some(session.clone()), PROBE_LIMIT).await;
        if !outcome.ok {
            failed = outcome.error;
            break;
        }
        round_trips.push(sent.elapsed());
        tokio::time::sleep(BETWEEN_PROBES).await;
    }
    let rate = if failed.is_none() { rate(&session, MEASURE).await } else { None };
    let examination = Examination {
        clock_ahead,
        rate,
        addr,
        admitted_in,
        terms: session.terms().clone(),
        tls: session.connection().negotiated().cloned(),
        round_trips,
        failed,
        path: session.path(),
    };
    close(&session, &endpoint, &tasks, "examined").await;
    Ok(examination)
}

/// What a router says came half a round trip ago.
fn clock_ahead(router: SystemTime, rtt: Duration) -> Option<f64> {
    if router == UNIX_EPOCH {
        return None;
    }
    let then = SystemTime::now() - rtt / 2;
    Some(match router.duration_since(then) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    })
}

/// A target was not reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// There was no session, or the tunnel cannot be.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The router did not connect.
    #[error("{message}")]
    Refused {
        /// Why.
        code: Code,
        /// For people.
        message: String,
    },
    /// Something else on the way.
    #[error("{0}")]
    Failed(String),
}

/// Has the router connect to the target, and hangs up: how long that took, a round trip included.
pub async fn reaches(once: &Once) -> Result<Duration, Unreached> {
    let mut line = Line::open(once).await?;
    let start = Instant::now();
    let answer = tokio::time::timeout(DIAL_LIMIT, served(&mut line.receiver)).await;
    let took = start.elapsed();
    line.sender.reset(Code::Done);
    line.receiver.stop(Code::Done);
    line.close("examined").await;
    match answer {
        Ok(answer) => answer.map(|()| took),
        Err(_) => Err(Unreached::Failed(format!("no answer within {DIAL_LIMIT:?}"))),
    }
}

/// A router that answers takes a round trip.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// How long the rate is measured.
const MEASURE: Duration = Duration::from_secs(1);
const BETWEEN_PROBES: Duration = Duration::from_millis(25);
/// Longer than a router tries.
const DIAL_LIMIT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_jitter_are_those_of_the_round_trips() {
        let found = |millis: &[u64]| Examination {
            addr: "127.0.0.1:1".parse().expect("an address"),
            admitted_in: Duration::ZERO,
            terms: Terms {
                session_id: [0; 16],
                router_time: UNIX_EPOCH,
                enrolled: false,
                name: String::new(),
                peer_version: String::new(),
                owner: false,
                targets: Vec::new(),
                binds: Vec::new(),
            },
            tls: None,
            clock_ahead: None,
            rate: None,
            round_trips: millis.iter().copied().map(Duration::from_millis).collect(),
            failed: None,
            path: PathStats {
                rtt: Duration::ZERO,
                sent: 0,
                lost: 0,
                lost_bytes: 0,
                mtu: 1_200,
                congestion_window: 0,
                udp_bytes: (0, 0),
            },
        };
        let of = |millis: &[u64]| (found(millis).median(), found(millis).jitter());
        assert_eq!(of(&[]), (None, None));
        assert_eq!(of(&[7]), (Some(Duration::from_millis(7)), None));
        let (median, jitter) = of(&[10, 30, 20]);
        assert_eq!(median, Some(Duration::from_millis(20)));
        assert_eq!(jitter, Some(Duration::from_millis(15)));
    }
}
