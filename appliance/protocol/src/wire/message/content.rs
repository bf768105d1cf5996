//! What messages hold, but for the offer.

use std::fmt;

use model::names::HostName;
use serde::{Deserialize, Serialize};

use crate::checks::Finding;
use crate::checks::facts::NicFacts;
use crate::checks::physical_network::Found;
use crate::verify::{Digest, RoundNumber};
use crate::wire::frame::BODY_BYTES_MAX;

/// Most bytes of state in one message.
pub const STATE_PART_BYTES_MAX: usize = BODY_BYTES_MAX - 64;
/// Most hashes in one message.
pub const AUDIT_HASHES_MAX: usize = 32_768;

const _: () = assert!(AUDIT_HASHES_MAX * 16 + 64 <= BODY_BYTES_MAX);

/// The identity of a migration, made at random by the source; shown as 16 hex digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MigrationId(pub u64);

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a VM's vCPUs do; it travels, so that a paused VM arrives paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// They run.
    #[default]
    Running,
    /// A person paused them.
    Paused,
}

/// The first message of both sides. Its layout never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version that the sender speaks.
    pub oldest: u16,
    /// The newest one.
    pub newest: u16,
    /// The migration.
    pub migration: MigrationId,
    /// Who speaks.
    pub host: HostName,
    /// Its build, for people.
    pub build: String,
}

/// What the destination found on examining the offer: every reason at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// All findings of the checks, blockers and warnings.
    pub findings: Vec<Finding>,
    /// The destination's migration NIC.
    pub nic: NicFacts,
    /// What it heard on the uplinks that the source probes, told beside the rest; none from a build that knows nothing of it, and where the
    /// source does not probe.
    #[serde(skip)]
    pub uplinks: Option<Vec<Found>>,
}

/// The destination is ready for the switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchReady {
    /// How long phase 1 of the lease's next epoch took, which tells how long phase 2 will take, microseconds.
    pub lease_us: u64,
    /// What it rehearsed; a build that does not rehearse says nothing of it.
    pub rehearsal: Option<Rehearsal>,
}

/// How long the destination's own pieces of the stun took when it tried them without the guest, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// Saving a state of a machine of this shape and restoring it.
    pub state_us: u64,
    /// Opening and locking the disks.
    pub disks_us: u64,
}

/// A part of the device and vCPU state. The parts follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePart {
    /// Bytes of the whole.
    pub total: u32,
    /// Where this part begins.
    pub offset: u32,
    /// The part.
    pub bytes: Vec<u8>,
    /// As in [`HandOver`]: this is said earlier, before the last pages.
    pub clock_ns: Option<u64>,
}

/// "The VM is stopped here; I resume it only if I win the next epoch of its lease myself."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The last round that was sent.
    pub last_round: RoundNumber,
    /// The digest of the source's table of pages.
    pub digest: Digest,
    /// The digest of all of the source's memory, for the depth `full`.
    pub memory_digest: Option<Digest>,
    /// Bytes of the state.
    pub state_bytes: u32,
    /// XXH3-128 of the state.
    pub state_hash: u128,
    /// Whether the VM is to run.
    pub run_state: RunState,
    /// What the guest's kvmclock would show when this was said if the guest had not stood still, nanoseconds. It is told beside the
    /// rest: an older build says nothing of it, and one that does not know it leaves the clock as it was saved.
    #[serde(skip)]
    pub clock_ns: Option<u64>,
}

/// How long the destination's pieces of the stun took, microseconds, and the guest's clock as it was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// From the hand-over's arrival until the last page was stored.
    pub last_pages_us: u64,
    /// Restoring the state.
    pub restore_us: u64,
    /// Comparing.
    pub verify_us: u64,
    /// Phase 2 of the lease's next epoch.
    pub lease_us: u64,
    /// Opening the disks and starting the vCPUs.
    pub resume_us: u64,
    /// The guest's kvmclock when this was said, nanoseconds.
    pub clock_ns: u64,
}
