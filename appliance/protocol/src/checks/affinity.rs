//! The VM is not pinned to CPUs of its host.

use model::diagnosis::Reason;

use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "cpu affinity";
/// What is said of it where nothing is found.
pub const WELL: &str = "the VM is not pinned to CPUs";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let Some(cpus) = &conditions.vm.affinity else { return Vec::new() };
    let shown: Vec<_> = cpus.iter().take(8).map(u32::to_string).collect();
    let more = if cpus.len() > shown.len() { ", ..." } else { "" };
    let cause = format!("its vCPUs are pinned to CPUs {}{more} of {}", shown.join(", "), conditions.source.host);
    let hint = "remove cpu_affinity from the VM's vm.toml and restart the VM";
    vec![Finding::blocker(NAME, Reason::new(cause, hint))]
}

#[cfg(test)]
mod tests {
    use super::super::facts::example;
    use super::check;

    #[test]
    fn a_pinned_vm_does_not_move() {
        let causes = example::causes(check, |vm, _, _, _| vm.affinity = Some(vec![2, 3]));
        assert_eq!(causes, ["its vCPUs are pinned to CPUs 2, 3 of host-a"]);
    }
}
