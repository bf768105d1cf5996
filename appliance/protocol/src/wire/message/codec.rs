//! Messages as frames.

use model::diagnosis::Reason;
use model::limits;
use model::receipt::Receipt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::catalogue::Message;
use super::content::{AUDIT_HASHES_MAX, Answer, HandOver, Hello, MigrationId, StatePart, SwitchReady};
use super::kind;
use super::offer::{Offer, ValidatedOffer};
use crate::checks::FINDINGS_MAX;
use crate::checks::physical_network::{self, Found};
use crate::verify::PageHash;
use crate::wire::chunk::{self, Chunk};
use crate::wire::cursor::Cursor;
use crate::wire::error::{WireError, bound};
use crate::wire::frame::Frame;

/// The chunk that holds what a message says. Chunks that later versions add get other kinds.
pub(super) const CONTENT: u16 = 1;
/// The version of every content so far.
pub(super) const CONTENT_VERSION: u16 = 1;
/// Beside a readiness: what the destination rehearsed. An older build skips it.
const REHEARSAL: u16 = 2 | chunk::OPTIONAL;
const REHEARSAL_VERSION: u16 = 1;
/// Beside a receipt: what the duration was predicted to be. An older build skips it.
const FORECAST: u16 = 3 | chunk::OPTIONAL;
const FORECAST_VERSION: u16 = 1;
/// Beside an offer: which uplinks the source probes. An older build skips it, and does not listen.
const PROBE: u16 = 4 | chunk::OPTIONAL;
const PROBE_VERSION: u16 = 1;
/// Beside an answer: what the destination heard on them. Only a source that probes is told.
const UPLINKS: u16 = 5 | chunk::OPTIONAL;
const UPLINKS_VERSION: u16 = 1;
/// Beside a hand-over and each part of a state: what the guest's clock should show. An older build skips it.
const CLOCK: u16 = 6 | chunk::OPTIONAL;
const CLOCK_VERSION: u16 = 1;

impl Message {
    /// The message as it travels, in the agreed protocol version.
    pub fn encode(&self, version: u16) -> Vec<u8> {
        let (kind, content) = self.content();
        let mut body = Vec::with_capacity(content.len() + chunk::HEADER_BYTES);
        chunk::write(&mut body, Chunk { kind: CONTENT, version: CONTENT_VERSION, payload: &content });
        if let Some((kind, version, payload)) = self.beside() {
            chunk::write(&mut body, Chunk { kind, version, payload: &payload });
        }
        let version = if kind == kind::HELLO { 0 } else { version };
        Frame { version, kind, body }.encode()
    }

    /// What builds of before do not know, and do without.
    fn beside(&self) -> Option<(u16, u16, Vec<u8>)> {
        match self {
            Self::SwitchReady(SwitchReady { rehearsal: Some(rehearsal), .. }) => {
                Some((REHEARSAL, REHEARSAL_VERSION, pack(rehearsal)))
            }
            Self::Done(receipt) => receipt.predicted_moved_us.map(|us| (FORECAST, FORECAST_VERSION, pack(&us))),
            Self::Offer(offer) if !offer.probe.is_empty() => Some((PROBE, PROBE_VERSION, pack(&offer.probe))),
            Self::Answer(answer) => answer.uplinks.as_ref().map(|found| (UPLINKS, UPLINKS_VERSION, pack(found))),
            Self::State(StatePart { clock_ns: Some(ns), .. }) | Self::HandOver(HandOver { clock_ns: Some(ns), .. }) => {
                Some((CLOCK, CLOCK_VERSION, pack(ns)))
            }
            _ => None,
        }
    }

