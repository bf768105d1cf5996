//! What is going to happen in a world.

use protocol::destination;
use protocol::lease::keeper::{Access, IoId};
use protocol::lease::vm_lease::Request;
use protocol::source;

use super::destination_side::DestinationDoing;
use super::host::Side;
use super::keeper::Asker;
use super::source_side::SourceDoing;

/// What is going to happen.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes arrive at the engine of this generation.
    Control(Side, u64, Vec<u8>),
    /// A record arrives.
    Record(Side, u64, Vec<u8>),
    /// The connection is seen to be gone.
    LinkDown(Side, u64),
    /// An effect of a source is to be carried out.
    SourceDoes(u64, SourceDoing),
    /// A source is answered.
    SourceHears(u64, Box<source::Input>),
    /// An effect of a destination is to be carried out.
    DestinationDoes(u64, DestinationDoing),
    /// A destination is answered.
    DestinationHears(u64, Box<destination::Input>),
    /// The engine's deadline.
    EngineWakes(Side, u64),
    /// Another migration process starts.
    EngineRestarts(Side, u64),
    /// The keeper's deadline.
    KeeperWakes(Side, u64),
    /// An access to the lease area has its effect.
    IoApplies(Access),
    /// An access to the lease area ends.
    IoEnds(Side, u64, IoId, Option<Access>),
    /// The lease role takes up what it was asked.
    Asks(Side, u64, Request, Asker),
    /// Another control plane starts on the destination.
    ControlPlaneStarts(u64),
    /// The host role asks the lease whose this VMM is.
    HostSettles(Side, u64),
    /// The guest writes.
    GuestWrites(Side, u64),
}

impl Event {
    /// The engine, by its side and generation, that is told something by it.
    pub(super) fn engine(&self) -> Option<(Side, u64)> {
        match self {
            Self::Control(side, generation, _)
            | Self::Record(side, generation, _)
            | Self::LinkDown(side, generation)
            | Self::EngineWakes(side, generation) => Some((*side, *generation)),
            Self::SourceDoes(generation, _) | Self::SourceHears(generation, _) => Some((Side::Source, *generation)),
            Self::DestinationDoes(generation, _) | Self::DestinationHears(generation, _) => {
                Some((Side::Destination, *generation))
            }
            _ => None,
        }
    }
}
