//! No disk, CD or floppy of the VM lies on the host itself.

use model::diagnosis::Reason;

use super::facts::Place;
use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "host-local media";
/// What is said of it where nothing is found.
pub const WELL: &str = "no disk lies on the source itself";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let vm = conditions.vm;
    let local = vm.media.iter().filter(|medium| medium.place == Place::HostLocal);
    local
        .map(|medium| {
            let cause = format!("{} ({}) lies on {} itself", medium.what, medium.file, conditions.source.host);
            let hint = format!(
                "put its content on the datastore {} and name that in the vm.toml of {}, or take it out there",
                vm.datastore, vm.name
            );
            Finding::blocker(NAME, Reason::new(cause, hint))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Place, example};
    use super::check;

    #[test]
    fn a_medium_that_only_the_source_can_read_blocks() {
        let causes = example::causes(check, |vm, _, _, _| vm.media[0].place = Place::HostLocal);
        assert_eq!(causes, ["disk 0 (root.raw) lies on host-a itself"]);
    }
}
