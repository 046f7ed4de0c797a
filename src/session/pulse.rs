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
    Quic { asked: u64 },
    /// The peer is back, and is asked so many times more.
    Back(u32),
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
            if self.asks(now) {
                connection.let_one_through();
                return;
            }
        }
    }

    /// Books what a look has found. True: the peer has to be asked, whatever is in flight.
    fn asks(&mut self, now: Activity) -> bool {
        if now.heard != self.seen.heard || now.asked == self.seen.asked {
            // That the peer is back does not tell what it has missed: what fills the window may be lost, all of it, and
            // QUIC's own probe be as far away as the silence was long.
            let asks = match self.turn {
                Turn::Patience(_) => 0,
                Turn::Back(left) => left,
                Turn::Ours(_) | Turn::Quic { .. } => BACK,
            };
            (self.seen, self.row) = (now, ROW);
            self.turn = if asks > 1 { Turn::Back(asks - 1) } else { Turn::Patience(PATIENCE) };
            return asks > 0;
        }
        match self.turn {
            Turn::Patience(0) | Turn::Back(_) => self.turn = Turn::Ours(ROW),
            Turn::Patience(looks) => self.turn = Turn::Patience(looks - 1),
            Turn::Ours(0) => self.turn = Turn::Quic { asked: now.asked },
            Turn::Ours(left) => {
                self.turn = Turn::Ours(left - 1);
                return true;
            }
            Turn::Quic { asked } if asked == now.asked => {}
            Turn::Quic { .. } => {
                self.row *= 2;
                self.turn = Turn::Ours(self.row);
            }
        }
        false
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
/// Questions when the peer is back: one may get lost.
const BACK: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(asked: u64, heard: u64) -> Activity {
        Activity { asked, heard, answered: heard }
    }

    #[test]
    fn only_packets_without_an_answer_are_silence() {
        let mut pulse = Pulse::new();
        assert!(!pulse.asks(at(0, 0)), "nothing was sent");
        let silent = [0; 5].map(|_| pulse.asks(at(10, 0)));
        assert_eq!(silent, [false, false, false, true, true], "from 1.5 s on");
        assert!(pulse.asks(at(20, 1)), "once more when the peer is back");
        assert!(pulse.asks(at(20, 1)), "and once more, in case that gets lost");
        assert!([20; 5].iter().all(|sent| !pulse.asks(at(*sent, 1))), "idle");
    }

    #[test]
    fn now_and_then_it_is_the_turn_of_quics_own_probe() {
        let mut pulse = Pulse::new();
        let mut sent = 1;
        assert!((0..=PATIENCE).all(|_| !pulse.asks(at(sent, 0))));
        for row in [ROW, ROW * 2, ROW * 4] {
            for _ in 0..row {
                assert!(pulse.asks(at(sent, 0)));
                sent += 1;
            }
            let waits = (0..20).all(|_| !pulse.asks(at(sent, 0)));
            assert!(waits, "as long as that takes");
            sent += 2;
            assert!(!pulse.asks(at(sent, 0)), "it has come");
        }
    }

    #[test]
    fn a_look_is_soon_however_long_the_path() {
        let steps = [0, 20, 100, 200, 5_000].map(|ms| step(Duration::from_millis(ms)).as_millis());
        assert_eq!(steps, [500, 500, 800, 1_000, 1_000]);
    }
}
