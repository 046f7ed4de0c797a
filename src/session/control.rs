//! The control stream after the handshake: one task that writes, one that reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Event;
use super::frames::{self, FrameReader, ReceiveFrameError};
use super::ledger::Ledger;
use super::pulse::Pulse;
use crate::task::OnPanic;
use crate::transport::{Connection, ReadError, SendStream};
use crate::wire::{Code, Control, control, encode};

/// Writes what is said, what was delivered (gathered), and now and then that it is still there. Ends with the connection, and ends it when the peer does not
/// want to hear: without reports every stream stands still. [SES-4]
pub(super) async fn write(
    mut stream: SendStream,
    mut outbox: mpsc::Receiver<Control>,
    ledger: Arc<Ledger>,
    connection: Connection,
) {
    let mut pulse = Pulse::new();
    // Without reports every stream would stand still on a connection that looks alive.
    let broken = connection.clone();
    let _closing = OnPanic::new(move || broken.close(Code::Internal.number(), BROKEN));
    loop {
        let mut buffer = BytesMut::new();
        tokio::select! {
            message = outbox.recv() => match message {
                Some(message) => encode(&message, &mut buffer),
                None => break,
            },
            () = gathered(&ledger) => {
                for report in ledger.take_reports() {
                    encode(&Control { message: Some(control::Message::Delivered(report)) }, &mut buffer);
                }
            }
            // No message at all: what matters is the packet.
            () = pulse.silent(&connection) => encode(&Control::default(), &mut buffer),
            _ = connection.closed() => break,
        }
        if !buffer.is_empty() && stream.write_chunk(buffer.freeze()).await.is_err() {
            // Does nothing when the connection is what failed.
            connection.close(Code::Protocol.number(), "the control stream was stopped");
            break;
        }
    }
}

/// Waits for something to report, then a little longer for more, unless it is urgent. Cancel-safe: what is to be
/// reported stays listed. [STR-20]
async fn gathered(ledger: &Ledger) {
    while !ledger.has_reports() {
        ledger.reports.notified().await;
    }
    let urgent = async {
        // A notification may as well be one more stream that has something to report.
        while !ledger.is_urgent() {
            ledger.reports.notified().await;
        }
    };
    let _ = tokio::time::timeout(GATHER, urgent).await;
}

/// Reads the peer's messages until the connection ends, and waits for what comes of the session then; closes it on a
/// violation. [SES-4] [RSM-2]
pub(super) async fn read(
    mut frames: FrameReader,
    events: mpsc::Sender<Event>,
    ledger: Arc<Ledger>,
    (connection, generation): (Connection, u32),
    stop: CancellationToken,
) {
    frames.set_limit(MESSAGE_LIMIT);
    let broken = (connection.clone(), Arc::clone(&ledger));
    let _closing = OnPanic::new(move || {
        broken.0.close(Code::Internal.number(), BROKEN);
        broken.1.close(generation);
    });
    let violation = loop {
        let message = match frames.next::<Control>().await {
            Ok(Control { message }) => message,
            Err(ReceiveFrameError::Stream(ReadError::ConnectionLost(_))) => break None,
            Err(error) => break Some(error.to_string()),
        };
        let event = match message {
            Some(control::Message::Delivered(report)) => match ledger.book(&report) {
                Ok(()) => continue,
                Err(_) => break Some("more bytes reported as delivered than were sent".to_owned()),
            },
            Some(control::Message::Declare(declare)) => Event::Declare(declare),
            Some(control::Message::Declared(declared)) => Event::Declared(declared),
            Some(control::Message::Withdraw(withdraw)) => Event::Withdraw(withdraw),
            Some(control::Message::GoAway(leave)) => Event::GoAway(leave),
            Some(control::Message::Replaced(replaced)) => Event::Replaced(replaced),
            Some(control::Message::FlowOpen(open)) => Event::FlowOpen(open),
            Some(control::Message::FlowClose(close)) => Event::FlowClose(close),
            Some(
                control::Message::Hello(_)
                | control::Message::Authenticate(_)
                | control::Message::Accepted(_),
            ) => {
                break Some("a message of the handshake after the handshake".to_owned());
            }
            // A kind that this version does not know. [SES-5]
            None => continue,
        };
        // Nobody may want to hear any more; streams that run need the reports all the same.
        let _ = events.send(event).await;
    };
    if let Some(reason) = violation {
        tracing::warn!(peer = %connection.peer().short(), reason, "protocol violation on the control stream");
        connection.close(Code::Protocol.number(), &reason);
    }
    let end = connection.closed().await;
    stop.run_until_cancelled(ledger.ended(generation, &end)).await;
    ledger.close(generation);
}

/// Encodes one control message.
pub(super) fn framed(message: control::Message) -> Bytes {
    frames::framed(&Control { message: Some(message) })
}

/// What the peer reads where a task of the session has panicked.
pub(crate) const BROKEN: &str = "this end has failed here";
/// Between a report for every write and a sender that waits.
const GATHER: Duration = Duration::from_millis(10);
/// A control message after `Accepted`. [SES-2]
const MESSAGE_LIMIT: usize = 64 << 10;
