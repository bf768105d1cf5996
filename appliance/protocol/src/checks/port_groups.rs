//! Every port group of the VM exists on the destination under exactly the same label, with the same VLAN, and leads
//! somewhere.

use std::collections::BTreeSet;

use model::diagnosis::Reason;
use model::names::PortGroupName;

use super::facts::{HostFacts, Uplink};
use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "port groups";
/// What is said of it where nothing is found.
pub const WELL: &str = "the destination has the VM's, with the same VLANs";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let labels: BTreeSet<_> = conditions.vm.nics.iter().collect();
    labels.into_iter().filter_map(|label| finding(label, conditions)).collect()
}

fn finding(label: &PortGroupName, conditions: &Conditions<'_>) -> Option<Finding> {
    let (source, destination) = (conditions.source, conditions.destination);
    let (here, at) = (source.port_group(label), &destination.host);
    let Some(there) = destination.port_group(label) else {
        return Some(Finding::blocker(NAME, missing(label, destination)));
    };
    let vlan = |vlan: Option<u16>| vlan.map_or("no VLAN".to_owned(), |vlan| format!("VLAN {vlan}"));
    if let Some(here) = here
        && here.vlan != there.vlan
    {
        let cause = format!(
            "port group \"{label}\" has {} on {} and {} on {at}",
            vlan(here.vlan),
            source.host,
            vlan(there.vlan)
        );
        let hint = format!("on {at}: give port group \"{label}\" {}", vlan(here.vlan));
        return Some(Finding::blocker(NAME, Reason::new(cause, hint)));
    }
    (there.uplink == Uplink::Down).then(|| {
        let cause = format!("the uplink of port group \"{label}\" has no link on {at}");
        Finding::blocker(NAME, Reason::new(cause, format!("plug the cable of its uplink in; on {at}: network nics")))
    })
}

fn missing(label: &PortGroupName, destination: &HostFacts) -> Reason {
    let at = &destination.host;
    let near = destination.port_groups.iter().map(|group| &group.label);
    let near = near.filter(|other| nearly_same(label.as_str(), other.as_str())).min();
    match near {
        Some(near) => Reason::new(
            format!("{at} has no port group \"{label}\", but one that is spelled \"{near}\""),
            format!("labels must match to the letter: rename \"{near}\" on {at}, or \"{label}\" here"),
        ),
        None => Reason::new(
            format!("{at} has no port group \"{label}\""),
            format!("add [port_group.\"{label}\"] to the configuration of {at}"),
        ),
    }
}

/// Two labels that a person could take for one: the same letters and digits, or at most two slips of the pen (one in
/// short ones).
fn nearly_same(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let (a, b) = (plain(a), plain(b));
    let slips = if a.len().min(b.len()) < 5 { 1 } else { 2 };
    a == b || distance(a.as_bytes(), b.as_bytes()) <= slips
}

/// Levenshtein's distance; labels are at most 48 bytes long.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Uplink, example};
    use super::*;

    #[test]
    fn a_label_that_is_missing_blocks() {
        let causes = example::causes(check, |_, _, destination, _| {
            destination.port_groups[0].label = "production".parse().unwrap();
        });
        assert_eq!(causes, ["host-b has no port group \"lab\""]);
    }

    #[test]
    fn a_label_that_differs_in_a_letter_blocks_and_the_near_one_is_named() {
        for near in ["Lab", "lab1", "la-b", "lob"] {
            let causes =
                example::causes(check, |_, _, destination, _| destination.port_groups[0].label = near.parse().unwrap());
            assert_eq!(causes, [format!("host-b has no port group \"lab\", but one that is spelled \"{near}\"")]);
        }
    }

    #[test]
    fn another_vlan_under_the_same_label_blocks() {
        let causes = example::causes(check, |_, _, destination, _| destination.port_groups[0].vlan = None);
        assert_eq!(causes, ["port group \"lab\" has VLAN 10 on host-a and no VLAN on host-b"]);
    }

    #[test]
    fn an_uplink_without_a_link_blocks() {
        let causes = example::causes(check, |_, _, destination, _| destination.port_groups[0].uplink = Uplink::Down);
        assert_eq!(causes, ["the uplink of port group \"lab\" has no link on host-b"]);
    }

    #[test]
    fn slips_of_the_pen_are_counted() {
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
        assert!(!nearly_same("lab", "dmz"));
    }
}
