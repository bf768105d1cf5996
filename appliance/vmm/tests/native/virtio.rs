//! virtio devices on real machines: doorbells by ioeventfd, interrupts by irqfd, moves between machines with requests under way.

use std::os::unix::fs::FileExt;

use vmm::machine::DiskSpec;
use vmm::memory::layout::ECAM_START;
use vmm::pci::slots;

use super::messenger::{Messenger, VECTOR};
use super::*;

const DISK_BYTES: u64 = 8 << 20;
const QUEUE: u16 = 64;
const TABLE: u64 = 0x60_0000;
const AVAILABLE: u64 = 0x61_0000;
const USED: u64 = 0x62_0000;
const HEADERS: u64 = 0x63_0000;
const STATUSES: u64 = 0x64_0000;
const DATA: u64 = 0x80_0000;
const NOTIFY: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A machine with a disk, and the test as the disk's driver.
struct Rig {
    machine: Machine,
    memory: File,
    disk: File,
    bar: u64,
    next: u16,
    seen: u16,
}

fn spec_with_disk() -> MachineSpec {
    let disk = DiskSpec { capacity_bytes: DISK_BYTES, read_only: false, serial: "native".into() };
    MachineSpec { disks: vec![disk], rng: true, ..spec(1, MEMORY_BYTES) }
}

fn machine(memory: &File) -> Option<Machine> {
    let memory = memory.try_clone().unwrap().into();
    Some(Machine::build(spec_with_disk(), Resources { kvm: kvm()?, memory, taps: vec![] }).unwrap())
}

fn rig() -> Option<Rig> {
    let memory = File::from(memfd(MEMORY_BYTES));
    let disk = File::from(memfd(DISK_BYTES));
    let mut machine = machine(&memory)?;
    machine.attach_disk(0, disk.try_clone().unwrap()).unwrap();
    machine.load(Messenger::image(), None, "").unwrap();
    Messenger(&memory).prepare();
    machine.start().unwrap();
    let bar = slots::bar_start(slots::DISK_SLOT);
    let rig = Rig { machine, memory, disk, bar, next: 0, seen: 0 };
    rig.set_up();
    Some(rig)
}

fn config(register: u64) -> u64 {
    ECAM_START + u64::from(slots::DISK_SLOT) * 0x8000 + register
}

