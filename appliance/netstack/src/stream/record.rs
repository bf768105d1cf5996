//! Records: each is one unidirectional stream, read in whatever order its bytes come and handed on when it is whole.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, Dir, ReadError, ReadableError, StreamId, VarInt, WriteError};

use super::SendError;

/// Bytes of the largest record.
pub const RECORD_MAX: usize = model::limits::MIGRATION_RECORD_BYTES_MAX as usize;
/// Buffers kept for use again.
const POOL_MAX: usize = 64;
/// How much more than the window is taken from the caller, so that the wire does not run dry while it makes more.
const AHEAD_BYTES: u64 = 1 << 20;

/// Memory of records that was lent and comes back by itself: a buffer is free when nobody else holds it.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    lent: VecDeque<Bytes>,
}

impl BufferPool {
    /// An empty buffer with room for a record.
    pub(crate) fn take(&mut self) -> BytesMut {
        for _ in 0..self.lent.len().min(8) {
            let Some(bytes) = self.lent.pop_front() else { break };
            match bytes.try_into_mut() {
                Ok(mut buffer) => {
                    buffer.clear();
                    if buffer.capacity() >= RECORD_MAX {
                        return buffer;
                    }
                }
                Err(still_held) => self.lent.push_back(still_held),
            }
        }
        BytesMut::with_capacity(RECORD_MAX)
    }

    /// Remembers a buffer that is in use elsewhere.
    pub(crate) fn lend(&mut self, bytes: &Bytes) {
        if self.lent.len() < POOL_MAX {
            self.lent.push_back(bytes.clone());
        }
    }
}

/// Records on their way out.
#[derive(Debug, Default)]
pub(crate) struct RecordSender {
    /// The record that QUIC has taken in part.
    current: Option<(StreamId, Bytes)>,
    unacknowledged: HashMap<StreamId, u64>,
    unacknowledged_bytes: u64,
}

impl RecordSender {
    /// Bytes of records not acknowledged as a whole.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.unacknowledged_bytes
    }

    /// Whether a record would be taken now, when QUIC may have `window` bytes in flight.
    pub(crate) fn has_room(&self, window: u64, most: u64) -> bool {
        self.current.is_none() && self.unacknowledged_bytes < (window + AHEAD_BYTES).min(most)
    }

    /// Takes a record.
    pub(crate) fn send(
        &mut self,
        quic: &mut Connection,
        record: Bytes,
        window: u64,
        most: u64,
    ) -> Result<(), SendError> {
        if record.is_empty() {
            return Err(SendError::Empty);
        }
        if record.len() > RECORD_MAX {
            return Err(SendError::TooLarge { size: record.len(), most: RECORD_MAX });
        }
        if !self.has_room(window, most) {
            return Err(SendError::Full);
        }
        let stream = quic.streams().open(Dir::Uni).ok_or(SendError::Full)?;
        self.unacknowledged.insert(stream, record.len() as u64);
        self.unacknowledged_bytes += record.len() as u64;
        self.current = Some((stream, record));
        self.write(quic).map_err(|_| SendError::NotConnected)
    }

    /// Hands QUIC what it takes of the current record.
    pub(crate) fn write(&mut self, quic: &mut Connection) -> Result<(), String> {
        let Some((stream, record)) = &mut self.current else { return Ok(()) };
        let mut send = quic.send_stream(*stream);
        while !record.is_empty() {
            match send.write_chunks(std::slice::from_mut(record)) {
                Ok(_) => {}
                Err(WriteError::Blocked) => return Ok(()),
                Err(error) => return Err(format!("a record's stream broke: {error}")),
            }
        }
        send.finish().map_err(|error| format!("a record's stream broke: {error}"))?;
        self.current = None;
        Ok(())
    }

    /// The peer's transport has all of a record.
    pub(crate) fn acknowledged(&mut self, stream: StreamId) {
        if let Some(bytes) = self.unacknowledged.remove(&stream) {
            self.unacknowledged_bytes -= bytes;
        }
    }
}

/// Records on their way in.
#[derive(Debug, Default)]
pub(crate) struct RecordReceiver {
    partial: HashMap<StreamId, BytesMut>,
    partial_bytes: usize,
    /// Streams with something to read that were not begun, because the caller or memory is behind.
    postponed: VecDeque<StreamId>,
    waiting: VecDeque<Bytes>,
}

