//! The lease of a VM is damaged while its move is being decided: no copy of it is ended before the lease tells which one is the newer.

mod world;

use std::os::unix::fs::FileExt as _;

use godwit::api::host::VmState;
use godwit::api::vmm::VmmLife;
use world::lease_line::LeaseLine;
use world::two_hosts::{hold_in_commit, hold_in_pre_copy, runner, two_hosts, wait_for_phase};
use world::{Datastore, Host, finish, line, wait};

/// Damages what hosts wrote about the first VM into the lease area; what was there.
fn damage_lease(datastore: &Datastore) -> (Vec<u8>, u64) {
    let path = datastore.path("godwit/lease");
    let (_, area) = godwit::lease::area::open(&path).expect("an area");
    let bank = area.geometry.vm(protocol::lease::layout::Place(0)).extent();
    let mut before = vec![0; bank.bytes];
    std::fs::File::open(&path).expect("it is there").read_exact_at(&mut before, bank.offset).expect("read");
    write_lease(datastore, &(vec![0xA5; bank.bytes], bank.offset));
    (before, bank.offset)
}

fn write_lease(datastore: &Datastore, (bytes, offset): &(Vec<u8>, u64)) {
    let file = std::fs::File::options().write(true).open(datastore.path("godwit/lease")).expect("it is there");
    file.write_all_at(bytes, *offset).expect("written");
    file.sync_all().expect("on the disk");
}

/// The VM stands still on this host, and people are told what to do.
fn stands_still(host: &Host) {
    wait("it stands still", || host.state("witness") == VmState::Paused);
    wait("it is told", || {
        host.vm("witness").waits_for.is_some_and(|what| {
            what.contains("the lease of VM witness is damaged") && what.contains("then lease break witness")
        })
    });
    assert_eq!(host.life("witness"), VmmLife::Paused);
    let (status, refused) = host.ask("vm resume witness");
    assert!(status == 1 && line(&refused).contains("is damaged"), "{refused:?}");
    assert_eq!(host.life("witness"), VmmLife::Paused);
}

#[test]
fn a_move_whose_lease_is_damaged_in_its_commit_ends_with_the_vm_standing_on_both_hosts_until_the_lease_tells() {
    let Some((datastore, _cable, mut a, mut b)) = two_hosts("damaged") else { return };
    let (leases, moving) = hold_in_commit(&a, &b);
    wait_for_phase(&b, "commit");
    let before = damage_lease(&datastore);
    leases.iter().for_each(LeaseLine::mend);
    let told = line(&finish(&moving).1);
    for part in [
        "whether VM witness was migrated is not known",
        "it is stopped on host-a",
        "the lease of VM witness is damaged",
        "vm kill witness, then lease break witness",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    [&a, &b].into_iter().for_each(stands_still);
    let (status, refused) = a.ask("vm migrate witness host-b");
    assert!(status == 1 && line(&refused).contains("stands still"), "{refused:?}");
    a.restart_control_plane();
    b.restart_control_plane();
    [&a, &b].into_iter().for_each(stands_still);
    // The damage passes.
    write_lease(&datastore, &before);
    let runner = runner(&a, &b);
    let idle = if std::ptr::eq(runner, &raw const a) { &b } else { &a };
    wait("nothing is left on the other", || idle.monitor_processes().is_empty());
    assert_eq!(runner.monitor_processes().len(), 1);
}

#[test]
fn a_vm_that_stands_still_at_its_destination_ends_when_another_host_holds_the_new_lease() {
    let Some((datastore, _cable, a, b)) = two_hosts("mended") else { return };
    let (leases, moving) = hold_in_commit(&a, &b);
    wait_for_phase(&b, "commit");
    damage_lease(&datastore);
    world::kill(b.migrate_pid());
    leases.iter().for_each(LeaseLine::mend);
    finish(&moving);
    [&a, &b].into_iter().for_each(stands_still);
    // Its lease cannot be given up yet.
    a.ask("vm kill witness");
    wait("it ended there", || a.monitor_processes().is_empty());
    let (status, refused) = a.ask("lease break witness");
    assert!(status == 1 && line(&refused).contains("these live: host-b"), "{refused:?}");
    a.done("lease break witness --force");
    assert_eq!(b.life("witness"), VmmLife::Paused, "nobody holds it yet");
    a.done("vm start witness");
    wait("it ends at the destination", || b.monitor_processes().is_empty());
    assert!(b.last_end("witness").contains("host-a took its lease"), "{}", b.last_end("witness"));
    assert!(std::ptr::eq(runner(&a, &b), &raw const a));
}

#[test]
fn a_vm_that_came_with_a_commit_stands_still_where_its_lease_is_damaged_before_it_runs() {
    let Some((datastore, _cable, a, b)) = two_hosts("committed") else { return };
    let (lease, moving) = hold_in_pre_copy(&a, &b);
    // The destination's engine commits, and waits for the disks that its control plane is to open.
    let frozen = b.freeze_control_plane();
    lease.mend();
    wait_for_phase(&a, "resume");
    let before = damage_lease(&datastore);
    frozen.thaw();
    let told = line(&finish(&moving).1);
    assert!(told.contains("was moved to host-b, but does not run there") && told.contains("is damaged"), "{told}");
    wait("it left its source", || a.monitor_processes().is_empty());
    // It is the only copy.
    stands_still(&b);
    write_lease(&datastore, &before);
    assert!(std::ptr::eq(runner(&a, &b), &raw const b));
}