    fn content(&self) -> (u16, Vec<u8>) {
        match self {
            Self::Hello(hello) => (kind::HELLO, encode_hello(hello)),
            Self::Offer(offer) => (kind::OFFER, pack::<Offer>(offer)),
            Self::Answer(answer) => (kind::ANSWER, pack(answer)),
            Self::Reserve => (kind::RESERVE, Vec::new()),
            Self::Reserved => (kind::RESERVED, Vec::new()),
            Self::SwitchReady(ready) => (kind::SWITCH_READY, pack(&ready.lease_us)),
            Self::RoundEnd { round, pages } => (kind::ROUND_END, pack(&(round, pages))),
            Self::RoundStored { round } => (kind::ROUND_STORED, pack(round)),
            Self::State(part) => (kind::STATE, encode_state(part)),
            Self::HandOver(hand_over) => (kind::HAND_OVER, pack(hand_over)),
            Self::StunCancelled => (kind::STUN_CANCELLED, Vec::new()),
            Self::Committed { epoch } => (kind::COMMITTED, pack(epoch)),
            Self::Resumed(resumed) => (kind::RESUMED, pack(resumed)),
            Self::NotResumed(reason) => (kind::NOT_RESUMED, pack(reason)),
            Self::Announced { us } => (kind::ANNOUNCED, pack(us)),
            Self::AuditHashes { first, hashes } => (kind::AUDIT_HASHES, encode_hashes(*first, hashes)),
            Self::AuditDone(audit) => (kind::AUDIT_DONE, pack(audit)),
            Self::Done(receipt) => (kind::DONE, encode_receipt(receipt)),
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
        let known = |kind| matches!(kind, CONTENT | REHEARSAL | FORECAST | PROBE | UPLINKS | CLOCK);
        let chunks = chunk::read(&frame.body, known)?;
        let (contents, beside): (Vec<_>, Vec<_>) = chunks.into_iter().partition(|chunk| chunk.kind == CONTENT);
        let [content] = contents[..] else { return Err(WireError::Missing("what a message says")) };
        if content.version != CONTENT_VERSION {
            return Err(WireError::Version { found: content.version, agreed: CONTENT_VERSION });
        }
        let content = content.payload;
        Ok(match frame.kind {
            kind::HELLO => Self::Hello(decode_hello(content)?),
            kind::OFFER => Self::Offer(Box::new(decode_offer(content, &beside)?)),
            kind::ANSWER => Self::Answer(decode_answer(content, &beside)?),
            kind::RESERVE => Self::Reserve,
            kind::RESERVED => Self::Reserved,
            kind::SWITCH_READY => Self::SwitchReady(SwitchReady {
                lease_us: unpack("a readiness", content)?,
                rehearsal: told_beside(&beside, REHEARSAL, REHEARSAL_VERSION, "a rehearsal")?,
            }),
            kind::ROUND_END => {
                let (round, pages) = unpack("the end of a round", content)?;
                Self::RoundEnd { round, pages }
            }
            kind::ROUND_STORED => Self::RoundStored { round: unpack("the storing of a round", content)? },
            kind::STATE => Self::State(StatePart { clock_ns: clock(&beside)?, ..decode_state(content)? }),
            kind::HAND_OVER => {
                Self::HandOver(HandOver { clock_ns: clock(&beside)?, ..unpack("a hand-over", content)? })
            }
            kind::STUN_CANCELLED => Self::StunCancelled,
            kind::COMMITTED => Self::Committed { epoch: unpack("a commit", content)? },
            kind::RESUMED => Self::Resumed(unpack("a resume", content)?),
            kind::NOT_RESUMED => Self::NotResumed(decode_reason(content)?),
            kind::ANNOUNCED => Self::Announced { us: unpack("an announcement", content)? },
            kind::AUDIT_HASHES => decode_hashes(content)?,
            kind::AUDIT_DONE => Self::AuditDone(unpack("an audit", content)?),
            kind::DONE => Self::Done(Box::new(decode_receipt(content, &beside)?)),
            kind::KEEPALIVE => Self::Keepalive,
            kind::CANCEL => Self::Cancel(decode_reason(content)?),
            kind => return Err(WireError::Kind { what: "a message", kind }),
        })
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

/// What a build that knows of it tells beside a message, in the version that is known here; another may be done without.
fn told_beside<T: DeserializeOwned>(
    beside: &[Chunk<'_>],
    kind: u16,
    version: u16,
    what: &'static str,
) -> Result<Option<T>, WireError> {
    let known = beside.iter().find(|chunk| chunk.kind == kind && chunk.version == version);
    known.map(|chunk| unpack(what, chunk.payload)).transpose()
}

fn clock(beside: &[Chunk<'_>]) -> Result<Option<u64>, WireError> {
    told_beside(beside, CLOCK, CLOCK_VERSION, "the guest's clock")
}

/// Its last field is told beside it: the first builds had none, and neither read more nor less than they know.
fn encode_receipt(receipt: &Receipt) -> Vec<u8> {
    let mut bytes = pack(&Receipt { predicted_moved_us: None, ..receipt.clone() });
    // An absent field is a byte of 0.
    bytes.pop();
    bytes
}

fn decode_receipt(bytes: &[u8], beside: &[Chunk<'_>]) -> Result<Receipt, WireError> {
    let receipt: Receipt = unpack("a receipt", &[bytes, &[0]].concat())?;
    let predicted_moved_us = told_beside(beside, FORECAST, FORECAST_VERSION, "a forecast")?;
    Ok(Receipt { predicted_moved_us, ..receipt })
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

fn decode_offer(bytes: &[u8], beside: &[Chunk<'_>]) -> Result<ValidatedOffer, WireError> {
    let offer: Offer = unpack("an offer", bytes)?;
    let probe = told_beside(beside, PROBE, PROBE_VERSION, "the port groups to probe")?.unwrap_or_default();
    ValidatedOffer::new(Offer { probe, ..offer })
}

fn decode_answer(bytes: &[u8], beside: &[Chunk<'_>]) -> Result<Answer, WireError> {
    let answer: Answer = unpack("an answer", bytes)?;
    let uplinks: Option<Vec<Found>> = told_beside(beside, UPLINKS, UPLINKS_VERSION, "what was heard on the uplinks")?;
    uplinks.as_deref().map_or(Ok(()), physical_network::within_bounds)?;
    bound("the list of findings", answer.findings.len() as u64, FINDINGS_MAX as u64)?;
    answer.findings.iter().try_for_each(|finding| reason_within_bounds(&finding.reason))?;
    Ok(Answer { uplinks, ..answer })
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
    Ok(StatePart { total, offset, bytes: part.to_vec(), clock_ns: None })
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