impl Rig {
    fn guest(&self) -> Messenger<'_> {
        Messenger(&self.memory)
    }

    /// Negotiates flush, sets up vectors and the queue, starts the device.
    fn set_up(&self) {
        let guest = self.guest();
        assert_eq!(guest.read(config(0), 4), 0x1042_1af4);
        guest.write(self.bar + 0x14, 1, 0);
        guest.write(self.bar + 0x14, 1, 3);
        for (half, features) in [(0, 1 << 9), (1, 1)] {
            guest.write(self.bar + 0x08, 4, half);
            guest.write(self.bar + 0x0c, 4, features);
        }
        guest.write(self.bar + 0x14, 1, 0xb);
        assert_eq!(guest.read(self.bar + 0x14, 1), 0xb);
        for vector in 0..2 {
            let entry = self.bar + MSIX_TABLE + vector * 16;
            guest.write(entry, 8, 0xfee0_0000);
            guest.write(entry + 8, 4, u64::from(VECTOR) + vector);
            guest.write(entry + 12, 4, 0);
        }
        let capability = guest.read(config(0x34), 1);
        assert_eq!(guest.read(config(capability), 1), 0x11, "MSI-X comes first");
        guest.write(config(capability + 2), 2, 0x8000);
        guest.write(self.bar + 0x10, 2, 0);
        guest.write(self.bar + 0x16, 2, 0);
        guest.write(self.bar + 0x1a, 2, 1);
        guest.write(self.bar + 0x18, 2, u64::from(QUEUE));
        for (register, address) in [(0x20, TABLE), (0x28, AVAILABLE), (0x30, USED)] {
            guest.write(self.bar + register, 4, address);
        }
        guest.write(self.bar + 0x1c, 2, 1);
        guest.write(self.bar + 0x14, 1, 0xf);
        assert_eq!(guest.read(self.bar + 0x14, 1), 0xf);
    }

    /// Makes a request of 4 KiB available; which of the slots 0 to 20 it uses is the caller's choice.
    fn add(&mut self, slot: u64, kind: u32, page: u64) {
        let mut header = Vec::from(kind.to_le_bytes());
        header.extend([0; 4]);
        header.extend((page * 8).to_le_bytes());
        self.memory.write_all_at(&header, HEADERS + slot * 16).unwrap();
        self.memory.write_all_at(&[0xee], STATUSES + slot).unwrap();
        let into = if kind == 0 { WRITE } else { 0 };
        let first = slot as u16 * 3;
        let pieces =
            [(HEADERS + slot * 16, 16u32, NEXT), (DATA + slot * 4096, 4096, NEXT | into), (STATUSES + slot, 1, WRITE)];
        for (at, (address, length, flags)) in (first..).zip(pieces) {
            let mut descriptor = Vec::from(address.to_le_bytes());
            descriptor.extend(length.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend((at + 1).to_le_bytes());
            self.memory.write_all_at(&descriptor, TABLE + u64::from(at) * 16).unwrap();
        }
        let entry = AVAILABLE + 4 + 2 * u64::from(self.next % QUEUE);
        self.memory.write_all_at(&first.to_le_bytes(), entry).unwrap();
        self.next = self.next.wrapping_add(1);
        self.memory.write_all_at(&self.next.to_le_bytes(), AVAILABLE + 2).unwrap();
    }

    fn ring(&self) {
        self.guest().write(self.bar + NOTIFY, 2, 0);
    }

    /// Waits for as many requests as were made available; gives their slots.
    fn wait(&mut self) -> Vec<u64> {
        let mut slots = Vec::new();
        while self.seen != self.next {
            let index = || (word(&self.memory, USED) >> 16) as u16;
            wait_until("a request comes back", || index() != self.seen);
            let entry = USED + 4 + 8 * u64::from(self.seen % QUEUE);
            let slot = u64::from(word(&self.memory, entry) / 3);
            assert_eq!(word(&self.memory, STATUSES + slot) & 0xff, 0, "status of request {slot}");
            slots.push(slot);
            self.seen = self.seen.wrapping_add(1);
        }
        slots
    }

    fn interrupts(&self) -> u32 {
        self.guest().interrupts(VECTOR + 1)
    }

    /// Into a new machine round the same memory, the disk's file behind it.
    fn hop(&mut self) {
        let mut target = machine(&self.memory).unwrap();
        self.machine.pause().unwrap();
        let state = self.machine.export_state().unwrap();
        target.import_state(&state, None).unwrap();
        target.attach_disk(0, self.machine.detach_disk(0).unwrap()).unwrap();
        target.resume().unwrap();
        self.machine = target;
    }
}

fn pattern(seed: u64) -> Vec<u8> {
    (0..4096u64).map(|at| (at * 13 + seed * 7 + at / 256) as u8).collect()
}

#[test]
fn a_guest_rings_and_the_disk_answers_by_interrupt() {
    let Some(mut rig) = rig() else { return };
    for round in 0..300u64 {
        let slot = round % 20;
        rig.memory.write_all_at(&pattern(round), DATA + slot * 4096).unwrap();
        let before = rig.interrupts();
        rig.add(slot, 1, round);
        rig.ring();
        assert_eq!(rig.wait(), [slot]);
        wait_until("the interrupt", || rig.interrupts() > before);
    }
    for round in 0..300u64 {
        rig.add(round % 20, 0, round);
        rig.ring();
        rig.wait();
        let mut seen = vec![0; 4096];
        rig.memory.read_exact_at(&mut seen, DATA + round % 20 * 4096).unwrap();
        assert!(seen == pattern(round), "page {round}");
        rig.disk.read_exact_at(&mut seen, round * 4096).unwrap();
        assert!(seen == pattern(round), "page {round} of the file");
    }
}

