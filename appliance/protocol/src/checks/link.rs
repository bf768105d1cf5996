//! The migration link is fast, wide and near enough.
//!
//! What the kernels tell of the two NICs decides where they tell something; what the probe measured is beside it a
//! warning only, because other moves share the link, and hosts that are emulated or busy measure themselves.

use std::fmt;

use model::diagnosis::Reason;
use model::limits;
use model::names::HostName;

use super::facts::{LinkFacts, NicFacts};
use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "migration link";
/// What is said of it where nothing is found.
pub const WELL: &str = "fast, wide and near enough";

/// Of a link of the wanted speed so much arrives at least, percent: headers and acknowledgements take their part.
const ARRIVES_PERCENT: u64 = 75;

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let (link, source, destination) = (conditions.link, conditions.source, conditions.destination);
    let mut found: Vec<Finding> =
        [source, destination].into_iter().flat_map(|host| nic(&host.host, host.nic, conditions.force_link)).collect();
    if found.is_empty() {
        let slow = link.bandwidth_bytes_per_s.and_then(|bytes| bandwidth(bytes, &source.host, &destination.host));
        found.extend(slow.map(|reason| Finding::warning(NAME, reason)));
    }
    let refusal = |reason| {
        if conditions.force_link { Finding::warning(NAME, reason) } else { Finding::blocker(NAME, reason) }
    };
    let ends = [(&source.host, source.nic.mtu), (&destination.host, destination.nic.mtu)];
    found.extend(path(link, ends).into_iter().map(refusal));
    found
}

/// What makes a path too long or too narrow for moves, as it was measured between two hosts whose NICs have these MTUs.
pub fn path(link: &LinkFacts, ends: [(&HostName, u16); 2]) -> Vec<Reason> {
    let [(here, _), (there, _)] = ends;
    distance(link.rtt_us, here, there).into_iter().chain(mtu(link, ends)).collect()
}

fn distance(rtt_us: u64, here: &HostName, there: &HostName) -> Option<Reason> {
    let (most, rtt) = (limits::MIGRATION_RTT_MS_MAX, rtt_us / 1_000);
    let cause = format!("the round trip between {here} and {there} takes {rtt} ms; at most {most} ms are accepted");
    let hint = "look for a shorter way between the hosts; --force accepts a long one";
    (rtt_us > most * 1_000).then(|| Reason::new(cause, hint))
}

/// What one NIC tells of its link.
fn nic(host: &HostName, nic: NicFacts, forced: bool) -> Vec<Finding> {
    let mut found: Vec<Finding> = nic.speed_mbits.and_then(|mbits| speed(mbits, host, forced)).into_iter().collect();
    if nic.full_duplex == Some(false) {
        let cause = format!("the link of the migration NIC of {host} is half duplex");
        found.push(Finding::warning(NAME, Reason::new(cause, "let both ends of the cable negotiate by themselves")));
    }
    found
}

fn speed(mbits: u32, host: &HostName, forced: bool) -> Option<Finding> {
    let (least, wanted) = (limits::MIGRATION_LINK_MBITS_MIN, limits::MIGRATION_LINK_MBITS_WARN);
    let cause = format!("the link of the migration NIC of {host} has {mbits} Mbit/s");
    if u64::from(mbits) < least && !forced {
        let hint = format!("use a link of {wanted} Mbit/s or more; --force accepts a slow one");
        return Some(Finding::blocker(NAME, Reason::new(format!("{cause}; {least} are the least"), hint)));
    }
    let hint = format!("expect a long move; {wanted} Mbit/s or more are recommended");
    (u64::from(mbits) < wanted).then(|| Finding::warning(NAME, Reason::new(cause, hint)))
}

/// What is to be known of a path over which so many bytes a second arrived.
pub fn bandwidth(bytes_per_s: u64, here: &HostName, there: &HostName) -> Option<Reason> {
    let (mbits, wanted) = (bytes_per_s / 125_000, limits::MIGRATION_LINK_MBITS_WARN);
    if mbits >= wanted * ARRIVES_PERCENT / 100 {
        return None;
    }
    let cause = format!("{mbits} Mbit/s were measured between {here} and {there}");
    let hint = "expect a long move; look for other moves on the link (migration list), a slow switch, or busy hosts";
    Some(Reason::new(cause, hint))
}

/// Frames of the size that the NICs are set to arrive.
fn mtu(link: &LinkFacts, ends: [(&HostName, u16); 2]) -> Option<Reason> {
    let [(source, here), (destination, there)] = ends;
    if here != there {
        let (narrow, wide) = if here < there { (source, destination) } else { (destination, source) };
        let (least, most) = (here.min(there), here.max(there));
        let cause = format!("the migration NIC of {source} has an MTU of {here}, that of {destination} of {there}");
        let hint = format!("set mtu = {least} in [migration_nic] of {wide}, or mtu = {most} in that of {narrow}");
        return Some(Reason::new(cause, hint));
    }
    let path = link.mtu.filter(|path| *path < here)?;
    let cause = format!(
        "frames of {here} bytes, the MTU of both migration NICs, are lost between {source} and {destination}; the largest that arrive have {path}"
    );
    let hint = format!(
        "raise the MTU of the switch between them to {here}, or set mtu = {path} in [migration_nic] of both hosts"
    );
    Some(Reason::new(cause, hint))
}

