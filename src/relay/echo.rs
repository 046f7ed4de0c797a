//! Sends everything back: the far end of the data path's own probe.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;

use crate::session::{Receiver, Sender};
use crate::wire::Code;

/// Sends back what comes, up to `limit` bytes; more breaks the stream off. A probe is small. [STR-11]
pub async fn echo(mut sender: Sender, mut receiver: Receiver, limit: usize) {
    let mut queue = VecDeque::new();
    let mut received = 0;
    while let Ok(Some(length)) = poll_fn(|cx| receiver.poll_receive(cx, &mut queue)).await {
        received += length;
        if received > limit {
            return break_off(sender, receiver);
        }
        if !goes_back(&mut sender, &mut queue).await {
            return;
        }
        receiver.delivered(received as u64, true);
    }
    ends(sender).await;
}

/// The same once it has ended and `delay` has passed. Until then nothing is said of it: what the peer hears then, it hears
/// after a silence. Ends early when the peer does not wait. `place` is held as long as something waits. [STR-14]
pub async fn echo_after(
    delay: Duration,
    (mut sender, mut receiver): (Sender, Receiver),
    limit: usize,
    place: impl Send,
) {
    let mut queue = VecDeque::new();
    let mut received = 0;
    let unwanted = sender.stopped();
    let waits = async {
        let due = tokio::time::Instant::now() + delay;
        while let Ok(Some(length)) = poll_fn(|cx| receiver.poll_receive(cx, &mut queue)).await {
            received += length;
            if received > limit {
                return false;
            }
        }
        tokio::time::sleep_until(due).await;
        true
    };
    let fits = tokio::select! {
        fits = waits => fits,
        _ = unwanted => return,
    };
    if !fits {
        return break_off(sender, receiver);
    }
    drop(place);
    if goes_back(&mut sender, &mut queue).await {
        receiver.delivered(received as u64, true);
        ends(sender).await;
    }
}

/// False when the peer wants no more.
async fn goes_back(sender: &mut Sender, queue: &mut VecDeque<Bytes>) -> bool {
    for chunk in queue.drain(..) {
        if sender.send(chunk).await.is_err() {
            return false;
        }
    }
    true
}

async fn ends(mut sender: Sender) {
    sender.finish();
    // The peer says when it has read everything; if it never does, the session's end is the end of this too.
    let _ = sender.settled().await;
}

fn break_off(mut sender: Sender, mut receiver: Receiver) {
    sender.reset(Code::Limit);
    receiver.stop(Code::Limit);
}
