//! The control stream: messages in order, each with its length before it; the first is the transport's hello.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use quinn_proto::{Connection, Dir, ReadError, ReadableError, StreamId, WriteError};

use super::SendError;

/// Bytes of the largest control message.
pub const CONTROL_MESSAGE_MAX: usize = model::limits::MIGRATION_MESSAGE_BYTES_MAX as usize;
/// Messages that wait for the caller before the peer is held back.
const WAITING_MAX: usize = 64;
const PRIORITY: i32 = 1;
const MAGIC: [u8; 4] = *b"GDWT";
const VERSION: u16 = 1;
/// Bytes of a hello. Later versions may append; nobody may take away.
const HELLO: usize = 8;

/// What each side says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    /// MTU of the sender's migration NIC.
    pub(crate) mtu: u16,
}

impl Hello {
    pub(crate) fn new(mtu: u16) -> Self {
        Self { version: VERSION, mtu }
    }

    fn encode(self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.mtu.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.get(..HELLO)?.strip_prefix(&MAGIC)?;
        Some(Self { version: u16::from_le_bytes([rest[0], rest[1]]), mtu: u16::from_le_bytes([rest[2], rest[3]]) })
    }
}

/// How far our direction is with its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// Nothing follows what is queued.
    Wanted,
    /// The peer was told so.
    Told,
    /// The peer's transport has acknowledged that, and all before it.
    Acknowledged,
}

/// Both directions of the control stream of one connection.
#[derive(Debug, Default)]
pub(crate) struct Control {
    outgoing: Option<StreamId>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    end: End,
    incoming: Option<StreamId>,
    partial: BytesMut,
    waiting: VecDeque<Bytes>,
    hello: Option<Hello>,
    held_back: bool,
}

impl Control {
    /// Opens our direction and says hello.
    pub(crate) fn open(&mut self, quic: &mut Connection, mtu: u16) -> Result<(), String> {
        let stream = quic.streams().open(Dir::Uni).ok_or("the peer allows no stream")?;
        // Fails only for a stream that is closed; this one was opened just now.
        let _ = quic.send_stream(stream).set_priority(PRIORITY);
        self.outgoing = Some(stream);
        self.push(&Hello::new(mtu).encode());
        Ok(())
    }

    /// Queues a message. Errors: it is larger than [`CONTROL_MESSAGE_MAX`]; more than `most` bytes would wait; our direction was ended.
    pub(crate) fn send(&mut self, message: &[u8], most: usize) -> Result<(), SendError> {
        if self.end != End::Open {
            return Err(SendError::NotConnected);
        }
        if message.len() > CONTROL_MESSAGE_MAX {
            return Err(SendError::TooLarge { size: message.len(), most: CONTROL_MESSAGE_MAX });
        }
        if self.queued_bytes > 0 && self.queued_bytes + message.len() > most {
            return Err(SendError::Full);
        }
        self.push(message);
        Ok(())
    }

    fn push(&mut self, message: &[u8]) {
        let mut framed = BytesMut::with_capacity(4 + message.len());
        framed.extend_from_slice(&(message.len() as u32).to_le_bytes());
        framed.extend_from_slice(message);
        self.queued_bytes += framed.len();
        self.queue.push_back(framed.freeze());
    }

    /// Bytes that QUIC has not taken yet.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Hands QUIC what it takes.
    pub(crate) fn write(&mut self, quic: &mut Connection) -> Result<(), String> {
        let Some(stream) = self.outgoing else { return Ok(()) };
        while let Some(front) = self.queue.front_mut() {
            let before = front.len();
            let written = quic.send_stream(stream).write_chunks(std::slice::from_mut(front));
            match written {
                Ok(written) => {
                    self.queued_bytes -= written.bytes;
                    if written.bytes == before {
                        self.queue.pop_front();
                    }
                }
                Err(WriteError::Blocked) => return Ok(()),
                Err(error) => return Err(format!("the control stream broke: {error}")),
            }
        }
        if self.end == End::Wanted {
            quic.send_stream(stream).finish().map_err(|error| format!("the control stream broke: {error}"))?;
            self.end = End::Told;
        }
        Ok(())
    }

    /// Nothing follows what was sent. Only by its end QUIC tells that the peer's transport has all of a stream.
    pub(crate) fn finish(&mut self) {
        if self.end == End::Open {
            self.end = End::Wanted;
        }
    }

