//! The header of every control message, which every version can read for ever, and the cutting of the control
//! stream into frames.
//!
//! ```text
//!  0      4         6      8        12         16
//!  | GDWT | version | kind | length | reserved |  body: `length` bytes
//! ```
//! All integers are little-endian. `version` is the protocol version that the body is written in; a hello is
//! always written in version 0, because it comes before the versions are agreed.

use model::limits;

use super::cursor::Cursor;
use super::error::WireError;

/// The first bytes of a frame.
pub const MAGIC: [u8; 4] = *b"GDWT";
/// Bytes of the header.
pub const HEADER_BYTES: usize = 16;
/// Most bytes of a body.
pub const BODY_BYTES_MAX: usize = limits::MIGRATION_MESSAGE_BYTES_MAX as usize;

/// One control message as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The protocol version of the body.
    pub version: u16,
    /// What it says; [`super::Message`] knows the kinds.
    pub kind: u16,
    /// Its chunks.
    pub body: Vec<u8>,
}

impl Frame {
    /// Header and body.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        bytes.extend(MAGIC);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend((self.body.len() as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.body);
        bytes
    }
}

/// Cuts the ordered bytes of a control stream into frames.
///
/// Holds at most one frame and what came with it. After an error the stream is of no use any more, and every call
/// gives the same error.
#[derive(Clone, Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    broken: Option<WireError>,
}

impl FrameReader {
    /// Takes what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole frame, or none until more has arrived.
    ///
    /// # Errors
    /// The bytes are no frame, or one beyond the bounds.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let next = parse(&self.buffer);
        match &next {
            Ok(Some(frame)) => {
                self.buffer.drain(..HEADER_BYTES + frame.body.len());
            }
            Ok(None) => {}
            Err(error) => {
                self.broken = Some(error.clone());
                self.buffer = Vec::new();
            }
        }
        next
    }
}

/// The header is judged as soon as its bytes are there, so that no more than its bound is ever waited for.
fn parse(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    let start = &bytes[..bytes.len().min(MAGIC.len())];
    if *start != MAGIC[..start.len()] {
        let mut found = [0; 4];
        found[..start.len()].copy_from_slice(start);
        return Err(WireError::Magic(found));
    }
    let Some(header) = bytes.get(MAGIC.len()..HEADER_BYTES) else { return Ok(None) };
    let mut cursor = Cursor::new(header);
    let (version, kind, length) = (cursor.u16()?, cursor.u16()?, cursor.u32()? as usize);
    if length > BODY_BYTES_MAX {
        let (bytes, max) = (length as u64, BODY_BYTES_MAX as u64);
        return Err(WireError::TooLong { what: "a control message", bytes, max });
    }
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES + length);
    Ok(body.map(|body| Frame { version, kind, body: body.to_vec() }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_beyond_the_bound_is_refused_before_its_body_arrives() {
        let mut bytes = Frame { version: 1, kind: 2, body: vec![] }.encode();
        bytes[8..12].copy_from_slice(&(BODY_BYTES_MAX as u32 + 1).to_le_bytes());
        let mut reader = FrameReader::default();
        reader.push(&bytes);
        assert!(matches!(reader.next_frame(), Err(WireError::TooLong { .. })));
        reader.push(&Frame { version: 1, kind: 2, body: vec![] }.encode());
        assert!(reader.next_frame().is_err(), "a broken stream stays broken");
    }

    #[test]
    fn another_protocol_is_recognised_by_its_first_byte() {
        let mut reader = FrameReader::default();
        reader.push(b"SSH");
        assert!(matches!(reader.next_frame(), Err(WireError::Magic(_))));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..6),
            cut in 1usize..40,
        ) {
            let frames: Vec<_> = bodies.into_iter().zip(0..).map(|(body, kind)| Frame { version: 1, kind, body }).collect();
            let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let (mut reader, mut seen) = (FrameReader::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                reader.push(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            let mut reader = FrameReader::default();
            if magic {
                reader.push(&MAGIC);
            }
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }
}
