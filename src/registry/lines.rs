//! Lines from a stream: bounded in length, and in the time that half a line may take.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// Reads lines of at most `max` bytes.
pub(super) struct Lines<R> {
    reader: R,
    max: usize,
    buffer: Vec<u8>,
    searched: usize,
    half_limit: Option<Duration>,
    half_since: Option<Instant>,
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("a line has at most {0} bytes")]
    TooLong(usize),
    #[error("half a line, and nothing more for {} s", .0.as_secs())]
    Half(Duration),
    #[error("the last line has no line end")]
    Unfinished,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R, max: usize, half_limit: Option<Duration>) -> Self {
        Self { reader, max, buffer: Vec::new(), searched: 0, half_limit, half_since: None }
    }

    /// The stream itself, to write to: an answer and the next request take turns.
    pub(super) fn stream(&mut self) -> &mut R {
        &mut self.reader
    }

    /// The next line without its end; `None` when the stream ended between lines. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        loop {
            if let Some(line) = self.take_line()? {
                return Ok(Some(line));
            }
            self.buffer.reserve(PIECE);
            let read = self.reader.read_buf(&mut self.buffer);
            let count = match (self.half_limit, self.half_since) {
                (Some(limit), Some(since)) => {
                    timeout_at(since + limit, read).await.map_err(|_| LineError::Half(limit))?
                }
                _ => read.await,
            }?;
            match count {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err(LineError::Unfinished),
                _ => self.half_since = self.half_since.or_else(|| Some(Instant::now())),
            }
        }
    }

    /// Reads and forgets what still comes, so that the other end gets to read why it is left.
    pub(super) async fn discard(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            self.buffer.clear();
            self.buffer.reserve(PIECE);
            match timeout_at(end, self.reader.read_buf(&mut self.buffer)).await {
                Ok(Ok(count)) if count > 0 => {}
                _ => return,
            }
        }
    }

    fn take_line(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        let end = self.buffer[self.searched..].iter().position(|b| *b == b'\n');
        let end = end.map(|at| self.searched + at);
        if end.unwrap_or(self.buffer.len()) > self.max {
            return Err(LineError::TooLong(self.max));
        }
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return Ok(None);
        };
        let rest = self.buffer.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        self.searched = 0;
        self.half_since = (!self.buffer.is_empty()).then(Instant::now);
        Ok(Some(line))
    }
}

/// Bytes asked for at once.
const PIECE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// [CTL-10] [CTL-11]
    #[tokio::test]
    async fn lines_come_out_whole_and_bounded() {
        let mut lines = Lines::new(&b"one\r\n\ntwo\nhalf"[..], 4, None);
        for expected in ["one", "", "two"] {
            assert_eq!(lines.next().await.expect("a line").expect("there"), expected.as_bytes());
        }
        assert!(matches!(lines.next().await, Err(LineError::Unfinished)));
        let mut lines = Lines::new(&b"1234\n12345\n"[..], 4, None);
        assert!(lines.next().await.expect("a line").is_some());
        assert!(matches!(lines.next().await, Err(LineError::TooLong(4))));
        assert!(Lines::new(&b""[..], 4, None).next().await.expect("the end").is_none());
    }

    /// [CTL-12]
    #[tokio::test(start_paused = true)]
    async fn h31_half_a_line_does_not_wait_for_ever() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let mut lines = Lines::new(theirs, 100, Some(Duration::from_secs(5)));
        tokio::io::AsyncWriteExt::write_all(&mut ours, b"{\"half").await.expect("written");
        assert!(matches!(lines.next().await, Err(LineError::Half(_))));
    }
}
