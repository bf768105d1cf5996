//! Messages between roles, as `api::channel` reads them: a role that was taken over may send what it likes.

use godwit::api::host::{HostAnswer, HostRequest};
use godwit::api::init::InitRequest;
use godwit::api::lease::{Holder, HostLease, LeaseAnswer, LeaseRequest, Listed};
use godwit::api::migrate::{FromMigrate, ToMigrate};
use godwit::api::vmm::{VmmAnswer, VmmRequest};
use godwit::console::command::{Line, parse};
use godwit::console::render;
use model::diagnosis::{Diagnosis, Reason};
use protocol::lease::identity::Slot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm::machine::{DiskSpec, MachineSpec, NicSpec};

use super::{Outcome, Prepared, example};

/// A message of `API_MESSAGE_BYTES_MAX`, and what it becomes: short texts take more room than they have bytes.
const BYTES_MAX: usize = 64 << 20;
const TYPED: [&str; 12] = [
    "vm migrate web host-b --check --bandwidth-max 250",
    "vm list",
    "vm show web",
    "vm clone web other",
    "lease break web --force",
    "log show lease",
    "host cpu --compare host-b",
    "host maintenance enter",
    "migration show 00000000000000aa",
    "network ping host-b",
    "datastore show nfs1",
    "host check",
];

fn input<T: Serialize>(kind: u8, message: &T) -> Vec<u8> {
    [vec![kind], postcard::to_stdvec(message).expect("written")].concat()
}

pub(super) fn prepare() -> Result<Prepared, String> {
    let mut inputs = Vec::new();
    for typed in TYPED {
        match parse(typed) {
            Ok(Line::Ask(request)) => inputs.push(input(0, &request)),
            other => return Err(format!("{typed}: {other:?}")),
        }
    }
    let refusal = Diagnosis::of("VM web was not moved", vec![Reason::new("too little memory", "stop a VM")]);
    let answers = [
        HostAnswer::TakenUp,
        HostAnswer::Progress { doing: "pre-copy round 2".to_owned(), thousandths: Some(500) },
        HostAnswer::Done("started".to_owned()),
        HostAnswer::Refused(refusal),
        HostAnswer::Migrated(Box::new(example::receipt())),
        HostAnswer::Cpu(Box::new(example::cpu())),
    ];
    inputs.extend(answers.iter().map(|answer| input(1, answer)));
    let spec = MachineSpec {
        cpus: 2,
        memory_bytes: 512 << 20,
        cpu_baseline: model::cpu_report::Baseline::V2,
        disks: vec![DiskSpec { capacity_bytes: 1 << 20, read_only: false, serial: "a".to_owned() }],
        nics: vec![NicSpec { mac: [2, 0, 0, 0, 0, 1], mtu: Some(1500) }],
        rng: true,
    };
    let load = VmmRequest::Load { cmdline: "console=ttyS0".to_owned(), initrd: true };
    let to_monitors =
        [VmmRequest::Build { spec }, load, VmmRequest::AttachDisk { index: 3 }, VmmRequest::Serial(vec![b'a'; 40])];
    inputs.extend(to_monitors.iter().map(|request| input(2, request)));
    inputs.push(input(4, &LeaseRequest::Watch));
    let name: model::names::HostName = "host-a".parse().expect("valid");
    let holder = Holder {
        host: [1; 16],
        name: name.clone(),
        generation: 3,
        epoch: 4,
        alive: true,
        own: false,
        since_unix_s: Some(1),
    };
    let lease = HostLease {
        host: [1; 16],
        name,
        slot: Slot(2),
        generation: 3,
        boot: 4,
        over: None,
        silent_ms: 7,
        changed: true,
    };
    let web: model::names::VmName = "web".parse().expect("valid");
    let lease_answers = [
        LeaseAnswer::HeldBy(holder.clone()),
        LeaseAnswer::Holders(vec![(web.clone(), Listed::Held(holder)), (web, Listed::Damaged(vec![Slot(1)]))]),
        LeaseAnswer::Hosts(vec![lease]),
        LeaseAnswer::Failed("not now".to_owned()),
    ];
    inputs.extend(lease_answers.iter().map(|answer| input(5, answer)));
    let facts = Box::new(example::host("host-a"));
    let refused = ToMigrate::Refuse(7, vec![Reason::new("a", "b")]);
    inputs.extend([ToMigrate::Facts(7, facts), refused, ToMigrate::Cancel(7)].iter().map(|message| input(6, message)));
    let news = FromMigrate::News { warning: true, text: "the link is down".to_owned() };
    inputs.extend([FromMigrate::Configured(Err("no NIC".to_owned())), news].iter().map(|message| input(7, message)));
    Ok(Prepared { inputs, text: false, bytes_max: BYTES_MAX, execute: Box::new(read) })
}

/// What is taken, is the same when it is said and read again.
fn taken<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let message: T = postcard::from_bytes(bytes).ok()?;
    let said = postcard::to_stdvec(&message).expect("what was read is written");
    let again: T = postcard::from_bytes(&said).expect("what was read, and written, is read again");
    assert!(postcard::to_stdvec(&again).expect("written") == said, "a message that changes when it is passed on");
    Some(message)
}

fn read(input: &[u8]) -> Outcome {
    let Some((kind, bytes)) = input.split_first() else { return Outcome::Refused };
    Outcome::taken_if(match kind {
        0 => taken::<HostRequest>(bytes).is_some_and(|request| {
            let _ = (request.only_asks(), request.is_typed(), request.order());
            true
        }),
        1 => taken::<HostAnswer>(bytes).is_some_and(|answer| {
            let _ = (render::text(&answer), render::json(&answer));
            true
        }),
        2 => taken::<VmmRequest>(bytes).is_some(),
        3 => taken::<VmmAnswer>(bytes).is_some(),
        4 => taken::<LeaseRequest>(bytes).is_some(),
        5 => taken::<LeaseAnswer>(bytes).is_some(),
        6 => taken::<ToMigrate>(bytes).is_some(),
        7 => taken::<FromMigrate>(bytes).is_some(),
        8 => taken::<InitRequest>(bytes).is_some(),
        _ => false,
    })
}
