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
