//! What two hosts say to each other on the control stream.
//!
//! [`Message::encode`] and [`Message::decode`] are the only way in and out. What was decoded is within every bound
//! of `config/limits.toml`; an offer, which a destination acts upon, is a [`ValidatedOffer`].

use std::fmt;
use std::ops::Deref;

use model::diagnosis::Reason;
use model::limits;
use model::names::HostName;
use model::receipt::{Audit, Receipt};
use model::vm_config::Verify;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::chunk::{self, Chunk};
use super::cursor::Cursor;
use super::frame::{BODY_BYTES_MAX, Frame, WireError};
use crate::checks::facts::{HostFacts, LinkFacts, VmFacts};
use crate::checks::{FINDINGS_MAX, Finding};
use crate::verify::{Digest, PageHash, RoundNumber};

/// The identity of a migration, made at random by the source; shown as 16 hex digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MigrationId(pub u64);

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a VM's vCPUs do; it travels, so that a paused VM arrives paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// They run.
    #[default]
    Running,
    /// A person paused them.
    Paused,
}

/// The first message of both sides. Its layout never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version that the sender speaks.
    pub oldest: u16,
    /// The newest one.
    pub newest: u16,
    /// The migration.
    pub migration: MigrationId,
    /// Who speaks.
    pub host: HostName,
    /// Its build, for people.
    pub build: String,
}

/// What the source wants to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The VM and what it needs.
    pub vm: VmFacts,
    /// Its `vm.toml`, as the source runs it.
    pub config_text: String,
    /// How its machine is built, for the VMM of the other side; means nothing here.
    pub machine: Vec<u8>,
    /// The source.
    pub source: HostFacts,
    /// The migration link as the source measured it.
    pub link: LinkFacts,
    /// Whether the VM runs or is paused, at the moment.
    pub run_state: RunState,
    /// The epoch of the lease under which the source runs it.
    pub epoch: u64,
    /// How large its device and vCPU state will be, about.
    pub state_bytes: u64,
    /// The longest acceptable stun, microseconds.
    pub stun_us_max: u64,
    /// How deeply the move is verified.
    pub verify: Verify,
    /// Only the checks are wanted.
    pub check_only: bool,
    /// The operator accepts a link below the floor.
    pub force_link: bool,
}

/// An offer whose every part is within its bounds and whose parts agree with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedOffer(Offer);

impl ValidatedOffer {
    /// Judges an offer.
    ///
    /// # Errors
    /// The part that is out of bounds.
    pub fn new(offer: Offer) -> Result<Self, WireError> {
        let value = |what| Err(WireError::Value(what));
        let memory = offer.vm.memory.0;
        if !(limits::VM_MEMORY_BYTES_MIN..=limits::VM_MEMORY_BYTES_MAX).contains(&memory)
            || !memory.is_multiple_of(1 << 20)
        {
            return value("the memory of the offered VM");
        }
        if offer.vm.cpus == 0 || u64::from(offer.vm.cpus) > limits::VM_CPUS_MAX {
            return value("the number of vCPUs of the offered VM");
        }
        bound("the configuration of the offered VM", offer.config_text.len() as u64, limits::VM_CONFIG_BYTES_MAX)?;
        bound("the machine of the offered VM", offer.machine.len() as u64, limits::API_MESSAGE_BYTES_MAX)?;
        bound("the state of the offered VM", offer.state_bytes, limits::MIGRATION_STATE_BYTES_MAX)?;
        if offer.stun_us_max > limits::MIGRATION_STUN_MS_MAX * 1_000 {
            return value("the stun of the offered VM");
        }
        offer.vm.within_bounds()?;
        offer.source.within_bounds()?;
        Ok(Self(offer))
    }

    /// Pages of the VM's memory.
    pub fn pages(&self) -> u64 {
        self.0.vm.memory.pages()
    }
}

