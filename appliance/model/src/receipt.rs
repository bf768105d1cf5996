//! The record that a migration leaves on the datastore: `vms/<name>/receipts/<id>.toml`.

use serde::{Deserialize, Serialize};

use crate::names::{HostName, VmName};

/// What happened in one migration, as both its hosts know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Identity of the migration: 16 hex digits.
    pub id: String,
    /// The VM.
    pub vm: VmName,
    /// Where it ran before.
    pub source: HostName,
    /// Where it was to run.
    pub destination: HostName,
    /// What came of it.
    pub verdict: Verdict,
    /// Why, where it failed; empty where it did not.
    pub reason: String,
    /// The epoch of the lease under which the VM runs after the migration.
    pub epoch: u64,
    /// The source's wall clock at the start, seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
    /// From the typed command to the release of the source, microseconds.
    pub total_us: u64,
    /// The guest's memory, bytes.
    pub memory_bytes: u64,
    /// Bytes of records sent, headers included. Of a move that was broken off, to within a batch of about 2 MiB.
    pub sent_bytes: u64,
    /// Pages that were zero and cost no content.
    pub zero_pages: u64,
    /// Bytes that compression saved.
    pub compression_saved_bytes: u64,
    /// Sent bytes over the time of the rounds, bytes a second.
    pub throughput_bytes_per_s: u64,
    /// Dirty rate that the last round saw, pages a second.
    pub dirty_pages_per_s: u64,
    /// How far the guest's kvmclock stepped against real time at the switchover, microseconds, to within half a round
    /// trip; behind is negative. The destination sets it forward by the time for which it stood still, so this is what is left of
    /// that; a build of before left it behind by all of it. It never goes backwards. Absent where the guest did not move, or the
    /// process that measured ended before.
    pub clock_step_us: Option<i64>,
    /// What was predicted before the stun.
    pub predicted_stun_us: u64,
    /// The longest stun that the VM's configuration wants, microseconds; 0 in receipts of before it was written down.
    #[serde(default)]
    pub stun_max_us: u64,
    /// The stun, piece by piece.
    pub stun: Stun,
    /// What the audit found.
    pub audit: Audit,
    /// The phases in their order.
    pub phases: Vec<Phase>,
    /// The rounds in their order. Where the VM was handed over, the last one was sent in the stun.
    pub rounds: Vec<Round>,
    /// What [`Receipt::moved_us`] was predicted to be when the first round began; absent where the rounds had not ended by that, and
    /// in receipts of builds that do not predict it. The last field: builds tell each other of it apart from the rest.
    #[serde(default)]
    pub predicted_moved_us: Option<u64>,
}

impl Receipt {
    /// From the typed command until the VM ran on the destination, microseconds: what came after (the audit, the release) a guest
    /// does not wait for.
    pub fn moved_us(&self) -> u64 {
        let after = ["audit", "release"];
        self.phases.iter().filter(|phase| !after.contains(&phase.name.as_str())).map(|phase| phase.us).sum()
    }

    /// Whether the stun was longer than the VM's configuration wants.
    pub fn stun_is_over(&self) -> bool {
        self.stun_max_us > 0 && self.stun.total_us > self.stun_max_us
    }

    /// Whether the last round was sent in the stun: it was if the stun came so far as to hand over. One that was called off
    /// before made its round one of those while the guest runs.
    pub fn last_round_in_stun(&self) -> bool {
        self.stun.last_pages_us > 0
    }
}

/// What came of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The VM runs on the destination.
    Moved,
    /// The VM runs on the source.
    Failed,
    /// The VM runs on the source because a person wanted it so.
    Cancelled,
}

/// The stun, piece by piece, microseconds. The pieces up to the resume follow each other, and are the whole together with
/// [`Stun::messages_us`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stun {
    /// From the first vCPU's signal to the last vCPU's stop and drained I/O.
    pub stop_us: u64,
    /// The last pages: harvested, read and sent, and stored after the hand-over had arrived.
    pub last_pages_us: u64,
    /// Device and vCPU state, saved and restored.
    pub state_us: u64,
    /// All of memory hashed on both sides, at the depth `full`. Otherwise two digests of 16 bytes are compared, which
    /// takes no microsecond.
    pub verify_us: u64,
    /// The commit: phase 2 of the lease's next epoch.
    pub lease_us: u64,
    /// Disks opened, vCPUs started.
    pub resume_us: u64,
    /// From the resume until the first announcement on its networks was sent, which the guest does not wait for; 0
    /// where the VM has no NIC.
    pub announce_us: u64,
    /// All of it as the source measured: from the first signal to word from the destination that the VM runs.
    pub total_us: u64,
}

impl Stun {
    /// What no piece tells: messages between the hosts, and between the processes of each, microseconds. 0 where the total
    /// was not measured, or where the clocks of two hosts make the pieces longer than it.
    pub fn messages_us(&self) -> u64 {
        let Self { stop_us, last_pages_us, state_us, verify_us, lease_us, resume_us, announce_us: _, total_us } = *self;
        let pieces = [stop_us, last_pages_us, state_us, verify_us, lease_us, resume_us];
        pieces.into_iter().fold(total_us, u64::saturating_sub)
    }
}

/// What the comparison of all memory after the resume found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// It was made to its end.
    pub done: bool,
    /// Pages that were compared.
    pub compared_pages: u64,
    /// Pages that the guest had written since, which cannot be compared.
    pub rewritten_pages: u64,
    /// Pages that differ: each one is an alarm.
    pub different_pages: u64,
}

/// One phase and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name, as in DESIGN.md, section 9.
    pub name: String,
    /// Microseconds.
    pub us: u64,
}

/// One round: while the guest runs, or the last one in the stun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Pages that were sent.
    pub pages: u64,
    /// Those of them that were zero.
    pub zero_pages: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Until the destination had stored them; in the stun until the last was on its way. Microseconds.
    pub us: u64,
}

#[cfg(test)]
mod tests {
    use super::Stun;

    #[test]
    fn the_pieces_of_a_stun_and_its_messages_are_the_whole_and_messages_never_take_less_than_no_time() {
        let stun = Stun {
            stop_us: 1,
            last_pages_us: 20,
            state_us: 300,
            verify_us: 4_000,
            lease_us: 50_000,
            resume_us: 600_000,
            announce_us: 9_000_000,
            total_us: 654_400,
        };
        assert_eq!(stun.messages_us(), 79);
        assert_eq!(Stun { total_us: 654_000, ..stun }.messages_us(), 0);
        assert_eq!(
            Stun { lease_us: u64::MAX, resume_us: u64::MAX, ..stun }.messages_us(),
            0,
            "a peer may say anything"
        );
    }
}
