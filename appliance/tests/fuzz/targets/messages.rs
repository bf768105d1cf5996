//! The control stream of a move, as the other host sends it: frames, chunks, messages, and what an offer makes this host look at.

use godwit::api::migrate::VmToMove;
use model::diagnosis::Reason;
use model::receipt::Audit;
use model::vm_config::VmConfig;
use protocol::checks::facts::NicFacts;
use protocol::checks::judge::{Conditions, Finding, judge};
use protocol::checks::physical_network::{Found, Heard};
use protocol::verify::{Digest, PageHash};
use protocol::wire::message::{Answer, HandOver, Hello, Rehearsal, Resumed, RunState, StatePart, SwitchReady};
use protocol::wire::{Frame, FrameReader, Message, MigrationId};
use vmm::machine::MachineSpec;

use super::{Outcome, Prepared, example};

/// A frame of the greatest length, what its chunks become, and as much again while the stream is cut.
const BYTES_MAX: usize = 32 << 20;

pub(super) fn prepare() -> Result<Prepared, String> {
    let all = messages();
    let mut inputs: Vec<Vec<u8>> = all.iter().map(|message| message.encode(1)).collect();
    inputs.push(all.iter().flat_map(|message| message.encode(1)).collect());
    Ok(Prepared { inputs, text: false, bytes_max: BYTES_MAX, execute: Box::new(read) })
}

fn read(input: &[u8]) -> Outcome {
    let (mut reader, mut taken) = (FrameReader::default(), false);
    for piece in input.chunks(1000) {
        reader.push(piece);
        while let Ok(Some(frame)) = reader.next_frame() {
            let _ = Message::decode(&frame, None);
            if let Ok(message) = Message::decode(&frame, Some(1)) {
                use_it(&message);
                taken = true;
            }
        }
    }
    Outcome::taken_if(taken)
}

/// What was taken is said again in the same words; what an offer says is judged as a destination judges it.
fn use_it(message: &Message) {
    let bytes = message.encode(1);
    let mut reader = FrameReader::default();
    reader.push(&bytes);
    let again: Frame = reader.next_frame().expect("a frame of our own").expect("all of it");
    assert_eq!(
        Message::decode(&again, Some(1)).as_ref(),
        Ok(message),
        "what was taken is said again and not understood"
    );
    let Message::Offer(offer) = message else { return };
    let _ = VmConfig::parse("vm.toml", &offer.config_text);
    let _ = postcard::from_bytes::<VmToMove>(&offer.machine);
    let here = example::host("host-b");
    let (vm, link) = (&offer.vm, &offer.link);
    let conditions = Conditions { vm, source: &offer.source, destination: &here, link, force_link: offer.force_link };
    for finding in judge(&conditions) {
        assert!(!finding.reason.cause.is_empty());
    }
}

fn vm_to_move() -> VmToMove {
    let spec = MachineSpec {
        cpus: 2,
        memory_bytes: 512 << 20,
        cpu_baseline: model::cpu_report::Baseline::V2,
        disks: vec![],
        nics: vec![],
        rng: true,
    };
    VmToMove {
        name: "web".parse().expect("valid"),
        datastore: "nfs1".parse().expect("valid"),
        config: example::VM_TOML.to_owned(),
        spec,
        port_groups: vec![("lab".parse().expect("valid"), Some(10))],
        epoch: 7,
        paused: false,
    }
}

pub(crate) fn messages() -> Vec<Message> {
    let hello = Hello {
        oldest: 1,
        newest: 2,
        migration: MigrationId(u64::MAX),
        host: "host-a".parse().expect("valid"),
        build: "0.1.0".to_owned(),
    };
    let hand_over = HandOver {
        last_round: 3,
        digest: Digest(u128::MAX),
        memory_digest: Some(Digest(1)),
        state_bytes: 5,
        state_hash: 6,
        run_state: RunState::Running,
        clock_ns: Some(70_000),
    };
    let finding = Finding::blocker("memory", Reason::new("too little memory", "stop a VM"));
    let heard = [Heard::Frames, Heard::Nothing, Heard::Untried("its uplink eth1 has no link".to_owned())];
    let uplinks = heard.map(|heard| Found { label: "lab".parse().expect("valid"), heard }).to_vec();
    let machine = postcard::to_stdvec(&vm_to_move()).expect("written");
    vec![
        Message::Hello(hello),
        Message::Offer(Box::new(example::offer(machine))),
        Message::Answer(Answer { findings: vec![finding], nic: NicFacts::default(), uplinks: Some(uplinks) }),
        Message::Reserve,
        Message::SwitchReady(SwitchReady { lease_us: 1, rehearsal: Some(Rehearsal { state_us: 300, disks_us: 2 }) }),
        Message::RoundEnd { round: 1, pages: 2 },
        Message::RoundStored { round: 1 },
        Message::State(StatePart { total: 10, offset: 4, bytes: vec![1, 2, 3], clock_ns: Some(60_000) }),
        Message::HandOver(hand_over),
        Message::Committed { epoch: 8 },
        Message::Resumed(Resumed { clock_ns: 5, ..Resumed::default() }),
        Message::NotResumed(Reason::new("a", "b")),
        Message::Announced { us: Some(70) },
        Message::AuditHashes { first: 3, hashes: vec![PageHash(1), PageHash(u128::MAX)] },
        Message::AuditDone(Audit { done: true, compared_pages: 1, rewritten_pages: 2, different_pages: 3 }),
        Message::Done(Box::new(example::receipt())),
        Message::Cancel(Reason::new("a", "b")),
    ]
}
