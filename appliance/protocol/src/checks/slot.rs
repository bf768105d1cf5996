//! The destination has a free migration slot.

use model::diagnosis::Reason;

use super::judge::{Conditions, Finding};

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
    let hint = format!("try again when one has ended; on {host}: migration list");
    vec![Finding::blocker(NAME, Reason::new(cause, hint))]
}

#[cfg(test)]
mod tests {
    use super::super::facts::example;
    use super::check;

    #[test]
    fn a_destination_without_a_free_slot_says_so() {
        let causes = example::causes(check, |_, _, destination, _| destination.slots_free = 0);
        assert_eq!(causes, ["as many moves as its link carries already go on at host-b"]);
    }
}
