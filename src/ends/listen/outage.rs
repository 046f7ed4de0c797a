//! Users who cannot be accepted wait, and the operator hears of it.

use std::fmt::Display;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Since when accepting fails, so that an outage is one line in the log and not thousands: while files are short, one
/// becomes free now and then, and is taken at once.
#[derive(Debug, Default)]
pub struct Outage(Mutex<Option<Failed>>);

/// When accepting failed for the last time, and why.
type Failed = (Instant, String);

impl Outage {
    /// That users wait now, and why, if they do.
    pub fn reason(&self) -> Option<String> {
        let last = self.last();
        let (at, why) = last.as_ref()?;
        (at.elapsed() <= RECOVERED).then(|| {
            format!("users wait to be accepted: {why}; a higher limit of open files (ulimit -n) mends it")
        })
    }

    /// Something failed: whether an outage begins with it.
    fn begins(&self, error: &io::Error) -> bool {
        self.last().replace((Instant::now(), error.to_string())).is_none()
    }

    /// Something did not: whether an outage has ended, because nothing has failed for a while.
    fn ends(&self) -> bool {
        let mut last = self.last();
        last.take_if(|(at, _)| at.elapsed() > RECOVERED).is_some()
    }

    fn last(&self) -> MutexGuard<'_, Option<Failed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn persevere<T, F: Future<Output = io::Result<T>>>(
    outage: &Outage,
    local: &impl Display,
    mut accept: impl FnMut() -> F,
) -> T {
    loop {
        match accept().await {
            Ok(accepted) => {
                if outage.ends() {
                    tracing::info!(%local, "accepting again");
                }
                return accepted;
            }
            // Each of these is one user who gave up: the next one may be waiting.
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                if outage.begins(&error) {
                    tracing::warn!(%local, %error, "cannot accept connections, trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Between two tries while accepting fails. The waiting connection keeps the socket readable, so without a pause
/// the loop would take a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// So long without a failure.
const RECOVERED: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_it_waits_and_does_not_spin() {
        let outage = Outage::default();
        let tries = Cell::new(0_u32);
        let started = tokio::time::Instant::now();
        let over = started + Duration::from_secs(10);
        let accept = || {
            tries.set(tries.get() + 1);
            // 24 is EMFILE, on every Unix.
            let ready = tokio::time::Instant::now() >= over;
            async move { if ready { Ok(()) } else { Err(io::Error::from_raw_os_error(24)) } }
        };
        persevere(&outage, &"127.0.0.1:1", accept).await;
        assert!(tries.get() <= 1_001, "{} tries in 10 s", tries.get());
        assert!(started.elapsed() < Duration::from_secs(11));
        assert!(!outage.ends(), "it has only just been over");
        tokio::time::advance(RECOVERED * 2).await;
        assert!(outage.ends() && !outage.ends(), "that is said once");
        let full = io::Error::from_raw_os_error(24);
        assert!(outage.begins(&full) && !outage.begins(&full), "and so is the next one");
        let reason = outage.reason().expect("users wait");
        assert!(reason.contains(&full.to_string()), "{reason}");
        tokio::time::advance(RECOVERED * 2).await;
        assert_eq!(outage.reason(), None, "nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_gave_up_does_not_delay_the_next() {
        let tries = Cell::new(0_u32);
        let accept = || {
            tries.set(tries.get() + 1);
            let number = tries.get();
            async move {
                if number > 50 { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
            }
        };
        let started = tokio::time::Instant::now();
        persevere(&Outage::default(), &"127.0.0.1:1", accept).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
