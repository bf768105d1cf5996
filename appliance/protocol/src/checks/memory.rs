//! The destination has room for the VM's memory.

use model::diagnosis::Reason;
use model::units::Bytes;

use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "memory";
/// What is said of it where nothing is found.
pub const WELL: &str = "the destination has room for the VM";

/// What a VMM, its page tables and the migration need beside the guest's memory: 32 MiB and a 128th (the table of
/// page hashes takes 18 bytes a page).
pub const fn overhead(memory: Bytes) -> Bytes {
    Bytes((32 << 20) + memory.0 / 128)
}

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let (vm, host) = (conditions.vm, &conditions.destination.host);
    let (needed, free) = (Bytes(vm.memory.0 + overhead(vm.memory).0), conditions.destination.memory_free);
    if free >= needed {
        return Vec::new();
    }
    let cause = format!("{host} has {free} of free memory, and the VM needs {needed} there");
    let hint = format!("on {host}: stop or migrate a VM (vm list), or choose another host: host list");
    vec![Finding::blocker(NAME, Reason::new(cause, hint))]
}

#[cfg(test)]
mod tests {
    use model::units::Bytes;

    use super::super::facts::example;
    use super::check;

    #[test]
    fn a_vm_that_does_not_fit_is_refused_before_anything_is_allocated() {
        let causes = example::causes(check, |_, _, destination, _| destination.memory_free = Bytes::mib(512));
        assert_eq!(causes, ["host-b has 512 MiB of free memory, and the VM needs 548 MiB there"]);
    }
}
