//! Frames: a QUIC variable-length integer (RFC 9000, 16) that counts the bytes of one protobuf message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Why bytes are not a frame, or not the message that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is above the limit that holds here; nothing was allocated for it. [SES-2]
    #[error("a frame of {length} bytes where at most {limit} are allowed")]
    TooLong {
        /// What the length field says.
        length: u64,
        /// What is allowed here.
        limit: usize,
    },
    /// The bytes are not the protobuf message that belongs here. [SES-3]
    #[error("a malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// What [`split_frame`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Framed {
    /// One whole frame, without its length.
    Whole(Bytes),
    /// More bytes are needed.
    Partial,
}

/// Appends one message as a frame. [SES-1]
pub fn encode(message: &impl Message, into: &mut BytesMut) {
    let length = message.encoded_len();
    into.reserve(length + 8);
    put_length(length, into);
    message.encode_raw(into);
}

/// Takes one frame off the front of `buffer`, if it is whole. The length is judged as soon as it is there,
/// before any byte of the message. [SES-1] [SES-2]
pub fn split_frame(buffer: &mut BytesMut, limit: usize) -> Result<Framed, FrameError> {
    let Some(&first) = buffer.first() else { return Ok(Framed::Partial) };
    let width = 1usize << (first >> 6);
    if buffer.len() < width {
        return Ok(Framed::Partial);
    }
    let mut length = u64::from(first & 0x3f);
    for byte in &buffer[1..width] {
        length = length << 8 | u64::from(*byte);
    }
    let whole = usize::try_from(length)
        .ok()
        .filter(|length| *length <= limit)
        .ok_or(FrameError::TooLong { length, limit })?;
    if buffer.len() < width + whole {
        return Ok(Framed::Partial);
    }
    buffer.advance(width);
    Ok(Framed::Whole(buffer.split_to(whole).freeze()))
}

/// The message in a frame; fields that this version does not know are skipped. [SES-3]
pub fn decode<M: Message + Default>(frame: Bytes) -> Result<M, FrameError> {
    Ok(M::decode(frame)?)
}

fn put_length(length: usize, into: &mut BytesMut) {
    match length as u64 {
        small @ 0..0x40 => into.put_u8(small as u8),
        medium @ 0x40..0x4000 => into.put_u16(0x4000 | medium as u16),
        large => into.put_u32(0x8000_0000 | large as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Hello, StreamHeader};
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: 1,
            name: "ci".into(),
            instance: Bytes::from_static(&[7; 16]),
            ..Hello::default()
        }
    }

    #[test]
    fn a_message_reads_back_whatever_follows_it() {
        let mut buffer = BytesMut::new();
        encode(&hello(), &mut buffer);
        buffer.extend_from_slice(b"payload");
        let Ok(Framed::Whole(frame)) = split_frame(&mut buffer, 4096) else {
            panic!("a whole frame")
        };
        assert_eq!(decode::<Hello>(frame), Ok(hello()));
        assert_eq!(&buffer[..], b"payload");
    }

    #[test]
    fn h20_a_length_above_the_limit_is_refused_before_the_message_is_there() {
        for (bytes, length) in [
            (&[0x50, 0x01][..], 4097u64),
            (&[0x80, 0x00, 0x10, 0x01], 4097),
            (&[0xbf, 0xff, 0xff, 0xff], (1 << 30) - 1),
            (&[0xc0, 0, 0, 0, 0x80, 0, 0, 0], 1 << 31),
            (&[0xc0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], (1 << 32) - 1),
            (&[0xff; 8], (1 << 62) - 1),
        ] {
            let refused = split_frame(&mut BytesMut::from(bytes), 4096);
            assert_eq!(refused, Err(FrameError::TooLong { length, limit: 4096 }), "{bytes:x?}");
        }
        let mut empty = BytesMut::from(&[0u8][..]);
        assert_eq!(split_frame(&mut empty, 4096), Ok(Framed::Whole(Bytes::new())));
        let mut at_limit = BytesMut::from(&[0x50, 0x00][..]);
        assert_eq!(split_frame(&mut at_limit, 4096), Ok(Framed::Partial));
    }

    #[test]
    fn h21_a_message_cut_at_any_byte_is_partial_or_malformed_and_never_more() {
        let mut whole = BytesMut::new();
        encode(&hello(), &mut whole);
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            assert_eq!(split_frame(&mut buffer, 4096), Ok(Framed::Partial), "cut at {cut}");
        }
        let body = &whole[1..];
        for cut in 1..body.len() {
            let cut_short = decode::<Hello>(Bytes::copy_from_slice(&body[..cut]));
            assert!(cut_short.is_err() || cut_short.is_ok_and(|h| h != hello()), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_unknown_is_skipped() {
        let mut body = BytesMut::new();
        hello().encode_raw(&mut body);
        body.extend_from_slice(&[0xf8, 0x7f, 0x2a]); // field 2047, varint 42
        assert_eq!(decode::<Hello>(body.freeze()), Ok(hello()));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_frame_within_the_limit(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Framed::Whole(frame)) = split_frame(&mut buffer, 64) {
                assert!(frame.len() <= 64);
                let _ = decode::<StreamHeader>(frame);
            }
        }
    }
}
