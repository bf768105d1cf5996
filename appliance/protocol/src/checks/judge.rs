//! Asks every condition.

use model::diagnosis::{Diagnosis, Reason};
use model::names::{HostName, VmName};
use serde::{Deserialize, Serialize};

use super::facts::{HostFacts, LinkFacts, VmFacts};

/// Most findings of one judgement.
pub const FINDINGS_MAX: usize = 512;

/// Whether a finding stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// The VM cannot move.
    Blocker,
    /// It can, and the operator should know.
    Warning,
}

/// What a condition found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The condition: `memory`.
    pub condition: String,
    /// Whether it stands in the way.
    pub severity: Severity,
    /// The cause and what mends it.
    pub reason: Reason,
}

impl Finding {
    /// Something that stands in the way.
    pub fn blocker(condition: &str, reason: Reason) -> Self {
        Self { condition: condition.to_owned(), severity: Severity::Blocker, reason }
    }

    /// Something that the operator should know.
    pub fn warning(condition: &str, reason: Reason) -> Self {
        Self { condition: condition.to_owned(), severity: Severity::Warning, reason }
    }
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Conditions<'a> {
    /// The VM.
    pub vm: &'a VmFacts,
    /// Where it runs.
    pub source: &'a HostFacts,
    /// Where it is to run.
    pub destination: &'a HostFacts,
    /// The migration link between them.
    pub link: &'a LinkFacts,
    /// The operator accepts a link below the floor.
    pub force_link: bool,
}