/// Both NICs and what was measured between them, for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The source's NIC.
    pub here: NicFacts,
    /// The destination's NIC.
    pub there: NicFacts,
    /// What was measured.
    pub measured: LinkFacts,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { here, there, measured } = self;
        if here == there {
            write!(f, "both NICs {here}")?;
        } else {
            write!(f, "NIC here {here}, there {there}")?;
        }
        if let Some(bytes) = measured.bandwidth_bytes_per_s {
            write!(f, "; {} Mbit/s measured", bytes / 125_000)?;
        }
        if let Some(mtu) = measured.mtu {
            write!(f, ", packets of {mtu} bytes arrive")?;
        }
        write!(f, ", round trip {}.{} ms", measured.rtt_us / 1_000, measured.rtt_us % 1_000 / 100)
    }
}

impl fmt::Display for NicFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.speed_mbits {
            Some(mbits) => write!(f, "{mbits} Mbit/s")?,
            None => f.write_str("of a speed that it does not tell")?,
        }
        match self.full_duplex {
            Some(true) => f.write_str(" full duplex")?,
            Some(false) => f.write_str(" half duplex")?,
            None => {}
        }
        write!(f, ", MTU {}", self.mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::super::facts::example;
    use super::*;

    #[test]
    fn a_slow_link_is_warned_of_and_a_very_slow_one_refused_unless_forced() {
        let host = "host-b".parse().unwrap();
        let severity = |mbits, forced| speed(mbits, &host, forced).map(|finding| finding.severity);
        assert_eq!(severity(1_000, false), None);
        assert_eq!(severity(999, false), Some(Severity::Warning));
        assert_eq!(severity(250, false), Some(Severity::Warning));
        assert_eq!(severity(249, false), Some(Severity::Blocker));
        assert_eq!(severity(249, true), Some(Severity::Warning));
    }

    #[test]
    fn the_slow_end_of_a_link_is_named() {
        let causes = example::causes(check, |_, source, destination, _| {
            source.nic.full_duplex = Some(false);
            destination.nic.speed_mbits = Some(100);
        });
        assert_eq!(
            causes,
            [
                "the link of the migration NIC of host-a is half duplex",
                "the link of the migration NIC of host-b has 100 Mbit/s; 250 are the least"
            ]
        );
    }

    /// What is found of a link over which so many Mbit/s arrive and whose NICs tell this speed.
    fn measured(mbits: u64, told: Option<u32>) -> Vec<Finding> {
        let (vm, mut source, mut destination) = (example::vm(), example::host("host-a"), example::host("host-b"));
        (source.nic.speed_mbits, destination.nic.speed_mbits) = (told, told);
        let link = LinkFacts { bandwidth_bytes_per_s: Some(mbits * 125_000), ..example::link() };
        let (source, destination, link) = (&source, &destination, &link);
        check(&Conditions { vm: &vm, source, destination, link, force_link: false })
    }

    #[test]
    fn what_was_measured_is_a_warning_and_never_a_refusal() {
        for told in [None, Some(1_000)] {
            assert_eq!(measured(930, told), [], "a whole gigabit, less its headers");
            let found = measured(80, told);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].severity, Severity::Warning);
            assert_eq!(found[0].reason.cause, "80 Mbit/s were measured between host-a and host-b");
        }
        let slow = measured(80, Some(300));
        assert!(slow.iter().all(|finding| finding.reason.cause.contains("has 300 Mbit/s")), "said once: {slow:?}");
    }

    #[test]
    fn a_distant_host_or_a_narrow_path_is_refused() {
        let causes = example::causes(check, |_, _, _, link| {
            link.rtt_us = 151_000;
            link.mtu = Some(1500);
        });
        assert_eq!(
            causes,
            [
                "the round trip between host-a and host-b takes 151 ms; at most 150 ms are accepted",
                "frames of 9000 bytes, the MTU of both migration NICs, are lost between host-a and host-b; \
                 the largest that arrive have 1500"
            ]
        );
    }

    #[test]
    fn a_wrong_mtu_is_named_with_the_nic_and_the_value_that_mend_it() {
        let (vm, source, mut destination) = (example::vm(), example::host("host-a"), example::host("host-b"));
        destination.nic.mtu = 1500;
        let link = LinkFacts { mtu: Some(1500), ..example::link() };
        let findings = |force_link| {
            check(&Conditions { vm: &vm, source: &source, destination: &destination, link: &link, force_link })
        };
        let [finding] = &findings(false)[..] else { panic!("{:?}", findings(false)) };
        assert_eq!(finding.severity, Severity::Blocker);
        assert_eq!(finding.reason.cause, "the migration NIC of host-a has an MTU of 9000, that of host-b of 1500");
        let hint = "set mtu = 1500 in [migration_nic] of host-a, or mtu = 9000 in that of host-b";
        assert_eq!(finding.reason.hint, hint);
        assert_eq!(findings(true)[0].severity, Severity::Warning, "smaller packets get through");
    }

    #[test]
    fn a_person_reads_both_nics_and_what_was_measured() {
        let nic = NicFacts { speed_mbits: Some(1_000), full_duplex: Some(true), mtu: 1500 };
        let measured = LinkFacts { rtt_us: 250, bandwidth_bytes_per_s: Some(117_000_000), mtu: Some(1500) };
        let seen = Seen { here: nic, there: nic, measured };
        assert_eq!(
            seen.to_string(),
            "both NICs 1000 Mbit/s full duplex, MTU 1500; 936 Mbit/s measured, packets of 1500 bytes arrive, round trip 0.2 ms"
        );
        let seen =
            Seen { there: NicFacts { mtu: 1500, ..NicFacts::default() }, measured: LinkFacts::default(), ..seen };
        assert_eq!(
            seen.to_string(),
            "NIC here 1000 Mbit/s full duplex, MTU 1500, there of a speed that it does not tell, MTU 1500, round trip 0.0 ms"
        );
    }
}
