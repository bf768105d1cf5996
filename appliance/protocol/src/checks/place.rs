//! The destination is another host, and no VM of this name is there yet.

use model::diagnosis::Reason;

use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "place";
/// What is said of it where nothing is found.
pub const WELL: &str = "the destination has no VM of this name";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let (vm, host) = (&conditions.vm.name, &conditions.destination.host);
    if *host == conditions.source.host {
        let cause = format!("VM {vm} runs on {host} already");
        return vec![Finding::blocker(NAME, Reason::new(cause, "choose another host: host list"))];
    }
    if conditions.destination.vms.contains(vm) {
        let cause = format!("a VM named {vm} is on {host} already, or about to arrive there");
        let hint = format!("on {host}: vm show {vm}, and migration list");
        return vec![Finding::blocker(NAME, Reason::new(cause, hint))];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::super::facts::example;
    use super::check;

    #[test]
    fn a_vm_does_not_move_to_where_it_is() {
        let causes = example::causes(check, |_, source, destination, _| destination.host = source.host.clone());
        assert_eq!(causes, ["VM web runs on host-a already"]);
    }

    #[test]
    fn two_vms_of_one_name_never_meet() {
        let causes = example::causes(check, |vm, _, destination, _| destination.vms.push(vm.name.clone()));
        assert_eq!(causes, ["a VM named web is on host-b already, or about to arrive there"]);
    }
}