impl Deref for ValidatedOffer {
    type Target = Offer;

    fn deref(&self) -> &Offer {
        &self.0
    }
}

/// What the destination found on examining the offer: every reason at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// All findings of the checks, blockers and warnings.
    pub findings: Vec<Finding>,
}

/// The destination is ready for the switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchReady {
    /// How long phase 1 of the lease's next epoch took, which tells how long phase 2 will take, microseconds.
    pub lease_us: u64,
}

/// A part of the device and vCPU state. The parts follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePart {
    /// Bytes of the whole.
    pub total: u32,
    /// Where this part begins.
    pub offset: u32,
    /// The part.
    pub bytes: Vec<u8>,
}

/// "The VM is stopped here; I resume it only if I win the next epoch of its lease myself."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The last round that was sent.
    pub last_round: RoundNumber,
    /// The digest of the source's table of pages.
    pub digest: Digest,
    /// The digest of all of the source's memory, for the depth `full`.
    pub memory_digest: Option<Digest>,
    /// Bytes of the state.
    pub state_bytes: u32,
    /// XXH3-128 of the state.
    pub state_hash: u128,
    /// Whether the VM is to run.
    pub run_state: RunState,
}

/// How long the destination's pieces of the stun took, microseconds, and how far the guest's clock stepped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// From the hand-over's arrival until the last page was stored.
    pub last_pages_us: u64,
    /// Restoring the state.
    pub restore_us: u64,
    /// Comparing.
    pub verify_us: u64,
    /// Phase 2 of the lease's next epoch.
    pub lease_us: u64,
    /// Opening the disks and starting the vCPUs.
    pub resume_us: u64,
    /// The guest's clock, forward is positive.
    pub clock_step_us: i64,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first of both sides.
    Hello(Hello),
    /// Source: what is to move.
    Offer(Box<ValidatedOffer>),
    /// Destination: what the checks found.
    Answer(Answer),
    /// Source: go on; get the memory ready.
    Reserve,
    /// Destination: the memory is there; pages may come.
    Reserved,
    /// Destination: the VMM is built and the lease's next epoch prepared.
    SwitchReady(SwitchReady),
    /// Source: this round had so many pages, all of which are on their way.
    RoundEnd {
        /// The round.
        round: RoundNumber,
        /// Its pages.
        pages: u64,
    },
    /// Destination: all pages of this round are stored or were overtaken by newer ones.
    RoundStored {
        /// The round.
        round: RoundNumber,
    },
    /// Source: a part of the state.
    State(StatePart),
    /// Source: the last word before the commit.
    HandOver(HandOver),
    /// Source: the stun would have become too long, the VM runs on here, and the rounds go on.
    StunCancelled,
    /// Destination: it holds this epoch; the VM is its own.
    Committed {
        /// The epoch.
        epoch: u64,
    },
    /// Destination: the VM runs (or is paused, as it was).
    Resumed(Resumed),
    /// Destination: it holds the epoch but could not start the VM, and why.
    NotResumed(Reason),
    /// Source: the hashes of these pages of its frozen memory.
    AuditHashes {
        /// The first page.
        first: u64,
        /// One hash a page.
        hashes: Vec<PageHash>,
    },
    /// Destination: what the audit found.
    AuditDone(Audit),
    /// Source: its memory is released; this is the receipt.
    Done(Box<Receipt>),
    /// The sender lives.
    Keepalive,
    /// The sender ends the migration, and why.
    Cancel(Reason),
}

/// Most bytes of state in one message.
pub const STATE_PART_BYTES_MAX: usize = BODY_BYTES_MAX - 64;
/// Most hashes in one message.
pub const AUDIT_HASHES_MAX: usize = 32_768;

const _: () = assert!(AUDIT_HASHES_MAX * 16 + 64 <= BODY_BYTES_MAX);

