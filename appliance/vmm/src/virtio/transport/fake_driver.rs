//! The guest's side for tests: a machine without KVM, and a driver that finds a device on the bus, sets it up and uses its
//! rings the way a guest's driver does: through configuration space, BAR, memory, doorbells and interrupts only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::layout;
use super::{VirtioPci, Wiring};
use crate::bus::{Bus, Shared, enter};
use crate::interrupt::fake::{FakeDoorbells, FakeMsi};
use crate::interrupt::{DoorbellAddress, MsiMessage};
use crate::memory::{GuestMemory, Layout};
use crate::pci::{BarWindows, PciFunction};
use crate::virtio::device::VirtioDevice;

pub(crate) const MEMORY_BYTES: u64 = 32 << 20;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
/// Rings lie from here, one MiB a queue; below is the test's own memory.
const RINGS: u64 = 24 << 20;
const MSI_ADDRESS: u64 = 0xfee0_0000;
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine without KVM.
pub(crate) struct Bench {
    pub(crate) memory: GuestMemory,
    pub(crate) mmio: Bus,
    pub(crate) msi: Arc<FakeMsi>,
    pub(crate) bells: Arc<FakeDoorbells>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_memory(GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES as usize)]).unwrap())
    }

    pub(crate) fn with_memory(memory: GuestMemory) -> Self {
        Self { memory, mmio: Bus::new(), msi: Arc::default(), bells: Arc::default() }
    }

    pub(crate) fn wiring(&self) -> Wiring {
        Wiring {
            mmio: self.mmio.clone(),
            windows: BarWindows::of(&Layout::new(MEMORY_BYTES).unwrap()),
            memory: self.memory.clone(),
            msi: self.msi.clone(),
            doorbells: self.bells.clone(),
        }
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(crate) fn u16_at(&self, address: u64) -> u16 {
        self.memory.load(GuestAddress(address), std::sync::atomic::Ordering::Acquire).unwrap()
    }

    fn store_u16(&self, address: u64, value: u16) {
        self.memory.store(value, GuestAddress(address), std::sync::atomic::Ordering::SeqCst).unwrap();
    }

    /// Forgets which pages were written.
    pub(crate) fn clean(&self) {
        self.memory.iter().for_each(|region| (**region).bitmap().reset());
    }

    pub(crate) fn is_dirty(&self, address: u64) -> bool {
        let (region, at) = self.memory.to_region_addr(GuestAddress(address)).unwrap();
        region.bitmap().dirty_at(at.0 as usize)
    }
}

/// Polls until `done`; a wait without end is a failure, not a hang.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// The driver's side of one queue. It is plain data: clone it to go on with it on another machine.
#[derive(Clone)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    indirect: u64,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    pub(crate) next_available: u16,
    used_seen: u16,
}

pub(crate) type Piece = (u64, u32, u16);

/// A driver bound to a device.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) bar: u64,
    pub(crate) rings: Vec<Ring>,
    pub(crate) features: u64,
}

impl Driver {
    /// Finds the BAR and asks the device to be reset.
    pub(crate) fn find<D: VirtioDevice>(bench: &Bench, function: &Shared<VirtioPci<D>>) -> Self {
        let mut bar = [0; 8];
        enter(function).read_config(0x10, &mut bar);
        let driver = Self { bar: u64::from_le_bytes(bar) & !0xf, rings: Vec::new(), features: 0 };
        driver.reset(bench);
        driver
    }

    pub(crate) fn out(&self, bench: &Bench, offset: u64, bytes: &[u8]) {
        assert!(bench.mmio.write(self.bar + offset, bytes));
    }

    pub(crate) fn input<const N: usize>(&self, bench: &Bench, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert!(bench.mmio.read(self.bar + offset, &mut bytes));
        bytes
    }

    pub(crate) fn status(&self, bench: &Bench) -> u8 {
        self.input::<1>(bench, 0x14)[0]
    }

    pub(crate) fn reset(&self, bench: &Bench) {
        self.out(bench, 0x14, &[0]);
        wait_until("the device is reset", || self.status(bench) == 0);
    }

