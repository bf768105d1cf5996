//! One round of Disk Paxos with its I/O: write, read, write, read.
//!
//! [`Round::begin`] or [`Round::finish`] starts; whoever drives it does what [`Turn::Ask`] asks and hands the end of
//! that to [`Round::ended`], until another [`Turn`] comes.

use super::identity::{Incarnation, Tenancy, Value};
use super::layout::{Area, Bank};
use super::paxos::{Accepting, Decided, Outvoted, Prepared, Promising, Unusable, View, Write};

/// Where a round takes place and who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// The area.
    pub area: Area,
    /// The blocks of the instance.
    pub bank: Bank,
    /// The use of the place.
    pub tenancy: Tenancy,
    /// This host.
    pub me: Incarnation,
    /// What its wall clock shows, seconds since 1970.
    pub unix_s: u64,
}

impl Seat {
    /// What a read of the whole bank says.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn view(&self, bytes: &[u8]) -> Result<View, Unusable> {
        View::parse(self.area, self.bank, self.me.slot, self.tenancy, bytes)
    }
}

/// An I/O that somebody must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read the whole bank.
    Read,
    /// Write the own block.
    Write(Write),
}

/// How an I/O ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended<'a> {
    /// The read gave these bytes.
    Read(&'a [u8]),
    /// The write is on the disk.
    Written,
    /// It failed or was not answered: a write may or may not be on the disk, now or later.
    Failed,
}

/// What comes next.
#[derive(Debug)]
pub enum Turn {
    /// Do this and come back.
    Ask(Box<Round>, Ask),
    /// Phase 1 is over.
    Prepared(Prepared),
    /// The value is decided.
    Decided(Decided),
    /// Not in this round.
    Outvoted(Outvoted),
    /// The storage did not do what was asked.
    Failed,
    /// What was read cannot be used.
    Unusable(Unusable),
}

/// A round under way.
#[derive(Debug)]
pub struct Round {
    seat: Seat,
    step: Step,
}

#[derive(Debug)]
enum Step {
    WritePromise(Promising),
    ReadPromise(Promising),
    WriteAccept(Accepting),
    ReadAccept(Accepting),
}

impl Round {
    /// Phase 1 with `wish`, on the ground of a fresh `view`.
    pub fn begin(seat: Seat, view: &View, wish: Value) -> (Box<Self>, Ask) {
        let promising = view.promise(wish);
        let ask = Ask::Write(promising.write().clone());
        (Box::new(Self { seat, step: Step::WritePromise(promising) }), ask)
    }

    /// Phase 2 of what was prepared.
    pub fn finish(seat: Seat, prepared: Prepared) -> (Box<Self>, Ask) {
        let accepting = prepared.accept(seat.unix_s);
        let ask = Ask::Write(accepting.write().clone());
        (Box::new(Self { seat, step: Step::WriteAccept(accepting) }), ask)
    }

    /// Whether phase 2 has begun: then its value may be decided whatever else happens.
    pub fn is_accepting(&self) -> bool {
        matches!(self.step, Step::WriteAccept(_) | Step::ReadAccept(_))
    }

    /// Goes on after an I/O.
    pub fn ended(self, ended: Ended<'_>) -> Turn {
        let seat = self.seat;
        match (self.step, ended) {
            (Step::WritePromise(promising), Ended::Written) => {
                Turn::Ask(Box::new(Self { seat, step: Step::ReadPromise(promising) }), Ask::Read)
            }
            (Step::WriteAccept(accepting), Ended::Written) => {
                Turn::Ask(Box::new(Self { seat, step: Step::ReadAccept(accepting) }), Ask::Read)
            }
            (Step::ReadPromise(promising), Ended::Read(bytes)) => match seat.view(bytes) {
                Ok(view) => promising.read(&view).map_or_else(Turn::Outvoted, Turn::Prepared),
                Err(unusable) => Turn::Unusable(unusable),
            },
            (Step::ReadAccept(accepting), Ended::Read(bytes)) => match seat.view(bytes) {
                Ok(view) => accepting.read(&view).map_or_else(Turn::Outvoted, Turn::Decided),
                Err(unusable) => Turn::Unusable(unusable),
            },
            _ => Turn::Failed,
        }
    }
}
