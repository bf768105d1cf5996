//! The control stream of one side: frames into messages, the agreed version, and signs of life.

use model::diagnosis::Reason;
use model::limits;
use model::names::HostName;

use super::versions::Versions;
use crate::checks::versions;
use crate::time::{Duration, Instant};
use crate::wire::message::Hello;
use crate::wire::{FrameReader, Message, MigrationId, WireError};

/// Silence of the peer after which the connection counts as lost.
pub const IDLE: Duration = Duration::from_millis(limits::MIGRATION_IDLE_MS);
/// Silence of one's own after which one says that one lives.
pub const KEEPALIVE: Duration = Duration::from_millis(limits::MIGRATION_KEEPALIVE_MS);

/// The control stream of one side.
#[derive(Clone, Debug)]
pub struct Conversation {
    reader: FrameReader,
    ours: Versions,
    agreed: Option<u16>,
    open: bool,
    heard: Instant,
    spoken: Instant,
}

impl Conversation {
    /// A stream that was opened just now, by a build that speaks `ours`.
    pub fn new(now: Instant, ours: Versions) -> Self {
        Self { reader: FrameReader::default(), ours, agreed: None, open: true, heard: now, spoken: now }
    }

    /// Whether the peer can be reached, as far as is known.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The connection is gone; what is said from now on is not sent.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Our hello.
    pub fn hello(&self, migration: MigrationId, host: HostName, build: String) -> Message {
        Message::Hello(Hello { oldest: self.ours.oldest(), newest: self.ours.newest(), migration, host, build })
    }

    /// Agrees on a version with the peer.
    ///
    /// # Errors
    /// There is none that both speak.
    pub fn agree(&mut self, hello: &Hello) -> Result<(), Reason> {
        let Some(theirs) = Versions::new(hello.oldest, hello.newest) else {
            let cause = format!("{} announces an empty range of protocol versions", hello.host);
            return Err(Reason::new(cause, format!("update {}", hello.host)));
        };
        match versions::check(self.ours, theirs, &hello.host, &hello.build) {
            Some(reason) => Err(reason),
            None => {
                self.agreed = self.ours.common(theirs);
                Ok(())
            }
        }
    }

    /// Takes what arrived on the stream.
    pub fn hear(&mut self, now: Instant, bytes: &[u8]) {
        self.heard = now;
        self.reader.push(bytes);
    }

    /// Records arrived: the peer lives.
    pub fn heard_records(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The next message.
    ///
    /// # Errors
    /// What the peer says cannot be understood.
    pub fn next_message(&mut self) -> Result<Option<Message>, WireError> {
        let Some(frame) = self.reader.next_frame()? else { return Ok(None) };
        Message::decode(&frame, self.agreed).map(Some)
    }

    /// The bytes to send, none when the connection is gone.
    pub fn say(&mut self, now: Instant, message: &Message) -> Option<Vec<u8>> {
        self.spoken = now;
        self.open.then(|| message.encode(self.agreed.unwrap_or(0)))
    }

    /// When the peer will count as lost, unless it is heard again.
    pub fn lost_at(&self) -> Instant {
        self.heard + IDLE
    }

    /// When a sign of life is due.
    pub fn keepalive_at(&self) -> Instant {
        self.spoken + KEEPALIVE
    }
}