impl RecordReceiver {
    /// Reads a stream, unless the caller is behind. Returns whether a record became whole.
    pub(crate) fn read(
        &mut self,
        quic: &mut Connection,
        stream: StreamId,
        pool: &mut BufferPool,
        bounds: Bounds,
    ) -> Result<bool, String> {
        let begun = self.partial.contains_key(&stream);
        if !begun && (self.waiting.len() >= bounds.waiting_max || self.partial_bytes >= bounds.partial_bytes_max) {
            if !self.postponed.contains(&stream) {
                self.postponed.push_back(stream);
            }
            return Ok(false);
        }
        let mut receive = quic.recv_stream(stream);
        let mut chunks = match receive.read(false) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        let buffer = self.partial.entry(stream).or_insert_with(|| pool.take());
        let before = buffer.len();
        let ended = loop {
            match chunks.next(RECORD_MAX) {
                Ok(Some(chunk)) => place(buffer, chunk.offset, &chunk.bytes)?,
                Ok(None) => break true,
                Err(ReadError::Blocked) => break false,
                Err(ReadError::Reset(code)) => return Err(format!("the peer took back a record ({code})")),
            }
        };
        // What it says is told by poll_transmit; nothing else is to be done.
        let _ = chunks.finalize();
        self.partial_bytes += buffer.len() - before;
        if !ended {
            return Ok(false);
        }
        let record = self.partial.remove(&stream).unwrap_or_default().freeze();
        self.partial_bytes -= record.len();
        if record.is_empty() {
            return Err("a record of no bytes".to_owned());
        }
        pool.lend(&record);
        self.waiting.push_back(record);
        Ok(true)
    }

    /// The next whole record.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        self.waiting.pop_front()
    }

    /// A stream that was postponed and need not wait any more.
    pub(crate) fn resume(&mut self, bounds: Bounds) -> Option<StreamId> {
        if self.waiting.len() < bounds.waiting_max && self.partial_bytes < bounds.partial_bytes_max {
            self.postponed.pop_front()
        } else {
            None
        }
    }
}

/// How much a receiver may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Whole records.
    pub(crate) waiting_max: usize,
    /// Bytes of records that are not whole.
    pub(crate) partial_bytes_max: usize,
}

/// Puts a piece where it belongs. QUIC gives each byte once, in any order, and tells the end only when all are read.
fn place(buffer: &mut BytesMut, offset: u64, piece: &[u8]) -> Result<(), String> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(piece.len());
    if end > RECORD_MAX {
        return Err(format!("a record of more than {RECORD_MAX} bytes"));
    }
    if start == buffer.len() {
        buffer.extend_from_slice(piece);
        return Ok(());
    }
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    buffer[start..end].copy_from_slice(piece);
    Ok(())
}

/// Error code of streams that are given up (RFC 9000 section 20.2).
pub(crate) const PROTOCOL_ERROR: VarInt = VarInt::from_u32(0x47);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_make_the_same_record() {
        let content: Vec<u8> = (0..10_000u32).map(|n| (n * 7) as u8).collect();
        let mut pieces: Vec<(usize, &[u8])> = content.chunks(999).enumerate().map(|(n, c)| (n * 999, c)).collect();
        pieces.reverse();
        pieces.swap(2, 7);
        let mut buffer = BytesMut::new();
        for (offset, piece) in pieces {
            place(&mut buffer, offset as u64, piece).unwrap();
        }
        assert_eq!(&buffer[..], &content[..]);
    }

    #[test]
    fn a_record_beyond_the_bound_is_refused_before_memory_is_taken() {
        let mut buffer = BytesMut::new();
        assert!(place(&mut buffer, RECORD_MAX as u64, &[1]).is_err());
        assert!(place(&mut buffer, u64::MAX, &[1]).is_err());
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn a_buffer_comes_back_when_nobody_holds_it() {
        let mut pool = BufferPool::default();
        let mut buffer = pool.take();
        buffer.extend_from_slice(b"page");
        let start = buffer.as_ptr();
        let record = buffer.freeze();
        pool.lend(&record);
        assert_ne!(pool.take().as_ptr(), start, "a buffer that is in use was given out again");
        drop(record);
        let again = pool.take();
        assert_eq!((again.as_ptr(), again.len()), (start, 0));
    }
}
