//! The guest and its VMM: pages are version numbers, 0 for a page of zeros.

use protocol::pages::{PAGE_BYTES, PageSet};
use protocol::session::ClockReading;
use protocol::time::Instant;
use protocol::verify::PageHash;
use protocol::wire::message::RunState;

use super::event::Event;
use super::host::Side;
use super::invariants::{self as promise, Kept};
use super::world::World;

/// Pages of the guest: the least memory that a VM may have.
pub const PAGES: u64 = 4096;
/// Pages that the guest uses.
pub const WORKING_SET: u64 = 192;

/// Where the working set lies: scattered over memory.
pub fn place(index: u64) -> u64 {
    (index % WORKING_SET) * 21 + 5
}

/// The page in which KVM keeps the guest's clock: restoring a state writes to it.
pub const CLOCK_PAGE: u64 = 1;

/// What a VMM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The vCPUs run (or a person paused them: `run_state` of the VMM tells).
    Running,
    /// Stopped for a move.
    Stunned,
    /// Memory of a guest that is about to arrive.
    Incoming,
    /// The same, and the state was restored: the source had handed over.
    Loaded,
}

/// One VMM process and its guest.
#[derive(Clone, Debug)]
pub struct Vmm {
    /// Tells one process from the next.
    pub id: u64,
    /// What it does.
    pub life: Life,
    /// Running or paused, when it is not stunned.
    pub run_state: RunState,
    /// The content of each page.
    pub pages: Vec<u64>,
    /// The dirty log.
    pub dirty: PageSet,
    /// Whether the dirty log is on.
    pub log: bool,
    /// The log was never harvested: every page is marked, and no write is seen until the marks are taken (KVM's
    /// INITIALLY_SET).
    pub all_marked: bool,
    /// vCPU state: how many writes the guest has made.
    pub writes: u64,
    /// How far the guest's clock is ahead of the time of this world, nanoseconds; behind is negative.
    pub clock_ahead_ns: i64,
}

impl Vmm {
    /// A VMM with zeroed memory.
    pub fn new(id: u64, life: Life, run_state: RunState) -> Self {
        let pages = vec![0; PAGES as usize];
        Self {
            id,
            life,
            run_state,
            pages,
            dirty: PageSet::empty(PAGES),
            log: false,
            all_marked: false,
            writes: 0,
            clock_ahead_ns: 0,
        }
    }

    /// What the guest's clock shows, nanoseconds.
    pub fn clock_ns(&self, now: Instant) -> u64 {
        now.nanos().saturating_add_signed(self.clock_ahead_ns)
    }

    /// The guest, or a device, writes a page.
    pub fn write(&mut self, page: u64, version: u64) {
        self.pages[page as usize] = version;
        if self.log && !self.all_marked {
            self.dirty.insert(page);
        }
    }

    /// Turns the dirty log on.
    pub fn start_log(&mut self) {
        self.log = true;
        self.all_marked = true;
    }

    /// Takes the dirty log out.
    pub fn harvest(&mut self) -> PageSet {
        if std::mem::take(&mut self.all_marked) {
            return PageSet::full(PAGES);
        }
        std::mem::replace(&mut self.dirty, PageSet::empty(PAGES))
    }

    /// Whether vCPUs execute.
    pub fn executes(&self) -> bool {
        self.life == Life::Running && self.run_state == RunState::Running
    }

    /// The state that travels.
    pub fn state(&self, now: Instant) -> Vec<u8> {
        let mut state = self.writes.to_le_bytes().to_vec();
        state.extend(self.clock_ns(now).to_le_bytes());
        state.resize(3000, 7);
        state
    }

    /// Restores a state; the clock goes on from where it was, or further on where it is known what it should show.
    pub fn restore(&mut self, state: &[u8], clock: Option<ClockReading>, now: Instant) {
        let number = |at: usize| state.get(at..).and_then(|rest| rest.first_chunk::<8>()).copied().unwrap_or_default();
        self.writes = u64::from_le_bytes(number(0));
        let clock_ns = u64::from_le_bytes(number(8)).max(clock.map_or(0, |clock| clock.at(now)));
        self.clock_ahead_ns = clock_ns.wrapping_sub(now.nanos()).cast_signed();
        self.write(CLOCK_PAGE, now.nanos());
        self.life = Life::Loaded;
    }
}

/// The bytes of a page.
pub fn content(version: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

/// The version that a page's bytes hold.
pub fn version(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().copied().map_or(0, u64::from_le_bytes)
}

/// The hash of a page. Hashing the eight bytes that differ is enough here.
pub fn hash(version: u64) -> PageHash {
    if version == 0 { PageHash::zero() } else { PageHash::of(&version.to_le_bytes()) }
}

impl World {
    pub(super) fn guest_writes(&mut self, side: Side, id: u64) {
        let executes = match &self.hosts[side.index()].vmm {
            Some(vmm) if vmm.id == id => vmm.executes(),
            _ => return,
        };
        if executes {
            let page = place(self.rng.below(WORKING_SET));
            self.guest_writes_page(side, page);
        }
        let throttle = u64::from(self.hosts[side.index()].throttle.min(99));
        let every = self.setup.write_every * 100 / (100 - throttle);
        self.queue.after(every, Event::GuestWrites(side, id));
    }

    pub(super) fn guest_writes_page(&mut self, side: Side, page: u64) {
        self.writes += 1;
        // Now and then a page becomes zero again.
        let version = if self.rng.chance(100_000) { 0 } else { self.writes };
        let writes = self.writes;
        if let Some(vmm) = &mut self.host(side).vmm {
            vmm.write(page, version);
            vmm.writes = writes;
            self.truth[page as usize] = version;
        }
    }

    /// A guest is let go: the moment of truth.
    pub(super) fn guest_is_let_go(&mut self, side: Side) -> Kept {
        let now = self.queue.now();
        let holds = self.holds(side, now);
        let host = &self.hosts[side.index()];
        promise::the_runner_holds_the_lease(host, holds)?;
        promise::every_page_arrives(host, &self.truth, self.writes)?;
        promise::the_run_state_travels(host, self.setup.run_state)?;
        promise::at_most_one_host_runs(&self.hosts)
    }

    pub(super) fn hashes(&self, side: Side, first: u64, count: u64) -> Vec<PageHash> {
        let vmm = self.hosts[side.index()].vmm.as_ref();
        let pages = vmm.map_or(&[][..], |vmm| &vmm.pages[first as usize..(first + count) as usize]);
        pages.iter().map(|version| hash(*version)).collect()
    }
}
