//! Who is who in a lease area: slots, generations, epochs, ballots, and the values that are decided.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $type:ident($inner:ty), $show:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub struct $type(pub $inner);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $show, self.0)
            }
        }
    };
}

number!(
    /// The random identity of a host (128 bits), never taken from its firmware: boards ship with equal UUIDs.
    HostId(u128), "{:032x}"
);
number!(
    /// The random identity of one boot of a host: Linux' `/proc/sys/kernel/random/boot_id`.
    BootId(u128), "{:032x}"
);
number!(
    /// The random identity of a lease area, and so of its datastore.
    AreaId(u128), "{:032x}"
);
number!(
    /// The place of a host in a lease area, from 0.
    Slot(u16), "{}"
);
number!(
    /// Counts the lives of whoever owns a slot, from 1: each claim of the slot is one more. A life ends for good
    /// when the host fences its VMs, leaves or dies.
    Generation(u64), "{}"
);
number!(
    /// Counts the holders of a VM's lease, from 1. 0 stands for "nobody yet".
    Epoch(u64), "{}"
);
number!(
    /// Tells one use of a VM's place in the area from a later use by another VM: the epoch of the directory that
    /// gave the place out.
    Tenancy(u64), "{}"
);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One life of one host in one area. Two equal incarnations are the same running host, or the same dead one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Incarnation {
    /// Its place.
    pub slot: Slot,
    /// Its life.
    pub generation: Generation,
    /// Its identity.
    pub host: HostId,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {} generation {}", self.slot, self.generation)
    }
}

/// A ballot of Disk Paxos: a round and the slot of its proposer, so that no two proposers ever share one.
/// [`Ballot::NONE`] is below all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot(pub u64);

impl Ballot {
    /// No ballot.
    pub const NONE: Self = Self(0);

    /// The lowest ballot of `slot` above this one.
    #[must_use]
    pub const fn above(self, slot: Slot) -> Self {
        Self((((self.0 >> 16) + 1) << 16) | slot.0 as u64)
    }
}

/// What an epoch decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Who may run the VM (the epochs of a VM's lease).
    Holder(Incarnation),
    /// Which table is the directory (the epochs of the directory): the copy in whose slot, and its digest.
    Table {
        /// The host that wrote it.
        author: Slot,
        /// Which of the author's two copies.
        copy: u8,
        /// xxh3-128 of the table's bytes.
        digest: u128,
    },
}

impl Value {
    /// The slot that it names: the holder's, or that of the table's author.
    pub fn slot(self) -> Slot {
        match self {
            Self::Holder(holder) => holder.slot,
            Self::Table { author, .. } => author,
        }
    }

    /// The holder, if this is one.
    pub fn holder(self) -> Option<Incarnation> {
        match self {
            Self::Holder(holder) => Some(holder),
            Self::Table { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_proposers_share_a_ballot_and_the_next_is_always_higher() {
        let (a, b) = (Ballot::NONE.above(Slot(3)), Ballot::NONE.above(Slot(4)));
        assert!(Ballot::NONE < a && a < b);
        assert!(b.above(Slot(0)) > b);
        assert_ne!(b.above(Slot(3)), b.above(Slot(4)));
    }
}
