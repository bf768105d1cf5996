//! Moves between this build and an older one, in both directions: what one of them says that the other does not know is passed over, and what
//! lies on their datastore is read by both. `GODWIT_OLDER_BUILD` names the older binary (`cargo lab older` builds it).

mod world;

use std::path::PathBuf;

use godwit::api::host::{HostAnswer, VmState};
use model::receipt::Verdict;
use world::{Cable, Datastore, Host, line, wait};

/// The port group of the VM's NIC.
const NETWORK: &str = "[vswitch.gwlan]\nuplink = \"gwup\"\n[port_group.lan]\nvswitch = \"gwlan\"\n";
/// What is told of a host whose build knows nothing of probe frames.
const SENDS_NONE: &str = "host-a runs a build that sends no probe frames";

#[test]
fn a_vm_moves_from_an_older_build_to_this_one_and_back_and_again() {
    let Some(older) = std::env::var_os("GODWIT_OLDER_BUILD").map(PathBuf::from) else {
        eprintln!("skipped: no older build is named (cargo lab older makes one, and runs this)");
        return;
    };
    let Some(datastore) = Datastore::with_witness("older") else { return };
    let Some(mut cable) = Cable::lay("older") else { return };
    cable.join_guests("gwup", "10.9.0.1/24");
    datastore.add_disk("witness");
    datastore.add_nic("witness", "lan");
    let a = Host::boot_of_build(&datastore, &cable, 0, NETWORK, &older);
    let b = Host::boot_at_with(&datastore, &cable, 1, NETWORK);
    typed_until(&a, "vm start witness", "runs on this host");
    typed_until(&a, "host list", "host-b");
    wait("the hosts know each other", || line(&b.ask("host list").1).contains("host-a"));
    move_here(&a, &b);

    // The uplinks are one network, which a build that sends frames too knows.
    wait("the networks are judged", || {
        let said = line(&b.ask("vm migrate witness host-a --check").1);
        println!("{said}");
        said.contains(SENDS_NONE) || said.contains("ok    physical network")
    });
    let mut receipt = None;
    wait("it moves back", || match b.ask("vm migrate witness host-a").1 {
        HostAnswer::Migrated(moved) => {
            receipt = Some(*moved);
            true
        }
        refused => {
            println!("{}", line(&refused));
            false
        }
    });
    let receipt = receipt.expect("it moved");
    assert_eq!(receipt.verdict, Verdict::Moved, "{receipt:?}");
    assert!(receipt.audit.done && receipt.audit.different_pages == 0, "{receipt:?}");
    assert!(
        receipt.predicted_moved_us.is_some(),
        "what the other build does not know of was told it, and is in the receipt"
    );
    // It is written while the answer is read.
    let shown = typed_until(&a, &format!("migration show {}", receipt.id), "witness moved from host-b to host-a");
    assert!(shown.contains("round                 1: "), "{shown}");
    move_here(&a, &b);
}

/// Types on the older host until it is answered so.
fn typed_until(host: &Host, typed: &str, answer: &str) -> String {
    let mut read = String::new();
    wait(answer, || {
        let now = host.types(typed);
        if now != read {
            println!("{now}");
        }
        read = now;
        read.contains(answer)
    });
    read
}

/// Moves the VM from the older build to this one, where it finds all of its memory as it was.
fn move_here(older: &Host, here: &Host) {
    let receipt = typed_until(older, "vm migrate witness host-b", "moved from host-a to host-b");
    assert!(receipt.contains("all alike"), "{receipt}");
    wait("it runs here", || here.state("witness") == VmState::Running);
    here.serial("witness").audit_whole("witness");
}
