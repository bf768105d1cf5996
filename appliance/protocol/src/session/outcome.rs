//! How a migration ends.

use model::diagnosis::{Diagnosis, Reason};
use model::names::{HostName, VmName};
use model::receipt::{Receipt, Verdict};

use crate::checks::Finding;
use crate::checks::link::Seen;
use crate::forecast::Forecast;
use crate::wire::message::RunState;

/// Where a VM is, as far as the host that says so knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmNow {
    /// It runs, or is paused as it was before, on this host.
    On(HostName, RunState),
    /// This host has the right to run it, but its vCPUs are gone: `vm start` brings it back.
    StoppedOn(HostName),
    /// It does not run here, and the lease could not be asked whether it runs elsewhere.
    NotHere,
    /// It stands still on this host, which has all of it, and its lease does not tell whose it is: it is not to be ended,
    /// because it may be the only copy, nor to run, because it may be a second one. It is the host's to settle.
    Undecided(HostName),
}

impl VmNow {
    /// For a person: `it is still running on host-a`.
    pub fn sentence(&self, still: bool) -> String {
        let still = if still { "still " } else { "" };
        match self {
            Self::On(host, RunState::Running) => format!("it is {still}running on {host}"),
            Self::On(host, RunState::Paused) => format!("it is {still}paused on {host}"),
            Self::StoppedOn(host) => format!("it is stopped; {host} had it last"),
            Self::NotHere => "it does not run here; its lease says where it belongs".to_owned(),
            Self::Undecided(host) => format!("it is stopped on {host}, and its lease does not tell where it belongs"),
        }
    }
}

/// The end of a migration on one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What came of it.
    pub verdict: Verdict,
    /// What went wrong, if anything did: what, where the VM is now, causes, hints.
    pub diagnosis: Option<Diagnosis>,
    /// What the checks found.
    pub findings: Vec<Finding>,
    /// The migration link, where the checks came to an answer; at the source only.
    pub link: Option<Seen>,
    /// What a move would be like, where only the checks were wanted and the guest could be watched; at the source only.
    pub forecast: Option<Forecast>,
    /// Where the VM is.
    pub vm: VmNow,
    /// The receipt, where pages were to move.
    pub receipt: Option<Receipt>,
    /// This host writes the receipt to the datastore; the other one does not.
    pub writes_receipt: bool,
}

/// Why it is not known what came of a move, and what is left to do, where the lease of the VM will not tell.
pub fn lost_outcome(vm: &VmName, cause: String) -> Reason {
    Reason::new(
        cause,
        format!("vm show {vm}, on both hosts; where it stands still: vm kill {vm}, then lease break {vm}"),
    )
}

/// What a person reads of a move that did not come about, or not as it should.
pub fn diagnose(
    vm: &VmName,
    verdict: Verdict,
    now: &VmNow,
    source: &HostName,
    reasons: &[Reason],
) -> Option<Diagnosis> {
    let still = matches!(now, VmNow::On(host, _) if host == source);
    let what = match (verdict, now) {
        (Verdict::Moved, VmNow::On(..)) if reasons.is_empty() => return None,
        (Verdict::Moved, VmNow::On(host, _)) => format!("VM {vm} was moved to {host}, but not as it should have been"),
        (_, VmNow::Undecided(_)) => format!("whether VM {vm} was migrated is not known"),
        (Verdict::Moved, VmNow::NotHere) => format!("VM {vm} was moved"),
        (Verdict::Moved, VmNow::StoppedOn(host)) => format!("VM {vm} was moved to {host}, but does not run there"),
        (Verdict::Failed, _) => format!("VM {vm} was not migrated"),
        (Verdict::Cancelled, _) => format!("the migration of VM {vm} was cancelled"),
    };
    Some(Diagnosis::of(what, reasons.to_vec()).vm_now(now.sentence(still)))
}
