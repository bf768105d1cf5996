//! Carries the ledger's orders to a virtio disk, many at a time, and their answers back.

use core::cell::UnsafeCell;
use core::fmt;

use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;

use crate::virtio::bus::BusError;
use crate::virtio::channel::{self, Queue};
use crate::witness::journal::ledger::{Answer, Audit, Counts, Ledger, Order, Start};
use crate::witness::journal::record::{RECORD_BYTES, RECORD_WORDS, SECTOR_BYTES, Words};
use crate::witness::journal::survey::Damage;
use crate::witness::journal::{BURST, FLIGHTS_MAX, SLOTS_MIN, slots};
use crate::witness::pace::{FLAT_OUT, Pace};

/// The one queue of requests.
const QUEUE: u16 = 0;
/// VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO (virtio 1.2, section 5.2.3).
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_READ_ONLY: u64 = 1 << 5;
/// VIRTIO_BLK_T_IN, _OUT, _FLUSH (section 5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const STATUS_OK: u8 = 0;
/// No status that a device writes.
const STATUS_UNWRITTEN: u8 = 0xff;
/// Seconds without any answer after which an audit waits no longer for the rest.
const PATIENCE_S: u64 = 30;
const SECTORS: u64 = (RECORD_BYTES / SECTOR_BYTES) as u64;

/// What the device reads and writes for one request. A host that passes its page cache by wants sectors aligned.
#[repr(C, align(512))]
struct Buffers {
    words: Words,
    /// Type, reserved, sector: little-endian.
    header: [u8; 16],
    status: u8,
}

struct AllBuffers(UnsafeCell<[Buffers; FLIGHTS_MAX]>);

// SAFETY: the keeper alone uses them, of which there is one.
unsafe impl Sync for AllBuffers {}

static BUFFERS: AllBuffers = AllBuffers(UnsafeCell::new(
    [const { Buffers { words: [0; RECORD_WORDS], header: [0; 16], status: 0 } }; FLIGHTS_MAX],
));

/// Why a disk takes no journal.
#[derive(Debug)]
pub enum KeeperError {
    /// Its registers.
    Bus(BusError),
    /// It does not do what virtio demands.
    Device(virtio_drivers::Error),
    /// It takes no writes, or does not flush.
    Features,
    /// So many bytes are too few.
    Small(u64),
}

impl fmt::Display for KeeperError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Bus(error) => error.fmt(f),
            Self::Device(error) => write!(f, "it does not come up: {error}"),
            Self::Features => f.write_str("it is read-only or does not flush"),
            Self::Small(bytes) => {
                write!(f, "it has {bytes} bytes: give it {} at least", SLOTS_MIN * RECORD_BYTES)
            }
        }
    }
}

struct Flight {
    token: u16,
    order: Order,
    /// TSC when it was asked.
    since: u64,
}

/// The journal at work.
pub struct Keeper {
    transport: PciTransport,
    queue: Queue,
    flights: [Option<Flight>; FLIGHTS_MAX],
    ledger: Ledger,
    /// Bursts.
    pace: Pace,
    /// Records of the burst under way that are still to be written.
    burst: u64,
    tsc_hz: u64,
    /// TSC of the latest answer.
    heard: u64,
}

impl Keeper {
    /// Takes a disk, and begins with looking at what is on it. `rate` records a second are written from then on.
    ///
    /// # Errors
    /// [`KeeperError`]; the disk is left alone.
    pub fn new(
        transport: Result<PciTransport, BusError>,
        seed: u64,
        rate: u64,
        tsc_hz: u64,
        now: u64,
    ) -> Result<Self, KeeperError> {
        let mut transport = transport.map_err(KeeperError::Bus)?;
        let features = channel::introduce(&mut transport, FEATURE_FLUSH | FEATURE_READ_ONLY);
        if features.map_err(KeeperError::Device)? & (FEATURE_FLUSH | FEATURE_READ_ONLY) != FEATURE_FLUSH {
            return Err(KeeperError::Features);
        }
        let half = |at| transport.read_config_space::<u32>(at).map(u64::from);
        let sectors = half(0).and_then(|low| Ok(low | half(4)? << 32)).map_err(KeeperError::Device)?;
        let bytes = sectors.saturating_mul(SECTOR_BYTES as u64);
        let slots = slots(bytes).ok_or(KeeperError::Small(bytes))?;
        let queue = channel::queue(&mut transport, QUEUE).map_err(KeeperError::Device)?;
        transport.finish_init();
        let mut keeper = Self {
            transport,
            queue,
            flights: [const { None }; FLIGHTS_MAX],
            ledger: Ledger::new(slots, seed),
            pace: Pace::new(0, tsc_hz, now),
            burst: 0,
            tsc_hz,
            heard: now,
        };
        keeper.set_rate(rate, now);
        Ok(keeper)
    }

    /// Another rate, in records a second. They come in bursts, so that several are in flight however low the rate is.
    pub fn set_rate(&mut self, rate: u64, now: u64) {
        let bursts = if rate == FLAT_OUT { rate } else { rate.div_ceil(BURST) };
        self.pace.set_rate(bursts, now);
    }

