//! The destination has a free migration slot.

use model::diagnosis::Reason;

use super::judge::{Conditions, Finding, blockers};

/// The condition's name.
pub const NAME: &str = "slot";
/// What is said of it where nothing is found.
pub const WELL: &str = "the destination has a free one";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let host = &conditions.destination.host;
    if conditions.destination.slots_free > 0 {
        return Vec::new();
    }
    let cause = format!("as many moves as its link carries already go on at {host}");
    let hint = format!("a move waits for its turn; on {host}: migration list");
    vec![Finding::blocker(NAME, Reason::new(cause, hint))]
}

/// Whether a move was refused for want of a slot and for nothing else: it can be asked for again as it is.
pub fn is_all_that_is_missing(findings: &[Finding]) -> bool {
    let mut blockers = blockers(findings).peekable();
    blockers.peek().is_some() && blockers.all(|blocker| blocker.condition == NAME)
}

#[cfg(test)]
mod tests {
    use super::super::facts::example;
    use super::*;

    #[test]
    fn a_destination_without_a_free_slot_says_so() {
        let causes = example::causes(check, |_, _, destination, _| destination.slots_free = 0);
        assert_eq!(causes, ["as many moves as its link carries already go on at host-b"]);
    }

    #[test]
    fn a_move_is_asked_for_again_only_where_a_slot_is_all_that_is_missing() {
        let reason = || Reason::new("why", "mend it");
        let (slot, memory) = (Finding::blocker(NAME, reason()), Finding::blocker("memory", reason()));
        let slow = Finding::warning("migration link", reason());
        assert!(is_all_that_is_missing(&[slow.clone(), slot.clone()]));
        assert!(!is_all_that_is_missing(&[slot, memory]));
        assert!(!is_all_that_is_missing(&[slow]));
    }
}
