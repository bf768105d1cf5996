//! Every message that there is.

use model::diagnosis::Reason;
use model::receipt::{Audit, Receipt};

use super::content::{Answer, HandOver, Hello, Resumed, StatePart, SwitchReady};
use super::offer::ValidatedOffer;
use crate::verify::{PageHash, RoundNumber};

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first of both sides.
    Hello(Hello),
    /// Source: what is to move.
    Offer(Box<ValidatedOffer>),
    /// Destination: what the checks found.
    Answer(Answer),
    /// Source: go on; get the memory ready.
    Reserve,
    /// Destination: the memory is there; pages may come.
    Reserved,
    /// Destination: the VMM is built and the lease's next epoch prepared.
    SwitchReady(SwitchReady),
    /// Source: this round had so many pages, all of which are on their way.
    RoundEnd {
        /// The round.
        round: RoundNumber,
        /// Its pages.
        pages: u64,
    },
    /// Destination: all pages of this round are stored or were overtaken by newer ones.
    RoundStored {
        /// The round.
        round: RoundNumber,
    },
    /// Source: a part of the state.
    State(StatePart),
    /// Source: the last word before the commit.
    HandOver(HandOver),
    /// Source: the stun would have become too long, the VM runs on here, and the rounds go on.
    StunCancelled,
    /// Destination: it holds this epoch; the VM is its own.
    Committed {
        /// The epoch.
        epoch: u64,
    },
    /// Destination: the VM runs (or is paused, as it was).
    Resumed(Resumed),
    /// Destination: it holds the epoch but could not start the VM, and why.
    NotResumed(Reason),
    /// Destination: the VM's networks were told where it is.
    Announced {
        /// From the resume on, microseconds; none where there was no NIC to announce.
        us: Option<u64>,
    },
    /// Source: the hashes of these pages of its frozen memory.
    AuditHashes {
        /// The first page.
        first: u64,
        /// One hash a page.
        hashes: Vec<PageHash>,
    },
    /// Destination: what the audit found.
    AuditDone(Audit),
    /// Source: its memory is released; this is the receipt.
    Done(Box<Receipt>),
    /// The sender lives.
    Keepalive,
    /// The sender ends the migration, and why.
    Cancel(Reason),
}

impl Message {
    /// Its name, for a person who reads that it came at the wrong moment.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Offer(_) => "offer",
            Self::Answer(_) => "answer",
            Self::Reserve => "reserve",
            Self::Reserved => "reserved",
            Self::SwitchReady(_) => "switch-ready",
            Self::RoundEnd { .. } => "round-end",
            Self::RoundStored { .. } => "round-stored",
            Self::State(_) => "state",
            Self::HandOver(_) => "hand-over",
            Self::StunCancelled => "stun-cancelled",
            Self::Committed { .. } => "committed",
            Self::Resumed(_) => "resumed",
            Self::NotResumed(_) => "not-resumed",
            Self::Announced { .. } => "announced",
            Self::AuditHashes { .. } => "audit-hashes",
            Self::AuditDone(_) => "audit-done",
            Self::Done(_) => "done",
            Self::Keepalive => "keepalive",
            Self::Cancel(_) => "cancel",
        }
    }
}
