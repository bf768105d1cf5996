//! The destination takes VMs in.

use model::diagnosis::Reason;
use model::names::HostName;

use super::judge::{Conditions, Finding};

/// The condition's name.
pub const NAME: &str = "maintenance";
/// What is said of it where nothing is found.
pub const WELL: &str = "the destination takes VMs in";

/// Judges it.
pub fn check(conditions: &Conditions<'_>) -> Vec<Finding> {
    let host = &conditions.destination.host;
    if !conditions.destination.maintenance {
        return Vec::new();
    }
    vec![Finding::blocker(NAME, reason(host))]
}

/// Why no VM comes to run on a host that is in maintenance.
pub fn reason(host: &HostName) -> Reason {
    Reason::new(format!("{host} is in maintenance"), format!("on {host}: host maintenance exit"))
}

#[cfg(test)]
mod tests {
    use super::super::facts::example;
    use super::check;

    #[test]
    fn a_host_in_maintenance_takes_no_vm_in() {
        let causes = example::causes(check, |_, _, destination, _| destination.maintenance = true);
        assert_eq!(causes, ["host-b is in maintenance"]);
    }
}
