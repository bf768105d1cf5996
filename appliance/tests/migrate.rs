//! Whole migrations between two hosts of this machine: real processes, two network namespaces, a veth between them, the
//! witness as the guest, which verifies every page of its working set for ever.

mod world;

use godwit::api::host::{HostAnswer, VmState};
use model::receipt::{Receipt, Verdict};
use world::{Cable, Datastore, Host, line, wait};

/// Two hosts that know each other, and the datastore that they share.
fn two_hosts(name: &str) -> Option<(Datastore, Cable, Host, Host)> {
    let datastore = Datastore::with_witness(name)?;
    let cable = Cable::lay(name)?;
    let (a, b) = (Host::boot_at(&datastore, &cable, 0), Host::boot_at(&datastore, &cable, 1));
    for (host, other) in [(&a, "host-b"), (&b, "host-a")] {
        wait("the hosts know each other", || line(&host.ask("host list").1).contains(other));
    }
    Some((datastore, cable, a, b))
}

/// Moves the witness, waiting until the hosts know each other's keys.
fn migrate(from: &Host, to_name: &str) -> Receipt {
    let mut last = String::new();
    for _ in 0..20 {
        match from.ask(&format!("vm migrate witness {to_name}")) {
            (0, HostAnswer::Migrated(receipt)) => return *receipt,
            (_, answer) => last = line(&answer),
        }
        if !last.contains("no host") && !last.contains("does not know it (yet)") && !last.contains("published") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    panic!("{last}\n--- migrate of the source\n{}", from.log("migrate"));
}

#[test]
fn a_running_guest_moves_there_and_back_and_every_page_arrives() {
    let Some((_datastore, _cable, a, b)) = two_hosts("move") else { return };
    assert_eq!(a.ask("vm start witness").0, 0);
    let mut serial = a.serial("witness");
    serial.wait_for("bad=0");
    for (from, to, name) in [(&a, &b, "host-b"), (&b, &a, "host-a"), (&a, &b, "host-b")] {
        let receipt = migrate(from, name);
        assert_eq!(receipt.verdict, Verdict::Moved, "{receipt:?}");
        assert!(receipt.audit.done && receipt.audit.different_pages == 0, "{:?}", receipt.audit);
        println!("{}", toml::to_string(&receipt).expect("a receipt is TOML"));
        wait("it runs there", || to.state("witness") == VmState::Running);
        assert_ne!(from.state("witness"), VmState::Running);
        let mut serial = to.serial("witness");
        serial.wait_for("bad=0");
    }
}