/// The kinds of messages. A number is never given twice.
mod kind {
    pub(super) const HELLO: u16 = 1;
    pub(super) const OFFER: u16 = 2;
    pub(super) const ANSWER: u16 = 3;
    pub(super) const RESERVE: u16 = 4;
    pub(super) const RESERVED: u16 = 5;
    pub(super) const SWITCH_READY: u16 = 6;
    pub(super) const ROUND_END: u16 = 7;
    pub(super) const ROUND_STORED: u16 = 8;
    pub(super) const STATE: u16 = 9;
    pub(super) const HAND_OVER: u16 = 10;
    pub(super) const STUN_CANCELLED: u16 = 11;
    pub(super) const COMMITTED: u16 = 12;
    pub(super) const RESUMED: u16 = 13;
    pub(super) const NOT_RESUMED: u16 = 14;
    pub(super) const AUDIT_HASHES: u16 = 15;
    pub(super) const AUDIT_DONE: u16 = 16;
    pub(super) const DONE: u16 = 17;
    pub(super) const KEEPALIVE: u16 = 18;
    pub(super) const CANCEL: u16 = 19;
}

/// The chunk that holds what a message says. Chunks that later versions add get other kinds.
const CONTENT: u16 = 1;
/// The version of every content so far.
const CONTENT_VERSION: u16 = 1;

impl Message {
    /// The message as it travels, in the agreed protocol version.
    pub fn encode(&self, version: u16) -> Vec<u8> {
        let (kind, content) = self.content();
        let mut body = Vec::with_capacity(content.len() + chunk::HEADER_BYTES);
        chunk::write(&mut body, Chunk { kind: CONTENT, version: CONTENT_VERSION, payload: &content });
        let version = if kind == kind::HELLO { 0 } else { version };
        Frame { version, kind, body }.encode()
    }

    fn content(&self) -> (u16, Vec<u8>) {
        match self {
            Self::Hello(hello) => (kind::HELLO, encode_hello(hello)),
            Self::Offer(offer) => (kind::OFFER, pack(&offer.0)),
            Self::Answer(answer) => (kind::ANSWER, pack(answer)),
            Self::Reserve => (kind::RESERVE, Vec::new()),
            Self::Reserved => (kind::RESERVED, Vec::new()),
            Self::SwitchReady(ready) => (kind::SWITCH_READY, pack(ready)),
            Self::RoundEnd { round, pages } => (kind::ROUND_END, pack(&(round, pages))),
            Self::RoundStored { round } => (kind::ROUND_STORED, pack(round)),
            Self::State(part) => (kind::STATE, encode_state(part)),
            Self::HandOver(hand_over) => (kind::HAND_OVER, pack(hand_over)),
            Self::StunCancelled => (kind::STUN_CANCELLED, Vec::new()),
            Self::Committed { epoch } => (kind::COMMITTED, pack(epoch)),
            Self::Resumed(resumed) => (kind::RESUMED, pack(resumed)),
            Self::NotResumed(reason) => (kind::NOT_RESUMED, pack(reason)),
            Self::AuditHashes { first, hashes } => (kind::AUDIT_HASHES, encode_hashes(*first, hashes)),
            Self::AuditDone(audit) => (kind::AUDIT_DONE, pack(audit)),
            Self::Done(receipt) => (kind::DONE, pack(receipt)),
            Self::Keepalive => (kind::KEEPALIVE, Vec::new()),
            Self::Cancel(reason) => (kind::CANCEL, pack(reason)),
        }
    }

