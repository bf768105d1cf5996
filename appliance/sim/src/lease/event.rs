//! What is going to happen in a world.

use protocol::lease::keeper::{Io, IoId};
use protocol::time::Instant;

use super::faults::Fault;
use super::guest::GuestWrite;
use super::locks::Client;
use super::moves::{Message, Move};
use super::wishes::Wish;

/// What is going to happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A lease process wakes.
    Timer { host: usize, process: u64, timer: u64 },
    /// An I/O is handed to the kernel.
    Issue { host: usize, process: u64, io: Io },
    /// A part of a read sees the disk.
    Sample { buffer: u64, from: usize, to: usize, offset: u64 },
    /// A part of a write reaches the disk.
    Land { offset: u64, data: Vec<u8> },
    /// An I/O ends.
    Return { host: usize, process: u64, io: IoId, buffer: Option<u64>, result: Ending },
    /// The VMs of a host are dead, as a fence asked.
    Killed { host: usize, boot: u64, process: u64 },
    /// A VM writes to its disk.
    Guest { host: usize, vm: usize, instance: u64 },
    /// Such a write arrives.
    GuestLand(GuestWrite),
    /// A VM asks for the lock of its disk.
    Lock { host: usize, vm: usize, instance: u64 },
    /// A host makes the server give up what it keeps for a client that it took for dead.
    RestartClient { host: usize, client: Client },
    /// A host tells another.
    Message { to: usize, vm: usize, message: Message, moving: Move },
    /// The source of a move has waited for long enough.
    Patience { host: usize, vm: usize, instance: u64 },
    /// The source of a move calls its stun off, before it has told the destination.
    CallOff { host: usize, vm: usize, moving: Move },
    /// The same request again.
    Again { host: usize, vm: usize, wish: Wish },
    /// The operator does something.
    Operator,
    /// Somebody wants the VMs of a host that seems to be in trouble to run elsewhere, as soon as they may.
    Rescue { vm: usize, from: usize, until: Instant },
    /// Something goes wrong.
    Fault(Fault),
    /// A host gets power.
    Boot { host: usize },
    /// A lease process is started.
    Restart { host: usize, boot: u64 },
    /// What was stopped goes on.
    Thaw { host: usize },
    /// A host that was slow to hear of its I/O hears of none any more.
    Sever { host: usize },
    /// A host reaches the datastore again.
    Mend { host: usize },
    /// Did anybody feed the watchdog since?
    Watchdog { host: usize, boot: u64, fed: Instant },
    /// Records of VMs' leases are damaged.
    Damage,
    /// From now on nothing goes wrong.
    Heal,
    /// The kernel's NFS clients speak to the server.
    Hear,
}

/// How an I/O ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Well.
    Done,
    /// It failed.
    Failed,
}
