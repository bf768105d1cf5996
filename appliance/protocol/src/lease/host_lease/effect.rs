//! What the own lease wants done, what it leaves to the next process, and what it tells.

use std::fmt;

use crate::lease::identity::{Generation, Incarnation, Slot};
use crate::lease::record::HostRecord;

/// What the own lease wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnEffect {
    /// Look at the host bank now.
    Look,
    /// Write the own record; answer with [`handle_written`](super::HostLease::handle_written).
    Write {
        /// Names the write in its answer.
        ticket: u64,
        /// The register.
        slot: Slot,
        /// The number of the write.
        sequence: u64,
        /// What to write.
        record: HostRecord,
    },
    /// Kill every VM of this datastore now; answer with [`handle_killed`](super::HostLease::handle_killed) when none is left.
    Fence(Fence),
    /// Feed the watchdog. It is not fed while a fence is under way: if that takes too long, the host is reset.
    FeedWatchdog,
    /// Keep this for the next process of this boot, before anything else is answered; none: nothing runs.
    Remember(Option<Remembered>),
    /// Writes of an earlier process of this boot may still be under way.
    Rest,
    /// Something that a person may want to know.
    Note(Note),
}

/// What one lease process leaves to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Remembered {
    /// The slot of the life.
    pub slot: Slot,
    /// The life.
    pub generation: Generation,
    /// Start of its last successful renewal, nanoseconds on this host's clock.
    pub renewed_at: u64,
}

/// Why VMs must be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Fence {
    /// No renewal succeeded in time.
    NotRenewed,
    /// Another host saw this life expire: this host was frozen, its clock included.
    DeclaredDead,
    /// The slot has a later life.
    SlotTaken,
    /// An earlier process of this boot let the lease lapse; its VMs may still run.
    Predecessor,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRenewed => "no renewal reached the datastore in time",
            Self::DeclaredDead => "another host saw this one dead: it stood still, its clock included",
            Self::SlotTaken => "a later start of this host holds it",
            Self::Predecessor => "the lease role before this one let it lapse",
        })
    }
}

/// What a person may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The host lease is held.
    Held(Incarnation),
    /// The life of an earlier process of this boot goes on.
    Adopted(Incarnation),
    /// Another running host uses this host's name.
    NameInUse(Slot),
    /// The slot of this host's last boot must expire first.
    WaitingForOldLife(Slot),
    /// Every slot has an owner.
    AreaFull,
    /// Another host of the datastore lives and counts on a shorter expiry, in milliseconds.
    ShorterExpiry(Slot, u32),
    /// A renewal failed and is tried again.
    RenewalFailed,
}

impl Note {
    /// What mends it, where that is more than to look what goes on.
    pub fn mend(&self) -> Option<&'static str> {
        match self {
            Self::NameInUse(_) => {
                Some("give one of the two another hostname in its host.toml, then: host reboot; host list tells both")
            }
            Self::AreaFull | Self::ShorterExpiry(..) | Self::WaitingForOldLife(_) => None,
            Self::Held(_) | Self::Adopted(_) | Self::RenewalFailed => None,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(life) => {
                write!(f, "the host lease is held, slot {}, generation {}", life.slot.0, life.generation.0)
            }
            Self::Adopted(life) => {
                write!(f, "the host lease is held on, slot {}, generation {}", life.slot.0, life.generation.0)
            }
            Self::NameInUse(slot) => write!(f, "another running host, slot {}, has the name of this one", slot.0),
            Self::WaitingForOldLife(slot) => {
                write!(f, "the lease of this host's last boot, slot {}, has to expire first", slot.0)
            }
            Self::AreaFull => f.write_str("every slot of the lease area belongs to another host"),
            Self::ShorterExpiry(slot, ms) => write!(
                f,
                "a host of an older version is on this datastore (slot {}): it would call this one dead after {ms} ms, too early for \
                 it; shut that host down, or give it this version",
                slot.0
            ),
            Self::RenewalFailed => f.write_str("a renewal failed and is tried again"),
        }
    }
}
