//! The lease area: bytes that both hosts read and write, each with its own reachability.

use protocol::lease::identity::{AreaId, Slot};
use protocol::lease::keeper::{Access, IoResult};
use protocol::lease::layout::{Area, Extent, Geometry, Place};
use protocol::time::{Duration, Instant};

use super::host::Side;
use crate::disk::Disk;
use crate::rng::Rng;

/// The sectors.
#[derive(Clone, Debug)]
pub struct Datastore {
    rng: Rng,
    disk: Disk,
    away_until: [Instant; 2],
    slowest: Duration,
    /// Both copies of this host's records about the VM, in its first place, cannot be read before then.
    damaged: Option<(Slot, Instant)>,
}

/// The area that every world has: two hosts, one VM.
pub fn area() -> Area {
    let geometry = Geometry::new(512, 4, 4).expect("a small area is within the limits");
    Area { id: AreaId(0x60d), geometry }
}

/// What becomes of an access.
#[derive(Clone, Debug)]
pub struct Course {
    /// When the bytes are read or written, if they are.
    pub applied: Option<Instant>,
    /// When its end is told.
    pub ends: Instant,
    /// What is told.
    pub succeeds: bool,
}

impl Datastore {
    /// An empty area; an access takes `slowest` at most.
    pub fn new(rng: Rng, slowest: Duration) -> Self {
        let disk = Disk::new(area().geometry.area_bytes());
        Self { rng, disk, away_until: [Instant::ZERO; 2], slowest, damaged: None }
    }

    /// The area cannot be reached from this side until then.
    pub fn goes_away(&mut self, side: Side, until: Instant) {
        self.away_until[side.index()] = self.away_until[side.index()].max(until);
    }

    /// What one of the hosts wrote about the VM cannot be read until then; it is there all the same. In the place that the VM
    /// has at first: a new lease has another.
    pub fn is_damaged(&mut self, until: Instant) {
        let slot = Slot(self.rng.below(2) as u16);
        self.damaged = Some((slot, until));
    }

    /// Whether that will never be read again.
    pub fn is_damaged_for_good(&self) -> bool {
        self.damaged.is_some_and(|(_, until)| until == Instant::NEVER)
    }

    /// The area can be reached from both sides again.
    pub fn heals(&mut self) {
        self.away_until = [Instant::ZERO; 2];
    }

    /// Decides what becomes of an access that begins now.
    pub fn course(&mut self, now: Instant, side: Side) -> Course {
        let took = self.rng.latency(Duration::from_micros(200), self.slowest);
        let half = took / 2;
        if now >= self.away_until[side.index()] {
            return Course { applied: Some(now + half), ends: now + took, succeeds: true };
        }
        // It fails at once, or hangs until whoever waits has had enough; it may have had its effect all the same.
        let hangs = self.rng.chance(500_000);
        let ends = now + if hangs { Duration::from_secs(5) } else { took };
        let applied = self.rng.chance(300_000).then(|| now + self.rng.span(Duration::ZERO, ends.since(now)));
        Course { applied, ends, succeeds: false }
    }

    /// Reads or writes.
    pub fn apply(&mut self, now: Instant, access: &Access) -> IoResult {
        match access {
            Access::Read { offset, bytes } => {
                let mut read = self.disk.read(*offset, *bytes).to_vec();
                for lost in self.lost(now) {
                    let first = lost.offset.saturating_sub(*offset) as usize;
                    if lost.offset >= *offset && first + lost.bytes <= read.len() {
                        read[first..first + lost.bytes].fill(0xA5);
                    }
                }
                IoResult::Read(read)
            }
            Access::Write { offset, data } => {
                self.disk.write(*offset, data);
                IoResult::Written
            }
        }
    }

    fn lost(&self, now: Instant) -> Vec<Extent> {
        let Some((slot, _)) = self.damaged.filter(|(_, until)| now < *until) else { return Vec::new() };
        let bank = area().geometry.vm(Place(0));
        (0..2).map(|sector| bank.sector(slot, sector)).collect()
    }
}
