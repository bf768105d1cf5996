//! Two hosts between which the witness moves, and moves that are held in a phase.

use godwit::api::channel::Channel;
use godwit::api::host::{HostAnswer, HostRequest, VmState};
use godwit::api::lease::LeaseRequest;
use model::receipt::Receipt;

use super::lease_line::{self, LeaseLine, Word};
use super::{Cable, Datastore, Host, line, wait};

/// Two hosts that know each other, the datastore that they share, and the witness, which runs on the first.
pub(crate) fn two_hosts(name: &str) -> Option<(Datastore, Cable, Host, Host)> {
    two_hosts_joined_by(Cable::lay(name)?, name)
}

/// The same on a cable that is there.
pub(crate) fn two_hosts_joined_by(cable: Cable, name: &str) -> Option<(Datastore, Cable, Host, Host)> {
    let datastore = Datastore::with_witness(name)?;
    datastore.add_disk("witness");
    let [a, b] = Host::boot_two(&datastore, &cable);
    assert_eq!(a.ask("vm start witness").0, 0);
    a.serial("witness").wait_for("bad=0");
    Some((datastore, cable, a, b))
}

/// Waits until nothing stands in the way of a move: engines come up, and hosts learn each other's keys. Gives what the check says.
pub(crate) fn may_move(from: &Host, to_name: &str) -> String {
    let mut said = String::new();
    wait("nothing stands in the way", || {
        let (status, answer) = from.ask(&format!("vm migrate witness {to_name} --check"));
        if line(&answer) != said {
            said = line(&answer);
            println!("{said}");
        }
        status == 0
    });
    said
}

/// Moves the witness, waiting until it has settled after the last move and the hosts know each other's keys.
pub(crate) fn migrate(from: &Host, to_name: &str) -> Receipt {
    wait("it has settled", || from.state("witness") == VmState::Running);
    may_move(from, to_name);
    match from.ask(&format!("vm migrate witness {to_name}")) {
        (0, HostAnswer::Migrated(receipt)) => *receipt,
        (_, answer) => panic!("{}\n--- migrate of the source\n{}", line(&answer), from.log("migrate")),
    }
}

/// The VM runs on exactly one of the hosts, which is given, and its memory is whole.
pub(crate) fn runner<'a>(a: &'a Host, b: &'a Host) -> &'a Host {
    let live = |host: &Host| matches!(host.state("witness"), VmState::Running);
    wait("it runs on exactly one host", || live(a) != live(b));
    let runner = if live(a) { a } else { b };
    let mut serial = runner.serial("witness");
    serial.wait_for("witness: t=");
    serial.wait_for("bad=0");
    runner
}

/// Waits until a move from a host is in this phase.
pub(crate) fn wait_for_phase(from: &Host, phase: &str) {
    wait(phase, || from.migrations().iter().any(|row| row.state.starts_with(phase)));
}

/// Begins a move that stays in its rounds.
pub(crate) fn hold_in_pre_copy(from: &Host, to: &Host) -> (LeaseLine, Channel<HostRequest, HostAnswer>) {
    may_move(from, "host-b");
    lease_line::hold_in_pre_copy(from, to, "vm migrate witness host-b")
}

/// Begins a move whose commit neither host learns the outcome of: its VM stands still until the lines are mended.
pub(crate) fn hold_in_commit(from: &Host, to: &Host) -> ([LeaseLine; 2], Channel<HostRequest, HostAnswer>) {
    may_move(from, "host-b");
    let leases = [LeaseLine::cut_into(from), LeaseLine::cut_into(to)];
    for lease in &leases {
        lease.becomes(|request| match request {
            LeaseRequest::Commit { .. } | LeaseRequest::Resolve { .. } => Word::IsUnknown,
            _ => Word::Passes,
        });
    }
    let moving = from.begin("vm migrate witness host-b");
    wait_for_phase(from, "commit");
    (leases, moving)
}
