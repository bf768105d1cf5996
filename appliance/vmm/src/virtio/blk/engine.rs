//! The working half: takes requests off the ring, keeps many in flight, gives them back in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK};

use super::device::{ID_BYTES, QUEUE_SIZE};
use super::request::{self, Action, HEADER_BYTES, Limits, Request};
use crate::disk::ring::WatchToken;
use crate::disk::transfer::Kind;
use crate::disk::{Completion, DiskRing, RawDisk};
use crate::virtio::chain::{Chain, Segment, mark_dirty};
use crate::virtio::device::{Engine, Queues};
use crate::virtio::queue::VirtQueue;
use crate::virtio::worker::Control;

const KICK: WatchToken = WatchToken(0);
const CONTROL: WatchToken = WatchToken(1);

/// What serves the requests.
#[derive(Debug)]
pub struct BlkEngine {
    pub(super) disk: Option<RawDisk>,
    pub(super) limits: Limits,
    pub(super) id: [u8; ID_BYTES],
    /// Requests that the storage failed since the device was made.
    pub(super) failures: Arc<AtomicU64>,
    /// The driver flushes; without, every write is durable before it is acknowledged.
    pub(super) writeback: bool,
}

impl Engine for BlkEngine {
    fn ready(&self) -> bool {
        self.disk.is_some()
    }

    fn run(&mut self, queues: &mut Queues, control: &Control) {
        // The disk is taken last: a driver that enables no queue must not cost the device its file and the lock on it.
        let Some(queue) = queues.first_mut().and_then(Option::as_mut) else { return control.park() };
        let Some(disk) = self.disk.take() else { return control.park() };
        match DiskRing::new(disk, QUEUE_SIZE) {
            Ok(ring) => self.disk = Some(self.serve(ring, queue, control)),
            Err((disk, error)) => {
                log::error!("{}: io_uring cannot be set up: {error}", self.name());
                queue.refuse("the host has no ring for the disk");
                self.disk = Some(disk);
                control.park();
            }
        }
    }
}

impl BlkEngine {
    /// What the log calls it: its serial number, or that it is a disk.
    fn name(&self) -> String {
        let serial = String::from_utf8_lossy(&self.id);
        let serial = serial.trim_end_matches('\0');
        if serial.is_empty() { "a disk".to_owned() } else { serial.to_owned() }
    }

    fn serve(&self, ring: DiskRing, queue: &mut VirtQueue, control: &Control) -> RawDisk {
        let mut service = Service {
            engine: self,
            ring,
            free: (0..QUEUE_SIZE).rev().collect(),
            flights: (0..QUEUE_SIZE).map(|_| Flight::default()).collect(),
            chain: Chain::default(),
        };
        service.ring.watch(KICK, queue.kick());
        service.ring.watch(CONTROL, control.wake_descriptor());
        service.run(queue, control);
        service.ring.into_disk()
    }
}

/// A request in flight; the index is the ring's slot.
#[derive(Default)]
struct Flight {
    head: u16,
    status: Option<Segment>,
    data_in: usize,
    /// Guest memory that a read fills; the list keeps its capacity.
    filled: Vec<Segment>,
}

struct Service<'a> {
    engine: &'a BlkEngine,
    ring: DiskRing,
    free: Vec<u16>,
    flights: Vec<Flight>,
    chain: Chain,
}