#[test]
fn what_a_disk_reads_into_memory_is_in_the_dirty_log() {
    let Some(mut rig) = rig() else { return };
    let bitmap = DirtyBitmap::new(MEMORY_BYTES / 4096).unwrap();
    rig.machine.dirty_log().start().unwrap();
    rig.machine.dirty_log().harvest(&bitmap).unwrap();
    bitmap.clear();
    for round in 0..50u64 {
        let slot = round % 20;
        rig.add(slot, 0, round);
        rig.ring();
        rig.wait();
        rig.machine.dirty_log().harvest(&bitmap).unwrap();
        for page in [DATA + slot * 4096, STATUSES, USED] {
            assert!(bitmap.is_set(page / 4096), "page at {page:#x} in round {round}");
        }
        assert!(!bitmap.is_set((DATA + 20 * 4096) / 4096));
        bitmap.clear();
    }
}

#[test]
fn a_disk_that_moves_a_hundred_times_with_requests_under_way_loses_no_request_and_no_interrupt() {
    let Some(mut rig) = rig() else { return };
    for hop in 0..100u64 {
        for slot in 0..20 {
            rig.memory.write_all_at(&pattern(hop * 20 + slot), DATA + slot * 4096).unwrap();
            rig.add(slot, 1, hop * 20 + slot);
            // Some are announced before the move, some never.
            if slot == hop % 20 {
                rig.ring();
            }
        }
        let before = rig.interrupts();
        rig.hop();
        let mut back = rig.wait();
        back.sort_unstable();
        assert!(back.into_iter().eq(0..20), "each once");
        wait_until("the interrupt", || rig.interrupts() > before);
        let before = rig.interrupts();
        rig.add(0, 4, 0);
        rig.ring();
        rig.wait();
        wait_until("the interrupt after the move", || rig.interrupts() > before);
    }
    let mut seen = vec![0; 4096];
    for page in 0..2000u64 {
        rig.disk.read_exact_at(&mut seen, page * 4096).unwrap();
        assert!(seen == pattern(page), "page {page}");
    }
}

#[test]
fn a_bar_that_the_guest_moves_answers_and_rings_at_its_new_place() {
    let Some(mut rig) = rig() else { return };
    for place in [0xc800_0000u64, 0xd000_0000, 0xc000_0000] {
        for (register, bytes, value) in [(4, 2, 0), (0x10, 4, place), (4, 2, 6)] {
            rig.guest().write(config(register), bytes, value);
        }
        rig.bar = place;
        assert_eq!(rig.guest().read(rig.bar + 0x14, 1), 0xf);
        let before = rig.interrupts();
        rig.add(1, 4, 0);
        rig.ring();
        rig.wait();
        wait_until("the interrupt", || rig.interrupts() > before);
        rig.hop();
    }
}

#[test]
fn a_masked_interrupt_waits_through_a_move() {
    let Some(mut rig) = rig() else { return };
    let control = rig.bar + MSIX_TABLE + 16 + 12;
    rig.guest().write(control, 4, 1);
    let before = rig.interrupts();
    rig.add(0, 4, 0);
    rig.ring();
    rig.wait();
    rig.hop();
    assert_eq!(rig.guest().read(rig.bar + 0x5000, 4), 2, "pending");
    assert_eq!(rig.interrupts(), before);
    rig.guest().write(control, 4, 0);
    wait_until("the interrupt", || rig.interrupts() == before + 1);
}

#[test]
fn a_reset_machine_has_its_devices_as_new() {
    let Some(mut rig) = rig() else { return };
    rig.add(0, 4, 0);
    rig.ring();
    rig.wait();
    rig.machine.pause().unwrap();
    rig.machine.reset().unwrap();
    Messenger(&rig.memory).prepare();
    rig.machine.start().unwrap();
    for (address, bytes) in [(TABLE, 0x1000), (AVAILABLE, 0x1000), (USED, 0x1000)] {
        rig.memory.write_all_at(&vec![0; bytes], address).unwrap();
    }
    (rig.next, rig.seen) = (0, 0);
    assert_eq!(rig.guest().read(rig.bar + 0x14, 1), 0);
    rig.set_up();
    rig.add(0, 4, 0);
    rig.ring();
    assert_eq!(rig.wait(), [0]);
}