    /// Takes answers and asks what is due; `between` is called after each part that takes long.
    pub fn step(&mut self, now: u64, mut between: impl FnMut()) {
        while let Some((order, is_done, index)) = self.take() {
            self.heard = now;
            // SAFETY: the device has given these buffers back.
            let words = unsafe { &(*buffers(index)).words };
            self.ledger.answered(order, if is_done { Answer::Done(words) } else { Answer::Failed });
            between();
        }
        if self.ledger.is_audited() && now.saturating_sub(self.heard) > PATIENCE_S * self.tsc_hz {
            self.ledger.give_audit_up();
        }
        if self.burst == 0 {
            self.burst = self.pace.take(now, 1) * BURST;
        }
        let mut asked = false;
        while let Some(index) = self.flights.iter().position(Option::is_none)
            && let Some(order) = self.ledger.order(self.burst > 0)
        {
            if let Order::Write { .. } = order {
                self.burst = self.burst.saturating_sub(1);
            }
            self.ask(index, order, now);
            asked = true;
            between();
        }
        if asked {
            channel::tell(&mut self.transport, &self.queue, QUEUE);
            between();
        }
    }

    fn ask(&mut self, index: usize, order: Order, now: u64) {
        let buffers = buffers(index);
        let (kind, slot) = match order {
            Order::Write { record, slot } => {
                // SAFETY: a free flight's buffers are ours.
                record.write(unsafe { &mut (*buffers).words });
                (OUT, slot)
            }
            Order::Read { slot } => (IN, slot),
            Order::Flush => (FLUSH, 0),
        };
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&(slot as u64 * SECTORS).to_le_bytes());
        // SAFETY: as above.
        unsafe {
            (&raw mut (*buffers).header).write(header);
            (&raw mut (*buffers).status).write_volatile(STATUS_UNWRITTEN);
        }
        // SAFETY: the buffers are static, and left alone until the device has given them back.
        let added = with_buffers(index, order, |inputs, outputs| unsafe { self.queue.add(inputs, outputs) });
        match added {
            Ok(token) => self.flights[index] = Some(Flight { token, order, since: now }),
            // There are descriptors for all flights.
            Err(error) => panic!("the disk's queue takes no request: {error}"),
        }
    }

    /// The next answer: what was asked, whether it was done, and the flight's buffers.
    fn take(&mut self) -> Option<(Order, bool, usize)> {
        let token = self.queue.peek_used()?;
        let is_its = |flight: &Option<Flight>| flight.as_ref().is_some_and(|flight| flight.token == token);
        let Some(index) = self.flights.iter().position(is_its) else {
            self.ledger.stop();
            return None;
        };
        let Flight { order, .. } = self.flights[index].take()?;
        // SAFETY: the same buffers as were added.
        let popped =
            with_buffers(index, order, |inputs, outputs| unsafe { self.queue.pop_used(token, inputs, outputs) });
        // SAFETY: the device has given it back; it wrote it behind the compiler's back.
        let status = unsafe { (&raw const (*buffers(index)).status).read_volatile() };
        Some((order, popped.is_ok() && status == STATUS_OK, index))
    }

    /// Milliseconds that the oldest request has waited for its answer at `now`; 0 if none is in flight.
    pub fn wait_ms(&self, now: u64) -> u64 {
        let oldest = self.flights.iter().flatten().map(|flight| flight.since).min();
        oldest.map_or(0, |since| now.saturating_sub(since) / (self.tsc_hz / 1000).max(1))
    }

    /// Has everything flushed and read back; the answer comes by [`Self::take_audit`].
    pub fn audit(&mut self, now: u64) {
        self.heard = now;
        self.ledger.audit();
    }

    /// The numbers so far.
    pub fn counts(&self) -> Counts {
        self.ledger.counts()
    }

    /// What was found at the start, once.
    pub fn take_start(&mut self) -> Option<Start> {
        self.ledger.take_start()
    }

    /// What an audit found, once.
    pub fn take_audit(&mut self) -> Option<Audit> {
        self.ledger.take_audit()
    }

    /// The next damage that was not described yet.
    pub fn take_damage(&mut self) -> Option<Damage> {
        self.ledger.take_damage()
    }
}

fn buffers(index: usize) -> *mut Buffers {
    BUFFERS.0.get().cast::<Buffers>().wrapping_add(index)
}

/// Calls `work` with the buffers that the device reads and those that it writes for an order.
fn with_buffers<T>(
    index: usize,
    order: Order,
    work: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> T,
) -> T {
    let buffers = buffers(index);
    // SAFETY: the flight's own buffers, within a static; the keeper makes one set of references at a time.
    let (header, words, status) = unsafe {
        let words = core::slice::from_raw_parts_mut((&raw mut (*buffers).words).cast::<u8>(), RECORD_BYTES);
        let header: &[u8; 16] = &(*buffers).header;
        (header, words, core::slice::from_mut(&mut (*buffers).status))
    };
    match order {
        Order::Write { .. } => work(&[header, words], &mut [status]),
        Order::Read { .. } => work(&[header], &mut [words, status]),
        Order::Flush => work(&[header], &mut [status]),
    }
}
