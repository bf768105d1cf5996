//! What messages promise of their bytes.

use model::diagnosis::Reason;
use model::limits;
use model::receipt::{Audit, Receipt};
use model::vm_config::Verify;
use proptest::prelude::*;

use super::codec::{CONTENT, CONTENT_VERSION};
use super::*;
use crate::checks::Finding;
use crate::checks::facts::{NicFacts, example};
use crate::checks::physical_network::{Found, Heard};
use crate::session::Draft;
use crate::time::Instant;
use crate::uplink_probe::tokens::example::agreed;
use crate::verify::{Digest, PageHash};
use crate::wire::chunk::{self, Chunk};
use crate::wire::{Frame, FrameReader, WireError};

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
        probe: Vec::new(),
    }
}

fn probing_offer() -> Offer {
    Offer { probe: agreed(&["lab", "dmz"]), ..offer() }
}

fn answer_of_a_probe() -> Answer {
    let heard = [Heard::Frames, Heard::Nothing, Heard::Untried("its uplink eth1 has no link".to_owned())];
    let uplinks = heard.into_iter().map(|heard| Found { label: "lab".parse().unwrap(), heard }).collect();
    Answer { findings: Vec::new(), nic: NicFacts::default(), uplinks: Some(uplinks) }
}

fn receipt(predicted_moved_us: Option<u64>) -> Receipt {
    let offer = ValidatedOffer::new(offer()).unwrap();
    let draft = Draft::new(Instant::ZERO, 1_800_000_000, MigrationId(7), &offer, "host-b".parse().unwrap());
    Receipt { predicted_moved_us, ..draft.receipt().clone() }
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
        clock_ns: None,
    };
    let finding = Finding::blocker("memory", Reason::new("too little memory", "stop a VM"));
    vec![
        Message::Hello(hello),
        Message::Offer(Box::new(ValidatedOffer::new(offer()).unwrap())),
        Message::Offer(Box::new(ValidatedOffer::new(probing_offer()).unwrap())),
        Message::Answer(Answer { findings: vec![finding], nic: NicFacts::default(), uplinks: None }),
        Message::Answer(answer_of_a_probe()),
        Message::Reserve,
        Message::Reserved,
        Message::SwitchReady(SwitchReady { lease_us: 1, rehearsal: None }),
        Message::SwitchReady(SwitchReady { lease_us: 1, rehearsal: Some(Rehearsal { state_us: 300, disks_us: 2 }) }),
        Message::RoundEnd { round: 1, pages: 2 },
        Message::RoundStored { round: 1 },
        Message::State(StatePart { total: 10, offset: 4, bytes: vec![1, 2, 3], clock_ns: None }),
        Message::State(StatePart { total: 10, offset: 0, bytes: vec![1, 2, 3], clock_ns: Some(9) }),
        Message::HandOver(hand_over),
        Message::HandOver(HandOver { clock_ns: Some(u64::MAX), ..hand_over }),
        Message::StunCancelled,
        Message::Committed { epoch: 8 },
        Message::Resumed(Resumed { clock_ns: 5, ..Resumed::default() }),
        Message::NotResumed(Reason::new("a", "b")),
        Message::Announced { us: Some(70) },
        Message::AuditHashes { first: 3, hashes: vec![PageHash(1), PageHash(u128::MAX)] },
        Message::AuditDone(Audit { done: true, compared_pages: 1, rewritten_pages: 2, different_pages: 3 }),
        Message::Done(Box::new(receipt(None))),
        Message::Done(Box::new(receipt(Some(1_500_000)))),
        Message::Keepalive,
        Message::Cancel(Reason::new("a", "b")),
    ]
}

fn frame(bytes: &[u8]) -> Result<Frame, WireError> {
    let mut reader = FrameReader::default();
    reader.push(bytes);
    reader.next_frame()?.ok_or(WireError::Short("a frame"))
}

