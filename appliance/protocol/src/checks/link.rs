//! The migration link is fast, wide and near enough.

use model::diagnosis::Reason;
use model::limits;

use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "migration link";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let (link, here, there) = (conditions.link, &conditions.source.host, &conditions.destination.host);
    let between = format!("between {here} and {there}");
    let mut findings = Vec::new();
    findings.extend(link.speed_mbits.and_then(|mbits| speed(mbits, &between, conditions.force_link)));
    if link.full_duplex == Some(false) {
        let cause = format!("the migration link {between} is half duplex");
        findings
            .push(Finding::warning(NAME, Reason::new(cause, "set both ends of the cable to negotiate by themselves")));
    }
    if link.rtt_us > limits::MIGRATION_RTT_MS_MAX * 1_000 {
        let most = limits::MIGRATION_RTT_MS_MAX;
        let cause =
            format!("the round trip {between} takes {} ms; at most {most} ms are accepted", link.rtt_us / 1_000);
        findings.push(Finding::blocker(NAME, Reason::new(cause, format!("network ping {there}"))));
    }
    if let Some(path) = link.mtu_path.filter(|path| *path < link.mtu) {
        let cause = format!("frames of {} bytes are lost {between}; the largest that arrive have {path}", link.mtu);
        let hint = format!("set mtu = {path} in [migration_nic] on both hosts, or raise the switch's MTU");
        findings.push(Finding::blocker(NAME, Reason::new(cause, hint)));
    }
    findings
}

fn speed(mbits: u32, between: &str, forced: bool) -> Option<Finding> {
    let (least, wanted) = (limits::MIGRATION_LINK_MBITS_MIN, limits::MIGRATION_LINK_MBITS_WARN);
    let cause = format!("the migration link {between} has {mbits} Mbit/s");
    if u64::from(mbits) < least && !forced {
        let hint = format!("use a link of {wanted} Mbit/s or more; --force accepts a slow one");
        return Some(Finding::blocker(NAME, Reason::new(format!("{cause}; {least} are the least"), hint)));
    }
    let hint = "expect a long move; a link of 1 Gbit/s or more is recommended";
    (u64::from(mbits) < wanted).then(|| Finding::warning(NAME, Reason::new(cause, hint)))
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::super::facts::example;
    use super::{check, speed};

    #[test]
    fn a_slow_link_is_warned_of_and_a_very_slow_one_refused_unless_forced() {
        let severity = |mbits, forced| speed(mbits, "between", forced).map(|finding| finding.severity);
        assert_eq!(severity(1_000, false), None);
        assert_eq!(severity(999, false), Some(Severity::Warning));
        assert_eq!(severity(250, false), Some(Severity::Warning));
        assert_eq!(severity(249, false), Some(Severity::Blocker));
        assert_eq!(severity(249, true), Some(Severity::Warning));
    }

    #[test]
    fn a_distant_host_or_a_narrow_path_is_refused() {
        let causes = example::causes(check, |_, _, _, link| {
            link.rtt_us = 151_000;
            link.mtu_path = Some(1500);
        });
        assert_eq!(
            causes,
            [
                "the round trip between host-a and host-b takes 151 ms; at most 150 ms are accepted",
                "frames of 9000 bytes are lost between host-a and host-b; the largest that arrive have 1500"
            ]
        );
    }
}
