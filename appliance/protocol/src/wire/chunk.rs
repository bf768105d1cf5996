//! The pieces of a control message: each says its kind, its version and its length.
//!
//! A chunk whose kind has the highest bit set may be skipped by who does not know it; so a newer version adds to a
//! message what an older one can do without. Any other unknown chunk is an error.

use super::cursor::Cursor;
use super::error::WireError;

/// Bytes of a chunk's header: kind, version, length.
pub const HEADER_BYTES: usize = 8;
/// Set in the kind of a chunk that may be skipped.
pub const OPTIONAL: u16 = 0x8000;
/// Most chunks of one message.
pub const COUNT_MAX: usize = 16;

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// What it holds.
    pub kind: u16,
    /// How that is written.
    pub version: u16,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Appends a chunk.
pub fn write(bytes: &mut Vec<u8>, chunk: Chunk<'_>) {
    bytes.extend(chunk.kind.to_le_bytes());
    bytes.extend(chunk.version.to_le_bytes());
    bytes.extend((chunk.payload.len() as u32).to_le_bytes());
    bytes.extend(chunk.payload);
}

/// All chunks of a body, in their order.
///
/// # Errors
/// One is cut short, there are too many, or an unknown one (`known` says which are) must not be skipped.
pub fn read(body: &[u8], known: impl Fn(u16) -> bool) -> Result<Vec<Chunk<'_>>, WireError> {
    let mut cursor = Cursor::new(body);
    let mut chunks = Vec::new();
    while !cursor.rest().is_empty() {
        let (kind, version, length) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
        let payload = cursor.take(length as usize).map_err(|_| WireError::Short("a chunk"))?;
        if known(kind) {
            chunks.push(Chunk { kind, version, payload });
        } else if kind & OPTIONAL == 0 {
            return Err(WireError::Kind { what: "a chunk", kind });
        }
        if chunks.len() > COUNT_MAX {
            return Err(WireError::Value("the number of chunks"));
        }
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_newer_version_added_is_skipped_only_if_it_may_be() {
        let mut body = Vec::new();
        write(&mut body, Chunk { kind: 1, version: 1, payload: b"old" });
        write(&mut body, Chunk { kind: 9 | OPTIONAL, version: 1, payload: b"new" });
        let chunks = read(&body, |kind| kind == 1).unwrap();
        assert_eq!(chunks, [Chunk { kind: 1, version: 1, payload: b"old" }]);
        write(&mut body, Chunk { kind: 9, version: 1, payload: b"must" });
        assert_eq!(read(&body, |kind| kind == 1), Err(WireError::Kind { what: "a chunk", kind: 9 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_chunks_or_an_error(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body, |_| true);
            let _ = read(&body, |_| false);
        }
    }
}
