//! The promises, each a sentence.

use protocol::session::{Outcome, VmNow};
use protocol::wire::message::RunState;

use super::guest::{CLOCK_PAGE, Life};
use super::host::{Host, Side};
use crate::violation::Violation;

/// A check's result.
pub type Kept = Result<(), Violation>;

/// A broken promise.
pub fn broken(promise: &'static str, detail: impl Into<String>) -> Kept {
    Err(Violation { promise, detail: detail.into() })
}

/// At most one host runs a VM.
pub fn at_most_one_host_runs(hosts: &[Host; 2]) -> Kept {
    if hosts.iter().all(Host::runs_the_vm) { broken("at_most_one_host_runs", "both VMMs are live") } else { Ok(()) }
}

/// The VM is never thrown away: a host that was not hurt has all of it, whatever the lease tells or does not.
pub fn a_whole_copy_is_left(hosts: &[Host; 2]) -> Kept {
    if hosts.iter().any(|host| host.has_all_of_the_vm() || host.hurt) {
        return Ok(());
    }
    broken("a_whole_copy_is_left", "no host has all of the VM")
}

/// What runs holds the lease: asked when a guest is let go.
pub fn the_runner_holds_the_lease(host: &Host, holds: bool) -> Kept {
    if holds { Ok(()) } else { broken("the_runner_holds_the_lease", format!("{} does not hold it", host.name)) }
}

/// Every page arrives, and the state: asked when a guest is let go.
pub fn every_page_arrives(host: &Host, truth: &[u64], writes: u64) -> Kept {
    let Some(vmm) = &host.vmm else { return broken("every_page_arrives", "there is no VMM") };
    if let Some(page) = (0..truth.len()).find(|page| vmm.pages[*page] != truth[*page] && *page as u64 != CLOCK_PAGE) {
        let detail = format!("page {page} on {} is version {}, not {}", host.name, vmm.pages[page], truth[page]);
        return broken("every_page_arrives", detail);
    }
    if vmm.writes == writes { Ok(()) } else { broken("every_page_arrives", "the vCPU state is another one") }
}

/// No record is written into memory that was compared already: asked when the state is restored into it.
pub fn nothing_is_written_after_all_was_compared(host: &Host) -> Kept {
    match &host.storing {
        Some(storing) if !storing.is_done() => {
            broken("nothing_is_written_after_all_was_compared", format!("a record waits on {}", host.name))
        }
        _ => Ok(()),
    }
}

/// A guest that was paused stays paused, one that ran runs.
pub fn the_run_state_travels(host: &Host, run_state: RunState) -> Kept {
    let now = host.vmm.as_ref().map(|vmm| vmm.run_state);
    if now == Some(run_state) { Ok(()) } else { broken("the_run_state_travels", format!("{now:?} on {}", host.name)) }
}

/// The destination opens the disks only when the source has let go of them.
pub fn disks_are_opened_after_they_were_let_go(source: &Host) -> Kept {
    if source.runs_the_vm() {
        broken("disks_are_opened_after_they_were_let_go", "the source still runs")
    } else {
        Ok(())
    }
}

/// What a machine says about where the VM is, is so. What a destination that gave up says of the source is what it
/// knew, and not asked.
pub fn the_outcome_is_the_truth(host: &Host, hosts: &[Host; 2], outcome: &Outcome) -> Kept {
    let so = match &outcome.vm {
        // Of a VMM that was killed a moment ago it hears a moment later.
        VmNow::On(name, _) if *name == host.name => host.runs_the_vm() || host.hurt,
        VmNow::NotHere => !host.runs_the_vm(),
        VmNow::Undecided(name) => *name == host.name && !host.runs_the_vm() && (host.has_all_of_the_vm() || host.hurt),
        VmNow::StoppedOn(name) if *name == host.name => !host.runs_the_vm(),
        // The other one may have died since, or be about to resume; but this host must not run it.
        VmNow::On(name, _) | VmNow::StoppedOn(name) => {
            hosts.iter().any(|other| other.name == *name) && !host.runs_the_vm()
        }
    };
    if so { Ok(()) } else { broken("the_outcome_is_the_truth", format!("{} says {:?}", host.name, outcome.vm)) }
}

/// A failure says where the VM is, why it failed, and what to do.
pub fn a_failure_says_where_and_why(outcome: &Outcome) -> Kept {
    let vm_known = outcome.receipt.is_some();
    let silent = outcome.diagnosis.as_ref().is_none_or(|diagnosis| {
        (vm_known && diagnosis.vm_now.is_none())
            || diagnosis.reasons.is_empty()
            || diagnosis.reasons.iter().any(|reason| reason.cause.is_empty())
    });
    let moved = outcome.verdict == model::receipt::Verdict::Moved;
    if silent && !moved { broken("a_failure_says_where_and_why", format!("{:?}", outcome.diagnosis)) } else { Ok(()) }
}

/// A migration that failed leaves the VM as it was on its source, unless the source itself was hurt.
pub fn a_failed_migration_leaves_the_vm_on_its_source(hosts: &[Host; 2], run_state: RunState) -> Kept {
    let [source, destination] = hosts;
    // Whose it is nobody can tell, and it stands still.
    if source.is_undecided() || destination.is_undecided() {
        return Ok(());
    }
    if destination.runs_the_vm() || source.hurt || destination.hurt && source.runs_the_vm() {
        return Ok(());
    }
    if !source.runs_the_vm() && !destination.hurt {
        return broken("a_failed_migration_leaves_the_vm_on_its_source", "it runs nowhere");
    }
    if source.runs_the_vm() { the_run_state_travels(source, run_state) } else { Ok(()) }
}

/// Nothing is left over: no VMM but the one that runs, or that stands still where the lease does not tell whose it is, no slowed vCPU, no dirty log.
pub fn nothing_is_left_over(hosts: &[Host; 2]) -> Kept {
    for host in hosts {
        if let Some(vmm) = &host.vmm {
            if vmm.life != Life::Running && !host.is_undecided() {
                return broken("nothing_is_left_over", format!("{:?} on {}", vmm.life, host.name));
            }
            if vmm.log || (host.throttle != 0 && host.side == Side::Source) {
                return broken("nothing_is_left_over", format!("a dirty log or slowed vCPUs on {}", host.name));
            }
        }
    }
    Ok(())
}
