//! Every bound of Godwit as a constant, generated from `config/limits.toml`.

include!(concat!(env!("OUT_DIR"), "/limits.rs"));

/// What a span of `ms` milliseconds on one host may last at most on the clock of another, in milliseconds,
/// rounded up: the clocks' rates differ by [`LEASE_CLOCK_DRIFT_PPM`] at most.
pub const fn with_drift(ms: u64) -> u64 {
    ms + (ms * LEASE_CLOCK_DRIFT_PPM).div_ceil(1_000_000)
}

// The inequality that makes the lease safe. A host counts from the start of its last successful renewal: the
// next one starts a renewal interval later and may take an I/O bound; if it fails, fencing ends the VMs within
// the kill time. An observer calls the host dead only when the expiry has passed on its own clock, and it saw
// that renewal no earlier than it started.
const _: () = assert!(
    with_drift(LEASE_RENEWAL_MS + LEASE_IO_BOUND_MS + LEASE_KILL_MS) < LEASE_EXPIRY_MS,
    "config/limits.toml: a host would still run VMs that others may already take"
);

// A monitor that nobody killed ends itself, and needs half a second to say why and to be gone.
const _: () = assert!(
    LEASE_SELF_END_MS + 500 < LEASE_KILL_MS,
    "config/limits.toml: a monitor that nobody killed would end itself only after the time to kill"
);

// The watchdog stands behind the host's own clock: allowed for the last time just before the fence is due, and fed on behalf of
// other datastores for as long as that counts, it must reset the host before an observer calls it dead.
const _: () = assert!(
    with_drift(LEASE_RENEWAL_MS + LEASE_IO_BOUND_MS + LEASE_FEED_MS * 3 / 2 + LEASE_WATCHDOG_MS) < LEASE_EXPIRY_MS,
    "config/limits.toml: the watchdog would reset a host only after others may already take its VMs"
);

// Two hosts that claim one slot at once: whoever wrote first must see the other's write when it looks again.
const _: () = assert!(
    with_drift(LEASE_CLAIM_IO_MS) < LEASE_CLAIM_WAIT_MS,
    "config/limits.toml: two hosts could both believe that a slot is theirs"
);

// A slot changes its owner only after the expiry: by then no write of the life before may be under way.
const _: () = assert!(
    with_drift(LEASE_SETTLE_MS) < LEASE_EXPIRY_MS,
    "config/limits.toml: a write of a dead host could land in a slot that has a new owner"
);

// From the death of a host to the start of its VM elsewhere: the last renewal is seen at most a look late, expires,
// and the look that proves it may be late by one more; what is left is for the decision and the start.
const _: () = assert!(
    LEASE_EXPIRY_MS + 2 * LEASE_POLL_MS + 5_000 <= 20_000,
    "config/limits.toml: a dead host's VM could not be taken over within 20 s"
);