/// A condition: its name, what is said of it where nothing is found, and its judgement.
type Condition = (&'static str, &'static str, fn(&Conditions<'_>) -> Vec<Finding>);

/// Every condition, in the order in which a person reads them.
pub const CONDITIONS: &[Condition] = &[
    (super::place::NAME, super::place::WELL, super::place::check),
    (super::maintenance::NAME, super::maintenance::WELL, super::maintenance::check),
    (super::storage::NAME, super::storage::WELL, super::storage::check),
    (super::local_media::NAME, super::local_media::WELL, super::local_media::check),
    (super::port_groups::NAME, super::port_groups::WELL, super::port_groups::check),
    (super::internal_vswitch::NAME, super::internal_vswitch::WELL, super::internal_vswitch::check),
    (super::affinity::NAME, super::affinity::WELL, super::affinity::check),
    (super::cpu_features::NAME, super::cpu_features::WELL, super::cpu_features::check),
    (super::memory::NAME, super::memory::WELL, super::memory::check),
    (super::link::NAME, super::link::WELL, super::link::check),
    (super::slot::NAME, super::slot::WELL, super::slot::check),
];

/// What all conditions find, at most [`FINDINGS_MAX`].
pub fn judge(conditions: &Conditions<'_>) -> Vec<Finding> {
    let mut findings: Vec<_> = CONDITIONS.iter().flat_map(|(.., check)| check(conditions)).collect();
    findings.truncate(FINDINGS_MAX);
    findings
}

/// A condition that was judged, and what was found of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its name: `memory`.
    pub condition: String,
    /// What is said of it where nothing was found.
    pub well: &'static str,
    /// What stands in the way.
    pub blockers: Vec<Reason>,
    /// What the operator should know.
    pub warnings: Vec<Reason>,
}

/// What a destination that answered has found, condition by condition: those that are well too, and last what it found of
/// others than this build knows. Its version was judged before, or it had not answered.
pub fn by_condition(findings: &[Finding]) -> Vec<Judged> {
    let known = CONDITIONS.iter().map(|(name, well, _)| (*name, *well));
    let uplinks = (super::physical_network::NAME, super::physical_network::WELL);
    let known: Vec<_> =
        [(super::versions::NAME, super::versions::WELL)].into_iter().chain(known).chain([uplinks]).collect();
    let mut judged: Vec<Judged> = known.into_iter().map(|(name, well)| Judged::well(name, well)).collect();
    for Finding { condition, severity, reason } in findings {
        let at = judged.iter().position(|judged| judged.condition == *condition).unwrap_or_else(|| {
            judged.push(Judged::well(condition, ""));
            judged.len() - 1
        });
        match severity {
            Severity::Blocker => judged[at].blockers.push(reason.clone()),
            Severity::Warning => judged[at].warnings.push(reason.clone()),
        }
    }
    judged
}

impl Judged {
    fn well(condition: &str, well: &'static str) -> Self {
        Self { condition: condition.to_owned(), well, blockers: Vec::new(), warnings: Vec::new() }
    }
}

/// Those of the findings that stand in the way.
pub fn blockers(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(|finding| finding.severity == Severity::Blocker)
}

/// The refusal that a person reads, if any finding stands in the way.
pub fn refusal(vm: &VmName, source: &HostName, findings: &[Finding]) -> Option<Diagnosis> {
    let reasons: Vec<_> = blockers(findings).map(|finding| finding.reason.clone()).collect();
    (!reasons.is_empty()).then(|| {
        Diagnosis::of(format!("VM {vm} was not migrated"), reasons).vm_now(format!("it is still running on {source}"))
    })
}

#[cfg(test)]
mod tests {
    use model::units::Bytes;

    use super::super::facts::example;
    use super::*;

    #[test]
    fn a_vm_that_can_move_has_no_finding() {
        let (vm, source, destination, link) =
            (example::vm(), example::host("host-a"), example::host("host-b"), example::link());
        let conditions =
            Conditions { vm: &vm, source: &source, destination: &destination, link: &link, force_link: false };
        assert_eq!(judge(&conditions), []);
        assert_eq!(refusal(&vm.name, &source.host, &[]), None);
    }

    #[test]
    fn every_blocker_is_told_at_once_with_its_mend() {
        let (mut vm, source, mut destination, mut link) =
            (example::vm(), example::host("host-a"), example::host("host-b"), example::link());
        vm.affinity = Some(vec![0]);
        destination.port_groups.clear();
        destination.memory_free = Bytes::mib(1);
        destination.datastores.clear();
        link.rtt_us = 200_000;
        let conditions =
            Conditions { vm: &vm, source: &source, destination: &destination, link: &link, force_link: false };
        let findings = judge(&conditions);
        let named: Vec<_> = findings.iter().map(|finding| finding.condition.as_str()).collect();
        assert_eq!(named, ["storage", "port groups", "cpu affinity", "memory", "migration link"]);
        let refusal = refusal(&vm.name, &source.host, &findings).unwrap();
        assert_eq!(refusal.reasons.len(), 5);
        assert!(refusal.reasons.iter().all(|reason| !reason.hint.is_empty()));
        assert_eq!(refusal.vm_now.as_deref(), Some("it is still running on host-a"));
    }

    #[test]
    fn every_condition_is_told_of_whether_or_not_something_was_found() {
        let reason = |cause: &str| Reason::new(cause, "mend it");
        let findings = [
            Finding::warning("migration link", reason("slow")),
            Finding::blocker("memory", reason("little")),
            Finding::warning("migration link", reason("narrow")),
            Finding::blocker("destination", reason("no KVM")),
        ];
        let judged = by_condition(&findings);
        let names: Vec<_> = judged.iter().map(|judged| judged.condition.as_str()).collect();
        let known = CONDITIONS.iter().map(|(name, ..)| *name);
        assert!(
            names.iter().copied().eq(["versions"].into_iter().chain(known).chain(["physical network", "destination"])),
            "{names:?}"
        );
        let of = |name: &str| judged.iter().find(|judged| judged.condition == name).unwrap();
        assert_eq!((of("memory").blockers.len(), of("memory").warnings.len()), (1, 0));
        assert_eq!((of("migration link").blockers.len(), of("migration link").warnings.len()), (0, 2));
        assert_eq!((of("storage").blockers.len(), of("storage").warnings.len()), (0, 0));
        assert!(CONDITIONS.iter().all(|(_, well, _)| !well.is_empty()));
    }
}
