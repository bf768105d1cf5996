//! What a destination wants done, and what it is told. Effects are data; each that is answered names its answer, and
//! is answered exactly once, even if the answer comes too late to matter.

use model::diagnosis::Reason;
use model::names::VmName;

use crate::checks::Finding;
use crate::checks::facts::HostFacts;
use crate::checks::physical_network::Found;
use crate::pages::PageSet;
use crate::session::PhaseName;
use crate::session::{ClockReading, LeaseAnswer, LeaseAsk, Outcome, RightToRun};
use crate::verify::{PageHash, RoundNumber};
use crate::wire::ValidatedOffer;
use crate::wire::message::{Rehearsal, RunState};

/// What a destination wants done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Send these bytes on the control stream, in order.
    SendControl(Vec<u8>),
    /// Gather this host's facts for the checks of this offer, and send probe frames on the uplinks that it names, and listen there. Answered by [`Input::Examined`].
    Examine(Box<ValidatedOffer>),
    /// Get fresh, zeroed memory of so many bytes for the guest. Answered by [`Input::Reserved`].
    Reserve {
        /// Bytes.
        bytes: u64,
    },
    /// Build the VMM round that memory from the offered configuration: vCPUs, devices, silent taps, no disks; with
    /// its dirty log on, and harvested once, before the first instruction, if `dirty_log`; and rehearse with it what the stun will ask of this
    /// host. Answered by [`Input::VmmBuilt`].
    BuildVmm {
        /// The audit needs to know what the guest writes after the resume.
        dirty_log: bool,
    },
    /// Ask the lease. Answered by [`Input::Lease`].
    Lease(LeaseAsk),
    /// Restore this device and vCPU state, and set the guest's clocks. Answered by [`Input::StateLoaded`].
    LoadState {
        /// The state.
        state: Vec<u8>,
        /// What the guest's clock should show; unknown, its clocks go on from where they were.
        clock: Option<ClockReading>,
    },
    /// Hash the pages of this stretch as they lie in the guest's memory. Answered by [`Input::RangeHashed`].
    HashRange {
        /// The first page.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Open the disks for writing and take their locks. Answered by [`Input::DisksOpened`]; asked again while it is not.
    OpenDisks,
    /// Let the guest run, or leave it paused if it was paused. Answered by [`Input::GuestResumed`].
    ResumeGuest(RightToRun, RunState),
    /// Tell the networks where the guest is now: RARP on each port group, and again until the guest is heard of. Answered by [`Input::Announced`].
    Announce,
    /// Take out of the dirty log what is dirty. Answered by [`Input::DirtyHarvested`].
    HarvestDirty,
    /// Stop the dirty log. Not answered.
    StopDirtyLog,
    /// End the VMM, if there is one, and free the memory and all else that was got ready; what was admitted and is not
    /// stored yet is not stored any more. Answered by [`Input::Discarded`].
    Discard,
    /// Tell whoever watches.
    Report(Progress),
    /// The migration is over; the last effect.
    Finish(Box<Outcome>),
}

/// Pages of one record that were stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagesStored {
    /// The record's round.
    pub round: RoundNumber,
    /// How many pages the record covers, those included that were overtaken by newer versions.
    pub covered: u64,
    /// Each page that was written with the hash of what lies in the guest's memory now; not those of which a newer version was written before.
    pub stored: Vec<(u64, PageHash)>,
}

/// What a destination is told. Records come by [`super::Destination::admit`].
#[derive(Clone, Debug)]
pub enum Input {
    /// Bytes arrived on the control stream, in order.
    Control(Vec<u8>),
    /// The connection is gone.
    LinkDown {
        /// What happened.
        cause: String,
    },
    /// To [`Effect::Examine`].
    Examined {
        /// The facts.
        facts: Box<HostFacts>,
        /// What else this host found that stands in the way: each with the condition's name.
        findings: Vec<Finding>,
        /// What it heard on the uplinks that the offer names; none if that names none.
        uplinks: Option<Vec<Found>>,
    },
    /// To [`Effect::Reserve`].
    Reserved(Result<(), Reason>),
    /// To [`Effect::BuildVmm`]: how long the rehearsal took.
    VmmBuilt(Result<Rehearsal, Reason>),
    /// To [`Effect::Lease`].
    Lease(LeaseAsk, LeaseAnswer),
    /// An admitted record's pages lie in the guest's memory.
    PagesStored(PagesStored),
    /// To [`Effect::LoadState`].
    StateLoaded(Result<(), Reason>),
    /// To [`Effect::HashRange`]: the hashes in ascending order.
    RangeHashed {
        /// The first page.
        first: u64,
        /// One a page.
        hashes: Vec<PageHash>,
    },
    /// To [`Effect::OpenDisks`], or before it from a control plane that has settled by the lease whose the VM is.
    DisksOpened(Result<(), Reason>),
    /// To [`Effect::ResumeGuest`]: what the guest's kvmclock shows now, nanoseconds.
    GuestResumed(Result<u64, Reason>),
    /// To [`Effect::Announce`].
    Announced {
        /// How many frames were sent; 0 for a VM without NICs.
        frames: u32,
    },
    /// To [`Effect::HarvestDirty`].
    DirtyHarvested(Result<PageSet, Reason>),
    /// To [`Effect::Discard`].
    Discarded,
    /// The VMM ended; nothing of it will be answered any more.
    GuestGone {
        /// What happened.
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
    /// The VM, once it is known.
    pub vm: Option<VmName>,
    /// Pages that arrived at least once.
    pub pages_arrived: u64,
    /// Pages of the guest.
    pub pages: u64,
    /// Something to tell: what is being waited for.
    pub note: Option<String>,
}

/// Why a destination wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The source's next word is late.
    Word,
    /// Time to try phase 1 of the lease again.
    Prepare,
    /// Something that was handed over did not arrive in time.
    LastPages,
    /// Time to ask the lease again for the outcome of the commit.
    Resolve,
    /// Time to ask again for the disks.
    OpenDisks,
    /// The source does not end its part of the audit.
    Done,
}
