//! Notices that the peer is not heard any more, and asks again sooner than QUIC does.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::{Activity, Connection};

/// Looks at a connection now and then. QUIC's own probes double their distance (RFC 9002, 6.2.1): after an outage of
/// 20 seconds, or on a path that loses every second packet, the next one may be as far away again. One small message a
/// moment is no burden to any path. [SES-29]
///
/// What asks here puts QUIC's probe off, which is the one that is small enough for a path whose MTU has fallen: now and
/// then it has to have its turn.
#[derive(Debug)]
pub(super) struct Pulse {
    next: Instant,
    /// At the last look at which something had been heard.
    seen: Activity,
    turn: Turn,
    /// Questions in a row.
    row: u32,
}

/// Who asks a peer that is silent.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Nobody yet: QUIC's first probes come one soon after the other. Looks until that has been long enough.
    Patience(u32),
    /// This end, so many times more.
    Ours(u32),
    /// QUIC, after so many packets.
    Quic { sent: u64 },
}

/// What a look leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Not,
    /// When the window has room: a silence is over.
    InLine,
    /// Whatever is in flight: packets were sent, nothing was heard since, and it is this end's turn.
    AtOnce,
}

impl Pulse {
    pub(super) fn new() -> Self {
        let next = Instant::now() + CALM;
        Self { next, seen: Activity::default(), turn: Turn::Patience(PATIENCE), row: ROW }
    }

    /// Waits until something should be said that the peer must acknowledge, and lets one packet of it pass when that is
    /// called for. Cancel-safe.
    pub(super) async fn silent(&mut self, connection: &Connection) {
        loop {
            tokio::time::sleep_until(self.next).await;
            let now = connection.activity();
            let idle = now == self.seen;
            self.next = Instant::now() + if idle { CALM } else { step(connection.least_rtt()) };
            match self.look(now) {
                Asks::Not => {}
                Asks::InLine => return,
                Asks::AtOnce => {
                    connection.let_one_through();
                    return;
                }
            }
        }
    }

    /// Books what a look has found.
    fn look(&mut self, now: Activity) -> Asks {
        if now.heard != self.seen.heard || now.sent == self.seen.sent {
            // The peer is back, which does not tell what it has missed.
            let was_silent = !matches!(self.turn, Turn::Patience(_));
            (self.seen, self.turn, self.row) = (now, Turn::Patience(PATIENCE), ROW);
            return if was_silent { Asks::InLine } else { Asks::Not };
        }
        match self.turn {
            Turn::Patience(0) => self.turn = Turn::Ours(ROW),
            Turn::Patience(looks) => self.turn = Turn::Patience(looks - 1),
            Turn::Ours(0) => self.turn = Turn::Quic { sent: now.sent },
            Turn::Ours(left) => {
                self.turn = Turn::Ours(left - 1);
                return Asks::AtOnce;
            }
            Turn::Quic { sent } if sent == now.sent => {}
            Turn::Quic { .. } => {
                self.row *= 2;
                self.turn = Turn::Ours(self.row);
            }
        }
        Asks::Not
    }
}

/// Between two looks while something is on its way.
fn step(rtt: Duration) -> Duration {
    (rtt * 8).clamp(STEP_LEAST, CALM)
}

const STEP_LEAST: Duration = Duration::from_millis(500);
/// Between two looks while nothing is sent.
const CALM: Duration = Duration::from_secs(1);
/// Silent looks before the first question. A path whose MTU has fallen answers QUIC's probes by then.
const PATIENCE: u32 = 2;
/// Questions in a row, at first: a stall of QUIC's own probe is a small part of that.
const ROW: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(sent: u64, heard: u64) -> Activity {
        Activity { sent, heard }
    }

    #[test]
    fn only_packets_without_an_answer_are_silence() {
        let mut pulse = Pulse::new();
        assert_eq!(pulse.look(at(0, 0)), Asks::Not, "nothing was sent");
        let silent = [0; 5].map(|_| pulse.look(at(10, 0)));
        assert_eq!(silent[..3], [Asks::Not; 3]);
        assert_eq!(silent[3..], [Asks::AtOnce; 2], "from 1.5 s on");
        assert_eq!(pulse.look(at(20, 1)), Asks::InLine, "once more when the peer is back");
        assert!([20; 5].iter().all(|sent| pulse.look(at(*sent, 1)) == Asks::Not), "idle");
    }

    #[test]
    fn now_and_then_it_is_the_turn_of_quics_own_probe() {
        let mut pulse = Pulse::new();
        let mut sent = 1;
        assert!((0..=PATIENCE).all(|_| pulse.look(at(sent, 0)) == Asks::Not));
        for row in [ROW, ROW * 2, ROW * 4] {
            for _ in 0..row {
                assert_eq!(pulse.look(at(sent, 0)), Asks::AtOnce);
                sent += 1;
            }
            let waits = (0..20).all(|_| pulse.look(at(sent, 0)) == Asks::Not);
            assert!(waits, "as long as that takes");
            sent += 2;
            assert_eq!(pulse.look(at(sent, 0)), Asks::Not, "it has come");
        }
    }

    #[test]
    fn a_look_is_soon_however_long_the_path() {
        let steps = [0, 20, 100, 200, 5_000].map(|ms| step(Duration::from_millis(ms)).as_millis());
        assert_eq!(steps, [500, 500, 800, 1_000, 1_000]);
    }
}
