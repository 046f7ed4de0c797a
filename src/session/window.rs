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
        let enough = rtt * 6 + PROMPT;
        let ratio = enough.as_secs_f64() / delay.as_secs_f64();
        let window = (self.window as f64 * ratio.min(MOST_GROWTH)) as u64;
        if self.held_back && delay < enough {
            self.window = window.min(self.most);
        } else if delay > rtt * 8 + SLOW {
            self.window = window.max(SLOW_READER).min(self.window);
        }
    }
}

/// Bounds W by what the path can bear. quinn closes a connection when one stream's reassembly holds more than 1,024
/// separate pieces behind a hole. Every lost packet makes two, one before it and one when it comes after all; so the
/// more a path loses, the shorter the span that may be outstanding. Packets that come late enough to be overtaken by
/// three others count as lost, wherever they are. [STR-22]
#[derive(Debug)]
pub(super) struct PathCap {
    seen: Traffic,
    /// Packets, and lost ones, of the sample before: what is declared lost now was sent then.
    before: (u64, u64),
    /// Bytes and pieces of streams of late: the more recent, the more they count.
    pieces: (u64, u64),
    cap: u64,
    until: Option<Instant>,
}

/// What a connection has sent since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Packets.
    pub(super) packets: u64,
    /// Of these, declared lost.
    pub(super) lost: u64,
    /// Bytes besides datagrams.
    pub(super) bytes: u64,
    /// Pieces of streams.
    pub(super) frames: u64,
}

impl PathCap {
    pub(super) fn new() -> Self {
        Self {
            seen: Traffic::default(),
            before: (0, 0),
            pieces: (0, 0),
            cap: u64::MAX,
            until: None,
        }
    }

    /// The bound for one stream.
    pub(super) fn update(&mut self, all: Traffic, mtu: u16, now: Instant) -> u64 {
        if self.until.is_some_and(|until| now >= until) {
            (self.cap, self.until) = (u64::MAX, None);
        }
        let new = Traffic {
            packets: all.packets.saturating_sub(self.seen.packets),
            lost: all.lost.saturating_sub(self.seen.lost),
            bytes: all.bytes.saturating_sub(self.seen.bytes),
            frames: all.frames.saturating_sub(self.seen.frames),
        };
        if new.packets >= ENOUGH_PACKETS {
            self.seen = all;
            let (bytes, frames) = self.pieces;
            // What waits in quinn's queues would weigh too much in a single sample.
            self.pieces = (bytes - bytes / 8 + new.bytes, frames - frames / 8 + new.frames);
            let (packets, lost) = std::mem::replace(&mut self.before, (new.packets, new.lost));
            let cap = bearable(packets + new.packets, lost + new.lost, self.pieces, mtu);
            if cap <= self.cap && cap <= LARGEST_WINDOW {
                (self.cap, self.until) = (cap, Some(now + ROUGH_FOR));
            }
        }
        self.cap
    }
}

/// Bytes of a stream that may be outstanding on a path that lost so many packets, and on which so many bytes travelled in
/// so many pieces.
fn bearable(packets: u64, lost: u64, (bytes, pieces): (u64, u64), mtu: u16) -> u64 {
    if lost == 0 {
        return u64::MAX;
    }
    let full = u64::from(mtu).saturating_sub(PACKET_OVERHEAD);
    // Beside datagrams and other streams a packet has room for a smaller piece only.
    let piece = bytes.checked_div(pieces).map_or(full, |size| size.clamp(LEAST_PIECE, full));
    // Small pieces are put together, and counted, as they come; full ones when there are 2,048 of them.
    let always = if piece * 2 < full { PIECES } else { 2 * PIECES };
    (PIECES_OF_LOSS * packets / lost).max(always).saturating_mul(piece)
}

/// Whether a receiving end goes on taking bytes out of QUIC, when sockets have yet to take `own` bytes of this stream, at
/// the cost of `cost`, and `all` of the session's. A sender that keeps to its window and its budget never hears a no; for
/// any other, QUIC's own windows hold. [STR-20]
pub(super) fn may_take(own: u64, cost: u64, all: u64) -> bool {
    own < STREAM_HELD_MOST && (cost < ALWAYS_HELD || all < SESSION_HELD_MOST)
}

