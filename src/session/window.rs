//! W: how many undelivered bytes one direction of one stream may have. Pure arithmetic.

use std::time::{Duration, Instant};

/// The growth of one stream's window. It starts small and doubles while the far socket takes bytes about as fast as
/// the path brings them; a reader that is slow for its own reasons keeps a small one. [STR-22]
#[derive(Debug)]
pub(super) struct Growth {
    window: u64,
    most: u64,
    /// The oldest byte whose delivery is being timed.
    sample: Option<(u64, Instant)>,
    /// Whether the window held the stream back since the sample was taken.
    held_back: bool,
}

impl Growth {
    pub(super) fn new(initial: u64, most: u64) -> Self {
        Self { window: initial.min(most), most, sample: None, held_back: false }
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// Bytes up to `offset` were sent.
    pub(super) fn sent(&mut self, offset: u64, now: Instant) {
        if self.sample.is_none() {
            self.sample = Some((offset, now));
            self.held_back = false;
        }
    }

    /// The window is full.
    pub(super) fn held_back(&mut self) {
        self.held_back = true;
    }

    /// Whether the byte being timed has been delivered, so that [`Growth::delivered`] has something to judge.
    pub(super) fn is_due(&self, delivered: u64) -> bool {
        self.sample.is_some_and(|(offset, _)| delivered >= offset)
    }

    /// Bytes up to `delivered` were taken by the far socket; `rtt` is the path's.
    pub(super) fn delivered(&mut self, delivered: u64, now: Instant, rtt: Duration) {
        let Some((offset, at)) = self.sample else { return };
        if delivered < offset {
            return;
        }
        self.sample = None;
        let delay = now.saturating_duration_since(at);
        if self.held_back && delay <= rtt * 4 + PROMPT {
            self.window = (self.window * 2).min(self.most);
        } else if delay > rtt * 8 + SLOW {
            self.window = self.window.min(SLOW_READER.min(self.most));
        }
    }
}

/// Bounds W by what the path can bear. quinn closes a connection when one stream's reassembly holds more than 1,024
/// separate pieces, which takes an outstanding span of at least 2,048 packets; a calm path does not get there.
#[derive(Debug)]
pub(super) struct PathCap {
    sent: u64,
    lost: u64,
    rough_until: Option<Instant>,
}

impl PathCap {
    pub(super) fn new() -> Self {
        Self { sent: 0, lost: 0, rough_until: None }
    }

    /// The bound for one stream, from the connection's packet counters so far.
    pub(super) fn update(&mut self, sent: u64, lost: u64, mtu: u16, now: Instant) -> u64 {
        let (newly_sent, newly_lost) =
            (sent.saturating_sub(self.sent), lost.saturating_sub(self.lost));
        if newly_sent >= ENOUGH_PACKETS {
            (self.sent, self.lost) = (sent, lost);
            if newly_lost * 100 >= newly_sent * ROUGH_PERCENT {
                self.rough_until = Some(now + ROUGH_FOR);
            }
        }
        match self.rough_until {
            Some(until) if now < until => {
                SAFE_PACKETS * u64::from(mtu).saturating_sub(PACKET_OVERHEAD)
            }
            _ => u64::MAX,
        }
    }
}

/// Whether a receiving end goes on taking bytes out of QUIC, when sockets have yet to take `own` bytes of this stream and
/// `all` of the session's. A sender that keeps to its window and its budget never hears a no; for any other, QUIC's own
/// windows hold. [STR-20]
pub(super) fn may_take(own: u64, all: u64) -> bool {
    own < STREAM_HELD_MOST && (own < ALWAYS_HELD || all < SESSION_HELD_MOST)
}

/// A window is at most 8 MiB.
const STREAM_HELD_MOST: u64 = 9 << 20;
/// Twice the largest budget that a configuration gives a sender.
const SESSION_HELD_MOST: u64 = 512 << 20;
/// So much of a stream is taken whatever the others hold: the payload that comes with the header, and more.
const ALWAYS_HELD: u64 = 64 << 10;
/// The reader's own delay and the 10 ms for which reports are gathered.
const PROMPT: Duration = Duration::from_millis(50);
/// Beyond this the reader is what takes the time.
const SLOW: Duration = Duration::from_millis(200);
/// What a slow reader keeps.
const SLOW_READER: u64 = 512 << 10;
/// Below this a loss ratio is chance.
const ENOUGH_PACKETS: u64 = 100;
/// The ratio from which a path is rough.
const ROUGH_PERCENT: u64 = 15;
/// How long a path stays rough after it was.
const ROUGH_FOR: Duration = Duration::from_secs(2);
/// Twice quinn-proto's 1,024 pieces: every other packet lost.
const SAFE_PACKETS: u64 = 2_048;
/// Headers and tag of a packet.
const PACKET_OVERHEAD: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(80);

    fn round(growth: &mut Growth, sent: &mut u64, delay: Duration, full: bool) {
        let start = Instant::now();
        *sent += 1_000;
        growth.sent(*sent, start);
        if full {
            growth.held_back();
        }
        growth.delivered(*sent, start + delay, RTT);
    }

    #[test]
    fn a_prompt_reader_doubles_the_window_up_to_the_most() {
        let (mut growth, mut sent) = (Growth::new(256 << 10, 8 << 20), 0);
        for _ in 0..4 {
            round(&mut growth, &mut sent, RTT, true);
        }
        assert_eq!(growth.window(), 4 << 20);
        for _ in 0..4 {
            round(&mut growth, &mut sent, RTT, true);
        }
        assert_eq!(growth.window(), 8 << 20);
    }

    #[test]
    fn a_window_that_holds_nobody_back_stays() {
        let (mut growth, mut sent) = (Growth::new(256 << 10, 8 << 20), 0);
        round(&mut growth, &mut sent, RTT, false);
        assert_eq!(growth.window(), 256 << 10);
    }

    #[test]
    fn a_slow_reader_keeps_at_most_512_kib() {
        let (mut growth, mut sent) = (Growth::new(256 << 10, 8 << 20), 0);
        round(&mut growth, &mut sent, Duration::from_secs(3), true);
        assert_eq!(growth.window(), 256 << 10);
        for _ in 0..5 {
            round(&mut growth, &mut sent, RTT, true);
        }
        round(&mut growth, &mut sent, Duration::from_secs(3), true);
        assert_eq!(growth.window(), 512 << 10);
    }

    #[test]
    fn a_sender_that_keeps_to_no_window_fills_neither_a_stream_nor_a_session() {
        assert!(may_take(8 << 20, 256 << 20), "within window and budget");
        assert!(!may_take(9 << 20, 9 << 20), "one stream");
        assert!(!may_take(1 << 20, 512 << 20), "many streams");
        assert!(
            may_take(0, 1 << 30),
            "a stream of which nothing waits for its socket always moves"
        );
    }

    #[test]
    fn a_rough_path_bounds_the_span_to_2048_packets_for_a_while() {
        let (mut cap, now) = (PathCap::new(), Instant::now());
        assert_eq!(cap.update(1_000, 10, 1_452, now), u64::MAX, "one percent is calm");
        assert_eq!(cap.update(1_050, 60, 1_452, now), u64::MAX, "too few to tell");
        assert_eq!(cap.update(2_000, 500, 1_452, now), 2_048 * 1_392);
        assert_eq!(cap.update(3_000, 501, 1_452, now + Duration::from_secs(1)), 2_048 * 1_392);
        assert_eq!(cap.update(4_000, 502, 1_452, now + Duration::from_secs(3)), u64::MAX);
    }
}
