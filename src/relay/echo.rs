//! Sends everything back: the far end of the data path's own probe.

use std::collections::VecDeque;
use std::future::poll_fn;

use crate::session::{Receiver, Sender};
use crate::wire::Code;

/// Sends back what comes, up to `limit` bytes; more breaks the stream off. A probe is small. [STR-11]
pub async fn echo(mut sender: Sender, mut receiver: Receiver, limit: usize) {
    let mut queue = VecDeque::new();
    let mut received = 0;
    while let Ok(Some(length)) = poll_fn(|cx| receiver.poll_receive(cx, &mut queue)).await {
        received += length;
        if received > limit {
            sender.reset(Code::Limit);
            receiver.stop(Code::Limit);
            return;
        }
        for chunk in queue.drain(..) {
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
        receiver.delivered(received as u64, true);
    }
    sender.finish();
    // The peer says when it has read everything; if it never does, the session's end is the end of this too.
    let _ = sender.settled().await;
}
