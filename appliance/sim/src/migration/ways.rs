//! The ways by which things come to the migration machines: what is late on one of them holds up what comes behind it.

use protocol::time::{Duration, Instant};
use protocol::{destination, source};

use super::destination_side::DestinationDoing;
use super::event::Event;
use super::host::Side;
use super::source_side::SourceDoing;
use super::world::World;

/// A way on which nothing overtakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The control stream to this side, and the word of its end.
    Stream(Side),
    /// The conversation with the VM's monitor: one request at a time.
    Monitor(Side),
    /// The line to the control plane.
    ControlPlane(Side),
    /// What is read and handed to the transport, batch after batch.
    Batches,
    /// What is stored, record after record.
    Storing,
    /// Everything that the migration process itself takes up.
    Process(Side),
}

/// The ways on which something is late.
#[derive(Debug, Default)]
pub(super) struct Ways {
    held: Vec<(Way, Instant)>,
}

impl Ways {
    /// Nothing comes this way before then.
    pub(super) fn hold(&mut self, way: Way, until: Instant) {
        self.held.push((way, until));
    }

    /// Until when this has to wait behind what is late.
    fn behind(&self, now: Instant, event: &Event) -> Option<Instant> {
        let (way, process) = (event.way(), event.process().map(Way::Process));
        let waits = |held: Way| Some(held) == way || Some(held) == process;
        self.held.iter().filter(|(held, until)| *until > now && waits(*held)).map(|(_, until)| *until).max()
    }
}

impl Event {
    /// The way that it comes; none where everything may overtake it: records, timers, and the answers of the lease role, which is
    /// asked over a connection for each question.
    fn way(&self) -> Option<Way> {
        match self {
            Self::Control(side, ..) | Self::LinkDown(side, _) => Some(Way::Stream(*side)),
            Self::SourceDoes(_, doing) => match doing {
                SourceDoing::Read(_) => Some(Way::Batches),
                SourceDoing::Stun | SourceDoing::GoOn => Some(Way::Monitor(Side::Source)),
                SourceDoing::Release => Some(Way::ControlPlane(Side::Source)),
                SourceDoing::Resume(_) | SourceDoing::AskAgain(_) => None,
            },
            Self::SourceHears(_, input) => match **input {
                source::Input::PagesSent(_) => Some(Way::Batches),
                source::Input::DirtyLogStarted(_)
                | source::Input::DirtyHarvested(_)
                | source::Input::GuestStunned(_)
                | source::Input::GuestReset
                | source::Input::GuestResumed(_)
                | source::Input::GuestGone { .. } => Some(Way::Monitor(Side::Source)),
                source::Input::UplinksOpen | source::Input::UplinksHeard(_) => Some(Way::ControlPlane(Side::Source)),
                _ => None,
            },
            Self::DestinationDoes(_, doing) => match doing {
                DestinationDoing::Store => Some(Way::Storing),
                DestinationDoing::Load(..) | DestinationDoing::Resume(..) => Some(Way::Monitor(Side::Destination)),
                DestinationDoing::OpenDisks | DestinationDoing::Discard => Some(Way::ControlPlane(Side::Destination)),
            },
            Self::DestinationHears(_, input) => match **input {
                destination::Input::VmmBuilt(_)
                | destination::Input::StateLoaded(_)
                | destination::Input::GuestResumed(_)
                | destination::Input::DirtyHarvested(_)
                | destination::Input::GuestGone { .. } => Some(Way::Monitor(Side::Destination)),
                destination::Input::Examined { .. }
                | destination::Input::Reserved(_)
                | destination::Input::DisksOpened(_)
                | destination::Input::Announced { .. } => Some(Way::ControlPlane(Side::Destination)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The side whose migration process takes it up. What others were asked to do, they do without it.
    fn process(&self) -> Option<Side> {
        match self {
            Self::Control(side, ..) | Self::Record(side, ..) | Self::LinkDown(side, _) | Self::EngineWakes(side, _) => {
                Some(*side)
            }
            Self::SourceDoes(_, SourceDoing::Read(_) | SourceDoing::Resume(_) | SourceDoing::AskAgain(_))
            | Self::SourceHears(..) => Some(Side::Source),
            Self::DestinationDoes(_, DestinationDoing::Store) | Self::DestinationHears(..) => Some(Side::Destination),
            _ => None,
        }
    }

    /// Whether it tells of the end of something.
    pub(super) fn is_an_end(&self) -> bool {
        match self {
            Self::LinkDown(..) => true,
            Self::SourceHears(_, input) => matches!(**input, source::Input::GuestGone { .. }),
            Self::DestinationHears(_, input) => matches!(**input, destination::Input::GuestGone { .. }),
            _ => false,
        }
    }

    fn is_answered_once(&self) -> bool {
        !self.is_an_end() && matches!(self.way(), Some(Way::Monitor(_) | Way::Batches))
    }

    /// What a machine is told by it, once more; none where it can be told once only.
    pub(super) fn again(&self) -> Option<Self> {
        match self {
            Self::SourceHears(..) | Self::DestinationHears(..) if self.is_answered_once() => None,
            Self::Control(side, generation, bytes) => Some(Self::Control(*side, *generation, bytes.clone())),
            Self::Record(side, generation, bytes) => Some(Self::Record(*side, *generation, bytes.clone())),
            Self::LinkDown(side, generation) => Some(Self::LinkDown(*side, *generation)),
            Self::EngineWakes(side, generation) => Some(Self::EngineWakes(*side, *generation)),
            Self::SourceHears(generation, input) => Some(Self::SourceHears(*generation, input.clone())),
            Self::DestinationHears(generation, input) => Some(Self::DestinationHears(*generation, input.clone())),
            _ => None,
        }
    }
}

impl World {
    /// Puts back what waits behind something that is late.
    pub(super) fn put_back(&mut self, event: Event) -> Option<Event> {
        match self.ways.behind(self.queue.now(), &event) {
            Some(until) => {
                self.queue.at(until, event);
                None
            }
            None => Some(event),
        }
    }

    /// Puts this back by so long, and whatever comes the same way behind it.
    pub(super) fn is_late(&mut self, event: Event, span: Duration) {
        let until = self.queue.now() + span;
        if let Some(way) = event.way() {
            self.ways.hold(way, until);
        }
        self.queue.at(until, event);
    }
}