    /// The peer's transport has all of a stream of ours.
    pub(crate) fn acknowledged(&mut self, stream: StreamId) {
        if self.outgoing == Some(stream) {
            self.end = End::Acknowledged;
        }
    }

    /// Whether our direction was ended and the peer's transport has all of it, or it never began.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.outgoing.is_none() || self.end == End::Acknowledged
    }

    /// Whether `stream` is the peer's direction: the first it opened.
    pub(crate) fn is_incoming(&self, stream: StreamId) -> bool {
        stream.index() == 0
    }

    /// Reads what has come, as long as the caller takes it. Returns whether there are new messages.
    pub(crate) fn read(&mut self, quic: &mut Connection, stream: StreamId) -> Result<bool, String> {
        self.incoming = Some(stream);
        let before = self.waiting.len();
        self.held_back = self.waiting.len() >= WAITING_MAX;
        if self.held_back {
            return Ok(false);
        }
        let mut receive = quic.recv_stream(stream);
        let mut chunks = match receive.read(true) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        loop {
            match chunks.next(64 << 10) {
                Ok(Some(chunk)) => self.partial.extend_from_slice(&chunk.bytes),
                // The peer has said all that it will, and ends the connection when it knows that we have it.
                Ok(None) | Err(ReadError::Blocked) => break,
                Err(error) => return Err(format!("the control stream broke: {error}")),
            }
            // One message may exceed the bound on waiting ones, and then is what waits.
            self.parse()?;
            if self.waiting.len() >= WAITING_MAX {
                self.held_back = true;
                break;
            }
        }
        // What it says is told by poll_transmit; nothing else is to be done.
        let _ = chunks.finalize();
        Ok(self.waiting.len() > before)
    }

    fn parse(&mut self) -> Result<(), String> {
        while let Some(prefix) = self.partial.first_chunk::<4>() {
            let length = u32::from_le_bytes(*prefix) as usize;
            if length > CONTROL_MESSAGE_MAX {
                return Err(format!("a control message of {length} bytes"));
            }
            if self.partial.len() < 4 + length {
                return Ok(());
            }
            self.partial.advance(4);
            let message = self.partial.split_to(length).freeze();
            if self.hello.is_none() {
                self.hello = Some(Hello::decode(&message).ok_or("the first message is no hello")?);
            } else {
                self.waiting.push_back(message);
            }
        }
        Ok(())
    }

    /// The peer's hello, once it came.
    pub(crate) fn hello(&self) -> Option<Hello> {
        self.hello
    }

    /// The next message.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        self.waiting.pop_front()
    }

    /// The stream to read again, if the peer was held back and need not be any more.
    pub(crate) fn resume(&self) -> Option<StreamId> {
        if self.held_back && self.waiting.len() < WAITING_MAX / 2 { self.incoming } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(control: &mut Control, bytes: &[u8]) -> Result<(), String> {
        control.partial.extend_from_slice(bytes);
        control.parse()
    }

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let mut sender = Control::default();
        sender.push(&Hello::new(9000).encode());
        sender.push(b"first");
        sender.push(b"");
        sender.push(&[7; 5000]);
        let wire: Vec<u8> = sender.queue.iter().flatten().copied().collect();
        for size in [1, 3, 1000] {
            let mut receiver = Control::default();
            for piece in wire.chunks(size) {
                fed(&mut receiver, piece).unwrap();
            }
            assert_eq!(receiver.hello().map(|hello| hello.mtu), Some(9000));
            let got: Vec<usize> = std::iter::from_fn(|| receiver.take()).map(|message| message.len()).collect();
            assert_eq!(got, [5, 0, 5000]);
        }
    }

    #[test]
    fn an_oversized_or_foreign_first_message_is_an_error() {
        assert!(fed(&mut Control::default(), &(CONTROL_MESSAGE_MAX as u32 + 1).to_le_bytes()).is_err());
        assert!(fed(&mut Control::default(), b"\x08\0\0\0HTTP/1.1").is_err());
    }

    #[test]
    fn a_longer_hello_of_a_later_version_is_understood() {
        let mut bytes = Hello { version: 7, mtu: 1500 }.encode().to_vec();
        bytes.extend([1, 2, 3]);
        assert_eq!(Hello::decode(&bytes), Some(Hello { version: 7, mtu: 1500 }));
    }
}
