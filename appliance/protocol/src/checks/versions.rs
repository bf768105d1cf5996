//! Both hosts speak a common protocol version. Judged on the hello, before anything else is understood.

use model::diagnosis::Reason;
use model::names::HostName;

use crate::session::Versions;

/// The condition's name.
pub const NAME: &str = "versions";
/// What is said of it where it is fulfilled.
pub const WELL: &str = "both hosts speak a common protocol version";

/// Why two ranges of versions have nothing in common; none if they do.
pub fn check(here: Versions, there: Versions, peer: &HostName, build: &str) -> Option<Reason> {
    if here.common(there).is_some() {
        return None;
    }
    let cause = format!("{peer} (build {build}) speaks protocol versions {there}, this host {here}");
    let older = if there.newest() < here.oldest() { peer.to_string() } else { "this host".to_owned() };
    Some(Reason::new(cause, format!("update {older}: a host accepts the version before its own")))
}