    /// What a frame says. `agreed` is the protocol version of the hello; before that, none, and then only a hello is
    /// understood.
    ///
    /// # Errors
    /// It says nothing that this version understands, or something beyond a bound.
    pub fn decode(frame: &Frame, agreed: Option<u16>) -> Result<Self, WireError> {
        let expected = if frame.kind == kind::HELLO { 0 } else { agreed.ok_or(WireError::Missing("the hello"))? };
        if frame.version != expected {
            return Err(WireError::Version { found: frame.version, agreed: expected });
        }
        let chunks = chunk::read(&frame.body, |kind| kind == CONTENT)?;
        let [content] = chunks[..] else { return Err(WireError::Missing("what a message says")) };
        if content.version != CONTENT_VERSION {
            return Err(WireError::Version { found: content.version, agreed: CONTENT_VERSION });
        }
        let content = content.payload;
        Ok(match frame.kind {
            kind::HELLO => Self::Hello(decode_hello(content)?),
            kind::OFFER => Self::Offer(Box::new(ValidatedOffer::new(unpack("an offer", content)?)?)),
            kind::ANSWER => Self::Answer(decode_answer(content)?),
            kind::RESERVE => Self::Reserve,
            kind::RESERVED => Self::Reserved,
            kind::SWITCH_READY => Self::SwitchReady(unpack("a readiness", content)?),
            kind::ROUND_END => {
                let (round, pages) = unpack("the end of a round", content)?;
                Self::RoundEnd { round, pages }
            }
            kind::ROUND_STORED => Self::RoundStored { round: unpack("the storing of a round", content)? },
            kind::STATE => Self::State(decode_state(content)?),
            kind::HAND_OVER => Self::HandOver(unpack("a hand-over", content)?),
            kind::STUN_CANCELLED => Self::StunCancelled,
            kind::COMMITTED => Self::Committed { epoch: unpack("a commit", content)? },
            kind::RESUMED => Self::Resumed(unpack("a resume", content)?),
            kind::NOT_RESUMED => Self::NotResumed(decode_reason(content)?),
            kind::AUDIT_HASHES => decode_hashes(content)?,
            kind::AUDIT_DONE => Self::AuditDone(unpack("an audit", content)?),
            kind::DONE => Self::Done(unpack("a receipt", content)?),
            kind::KEEPALIVE => Self::Keepalive,
            kind::CANCEL => Self::Cancel(decode_reason(content)?),
            kind => return Err(WireError::Kind { what: "a message", kind }),
        })
    }

    /// Its name, for a person who reads that it came at the wrong moment.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Offer(_) => "offer",
            Self::Answer(_) => "answer",
            Self::Reserve => "reserve",
            Self::Reserved => "reserved",
            Self::SwitchReady(_) => "switch-ready",
            Self::RoundEnd { .. } => "round-end",
            Self::RoundStored { .. } => "round-stored",
            Self::State(_) => "state",
            Self::HandOver(_) => "hand-over",
            Self::StunCancelled => "stun-cancelled",
            Self::Committed { .. } => "committed",
            Self::Resumed(_) => "resumed",
            Self::NotResumed(_) => "not-resumed",
            Self::AuditHashes { .. } => "audit-hashes",
            Self::AuditDone(_) => "audit-done",
            Self::Done(_) => "done",
            Self::Keepalive => "keepalive",
            Self::Cancel(_) => "cancel",
        }
    }
}

/// Plain data into bytes. These types hold nothing that postcard cannot write.
fn pack<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data can be written")
}

/// Bytes, which are at most a message long, into plain data; no more is allocated than the bytes can fill.
fn unpack<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(WireError::Value(what)),
        Err(postcard::Error::DeserializeUnexpectedEnd) => Err(WireError::Short(what)),
        Err(_) => Err(WireError::Value(what)),
    }
}

pub(crate) fn bound(what: &'static str, bytes: u64, max: u64) -> Result<(), WireError> {
    if bytes > max { Err(WireError::TooLong { what, bytes, max }) } else { Ok(()) }
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(hello.oldest.to_le_bytes());
    bytes.extend(hello.newest.to_le_bytes());
    bytes.extend(hello.migration.0.to_le_bytes());
    for text in [hello.host.as_str(), &hello.build] {
        let text = &text.as_bytes()[..text.len().min(usize::from(u8::MAX))];
        bytes.push(text.len() as u8);
        bytes.extend(text);
    }
    bytes
}

