//! What a source wants done, and what it is told. Effects are data; each that is answered names its answer, and is
//! answered exactly once, even if the answer comes too late to matter.

use model::diagnosis::Reason;

use crate::checks::facts::LinkFacts;
use crate::checks::physical_network::Found;
use crate::convergence::Prediction;
use crate::pages::{PageSet, Window};
use crate::session::PhaseName;
use crate::session::{LeaseAnswer, LeaseAsk, Outcome, RightToRun};
use crate::verify::{PageHash, RoundNumber};
use crate::wire::message::RunState;

/// What a source wants done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Send these bytes on the control stream, in order.
    SendControl(Vec<u8>),
    /// Measure the path to the destination. Answered by [`Input::LinkMeasured`].
    MeasureLink,
    /// Listen on the uplinks of the port groups that the offer names, and send probe frames on them. Answered by
    /// [`Input::UplinksOpen`] as soon as they listen.
    ProbeUplinks,
    /// End that. Answered by [`Input::UplinksHeard`].
    HearUplinks,
    /// Start the dirty log; one that only a check wants has to give way to that of a move. Answered by [`Input::DirtyLogStarted`].
    StartDirtyLog,
    /// Read, hash and send these pages as records; take no more than the transport takes. Answered by
    /// [`Input::PagesSent`] once the transport has taken all of them.
    SendPages(Batch),
    /// Take out of the dirty log what is dirty. Answered by [`Input::DirtyHarvested`].
    HarvestDirty,
    /// Stop the vCPUs, drain I/O, flush, let go of the disks' locks, save the state. Answered by
    /// [`Input::GuestStunned`] or [`Input::GuestReset`].
    StunGuest,
    /// Hash the pages of this stretch, which do not change. Answered by [`Input::RangeHashed`].
    HashRange {
        /// The first page.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Let the stunned guest go on as it was before the stun. Answered by [`Input::GuestResumed`].
    ResumeGuest(RightToRun),
    /// Slow the vCPUs that dirty to `100 - percent` %; 0 is full speed. Not answered.
    Throttle {
        /// 0 to 99.
        percent: u8,
    },
    /// Stop the dirty log. Not answered.
    StopDirtyLog,
    /// Ask the lease; only `Reclaim`. Answered by [`Input::Lease`].
    Lease(LeaseAsk),
    /// The VM is not ours any more: end its VMM, free its memory and taps. Answered by [`Input::MemoryReleased`].
    ReleaseMemory,
    /// Tell whoever watches.
    Report(Progress),
    /// The migration is over; the last effect.
    Finish(Box<Outcome>),
}

/// Pages to send together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number, for the answer.
    pub id: u32,
    /// The round that the records say.
    pub round: RoundNumber,
    /// The pages, ascending.
    pub windows: Vec<Window>,
}

/// A batch that the transport has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagesSent {
    /// Its number.
    pub batch: u32,
    /// The hash of each page as it was sent, in the batch's order.
    pub hashes: Vec<PageHash>,
    /// How many of the pages were zero.
    pub zero_pages: u64,
    /// Bytes of the records.
    pub bytes: u64,
    /// Bytes that compression saved.
    pub saved_bytes: u64,
}

/// A guest that was stunned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// What it did before.
    pub run_state: RunState,
    /// From the first vCPU's signal until all stood still and I/O was drained, microseconds.
    pub stop_us: u64,
    /// Saving the state, microseconds.
    pub save_us: u64,
    /// What the guest's kvmclock shows now, nanoseconds.
    pub clock_ns: u64,
    /// Device and vCPU state.
    pub state: Vec<u8>,
}

/// What a source is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// Bytes arrived on the control stream, in order.
    Control(Vec<u8>),
    /// The connection is gone.
    LinkDown {
        /// What happened.
        cause: String,
    },
    /// To [`Effect::MeasureLink`].
    LinkMeasured(LinkFacts),
    /// To [`Effect::ProbeUplinks`].
    UplinksOpen,
    /// To [`Effect::HearUplinks`]: what came on them; none where nobody listened any more.
    UplinksHeard(Option<Vec<Found>>),
    /// To [`Effect::StartDirtyLog`].
    DirtyLogStarted(Result<(), Reason>),
    /// To [`Effect::SendPages`].
    PagesSent(PagesSent),
    /// To [`Effect::HarvestDirty`].
    DirtyHarvested(Result<PageSet, Reason>),
    /// To [`Effect::StunGuest`].
    GuestStunned(Result<Stopped, Reason>),
    /// To [`Effect::StunGuest`]: it had asked for a reset, was reset, and runs.
    GuestReset,
    /// To [`Effect::HashRange`]: the hashes in ascending order.
    RangeHashed {
        /// The first page.
        first: u64,
        /// One a page.
        hashes: Vec<PageHash>,
    },
    /// To [`Effect::ResumeGuest`].
    GuestResumed(Result<(), Reason>),
    /// To [`Effect::Lease`].
    Lease(LeaseAsk, LeaseAnswer),
    /// To [`Effect::ReleaseMemory`].
    MemoryReleased,
    /// The guest ended, or its VMM did; nothing of it will be answered any more.
    GuestGone {
        /// What happened: `the guest shut down`, `its VMM crashed`.
        cause: String,
    },
    /// A person, or a host that shuts down, wants the migration to end.
    Cancel,
}

/// How far a migration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The phase.
    pub phase: PhaseName,
    /// The round, from 1 on; 0 before.
    pub round: RoundNumber,
    /// Pages of the round that were sent.
    pub pages_sent: u64,
    /// Pages of the round.
    pub pages: u64,
    /// What would happen now, where it is known.
    pub prediction: Option<Prediction>,
    /// Something to tell: what is being waited for.
    pub note: Option<String>,
}

/// Why a source wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The destination's hello is late.
    Hello,
    /// The measurement of the link takes too long.
    Probe,
    /// The uplinks are not open in time, or what was heard on them is not told.
    Uplinks,
    /// Its answer to the offer is late.
    Answer,
    /// It takes too long to get the memory ready.
    Reserved,
    /// Watching the guest for a check takes too long.
    Sample,
    /// It takes too long to be ready for the switchover.
    SwitchReady,
    /// Time for the next look at the dirty log, while the guest is watched or the destination gets ready.
    NextHarvest,
    /// The stun has used up what the operator accepts.
    StunOverrun,
    /// Word of the commit is late.
    Word,
    /// Time to ask the lease again.
    Reclaim,
    /// Word of the resume, or of the audit, is late.
    Audit,
    /// Word of the announcement is late.
    Announcement,
}
