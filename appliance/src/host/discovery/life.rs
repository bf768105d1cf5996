//! Whether another host lives: by its host leases, which it renews every second and this host looks at every second; by the
//! heartbeat of its record where there is no lease to be seen.

use std::time::Duration;

use model::limits;
use protocol::lease::watch::Death;

use super::record::HostRecord;
use crate::api::host::HostState;
use crate::api::lease::HostLease;

/// A host whose record did not change for so long, three heartbeats, is silent where no lease tells.
pub(super) const SILENCE: Duration = Duration::from_millis(3 * limits::HOST_HEARTBEAT_MS);

/// A host whose lease was not seen to change for longer is called silent: it may come back, and until its lease has expired nobody
/// may take what it holds. It is renewed every second, and looked at every second.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_millis(4 * limits::LEASE_RENEWAL_MS);

/// Whether the host of this lease showed a sign of life by it just now.
pub fn renews(lease: &HostLease) -> bool {
    lease.over.is_none() && Duration::from_millis(lease.silent_ms) < SIGN_OF_LIFE
}

/// What is known of the life of the host that wrote `record`, `unchanged` for so long, and how long ago its last sign of life was.
/// `leases` are those of its name on all datastores: it lives where one of them says so.
pub(super) fn judge<'a>(
    record: &HostRecord,
    unchanged: Duration,
    leases: impl Iterator<Item = &'a HostLease>,
) -> (HostState, Duration) {
    let by_record = match (record.left, unchanged < SILENCE) {
        (true, _) => HostState::Off,
        (false, true) => HostState::Alive,
        (false, false) => HostState::Silent,
    };
    let Some(lease) = leases.min_by_key(|lease| (lease.over.is_some(), lease.silent_ms)) else {
        return (by_record, unchanged);
    };
    let same_boot = record.boot.as_ref().is_none_or(|boot| *boot == format!("{:032x}", lease.boot));
    // The record of another boot may be the one before, of a host that lives by its lease, or the one after, whose lease is still to come.
    if !same_boot && !renews(lease) {
        return (by_record, unchanged);
    }
    let silent = Duration::from_millis(lease.silent_ms);
    // A host that was never seen to renew may have been dead for long when this one began to look.
    let silent = if lease.changed { silent } else { silent.max(unchanged) };
    let state = match lease.over {
        // This is its last word, which comes after it gave its leases up.
        None if record.left && same_boot => HostState::Off,
        None if renews(lease) && (lease.changed || by_record == HostState::Alive) => HostState::Alive,
        None => HostState::Silent,
        Some(Death::Left) => HostState::Off,
        Some(Death::Superseded | Death::Expired | Death::Forced) => HostState::Dead,
    };
    (state, silent)
}

#[cfg(test)]
mod tests {
    use protocol::lease::identity::Slot;

    use super::super::record::example;
    use super::*;

    const BOOT: u128 = 7;

    fn record() -> HostRecord {
        HostRecord { boot: Some(format!("{BOOT:032x}")), ..example("host-b", 1) }
    }

    fn lease(silent_s: u64, over: Option<Death>) -> HostLease {
        let name = "host-b".parse().expect("valid");
        HostLease {
            slot: Slot(0),
            host: [0; 16],
            name,
            generation: 1,
            boot: BOOT,
            over,
            silent_ms: silent_s * 1_000,
            changed: true,
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// By these leases, of a host whose record changed a second ago.
    fn state(leases: &[HostLease]) -> (HostState, u64) {
        let (state, silent) = judge(&record(), SECOND, leases.iter());
        (state, silent.as_secs())
    }

    #[test]
    fn a_host_is_silent_as_soon_as_it_misses_a_few_renewals_and_dead_when_its_lease_has_expired() {
        assert_eq!(state(&[lease(2, None)]), (HostState::Alive, 2));
        assert_eq!(state(&[lease(6, None)]), (HostState::Silent, 6), "its record was read later than its lease");
        assert_eq!(state(&[lease(20, Some(Death::Expired))]), (HostState::Dead, 20));
        assert_eq!(state(&[]), (HostState::Alive, 1), "of one that has no lease the record is all there is");
    }

    #[test]
    fn a_host_that_lost_one_of_its_datastores_lives_by_the_other() {
        assert_eq!(state(&[lease(20, Some(Death::Expired)), lease(2, None)]), (HostState::Alive, 2));
        assert_eq!(state(&[lease(3, Some(Death::Left)), lease(2, None)]), (HostState::Alive, 2));
        assert_eq!(state(&[lease(20, Some(Death::Expired)), lease(3, Some(Death::Left))]), (HostState::Off, 3));
    }

    #[test]
    fn a_host_is_off_as_soon_as_its_lease_or_its_record_says_that_it_left() {
        assert_eq!(state(&[lease(1, Some(Death::Left))]).0, HostState::Off);
        let left = HostRecord { left: true, ..record() };
        assert_eq!(judge(&left, SECOND, [lease(1, None)].iter()).0, HostState::Off);
        assert_eq!(judge(&left, SECOND, std::iter::empty()).0, HostState::Off);
    }

    #[test]
    fn a_host_that_boots_again_lives_by_what_comes_first_its_lease_or_its_record() {
        let left = HostRecord { left: true, boot: Some(format!("{:032x}", BOOT - 1)), ..record() };
        assert_eq!(judge(&left, 60 * SECOND, [lease(1, None)].iter()).0, HostState::Alive);
        let booted = HostRecord { boot: Some(format!("{:032x}", BOOT + 1)), ..record() };
        for before in [lease(8, None), lease(60, Some(Death::Left)), lease(60, Some(Death::Expired))] {
            assert_eq!(judge(&booted, SECOND, [before].iter()), (HostState::Alive, SECOND));
        }
    }

    #[test]
    fn a_host_that_was_dead_before_this_one_looked_is_never_alive() {
        let dead = HostLease { changed: false, ..lease(1, None) };
        assert_eq!(judge(&record(), 7_200 * SECOND, [dead.clone()].iter()), (HostState::Silent, 7_200 * SECOND));
        // One of which nothing but the first look is known is alive by its record.
        assert_eq!(judge(&record(), SECOND, [dead].iter()).0, HostState::Alive);
    }
}
