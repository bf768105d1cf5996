//! The destination's processor has every feature that the guest may be using.

use model::cpu_report::tsc_rates_differ;
use model::diagnosis::Reason;

use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "cpu features";
/// What is said of it where nothing is found.
pub const WELL: &str = "the destination has all that the VM may use";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let (here, there) = (&conditions.source.cpu, &conditions.destination.cpu);
    let reasons = here.blockers(there, conditions.destination.host.as_str(), conditions.vm.baseline);
    let blockers = reasons.into_iter().map(|reason| Finding::blocker(NAME, reason));
    blockers.chain(other_tsc(conditions)).collect()
}

/// Whether the destination can show the guest the rate that it knows is learned only when the state is restored there.
fn other_tsc(conditions: &Conditions<'_>) -> Option<Finding> {
    let (source, destination) = (conditions.source, conditions.destination);
    tsc_rates_differ(source.cpu.tsc_khz, destination.cpu.tsc_khz).then(|| {
        let cause = format!(
            "the time-stamp counter of {} runs at {} kHz, that of {} at {} kHz",
            source.host, source.cpu.tsc_khz, destination.host, destination.cpu.tsc_khz
        );
        let hint = format!(
            "a guest that takes its time from kvmclock, as Linux does by itself, or that runs NTP bears it; where the processor of {0} \
             cannot scale its counter, other clocks go wrong: on {0}, log show vmm",
            destination.host
        );
        Finding::warning(NAME, Reason::new(cause, hint))
    })
}

#[cfg(test)]
mod tests {
    use super::super::facts::example;
    use super::super::judge::{Conditions, Severity};
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
    fn another_rate_of_the_time_stamp_counter_is_told_and_does_not_block() {
        let (vm, source, mut destination, link) =
            (example::vm(), example::host("host-a"), example::host("host-b"), example::link());
        destination.cpu.tsc_khz = 2_450_000;
        let conditions =
            Conditions { vm: &vm, source: &source, destination: &destination, link: &link, force_link: false };
        let findings = check(&conditions);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.reason.cause.contains("2000000 kHz, that of host-b at 2450000 kHz"), "{finding:?}");
    }

    #[test]
    fn processors_of_different_makers_do_not_exchange_vms() {
        let causes = example::causes(check, |_, _, destination, _| destination.cpu.vendor = "GenuineIntel".to_owned());
        let [cause] = &causes[..] else { panic!("{causes:?}") };
        assert!(cause.contains("AuthenticAMD family ") && cause.contains("GenuineIntel family "), "{cause}");
    }
}