/// A window is at most 32 MiB.
const STREAM_HELD_MOST: u64 = 33 << 20;
/// Twice the largest budget that a configuration gives a sender.
const SESSION_HELD_MOST: u64 = 512 << 20;
/// So much of a stream is taken whatever the others hold: the payload that comes with the header, and more.
const ALWAYS_HELD: u64 = 64 << 10;
/// A byte that was lost takes two round trips and more, so this is no more than doubling with each.
const MOST_GROWTH: f64 = 4.0;
/// The reader's own delay, and the 10 ms for which reports are gathered. With six round trips, which is what a byte takes
/// that is lost several times, this is how long a window lasts: more would only wait in front of the path.
const PROMPT: Duration = Duration::from_millis(100);
/// Beyond this the reader is what takes the time.
const SLOW: Duration = Duration::from_millis(200);
/// What a slow reader keeps at least.
const SLOW_READER: u64 = 512 << 10;
/// Below this a loss ratio is chance.
const ENOUGH_PACKETS: u64 = 100;
/// How long a path stays rough after it was.
const ROUGH_FOR: Duration = Duration::from_millis(500);
/// quinn-proto's limit of separate pieces.
const PIECES: u64 = 1_024;
/// Lost packets within a span: two pieces each, and a margin.
const PIECES_OF_LOSS: u64 = 450;
/// No bound is of any use above this.
const LARGEST_WINDOW: u64 = 32 << 20;
/// Headers and tag of a packet.
const PACKET_OVERHEAD: u64 = 60;
/// A bound below 64 KiB would hold up who writes byte by byte.
const LEAST_PIECE: u64 = 64;

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
    fn a_prompt_reader_widens_the_window_up_to_the_most() {
        let (mut growth, mut sent) = (Growth::new(256 << 10, 8 << 20), 0);
        for _ in 0..2 {
            round(&mut growth, &mut sent, RTT, true);
        }
        assert_eq!(growth.window(), 4 << 20);
        for _ in 0..2 {
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
    fn a_slow_reader_is_left_with_512_kib() {
        let (mut growth, mut sent) = (Growth::new(256 << 10, 8 << 20), 0);
        round(&mut growth, &mut sent, Duration::from_secs(3), true);
        assert_eq!(growth.window(), 256 << 10);
        for _ in 0..5 {
            round(&mut growth, &mut sent, RTT, true);
        }
        round(&mut growth, &mut sent, Duration::from_secs(3), true);
        assert_eq!(growth.window(), (8 << 20) * 580 / 3_000);
        round(&mut growth, &mut sent, Duration::from_secs(3), true);
        assert_eq!(growth.window(), 512 << 10);
    }

    #[test]
    fn a_sender_that_keeps_to_no_window_fills_neither_a_stream_nor_a_session() {
        assert!(may_take(32 << 20, 34 << 20, 256 << 20), "within window and budget");
        assert!(!may_take(33 << 20, 33 << 20, 33 << 20), "one stream");
        assert!(!may_take(1 << 20, 1 << 20, 512 << 20), "many streams");
        assert!(!may_take(1 << 10, 1 << 20, 512 << 20), "many pieces behind holes");
        assert!(
            may_take(0, 0, 1 << 30),
            "a stream of which nothing waits for its socket always moves"
        );
    }

    fn sent(packets: u64, lost: u64) -> Traffic {
        Traffic { packets, lost, bytes: packets * 1_392, frames: packets }
    }

    #[test]
    fn the_more_a_path_loses_the_less_may_be_outstanding() {
        for (percent, cap) in [
            (0, u64::MAX),
            (1, 45_000 * 1_392),
            (5, 9_000 * 1_392),
            (10, 4_500 * 1_392),
            (15, 3_000 * 1_392),
            (50, 2_048 * 1_392),
            (100, 2_048 * 1_392),
        ] {
            let bearable = bearable(1_000, percent * 10, (1_392, 1), 1_452);
            assert_eq!(bearable, cap, "{percent} %");
            assert!(percent > 1 || bearable > LARGEST_WINDOW, "one per cent bounds nothing");
        }
    }

    #[test]
    fn small_pieces_count_as_much_as_large_ones() {
        for (pieces, cap) in [
            ((1_392_000, 1_000), 2_048 * 1_392),
            ((1_452_000, 1_000), 2_048 * 1_392),
            ((400_000, 1_000), 1_024 * 400),
            ((1_000, 1_000), 1_024 * 64),
            ((0, 0), 2_048 * 1_392),
        ] {
            assert_eq!(bearable(1_000, 500, pieces, 1_452), cap, "{pieces:?}");
        }
        let mut cap = PathCap::new();
        cap.update(sent(1_000, 0), 1_452, Instant::now());
        let all = Traffic { packets: 1_200, lost: 100, bytes: 1_392_000, frames: 1_200 };
        let bound = cap.update(all, 1_452, Instant::now());
        assert!(
            bound > 2_048 * 1_000,
            "a moment in which nothing new is sent does not count: {bound}"
        );
    }

    #[test]
    fn a_rough_path_bounds_the_span_for_a_while() {
        let (mut cap, now) = (PathCap::new(), Instant::now());
        let mut at = |packets, lost, quarters| {
            let now = now + Duration::from_millis(250) * quarters;
            // In packets, because the size of a piece is a running average.
            cap.update(sent(packets, lost), 1_452, now) / 1_391
        };
        let calm = u64::MAX / 1_391;
        assert_eq!(at(1_000, 10, 0), calm, "one per cent");
        assert_eq!(at(1_050, 60, 0), calm, "too few to tell");
        assert!((2_048..2_052).contains(&at(2_000, 510, 0)));
        assert!((2_048..2_052).contains(&at(3_000, 511, 1)));
        assert_eq!(at(4_000, 512, 3), calm);
        assert_eq!(at(4_100, 522, 4), calm);
        assert!((4_500..4_506).contains(&at(5_000, 612, 4)));
        assert!((2_048..2_052).contains(&at(6_000, 1_112, 5)), "it may become worse at any time");
    }
}