impl Service<'_> {
    /// Ever more rarely: a guest can make requests fail as fast as it likes.
    fn note_failure(&mut self, error: &std::io::Error) {
        let failures = self.engine.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures.is_power_of_two() {
            log::warn!("{}: {failures} requests have failed, the last one with: {error}", self.engine.name());
        }
    }

    fn run(&mut self, queue: &mut VirtQueue, control: &Control) {
        let mut completions = Vec::with_capacity(2 * usize::from(QUEUE_SIZE));
        let mut look = true;
        loop {
            let stopping = control.stopping();
            if stopping && self.ring.in_flight() == 0 && control.agree_to_stop() {
                return;
            }
            if look && !control.stopping() {
                // Out of slots: the next completion makes room, and looks again.
                look = self.take_requests(queue);
                queue.notify();
            }
            if let Err(error) = self.ring.wait() {
                log::error!("{}: its ring is broken: {error}", self.engine.name());
                queue.refuse("the host's ring for the disk is broken");
                return control.park();
            }
            self.ring.reap(&mut completions);
            for completion in completions.drain(..) {
                match completion {
                    Completion::Done { slot, result } => {
                        if let Err(error) = &result {
                            self.note_failure(error);
                        }
                        self.finish(queue, slot, result.is_ok());
                    }
                    // A stop that was called off: requests may have come meanwhile.
                    Completion::Signalled(_) => look = true,
                }
            }
            queue.notify();
        }
    }

    /// Starts what the driver made available. True if slots ran out before requests did.
    fn take_requests(&mut self, queue: &mut VirtQueue) -> bool {
        queue.disable_kicks();
        loop {
            while let Some(slot) = self.free.pop() {
                if !queue.pop(&mut self.chain) {
                    self.free.push(slot);
                    break;
                }
                self.begin(queue, slot);
            }
            if self.free.is_empty() {
                return true;
            }
            if !queue.enable_kicks() {
                return false;
            }
        }
    }

    /// Begins the request in `self.chain`, in this free slot; it may be answered at once.
    fn begin(&mut self, queue: &mut VirtQueue, slot: u16) {
        let request = match request::parse(&self.chain, self.engine.limits) {
            Ok(request) => request,
            Err(what) => {
                self.free.push(slot);
                return queue.refuse(what);
            }
        };
        let flight = &mut self.flights[usize::from(slot)];
        (flight.head, flight.status, flight.data_in) = (self.chain.head, Some(request.status), 0);
        flight.filled.clear();
        let durable = !self.engine.writeback;
        let (kind, offset, length) = match request.action {
            Action::Answer(status) => return self.answer(queue, slot, status),
            Action::GetId => return self.give_id(queue, slot, &request),
            Action::Read { offset, length } => {
                flight.data_in = request.data_in;
                flight.filled.extend(self.chain.writable.range(0, request.data_in));
                let buffers = self.ring.buffers(slot);
                buffers.extend(flight.filled.iter().map(Segment::iovec));
                (Kind::Read, offset, length)
            }
            Action::Write { offset, length } => {
                let data = self.chain.readable.range(HEADER_BYTES, length as usize);
                self.ring.buffers(slot).extend(data.map(|segment| segment.iovec()));
                (Kind::Write { durable }, offset, length)
            }
            Action::Flush => (Kind::Flush, 0, 0),
            Action::Discard { offset, length } => (Kind::Discard, offset, length),
            Action::WriteZeroes { offset, length, unmap } => (Kind::WriteZeroes { unmap, durable }, offset, length),
        };
        // SAFETY: the buffers are guest memory, checked to be inside RAM when the chain was loaded; the queue holds the
        // mapping, and the ring is gone, with nothing in flight, before the queue leaves this thread.
        unsafe { self.ring.start(slot, kind, offset, length) };
    }

    fn give_id(&mut self, queue: &mut VirtQueue, slot: u16, request: &Request) {
        let length = request.data_in.min(ID_BYTES);
        self.chain.writable.write(queue.memory(), 0, &self.engine.id[..length]);
        self.flights[usize::from(slot)].data_in = length;
        self.answer(queue, slot, VIRTIO_BLK_S_OK as u8);
    }

    fn finish(&mut self, queue: &mut VirtQueue, slot: u16, ok: bool) {
        // A read that failed may have filled some of its buffers.
        for segment in &self.flights[usize::from(slot)].filled {
            mark_dirty(queue.memory(), segment);
        }
        self.answer(queue, slot, if ok { VIRTIO_BLK_S_OK } else { VIRTIO_BLK_S_IOERR } as u8);
    }

    /// Gives the request of a slot back with its status.
    fn answer(&mut self, queue: &mut VirtQueue, slot: u16, status: u8) {
        let flight = &mut self.flights[usize::from(slot)];
        if let Some(segment) = flight.status.take() {
            // SAFETY: a byte of guest RAM, checked when the chain was loaded; the queue holds the mapping.
            unsafe { segment.pointer.write_volatile(status) };
            mark_dirty(queue.memory(), &segment);
            queue.push_used(flight.head, flight.data_in as u32 + 1);
        }
        self.free.push(slot);
    }
}
