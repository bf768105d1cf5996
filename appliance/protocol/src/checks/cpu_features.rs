//! The destination's processor has every feature that the guest may be using.

use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "cpu features";
/// What is said of it where nothing is found.
pub const WELL: &str = "the destination has all that the VM may use";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let (here, there) = (&conditions.source.cpu, &conditions.destination.cpu);
    let reasons = here.blockers(there, conditions.destination.host.as_str(), conditions.vm.baseline);
    reasons.into_iter().map(|reason| Finding::blocker(NAME, reason)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::example;
    use super::check;

    #[test]
    fn each_feature_that_the_destination_lacks_is_named() {
        let causes = example::causes(check, |_, _, destination, _| {
            // SSE4.1, SSE4.2 and POPCNT (CPUID leaf 1, ecx bits 19, 20, 23).
            destination.cpu.leaves[0].ecx &= !(1 << 19 | 1 << 20 | 1 << 23);
        });
        assert_eq!(causes.len(), 3, "{causes:?}");
        assert!(causes.iter().all(|cause| cause.starts_with("host-b (") && cause.contains(") lacks the CPU feature ")));
    }

    #[test]
    fn processors_of_different_makers_do_not_exchange_vms() {
        let causes = example::causes(check, |_, _, destination, _| destination.cpu.vendor = "GenuineIntel".to_owned());
        let [cause] = &causes[..] else { panic!("{causes:?}") };
        assert!(cause.contains("AuthenticAMD family ") && cause.contains("GenuineIntel family "), "{cause}");
    }
}
