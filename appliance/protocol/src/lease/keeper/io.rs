//! The I/O of a keeper: what is to be done, for what, and what its end means.

use model::limits;

use super::machine::{Effect, Keeper};
use super::requests::RequestId;
use crate::lease::layout::Bank;
use crate::lease::register;
use crate::lease::round::{Ask, Ended};
use crate::lease::vm_lease::VmJob;
use crate::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(limits::LEASE_POLL_MS);
const RETRY: Duration = Duration::from_millis(limits::LEASE_RETRY_MS);

/// Names an I/O in its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// What must not wait for what: each lane has a thread of its own, so that a hung read of a VM's blocks does not
/// hold up a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Writes of the own record.
    Renewal,
    /// Looks at the host bank.
    Watch,
    /// All else.
    Work,
}

/// One access to the area: a multiple of the stride, aligned to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read so many bytes.
    Read {
        /// From here.
        offset: u64,
        /// So many.
        bytes: usize,
    },
    /// Write these bytes, synchronously.
    Write {
        /// To here.
        offset: u64,
        /// These.
        data: Vec<u8>,
    },
}

/// An I/O to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    /// Its name.
    pub id: IoId,
    /// Its lane.
    pub lane: Lane,
    /// What to do.
    pub access: Access,
}

/// The end of an I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoResult {
    /// The bytes that were read, as many as were asked for.
    Read(Vec<u8>),
    /// The write is on the disk.
    Written,
    /// It failed, was short, or was not answered in time; a write may still reach the disk.
    Failed,
}

/// What an I/O is for.
#[derive(Debug)]
pub(super) enum Purpose {
    Look(Instant),
    Renew(u64),
    Directory,
    Vm(RequestId),
    /// A write whose job ended with the life that asked for it.
    Orphan,
}

impl Keeper {
    pub(super) fn ask(&mut self, bank: Bank, ask: Ask, purpose: Purpose) {
        match ask {
            Ask::Read => {
                let extent = bank.extent();
                let access = Access::Read { offset: extent.offset, bytes: extent.bytes };
                self.io(Lane::Work, access, purpose, None);
            }
            Ask::Write(write) => {
                let (offset, data) = register::write(bank, self.area.id, write.slot, write.sequence, &write.block);
                self.io(Lane::Work, Access::Write { offset, data }, purpose, Some(bank));
            }
        }
    }

    pub(super) fn io(&mut self, lane: Lane, access: Access, purpose: Purpose, writes: Option<Bank>) {
        self.ios += 1;
        let id = IoId(self.ios);
        if let Some(bank) = writes {
            self.resting.write_begins(bank);
        }
        self.io.insert(id, (purpose, writes));
        self.effects.push_back(Effect::Io(Io { id, lane, access }));
    }

    pub(super) fn look(&mut self, now: Instant) {
        self.look_at = now + POLL;
        if self.looking {
            return;
        }
        self.looking = true;
        let extent = self.area.geometry.hosts().extent();
        let access = Access::Read { offset: extent.offset, bytes: extent.bytes };
        self.io(Lane::Watch, access, Purpose::Look(now), None);
    }

    pub(super) fn io_ended(&mut self, now: Instant, id: IoId, result: &IoResult) {
        let Some((purpose, writes)) = self.io.remove(&id) else { return };
        if let Some(bank) = writes {
            self.resting.write_ended(now, bank, matches!(result, IoResult::Failed));
        }
        let ended = match result {
            IoResult::Read(bytes) => Ended::Read(bytes),
            IoResult::Written => Ended::Written,
            IoResult::Failed => Ended::Failed,
        };
        match purpose {
            Purpose::Look(began) => self.looked(now, began, ended),
            Purpose::Renew(ticket) => self.own.handle_written(now, ticket, matches!(ended, Ended::Written)),
            Purpose::Directory => {
                let (area, chance) = (self.area, self.context(now).map_or(0, |context| context.chance));
                if let Some(me) = self.life {
                    self.directory.ended(now, area, me, chance, ended);
                }
            }
            Purpose::Vm(request) => self.drive(now, request, |job, context| Some(job.ended(context, ended))),
            Purpose::Orphan => {}
        }
    }

    fn looked(&mut self, now: Instant, began: Instant, ended: Ended<'_>) {
        self.looking = false;
        if let Ended::Read(bytes) = ended {
            self.watch.observe(self.area, began, now, bytes);
            self.own.handle_hosts(now, began, &self.watch);
            self.follow_life(now);
            let jobs: Vec<RequestId> = self.active.keys().copied().collect();
            for id in jobs {
                self.drive(now, id, VmJob::looked);
            }
        } else {
            self.look_at = self.look_at.min(now + RETRY);
        }
        if std::mem::take(&mut self.look_again) {
            self.look(now);
        }
    }
}
