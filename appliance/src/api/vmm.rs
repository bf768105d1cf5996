//! How the monitor of one VM is driven. It gets open descriptors, never paths. A connection carries one request at a
//! time; several connections may be open (the control plane's, and during a move the migration engine's).

use serde::{Deserialize, Serialize};
use vmm::machine::spec::MachineSpec;

use crate::boot_clock;

/// The exit status of a monitor that ended itself because the time was over in which its host's lease was good.
pub const EXIT_FENCED: i32 = 76;

/// What a monitor is asked. Descriptors beside a request stand in the order that it names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum VmmRequest {
    /// Ends itself, from now on, when the host lease was not renewed in time and nobody killed it. Beside it: the file of the
    /// datastore's [`super::deadline`], opened for reading.
    Obey,
    /// Builds the machine. Beside it: `/dev/kvm`, the memfd of its memory, a tap for each NIC.
    Build {
        /// Its shape.
        spec: MachineSpec,
    },
    /// Puts a file behind a disk. Beside it: the file, opened O_DIRECT.
    AttachDisk {
        /// The disk's place in the specification.
        index: u8,
    },
    /// Loads a kernel. Beside it: the kernel and, if `initrd`, the initial RAM disk.
    Load {
        /// The kernel's command line.
        cmdline: String,
        /// Whether an initial RAM disk follows the kernel.
        initrd: bool,
    },
    /// What a machine that is to take over a state boots from when it is reset. Beside it: as beside `Load`.
    Image {
        /// The kernel's command line.
        cmdline: String,
        /// Whether an initial RAM disk follows the kernel.
        initrd: bool,
    },
    /// Takes back the locks of disks that were let go of in a stun. What the lease said before may be old by then: it is to be
    /// asked between this and `Resume`.
    TakeDisks,
    /// Lets the vCPUs run, for the first time or after a pause or a stun.
    Resume,
    /// The same, of a guest that moved to here, by who moved it: one that others let run here before stays as it is, running or paused by a person.
    ResumeArrived,
    /// Stops the vCPUs.
    Pause,
    /// Presses the power button.
    PowerButton,
    /// Asks how it is.
    Status,
    /// Asks for what a restarted control plane has to know again. Beside the answer: the memfd of the memory.
    Describe,
    /// From now on output of the guest's serial port is sent on this connection as `VmmAnswer::Serial`, beginning
    /// with what is kept of it; further requests on it are `Serial`. Who takes it so slowly that some is not kept any more
    /// is told in its place how much was skipped.
    SerialAttach,
    /// Bytes typed on the guest's serial port, at most 4,096; not answered.
    Serial(Vec<u8>),
    /// From now on events are sent on this connection; an event that happened before is sent again.
    Watch,
    /// Starts the dirty log. Beside it: a memfd that holds a bit for each page, least significant first.
    DirtyLogStart {
        /// It is wanted for a look only: a move that starts it takes it over, and it is refused where one has it.
        sample: bool,
    },
    /// Adds what was written since the last harvest to the bitmap in that memfd.
    DirtyLogHarvest,
    /// Ends the dirty log.
    DirtyLogStop,
    /// Slows the vCPUs that dirty to `100 - percent` % of their speed, all of them where it is not known which do; 0 lets them
    /// run freely. Each harvest tells anew which dirty.
    Throttle {
        /// 0 to 99.
        percent: u8,
    },
    /// Tells the networks where its NICs are, by a frame of the monitor's on each. Answered by `Announced`.
    Announce {
        /// Only if it was done before, only NICs of whose guest nothing was heard yet, and only while it runs.
        again: bool,
    },
    /// Asks the guest to announce itself on its networks; not waited for.
    AnnounceByGuest,
    /// Stops the vCPUs, drains the devices and saves their state. Answered with the state in a memfd.
    Save,
    /// Saves and restores the state of a machine that has none yet, to see how long that takes; it stays as it is. Answered by `Rehearsed`.
    Rehearse,
    /// Restores the state of a machine of the same specification. Beside it: a memfd that holds it.
    Restore {
        /// Bytes of state in the memfd.
        length: u64,
        /// What the guest's clocks are set forward to; without it they go on from where they were.
        clock: Option<GuestClock>,
    },
    /// Ends the process; the guest is gone.
    Quit,
}

/// What a monitor answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum VmmAnswer {
    /// Done.
    Done,
    /// Not done, and why, the chain of causes in one line.
    Failed(String),
    /// To `AttachDisk`: another has the file locked.
    DiskLocked,
    /// To `Status`.
    Status(VmmStatus),
    /// To `Describe`: the shape of the machine.
    Described(MachineSpec),
    /// Output of the guest's serial port, oldest first.
    Serial(Vec<u8>),
    /// To `DirtyLogHarvest`.
    Harvested {
        /// Pages that this harvest found dirty.
        pages: u64,
        /// How far each vCPU was slowed until now, percent.
        slowed: Vec<u8>,
    },
    /// To `Announce`.
    Announced {
        /// Frames that were sent.
        frames: u32,
        /// NICs of whose guest nothing was heard before: no frame of its own had left, and none had come for it.
        unheard: u32,
        /// How long ago they were told first, milliseconds; none where they never were.
        since_ms: Option<u64>,
    },
    /// To `Rehearse`: how long it took, the lesser of two times, microseconds.
    Rehearsed {
        /// Both together.
        us: u64,
    },
    /// To `Save`, where the guest had asked for a reset: it was reset, and runs.
    Reset,
    /// To `Save`. Beside it: a memfd with the state.
    Saved {
        /// Bytes of state.
        length: u64,
        /// From the first vCPU's signal until the last stood still and the devices were drained, microseconds.
        stop_us: u64,
        /// Saving, microseconds.
        save_us: u64,
        /// What the guest's kvmclock shows.
        clock: GuestClock,
    },
    /// On a connection that watches.
    Event(VmmEvent),
}

/// What a guest's kvmclock shows, or would show if the guest had not stood still. The moment goes with it, because an answer takes
/// its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestClock {
    ns: u64,
    /// Nanoseconds on the clock of this boot, which is the same in all processes.
    at_ns: u64,
}

impl GuestClock {
    /// It shows `ns` nanoseconds now.
    pub fn now(ns: u64) -> Self {
        Self { ns, at_ns: boot_clock::now().nanos() }
    }

    /// What it shows by now, nanoseconds.
    pub fn shows(&self) -> u64 {
        self.ns.saturating_add(boot_clock::now().nanos().saturating_sub(self.at_ns))
    }
}

/// How a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmStatus {
    /// Where it is in its life.
    pub life: VmmLife,
    /// CPU time that the vCPUs used, microseconds.
    pub cpu_us: u64,
    /// What the guest's kvmclock shows; none before the machine is built.
    pub clock: Option<GuestClock>,
    /// Requests of the guest to its disks that the storage failed, since this monitor built the machine.
    pub failed_requests: u64,
}

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmmLife {
    /// No machine was built.
    Empty,
    /// Built, not started.
    Built,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are stopped.
    Paused,
    /// The guest ended.
    Ended,
}

/// What happened to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmmEvent {
    /// It shut itself down.
    Shutdown,
    /// It asked for a reset.
    Reset,
    /// A fault while handling a double fault: the guest's kernel is broken.
    TripleFault,
    /// The machine cannot go on, and why.
    Failed(String),
}
