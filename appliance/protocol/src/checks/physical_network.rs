//! The port groups of the VM lie on one physical network: frames that one host sent on its uplink arrived at the other's.
//!
//! The two hosts find that out together (`crate::uplink_probe`), so this is judged by the source, when it has heard what the
//! destination found. A port group that one of them does not have, or that has no uplink or another VLAN there, is not probed:
//! the conditions `port groups` and `internal vswitch` tell of it.

use model::diagnosis::Reason;
use model::names::{HostName, PortGroupName};
use serde::{Deserialize, Serialize};

use super::judge::Finding;
use crate::uplink_probe::frame::ETHER_TYPE;
use crate::wire::WireError;
use crate::wire::error::bound;

/// The condition's name.
pub const NAME: &str = "physical network";
/// What is said of it where nothing is found.
pub const WELL: &str = "the uplinks of the VM's port groups reach each other";

/// What one host found on one port group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The port group's label.
    pub label: PortGroupName,
    /// What came.
    pub heard: Heard,
}

/// Whether frames of the other host arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Heard {
    /// One did.
    Frames,
    /// None did.
    Nothing,
    /// It could not be tried, and why: `its uplink eth1 has no link`.
    Untried(String),
}

/// Judges what came from outside.
///
/// # Errors
/// The part that is too long.
pub fn within_bounds(found: &[Found]) -> Result<(), WireError> {
    bound("the list of probed port groups", found.len() as u64, 64)?;
    found.iter().try_for_each(|found| match &found.heard {
        Heard::Untried(why) => bound("why a port group was not probed", why.len() as u64, 1024),
        Heard::Frames | Heard::Nothing => Ok(()),
    })
}

/// One end and what it found; none where it cannot tell.
pub type Side<'a> = (&'a HostName, Option<&'a [Found]>);

/// Judges what both ends found. `forced`: the operator moves the VM into another network.
pub fn judge(source: Side<'_>, destination: Side<'_>, forced: bool) -> Vec<Finding> {
    let ((here, Some(by_source)), (there, Some(by_destination))) = (source, destination) else {
        return vec![untold(source, destination)];
    };
    let pairs = by_source.iter().filter_map(|found| {
        let other = by_destination.iter().find(|other| other.label == found.label)?;
        pair(&found.label, (here, &found.heard), (there, &other.heard), forced)
    });
    pairs.collect()
}

/// One of them tells nothing at all.
fn untold((here, by_source): Side<'_>, (there, _): Side<'_>) -> Finding {
    let unknown = format!("whether the VM's port groups are the same physical networks on {here} and {there}");
    let reason = if by_source.is_none() {
        let cause = format!("{unknown} is not known: the control plane of {here} did not listen on its uplinks");
        Reason::new(cause, format!("ask again; on {here}: log show host"))
    } else {
        let cause = format!("{unknown} is not known: {there} runs a build that sends no probe frames");
        Reason::new(cause, format!("update {there}, or compare where the uplinks are plugged in"))
    };
    Finding::warning(NAME, reason)
}

fn pair(
    label: &PortGroupName,
    (here, by_source): (&HostName, &Heard),
    (there, by_destination): (&HostName, &Heard),
    forced: bool,
) -> Option<Finding> {
    let untried = |host: &HostName, why: &str| {
        let cause = format!(
            "whether port group \"{label}\" is the same physical network on {here} and {there} could not be tried: on {host} {why}"
        );
        Finding::warning(NAME, Reason::new(cause, format!("on {host}: network nics, network port-group list")))
    };
    let one_way = |from: &HostName, to: &HostName| {
        let cause = format!(
            "port group \"{label}\": what {from} sends on its uplink does not arrive at {to}, though the other way frames arrive"
        );
        let hint = format!(
            "look at the switches between the uplinks, and at the counters of the NIC; on {from}, then on {to}: network nics"
        );
        Finding::warning(NAME, Reason::new(cause, hint))
    };
    match (by_source, by_destination) {
        (Heard::Untried(why), _) => Some(untried(here, why)),
        (_, Heard::Untried(why)) => Some(untried(there, why)),
        (Heard::Frames, Heard::Frames) => None,
        (Heard::Frames, Heard::Nothing) => Some(one_way(here, there)),
        (Heard::Nothing, Heard::Frames) => Some(one_way(there, here)),
        (Heard::Nothing, Heard::Nothing) => {
            let reason = apart(label, here, there);
            Some(if forced { Finding::warning(NAME, reason) } else { Finding::blocker(NAME, reason) })
        }
    }
}