/// Whatever a later version appends to a hello is ignored.
fn decode_hello(bytes: &[u8]) -> Result<Hello, WireError> {
    let mut cursor = Cursor::new(bytes);
    let (oldest, newest, migration) = (cursor.u16()?, cursor.u16()?, MigrationId(cursor.u64()?));
    let mut text = || -> Result<String, WireError> {
        let length = cursor.u8()?;
        let bytes = cursor.take(usize::from(length))?;
        String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Value("a text of the hello"))
    };
    let host = text()?.parse().map_err(|_| WireError::Value("the host name of the hello"))?;
    Ok(Hello { oldest, newest, migration, host, build: text()? })
}

fn decode_answer(bytes: &[u8]) -> Result<Answer, WireError> {
    let answer: Answer = unpack("an answer", bytes)?;
    bound("the list of findings", answer.findings.len() as u64, FINDINGS_MAX as u64)?;
    answer.findings.iter().try_for_each(|finding| reason_within_bounds(&finding.reason))?;
    Ok(answer)
}

fn decode_reason(bytes: &[u8]) -> Result<Reason, WireError> {
    let reason = unpack("a reason", bytes)?;
    reason_within_bounds(&reason)?;
    Ok(reason)
}

fn reason_within_bounds(reason: &Reason) -> Result<(), WireError> {
    bound("a reason", (reason.cause.len() + reason.hint.len()) as u64, 4096)
}

fn encode_state(part: &StatePart) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(part.bytes.len() + 8);
    bytes.extend(part.total.to_le_bytes());
    bytes.extend(part.offset.to_le_bytes());
    bytes.extend(&part.bytes);
    bytes
}

fn decode_state(bytes: &[u8]) -> Result<StatePart, WireError> {
    let mut cursor = Cursor::new(bytes);
    let (total, offset) = (cursor.u32()?, cursor.u32()?);
    bound("the state of the VM", u64::from(total), limits::MIGRATION_STATE_BYTES_MAX)?;
    let part = cursor.rest();
    if u64::from(offset) + part.len() as u64 > u64::from(total) {
        return Err(WireError::Value("the place of a part of the state"));
    }
    Ok(StatePart { total, offset, bytes: part.to_vec() })
}

fn encode_hashes(first: u64, hashes: &[PageHash]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hashes.len() * 16 + 8);
    bytes.extend(first.to_le_bytes());
    hashes.iter().for_each(|hash| bytes.extend(hash.0.to_le_bytes()));
    bytes
}

