//! A guest that dirties faster than its link carries: it is slowed, and where that cannot help, the operator's wish decides.

mod world;

use godwit::api::host::{HostAnswer, VmState};
use model::receipt::Verdict;
use world::command::Command;
use world::{Cable, Datastore, Host, freeze, is_locked, line, wait, wait_closely};

const MOVE: &str = "vm migrate hasty host-b";
/// Less than the witness dirties.
const LINK: &str = "80mbit";
/// Less than it dirties even where it has a part of a processor only.
const THIN_LINK: &str = "20mbit";
/// Few pages, over and over.
const WORDS: &str = "seed=7 rate=max own=10M set=8M verify=scan scan=200 report_ms=500";
/// In which that link does not even carry the state of the guest.
const TOO_SHORT: &str = "stun_ms_max = 10";

/// Two hosts, and a guest on the first that never comes to rest.
fn two_hosts(name: &str, link: &str, migration: &str) -> Option<(Datastore, Cable, Host, Host)> {
    let datastore = Datastore::with_witness(name)?;
    let cable = Cable::lay_through_switches(name, 9000)?;
    if !cable.carries(link) {
        return None;
    }
    datastore.add("hasty", 1, "32 MiB", WORDS, migration);
    datastore.add_disk("hasty");
    let [a, b] = Host::boot_two(&datastore, &cable);
    assert_eq!(a.ask("vm start hasty").0, 0);
    a.serial("hasty").wait_for("witness: ready");
    wait("nothing stands in the way", || a.ask(&format!("{MOVE} --check")).0 == 0);
    Some((datastore, cable, a, b))
}

fn runs_whole_on(host: &Host) {
    wait("it runs", || host.state("hasty") == VmState::Running);
    let audit = host.serial("hasty").audit();
    assert!(audit.contains(" bad=0 "), "{audit}");
}

#[test]
fn a_guest_that_outruns_its_link_is_slowed_until_the_stun_fits() {
    let Some((_datastore, _cable, a, b)) = two_hosts("slowed", THIN_LINK, "stun_ms_max = 400") else { return };
    let mut command = Command::typed(&a, MOVE);
    command.wait_until("it is slowed", |doing| doing.contains("vCPUs that dirty are slowed by"));
    let HostAnswer::Migrated(receipt) = command.end() else { panic!("it moves") };
    assert_eq!(receipt.verdict, Verdict::Moved, "{receipt:?}");
    assert!(receipt.predicted_stun_us <= receipt.stun_max_us, "{receipt:?}");
    runs_whole_on(&b);
}

#[test]
fn a_move_whose_stun_cannot_fit_is_given_up_before_it_and_says_what_would_help() {
    let Some((_datastore, _cable, a, b)) = two_hosts("abort", LINK, TOO_SHORT) else { return };
    let (status, answer) = a.ask(MOVE);
    let said = line(&answer);
    assert_eq!(status, 1, "{said}");
    for part in ["the stun would take", "10 ms are accepted", "--on-no-convergence force"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    wait("nothing of it is there", || b.monitor_processes().is_empty());
    runs_whole_on(&a);
}

#[test]
fn a_move_that_may_take_a_stun_of_any_length_is_made_and_the_receipt_tells_that_this_was_known() {
    let Some((_datastore, _cable, a, b)) = two_hosts("force", LINK, TOO_SHORT) else { return };
    let (status, answer) = a.ask(&format!("{MOVE} --on-no-convergence force"));
    let HostAnswer::Migrated(receipt) = answer else { panic!("{status}: {}", line(&answer)) };
    assert_eq!((status, receipt.verdict), (0, Verdict::Moved), "{receipt:?}");
    assert!(receipt.predicted_stun_us > receipt.stun_max_us, "{receipt:?}");
    runs_whole_on(&b);
}

#[test]
fn a_move_that_is_to_wait_goes_on_with_its_rounds_until_a_person_gives_it_up() {
    let Some((_datastore, _cable, a, b)) = two_hosts("wait", LINK, TOO_SHORT) else { return };
    let mut command = Command::typed(&a, &format!("{MOVE} --on-no-convergence wait"));
    // One that is not to wait is given up after three.
    command.wait_until("many rounds", |doing| doing.contains(" round 8"));
    command.press_ctrl_c();
    let said = line(&command.end());
    assert!(said.contains("cancelled"), "{said}");
    wait("nothing of it is there", || b.monitor_processes().is_empty());
    runs_whole_on(&a);
}

#[test]
fn a_stun_that_is_called_off_costs_its_move_nothing_but_time() {
    let Some((datastore, _cable, a, b)) = two_hosts("called-off", LINK, "stun_ms_max = 1500") else { return };
    let disk = datastore.path("vms/hasty/disk.img");
    // The pages of the stun take most of a second on this link; a destination that was stopped too late has all of them.
    for turn in 0..10 {
        let (from, to, name) = if turn % 2 == 0 { (&a, &b, "host-b") } else { (&b, &a, "host-a") };
        let is_called_off = || from.whole_log("migrate").contains("VM hasty goes on here");
        let is_in_stun = || from.migrations().iter().any(|row| row.state.starts_with("stun"));
        let epoch = from.epoch("hasty");
        let command = Command::typed(from, &format!("vm migrate hasty {name} --on-no-convergence wait"));
        wait_closely("it is stunned", || !is_locked(&disk));
        let frozen = freeze(to.migrate_pid());
        wait("its stun is called off, or over", || is_called_off() || !is_in_stun());
        frozen.thaw();
        let answer = command.end();
        let HostAnswer::Migrated(receipt) = answer else { panic!("{}\n{}", line(&answer), from.log("migrate")) };
        assert_eq!((receipt.verdict, receipt.epoch), (Verdict::Moved, epoch + 1), "{receipt:?}");
        runs_whole_on(to);
        if is_called_off() {
            return;
        }
    }
    panic!("no stun was called off");
}