fn apart(label: &PortGroupName, here: &HostName, there: &HostName) -> Reason {
    let cause = format!(
        "port group \"{label}\" is not the same physical network on {here} and {there}: no frame passes between their uplinks"
    );
    let hint = format!(
        "plug both uplinks into one network, and let the switches pass the port group's VLAN on both ports (network port-group list, on {there} \
         too); --force moves the VM all the same, as where switches drop EtherType 0x{ETHER_TYPE:X}"
    );
    Reason::new(cause, hint)
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn judged(by_source: Heard, by_destination: Heard, forced: bool) -> Option<(Severity, String)> {
        let (here, there): (HostName, HostName) = ("host-a".parse().unwrap(), "host-b".parse().unwrap());
        let found = |heard| vec![Found { label: "lab".parse().unwrap(), heard }];
        let (by_source, by_destination) = (found(by_source), found(by_destination));
        let findings = judge((&here, Some(&by_source)), (&there, Some(&by_destination)), forced);
        assert!(findings.len() <= 1 && findings.iter().all(|finding| !finding.reason.hint.is_empty()), "{findings:?}");
        findings.into_iter().next().map(|finding| (finding.severity, finding.reason.cause))
    }

    #[test]
    fn a_port_group_whose_uplinks_reach_each_other_is_well() {
        assert_eq!(judged(Heard::Frames, Heard::Frames, false), None);
    }

    #[test]
    fn a_port_group_on_another_physical_network_is_refused_unless_forced() {
        let told = "port group \"lab\" is not the same physical network on host-a and host-b: no frame passes between their uplinks";
        for (forced, severity) in [(false, Severity::Blocker), (true, Severity::Warning)] {
            assert_eq!(judged(Heard::Nothing, Heard::Nothing, forced), Some((severity, told.to_owned())));
        }
    }

    #[test]
    fn a_direction_that_carries_nothing_is_named_and_refuses_nothing() {
        let told = |from: &str, to: &str| {
            let cause = format!(
                "port group \"lab\": what {from} sends on its uplink does not arrive at {to}, though the other way frames arrive"
            );
            Some((Severity::Warning, cause))
        };
        assert_eq!(judged(Heard::Frames, Heard::Nothing, false), told("host-a", "host-b"));
        assert_eq!(judged(Heard::Nothing, Heard::Frames, false), told("host-b", "host-a"));
    }

    #[test]
    fn what_could_not_be_tried_is_a_warning_with_the_host_that_could_not() {
        let down = || Heard::Untried("its uplink eth1 has no link".to_owned());
        for (by_source, by_destination, host) in
            [(down(), Heard::Nothing, "host-a"), (Heard::Nothing, down(), "host-b"), (down(), down(), "host-a")]
        {
            let (severity, cause) = judged(by_source, by_destination, false).unwrap();
            assert_eq!(severity, Severity::Warning);
            assert!(cause.ends_with(&format!("could not be tried: on {host} its uplink eth1 has no link")), "{cause}");
        }
    }

    #[test]
    fn a_port_group_that_only_one_host_probed_is_left_to_the_other_conditions() {
        let (here, there): (HostName, HostName) = ("host-a".parse().unwrap(), "host-b".parse().unwrap());
        let found = [Found { label: "lab".parse().unwrap(), heard: Heard::Nothing }];
        assert_eq!(judge((&here, Some(&found)), (&there, Some(&[])), false), []);
        assert_eq!(judge((&here, Some(&[])), (&there, Some(&found)), false), []);
    }

    #[test]
    fn a_host_that_tells_nothing_is_named_in_a_warning() {
        let (here, there): (HostName, HostName) = ("host-a".parse().unwrap(), "host-b".parse().unwrap());
        for (by_source, by_destination, told) in [
            (Some(&[][..]), None, "host-b runs a build that sends no probe frames"),
            (None, Some(&[][..]), "the control plane of host-a did not listen on its uplinks"),
        ] {
            let findings = judge((&here, by_source), (&there, by_destination), false);
            assert_eq!(findings.len(), 1);
            assert_eq!(findings[0].severity, Severity::Warning);
            assert!(findings[0].reason.cause.ends_with(told), "{}", findings[0].reason.cause);
        }
    }
}
