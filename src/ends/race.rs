//! Several attempts, one after the other with a head start, and the first that succeeds (RFC 8305, section 5).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// Puts IPv6 and IPv4 in turns, beginning with the family that the resolver put first (RFC 8305, section 4).
pub(super) fn interleave(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first_is_v6) = addrs.first().map(SocketAddr::is_ipv6) else { return addrs };
    let (first, second): (Vec<_>, Vec<_>) =
        addrs.into_iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return turns;
        }
        turns.extend(pair.into_iter().flatten());
    }
}

/// Starts an attempt for each address, the next one `delay` after the one before or as soon as one has failed.
/// The first success drops the others; without one, all errors come back in the order in which they happened.
pub(super) async fn race<T, E, F: Future<Output = Result<T, E>>>(
    addrs: Vec<SocketAddr>,
    delay: Duration,
    mut attempt: impl FnMut(SocketAddr) -> F,
) -> Result<T, Vec<E>> {
    let mut waiting = addrs.into_iter();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut errors = Vec::new();
    loop {
        match waiting.next() {
            Some(addr) => running.push(Box::pin(attempt(addr))),
            None if running.is_empty() => return Err(errors),
            None => {}
        }
        let mut pause = pin!(tokio::time::sleep(delay));
        let more = waiting.len() > 0;
        let finished = poll_fn(|context| {
            for index in 0..running.len() {
                if let Poll::Ready(result) = running[index].as_mut().poll(context) {
                    // The finished future must not be polled again.
                    drop(running.swap_remove(index));
                    return Poll::Ready(Some(result));
                }
            }
            // Without another address there is nothing to wake up for.
            match more {
                true => pause.as_mut().poll(context).map(|()| None),
                false => Poll::Pending,
            }
        })
        .await;
        match finished {
            Some(Ok(winner)) => return Ok(winner),
            Some(Err(error)) => errors.push(error),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::{Instant, sleep};

    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| format!("{text}:1").parse().expect(text)).collect()
    }

    const DELAY: Duration = Duration::from_millis(250);

    #[test]
    fn families_take_turns_and_the_first_stays_first() {
        let mixed = addrs(&["[::1]", "[::2]", "[::3]", "1.1.1.1", "2.2.2.2"]);
        let turns = addrs(&["[::1]", "1.1.1.1", "[::2]", "2.2.2.2", "[::3]"]);
        assert_eq!(interleave(mixed), turns);
        let other = addrs(&["1.1.1.1", "2.2.2.2", "[::1]"]);
        assert_eq!(interleave(other), addrs(&["1.1.1.1", "[::1]", "2.2.2.2"]));
        assert_eq!(interleave(Vec::new()), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_one_delay() {
        let started = Instant::now();
        let result = race(addrs(&["1.1.1.1", "2.2.2.2"]), DELAY, |addr| async move {
            if addr.ip().to_string() == "1.1.1.1" {
                std::future::pending::<()>().await;
            }
            Ok::<_, ()>(addr)
        });
        assert_eq!(result.await, Ok(addrs(&["2.2.2.2"])[0]));
        assert_eq!(started.elapsed(), DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_at_once() {
        let started = Instant::now();
        let all = addrs(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]);
        let result: Result<(), _> = race(all.clone(), DELAY, |addr| async move { Err(addr) }).await;
        assert_eq!(result, Err(all));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_may_still_win() {
        let begun = RefCell::new(Vec::new());
        let started = Instant::now();
        let all = addrs(&["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]);
        let winner = race(all.clone(), DELAY, |addr| {
            begun.borrow_mut().push(started.elapsed());
            async move {
                sleep(Duration::from_millis(600)).await;
                Ok::<_, ()>(addr)
            }
        });
        assert_eq!(winner.await, Ok(all[0]));
        assert_eq!(*begun.borrow(), [Duration::ZERO, DELAY, 2 * DELAY]);
    }

    #[tokio::test]
    async fn nothing_to_try_is_no_success() {
        let result: Result<(), Vec<()>> = race(vec![], DELAY, |_| async { Ok(()) }).await;
        assert_eq!(result, Err(vec![]));
    }
}
