//! No NIC of the VM is plugged into a vswitch that has no uplink: who it talks to there cannot come along.

use std::collections::BTreeSet;

use model::diagnosis::Reason;

use super::facts::Uplink;
use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "internal vswitch";
/// What is said of it where nothing is found.
pub const WELL: &str = "no NIC is on a vswitch without an uplink";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let labels: BTreeSet<_> = conditions.vm.nics.iter().collect();
    let hosts = [conditions.source, conditions.destination];
    let internal = labels.into_iter().flat_map(|label| {
        let on =
            hosts.into_iter().filter(|host| host.port_group(label).is_some_and(|group| group.uplink == Uplink::None));
        on.map(move |host| (label, &host.host))
    });
    internal
        .map(|(label, host)| {
            let cause = format!("port group \"{label}\" is on a vswitch without an uplink on {host}");
            let hint = format!(
                "on {host}: give the vswitch of \"{label}\" an uplink, or plug the NIC into another port group"
            );
            Finding::blocker(NAME, Reason::new(cause, hint))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Uplink, example};
    use super::check;

    #[test]
    fn a_nic_on_a_vswitch_without_an_uplink_blocks() {
        let causes = example::causes(check, |_, source, _, _| source.port_groups[0].uplink = Uplink::None);
        assert_eq!(causes, ["port group \"lab\" is on a vswitch without an uplink on host-a"]);
    }
}