fn read(bytes: &[u8], agreed: Option<u16>) -> Result<Message, WireError> {
    Message::decode(&frame(bytes)?, agreed)
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
fn what_a_later_build_adds_to_a_message_is_skipped_by_this_one() {
    let mut body = Vec::new();
    chunk::write(&mut body, Chunk { kind: CONTENT, version: CONTENT_VERSION, payload: &[7] });
    // A rehearsal as another build writes it, and something beside it that nobody knows yet.
    chunk::write(&mut body, Chunk { kind: 2 | chunk::OPTIONAL, version: 9, payload: b"otherwise" });
    chunk::write(&mut body, Chunk { kind: 99 | chunk::OPTIONAL, version: 1, payload: b"new" });
    let frame = Frame { version: 1, kind: kind::SWITCH_READY, body };
    let ready = SwitchReady { lease_us: 7, rehearsal: None };
    assert_eq!(Message::decode(&frame, Some(1)), Ok(Message::SwitchReady(ready)));
}

/// A build that does not predict how long a move takes reads the receipt of one that does, and the other way round: what it knows of it is the
/// same bytes.
#[test]
fn a_receipt_is_the_same_to_a_build_that_predicts_no_duration() {
    let contents = [None, Some(1_500_000)].map(|predicted| {
        let frame = frame(&Message::Done(Box::new(receipt(predicted))).encode(1)).expect("a frame");
        let chunks = chunk::read(&frame.body, |kind| kind == CONTENT).expect("what it does not know is skipped");
        chunks.iter().map(|chunk| chunk.payload.to_vec()).collect::<Vec<_>>()
    });
    assert_eq!(contents[0], contents[1]);
    assert_eq!(contents[0].len(), 1);
}

/// A build that sets no clock takes over from one that does, and the other way round: what it knows of a hand-over is the same bytes.
#[test]
fn a_hand_over_is_the_same_to_a_build_that_sets_no_clock() {
    let contents = [None, Some(70_000)].map(|clock_ns| {
        let hand_over = messages().into_iter().find_map(|message| match message {
            Message::HandOver(hand_over) => Some(HandOver { clock_ns, ..hand_over }),
            _ => None,
        });
        let frame = frame(&Message::HandOver(hand_over.expect("one of them")).encode(1)).expect("a frame");
        let chunks = chunk::read(&frame.body, |kind| kind == CONTENT).expect("what it does not know is skipped");
        chunks.iter().map(|chunk| chunk.payload.to_vec()).collect::<Vec<_>>()
    });
    assert_eq!(contents[0], contents[1]);
    assert_eq!(contents[0].len(), 1);
}

/// A build that sends no probe frames reads the offer and the answer of one that does, and the other way round.
#[test]
fn an_offer_and_an_answer_are_the_same_to_a_build_that_probes_no_uplink() {
    let offer_of = |offer| Message::Offer(Box::new(ValidatedOffer::new(offer).unwrap()));
    let answer = answer_of_a_probe();
    let silent = Answer { uplinks: None, ..answer.clone() };
    for pair in [[offer_of(offer()), offer_of(probing_offer())], [Message::Answer(silent), Message::Answer(answer)]] {
        let contents = pair.map(|message| {
            let frame = frame(&message.encode(1)).expect("a frame");
            let chunks = chunk::read(&frame.body, |kind| kind == CONTENT).expect("what it does not know is skipped");
            chunks.iter().map(|chunk| chunk.payload.to_vec()).collect::<Vec<_>>()
        });
        assert_eq!(contents[0], contents[1]);
        assert_eq!(contents[0].len(), 1);
    }
}

#[test]
fn what_a_destination_heard_on_more_uplinks_than_a_vm_has_is_refused() {
    let mut answer = answer_of_a_probe();
    let found = answer.uplinks.iter().flatten().next().expect("one").clone();
    answer.uplinks = Some(vec![found; 65]);
    assert!(read(&Message::Answer(answer).encode(1), Some(1)).is_err());
}

#[test]
fn an_offer_beyond_a_bound_is_refused() {
    type Change = fn(&mut Offer);
    let changes: [Change; 7] = [
        |offer| offer.vm.memory.0 = limits::VM_MEMORY_BYTES_MAX + (1 << 20),
        |offer| offer.vm.memory.0 += 4096,
        |offer| offer.vm.cpus = 0,
        |offer| offer.config_text = "x".repeat(limits::VM_CONFIG_BYTES_MAX as usize + 1),
        |offer| offer.stun_us_max = u64::MAX,
        |offer| offer.probe = agreed(&["lab"; 65]),
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
    fn a_damaged_message_is_a_message_or_an_error(which in 0usize..messages().len(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = messages()[which].encode(1);
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = read(&bytes, Some(1));
    }
}