    /// Negotiates all offered features that are in `wanted`, and VERSION_1.
    pub(crate) fn negotiate(&mut self, bench: &Bench, wanted: u64) {
        self.out(bench, 0x14, &[1]);
        self.out(bench, 0x14, &[3]);
        let mut offered = 0;
        for half in 0..2u32 {
            self.out(bench, 0x00, &half.to_le_bytes());
            offered |= u64::from(u32::from_le_bytes(self.input(bench, 0x04))) << (32 * half);
        }
        self.features = offered & (wanted | 1 << 32);
        for half in 0..2u32 {
            self.out(bench, 0x08, &half.to_le_bytes());
            self.out(bench, 0x0c, &((self.features >> (32 * half)) as u32).to_le_bytes());
        }
        self.out(bench, 0x14, &[0xb]);
        assert_eq!(self.status(bench), 0xb, "the device accepts the features");
    }

    /// Sets up MSI-X with vector i + 1 for queue i and vector 0 for configuration.
    pub(crate) fn set_up_interrupts<D: VirtioDevice>(&self, bench: &Bench, function: &Shared<VirtioPci<D>>) {
        let queues = u16::from_le_bytes(self.input(bench, 0x12));
        for vector in 0..=queues {
            let entry = layout::MSIX_TABLE + u64::from(vector) * 16;
            self.out(bench, entry, &MSI_ADDRESS.to_le_bytes());
            self.out(bench, entry + 8, &u32::from(vector).to_le_bytes());
            self.out(bench, entry + 12, &[0; 4]);
        }
        let mut function = enter(function);
        let mut at = [0; 1];
        function.read_config(0x34, &mut at);
        function.write_config(usize::from(at[0]) + 2, &0x8000u16.to_le_bytes());
        drop(function);
        self.out(bench, 0x10, &0u16.to_le_bytes());
        for queue in 0..queues {
            self.out(bench, 0x16, &queue.to_le_bytes());
            self.out(bench, 0x1a, &(queue + 1).to_le_bytes());
            assert_eq!(u16::from_le_bytes(self.input(bench, 0x1a)), queue + 1);
        }
    }

    pub(crate) fn add_queue(&mut self, bench: &Bench, index: u16, size: u16) {
        let base = RINGS + (u64::from(index) << 20);
        let ring = Ring {
            size,
            descriptors: base,
            available: base + 0x4000,
            used: base + 0x8000,
            indirect: base + 0x1_0000,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); usize::from(size)],
            next_available: 0,
            used_seen: 0,
        };
        bench.write(base, &vec![0; 0x1_0000]);
        self.out(bench, 0x16, &index.to_le_bytes());
        self.out(bench, 0x18, &size.to_le_bytes());
        self.out(bench, 0x20, &ring.descriptors.to_le_bytes());
        self.out(bench, 0x28, &(ring.available as u32).to_le_bytes());
        self.out(bench, 0x2c, &((ring.available >> 32) as u32).to_le_bytes());
        self.out(bench, 0x30, &ring.used.to_le_bytes());
        self.out(bench, 0x1c, &1u16.to_le_bytes());
        self.rings.push(ring);
    }

    pub(crate) fn start(&self, bench: &Bench) {
        self.out(bench, 0x14, &[0xf]);
    }

    /// All of it: queues of the given size, interrupts, started.
    pub(crate) fn bind<D: VirtioDevice>(
        bench: &Bench,
        function: &Shared<VirtioPci<D>>,
        wanted: u64,
        size: u16,
    ) -> Self {
        let mut driver = Self::find(bench, function);
        driver.negotiate(bench, wanted);
        driver.set_up_interrupts(bench, function);
        for index in 0..u16::from_le_bytes(driver.input(bench, 0x12)) {
            driver.add_queue(bench, index, size);
        }
        driver.start(bench);
        assert_eq!(driver.status(bench), 0xf);
        driver
    }

    /// Rings the queue's doorbell as the kernel would, if the device asked for it.
    pub(crate) fn kick(&self, bench: &Bench, queue: u16) {
        let at = DoorbellAddress::Mmio(self.bar + layout::NOTIFY + u64::from(queue) * layout::NOTIFY_STEP);
        assert!(bench.bells.ring(at, queue), "the doorbell is registered");
    }

    /// Interrupts that arrived, by vector.
    pub(crate) fn interrupts(bench: &Bench) -> Vec<u32> {
        let vectors = bench.msi.take_delivered().into_iter();
        vectors
            .map(|MsiMessage { address, data }| {
                assert_eq!(address, MSI_ADDRESS);
                data
            })
            .collect()
    }
}

