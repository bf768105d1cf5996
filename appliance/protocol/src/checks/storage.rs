//! Every datastore that the VM uses is the same one on both hosts, and both can write it.

use std::collections::BTreeSet;

use model::diagnosis::Reason;
use model::names::DatastoreName;

use super::facts::{HostFacts, Place};
use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "storage";
/// What is said of it where nothing is found.
pub const WELL: &str = "both hosts read and write the VM's datastores";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let media = conditions.vm.media.iter().filter_map(|medium| match &medium.place {
        Place::Datastore(name) => Some(name),
        Place::HostLocal => None,
    });
    let used: BTreeSet<&DatastoreName> = media.chain([&conditions.vm.datastore]).collect();
    let reasons = used.into_iter().flat_map(|name| reasons(name, conditions.source, conditions.destination));
    reasons.map(|reason| Finding::blocker(NAME, reason)).collect()
}

fn reasons(name: &DatastoreName, source: &HostFacts, destination: &HostFacts) -> Vec<Reason> {
    let mut reasons: Vec<_> = [source, destination].into_iter().filter_map(|host| unusable(name, host)).collect();
    if let (Some(here), Some(there)) = (source.datastore(name), destination.datastore(name))
        && !here.is(there)
    {
        let cause = format!(
            "the datastore {name} is not the same on both hosts: {here} on {}, {there} on {}",
            source.host, destination.host
        );
        reasons.push(Reason::new(cause, format!("on {}: give it another name, and add {}", destination.host, name)));
    }
    reasons
}

fn unusable(name: &DatastoreName, host: &HostFacts) -> Option<Reason> {
    let at = &host.host;
    let Some(datastore) = host.datastore(name) else {
        return Some(Reason::new(
            format!("{at} does not know the datastore {name}"),
            format!("add [datastore.{name}] to the configuration of {at}"),
        ));
    };
    (!datastore.writable).then(|| {
        let detail = if datastore.trouble.is_empty() { String::new() } else { format!(" ({})", datastore.trouble) };
        Reason::new(
            format!("{at} cannot write the datastore {name}{detail}"),
            format!("on {at}: datastore show {name}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::facts::example;
    use super::check;

    #[test]
    fn a_datastore_that_the_destination_does_not_know_blocks() {
        let causes = example::causes(check, |_, _, destination, _| destination.datastores.clear());
        assert_eq!(causes, ["host-b does not know the datastore nfs1"]);
    }

    #[test]
    fn a_datastore_that_one_host_cannot_write_blocks() {
        let causes = example::causes(check, |_, _, destination, _| {
            destination.datastores[0].writable = false;
            destination.datastores[0].trouble = "Read-only file system".to_owned();
        });
        assert_eq!(causes, ["host-b cannot write the datastore nfs1 (Read-only file system)"]);
    }

    #[test]
    fn one_name_for_two_datastores_blocks() {
        let causes = example::causes(check, |_, _, destination, _| {
            destination.datastores[0].area = Some("2e".repeat(16));
        });
        assert_eq!(
            causes,
            ["the datastore nfs1 is not the same on both hosts: nfs 10.0.0.1:/vms (lease area 1f1f1f1f) on host-a, \
                 nfs 10.0.0.1:/vms (lease area 2e2e2e2e) on host-b"]
        );
    }

    #[test]
    fn what_may_be_a_copy_of_the_datastore_at_another_place_blocks() {
        let causes = example::causes(check, |_, _, destination, _| {
            destination.datastores[0].identity = "nfs 10.9.9.9:/vms".to_owned();
        });
        assert_eq!(
            causes,
            ["the datastore nfs1 is not the same on both hosts: nfs 10.0.0.1:/vms (lease area 1f1f1f1f) on host-a, \
                 nfs 10.9.9.9:/vms (lease area 1f1f1f1f) on host-b"]
        );
    }

    #[test]
    fn where_a_host_has_not_opened_the_lease_area_yet_the_place_tells() {
        let causes = example::causes(check, |_, source, destination, _| {
            destination.datastores[0].identity = "nfs 10.0.0.2:/vms".to_owned();
            source.datastores[0].area = None;
        });
        assert_eq!(
            causes,
            ["the datastore nfs1 is not the same on both hosts: nfs 10.0.0.1:/vms on host-a, \
                 nfs 10.0.0.2:/vms (lease area 1f1f1f1f) on host-b"]
        );
    }
}