fn decode_hashes(bytes: &[u8]) -> Result<Message, WireError> {
    let mut cursor = Cursor::new(bytes);
    let first = cursor.u64()?;
    let (hashes, rest) = cursor.rest().as_chunks::<16>();
    if !rest.is_empty() || hashes.is_empty() || hashes.len() > AUDIT_HASHES_MAX {
        return Err(WireError::Value("the number of hashes"));
    }
    Ok(Message::AuditHashes { first, hashes: hashes.iter().map(|hash| PageHash(u128::from_le_bytes(*hash))).collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checks::facts::example;
    use crate::wire::FrameReader;

    fn offer() -> Offer {
        Offer {
            vm: example::vm(),
            config_text: "[vm]\nname = \"web\"".to_owned(),
            machine: vec![1, 2, 3],
            source: example::host("host-a"),
            link: example::link(),
            run_state: RunState::Paused,
            epoch: 7,
            state_bytes: 60_000,
            stun_us_max: 300_000,
            verify: Verify::Audit,
            check_only: false,
            force_link: false,
        }
    }

    fn messages() -> Vec<Message> {
        let hello = Hello {
            oldest: 1,
            newest: 2,
            migration: MigrationId(u64::MAX),
            host: "host-a".parse().unwrap(),
            build: "0.1.0".to_owned(),
        };
        let hand_over = HandOver {
            last_round: 3,
            digest: Digest(u128::MAX),
            memory_digest: Some(Digest(1)),
            state_bytes: 5,
            state_hash: 6,
            run_state: RunState::Running,
        };
        let finding = Finding::blocker("memory", Reason::new("too little memory", "stop a VM"));
        vec![
            Message::Hello(hello),
            Message::Offer(Box::new(ValidatedOffer::new(offer()).unwrap())),
            Message::Answer(Answer { findings: vec![finding] }),
            Message::Reserve,
            Message::Reserved,
            Message::SwitchReady(SwitchReady { lease_us: 1 }),
            Message::RoundEnd { round: 1, pages: 2 },
            Message::RoundStored { round: 1 },
            Message::State(StatePart { total: 10, offset: 4, bytes: vec![1, 2, 3] }),
            Message::HandOver(hand_over),
            Message::StunCancelled,
            Message::Committed { epoch: 8 },
            Message::Resumed(Resumed { clock_step_us: -5, ..Resumed::default() }),
            Message::NotResumed(Reason::new("a", "b")),
            Message::AuditHashes { first: 3, hashes: vec![PageHash(1), PageHash(u128::MAX)] },
            Message::AuditDone(Audit { done: true, compared_pages: 1, rewritten_pages: 2, different_pages: 3 }),
            Message::Keepalive,
            Message::Cancel(Reason::new("a", "b")),
        ]
    }

    fn read(bytes: &[u8], agreed: Option<u16>) -> Result<Message, WireError> {
        let mut reader = FrameReader::default();
        reader.push(bytes);
        Message::decode(&reader.next_frame()?.ok_or(WireError::Short("a frame"))?, agreed)
    }

    #[test]
    fn every_message_survives_the_journey() {
        for message in messages() {
            assert_eq!(read(&message.encode(1), Some(1)), Ok(message));
        }
    }

    #[test]
    fn a_hello_is_read_before_any_version_is_agreed_and_nothing_else_is() {
        for message in messages() {
            let hello = matches!(message, Message::Hello(_));
            assert_eq!(read(&message.encode(1), None).is_ok(), hello, "{}", message.name());
        }
    }

    #[test]
    fn a_message_of_another_version_than_agreed_is_refused() {
        let bytes = Message::Reserve.encode(2);
        assert_eq!(read(&bytes, Some(1)), Err(WireError::Version { found: 2, agreed: 1 }));
    }

    #[test]
    fn an_offer_beyond_a_bound_is_refused() {
        type Change = fn(&mut Offer);
        let changes: [Change; 6] = [
            |offer| offer.vm.memory.0 = limits::VM_MEMORY_BYTES_MAX + (1 << 20),
            |offer| offer.vm.memory.0 += 4096,
            |offer| offer.vm.cpus = 0,
            |offer| offer.config_text = "x".repeat(limits::VM_CONFIG_BYTES_MAX as usize + 1),
            |offer| offer.stun_us_max = u64::MAX,
            |offer| offer.state_bytes = limits::MIGRATION_STATE_BYTES_MAX + 1,
        ];
        for change in changes {
            let mut offer = offer();
            change(&mut offer);
            assert!(ValidatedOffer::new(offer).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(kind in 0u16..24, content in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut body = Vec::new();
            chunk::write(&mut body, Chunk { kind: CONTENT, version: CONTENT_VERSION, payload: &content });
            let version = if kind == kind::HELLO { 0 } else { 1 };
            let _ = Message::decode(&Frame { version, kind, body }, Some(1));
            let _ = Message::decode(&Frame { version, kind, body: content }, Some(1));
        }

        #[test]
        fn a_damaged_message_is_a_message_or_an_error(which in 0usize..18, at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut bytes = messages()[which].encode(1);
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = read(&bytes, Some(1));
        }
    }
}