impl Ring {
    /// Makes a chain available, without telling; gives its head.
    pub(crate) fn add(&mut self, bench: &Bench, pieces: &[Piece]) -> u16 {
        let indexes: Vec<u16> = pieces.iter().map(|_| self.free.pop().expect("free descriptors")).collect();
        for (at, (address, length, flags)) in pieces.iter().enumerate() {
            let next = indexes.get(at + 1).copied();
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            self.describe(bench, self.descriptors, indexes[at], (*address, *length, flags), next.unwrap_or(0));
        }
        let head = indexes[0];
        self.chains[usize::from(head)] = indexes;
        self.publish(bench, head);
        head
    }

    /// The same through an indirect table.
    pub(crate) fn add_indirect(&mut self, bench: &Bench, pieces: &[Piece]) -> u16 {
        let head = self.free.pop().expect("free descriptors");
        let table = self.indirect + u64::from(head) * 0x400;
        for (at, (address, length, flags)) in pieces.iter().enumerate() {
            let last = at + 1 == pieces.len();
            let flags = flags | if last { 0 } else { NEXT };
            self.describe(bench, table, at as u16, (*address, *length, flags), if last { 0 } else { at as u16 + 1 });
        }
        self.describe(bench, self.descriptors, head, (table, 16 * pieces.len() as u32, INDIRECT), 0);
        self.chains[usize::from(head)] = vec![head];
        self.publish(bench, head);
        head
    }

    pub(crate) fn describe(&self, bench: &Bench, table: u64, index: u16, (address, length, flags): Piece, next: u16) {
        let mut bytes = Vec::from(address.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        bench.write(table + u64::from(index) * 16, &bytes);
    }

    pub(crate) fn table(&self) -> u64 {
        self.descriptors
    }

    /// Puts a head into the available ring.
    pub(crate) fn publish(&mut self, bench: &Bench, head: u16) {
        let slot = u64::from(self.next_available % self.size);
        bench.store_u16(self.available + 4 + 2 * slot, head);
        self.next_available = self.next_available.wrapping_add(1);
        bench.store_u16(self.available + 2, self.next_available);
    }

    /// Interrupt me when the used index passes this (EVENT_IDX).
    pub(crate) fn set_used_event(&self, bench: &Bench, index: u16) {
        bench.store_u16(self.available + 4 + 2 * u64::from(self.size), index);
    }

    /// Requests given back since the last call: head and length.
    pub(crate) fn take_used(&mut self, bench: &Bench) -> Vec<(u16, u32)> {
        let mut taken = Vec::new();
        while bench.u16_at(self.used + 2) != self.used_seen {
            let element = bench.read(self.used + 4 + 8 * u64::from(self.used_seen % self.size), 8);
            let head = u32::from_le_bytes(element[..4].try_into().unwrap()) as u16;
            self.free.append(&mut std::mem::take(&mut self.chains[usize::from(head)]));
            taken.push((head, u32::from_le_bytes(element[4..].try_into().unwrap())));
            self.used_seen = self.used_seen.wrapping_add(1);
        }
        taken
    }

    /// Waits until this many requests were given back.
    pub(crate) fn wait_used(&mut self, bench: &Bench, count: usize) -> Vec<(u16, u32)> {
        let mut taken = Vec::new();
        wait_until("requests come back", || {
            taken.extend(self.take_used(bench));
            taken.len() >= count
        });
        taken
    }
}
