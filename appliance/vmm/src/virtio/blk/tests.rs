//! A driver uses a disk through a whole function, without KVM.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::bus::{Shared, enter};
use crate::device::Device;
use crate::disk::RawDisk;
use crate::machine::DiskSpec;
use crate::virtio::transport::VirtioPci;
use crate::virtio::transport::fake_driver::{Bench, Driver, INDIRECT, NEXT, Piece, WRITE, wait_until};
use crate::virtio::transport::hostile_state;

const FLUSH: u64 = 1 << 9;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT_DESC: u64 = 1 << 28;
const ALL: u64 = u64::MAX;
const DISK_BYTES: u64 = 16 << 20;
const HEADER: u64 = 0x1000;
const STATUS: u64 = 0x1800;
const DATA: u64 = 0x10_0000;

fn spec() -> DiskSpec {
    DiskSpec { capacity_bytes: DISK_BYTES, read_only: false, serial: "godwit-disk-0".into() }
}

fn file() -> File {
    let memfd = rustix::fs::memfd_create(c"disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(memfd);
    file.set_len(DISK_BYTES).unwrap();
    file
}

fn function(bench: &Bench, spec: &DiskSpec, file: Option<&File>) -> Shared<VirtioPci<Blk>> {
    let (front, engine) = Blk::new(spec);
    let function = VirtioPci::new(front, engine, 0, 10, bench.wiring()).unwrap();
    if let Some(file) = file {
        let disk = RawDisk::new(file.try_clone().unwrap(), spec.read_only).unwrap();
        enter(&function).attach_disk(disk).unwrap();
    }
    enter(&function).resume().unwrap();
    function
}

struct Rig {
    bench: Bench,
    file: File,
    function: Shared<VirtioPci<Blk>>,
    driver: Driver,
}

fn rig(features: u64, size: u16) -> Rig {
    let (bench, file) = (Bench::new(), file());
    let function = function(&bench, &spec(), Some(&file));
    let driver = Driver::bind(&bench, &function, features, size);
    Rig { bench, file, function, driver }
}

fn header(bench: &Bench, at: u64, kind: u32, sector: u64) {
    let mut bytes = Vec::from(kind.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bench.write(at, &bytes);
}

impl Rig {
    /// One request with the given data pieces, to its end; gives the status and the used length.
    fn run(&mut self, kind: u32, sector: u64, data: &[Piece]) -> (u8, u32) {
        header(&self.bench, HEADER, kind, sector);
        self.bench.write(STATUS, &[0xee]);
        let mut pieces = vec![(HEADER, 16, 0)];
        pieces.extend(data);
        pieces.push((STATUS, 1, WRITE));
        self.driver.rings[0].add(&self.bench, &pieces);
        self.driver.kick(&self.bench, 0);
        let used = self.driver.rings[0].wait_used(&self.bench, 1);
        (self.bench.read(STATUS, 1)[0], used[0].1)
    }
}

fn pattern(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 512 + seed) as u8).collect()
}

#[test]
fn what_is_written_and_flushed_is_in_the_file_and_is_read_back() {
    let mut rig = rig(ALL, 16);
    let data = pattern(1, 12288);
    rig.bench.write(DATA, &data);
    assert_eq!(rig.run(1, 8, &[(DATA, 4096, 0), (DATA + 4096, 8192, 0)]), (0, 1));
    assert_eq!(rig.run(4, 0, &[]), (0, 1));
    let mut on_disk = vec![0; 12288];
    rig.file.read_exact_at(&mut on_disk, 4096).unwrap();
    assert!(on_disk == data);
    rig.bench.clean();
    assert_eq!(rig.run(0, 8, &[(DATA + 0x10_0000, 512, WRITE), (DATA + 0x20_0000, 11776, WRITE)]), (0, 12289));
    assert!(rig.bench.read(DATA + 0x10_0000, 512) == data[..512]);
    assert!(rig.bench.read(DATA + 0x20_0000, 11776) == data[512..]);
    for page in [DATA + 0x10_0000, DATA + 0x20_0000, DATA + 0x20_2000, STATUS, rig.driver.rings[0].used] {
        assert!(rig.bench.is_dirty(page), "{page:#x} was written and is dirty");
    }
    assert!(!rig.bench.is_dirty(DATA), "nothing else is");
}

#[test]
fn a_ring_that_wraps_many_times_serves_every_request_once() {
    let mut rig = rig(EVENT_IDX | FLUSH, 8);
    for round in 0..40_000u64 {
        let sector = round % 100;
        header(&rig.bench, HEADER, 0, sector);
        let pieces = [(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)];
        let head = rig.driver.rings[0].add(&rig.bench, &pieces);
        rig.driver.kick(&rig.bench, 0);
        let used = rig.driver.rings[0].wait_used(&rig.bench, 1);
        assert_eq!(used, [(head, 513)]);
    }
}

#[test]
fn a_full_indirect_queue_is_served_and_interrupts_come_in_batches() {
    let mut rig = rig(ALL, 256);
    let count = 256u64;
    for request in 0..count {
        let data = pattern(request as usize, 4096);
        rig.bench.write(DATA + request * 4096, &data);
        header(&rig.bench, HEADER + 16 * request, 1, request * 8);
        let pieces = [
            (HEADER + 16 * request, 16, 0),
            (DATA + request * 4096, 1024, 0),
            (DATA + request * 4096 + 1024, 3072, 0),
            (STATUS + 0x1000 + request, 1, WRITE),
        ];
        rig.driver.rings[0].add_indirect(&rig.bench, &pieces);
    }
    // "Interrupt me when the last of them is done."
    rig.driver.rings[0].set_used_event(&rig.bench, count as u16 - 1);
    rig.driver.kick(&rig.bench, 0);
    let mut heads: Vec<_> =
        rig.driver.rings[0].wait_used(&rig.bench, count as usize).into_iter().map(|used| used.0).collect();
    wait_until("the interrupt arrives", || Driver::interrupts(&rig.bench) == [1]);
    heads.sort_unstable();
    assert!(heads.iter().copied().eq(0..256), "each came back once");
    for request in 0..count {
        let mut on_disk = vec![0; 4096];
        rig.file.read_exact_at(&mut on_disk, request * 4096).unwrap();
        assert!(on_disk == pattern(request as usize, 4096));
        assert_eq!(rig.bench.read(STATUS + 0x1000 + request, 1), [0]);
    }
}

#[test]
fn a_driver_that_asks_for_no_interrupts_gets_none_until_it_asks_again() {
    for features in [FLUSH, FLUSH | EVENT_IDX] {
        let mut rig = rig(features, 8);
        if features & EVENT_IDX == 0 {
            rig.bench.write(rig.driver.rings[0].available, &1u16.to_le_bytes());
        } else {
            rig.driver.rings[0].set_used_event(&rig.bench, 1000);
        }
        for _ in 0..5 {
            assert_eq!(rig.run(0, 0, &[(DATA, 512, WRITE)]).0, 0);
        }
        enter(&rig.function).quiesce().unwrap();
        assert!(Driver::interrupts(&rig.bench).is_empty(), "features {features:#x}");
        enter(&rig.function).resume().unwrap();
        assert_eq!(Driver::interrupts(&rig.bench), [1], "a device that goes on interrupts once");
        rig.bench.write(rig.driver.rings[0].available, &0u16.to_le_bytes());
        rig.driver.rings[0].set_used_event(&rig.bench, 5);
        assert_eq!(rig.run(0, 0, &[(DATA, 512, WRITE)]).0, 0);
        wait_until("the interrupt arrives", || Driver::interrupts(&rig.bench) == [1]);
    }
}

#[test]
fn the_serial_number_and_unknown_requests_are_answered() {
    let mut rig = rig(ALL, 16);
    assert_eq!(rig.run(8, 0, &[(DATA, 20, WRITE)]), (0, 21));
    assert_eq!(rig.bench.read(DATA, 20), b"godwit-disk-0\0\0\0\0\0\0\0");
    assert_eq!(rig.run(99, 0, &[(DATA, 512, WRITE)]).0, 2);
}

#[test]
fn requests_beyond_the_end_or_of_half_sectors_fail_and_touch_nothing() {
    let mut rig = rig(ALL, 16);
    let end = DISK_BYTES / 512;
    rig.bench.write(DATA, &[0xaa; 1024]);
    for (kind, sector, length, flag) in [
        (1, end, 512, 0),
        (1, end - 1, 1024, 0),
        (1, u64::MAX, 512, 0),
        (1, u64::MAX / 512, 512, 0),
        (1, 0, 511, 0),
        (0, end, 512, WRITE),
        (0, 0, 100, WRITE),
    ] {
        assert_eq!(rig.run(kind, sector, &[(DATA, length, flag)]).0, 1, "{kind} {sector} {length}");
    }
    let mut on_disk = vec![1; DISK_BYTES as usize];
    rig.file.read_exact_at(&mut on_disk, 0).unwrap();
    assert!(on_disk.iter().all(|&byte| byte == 0));
    assert_eq!(rig.file.metadata().unwrap().len(), DISK_BYTES);
    assert_eq!(rig.run(1, end - 1, &[(DATA, 512, 0)]).0, 0, "the last sector is the guest's");
}

#[test]
fn an_error_of_the_storage_is_the_guests_error_and_the_disk_goes_on() {
    let mut rig = rig(ALL, 16);
    rig.file.set_len(4096).unwrap();
    assert_eq!(rig.run(0, 16, &[(DATA, 4096, WRITE)]).0, 1, "the file ends before it");
    assert_eq!(rig.run(0, 4, &[(DATA, 8192, WRITE)]).0, 1, "the file ends within it");
    assert_eq!(rig.run(0, 0, &[(DATA, 4096, WRITE)]).0, 0);
    rig.file.set_len(DISK_BYTES).unwrap();
    assert_eq!(rig.run(0, 16, &[(DATA, 4096, WRITE)]).0, 0);
    assert_eq!(enter(&rig.function).front().failed_requests(), 2, "who asks how the VM is hears of it");
}

#[test]
fn zeroes_and_discards_reach_the_file() {
    let mut rig = rig(ALL, 16);
    rig.file.write_all_at(&[0xff; 65536], 0).unwrap();
    let range = |sector: u64, count: u32, flags: u32| {
        let mut bytes = Vec::from(sector.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    rig.bench.write(DATA, &range(16, 16, 0));
    assert_eq!(rig.run(13, 0, &[(DATA, 16, 0)]).0, 0);
    let mut on_disk = [0; 65536];
    rig.file.read_exact_at(&mut on_disk, 0).unwrap();
    assert!(on_disk[8192..16384].iter().all(|&byte| byte == 0));
    assert!(on_disk[..8192].iter().chain(&on_disk[16384..]).all(|&byte| byte == 0xff));
    rig.bench.write(DATA, &range(0, 8, 0));
    assert_eq!(rig.run(11, 0, &[(DATA, 16, 0)]).0, 0);
    for (kind, bytes, status) in [
        (13, range(0, 8, 2), 2),
        (11, range(0, 8, 1), 2),
        (13, range(DISK_BYTES / 512, 1, 0), 1),
        (13, range(0, u32::MAX, 0), 1),
    ] {
        rig.bench.write(DATA, &bytes);
        assert_eq!(rig.run(kind, 0, &[(DATA, 16, 0)]).0, status);
    }
}

#[test]
fn a_read_only_disk_refuses_every_write() {
    let (bench, file) = (Bench::new(), file());
    let spec = DiskSpec { read_only: true, ..spec() };
    let function = function(&bench, &spec, Some(&file));
    let driver = Driver::bind(&bench, &function, ALL, 16);
    assert_eq!(driver.features & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    let mut rig = Rig { bench, file, function, driver };
    assert_eq!(rig.run(1, 0, &[(DATA, 512, 0)]).0, 1);
    assert_eq!(rig.run(13, 0, &[(DATA, 16, 0)]).0, 1);
    assert_eq!(rig.run(0, 0, &[(DATA, 512, WRITE)]).0, 0);
}

#[test]
fn requests_wait_for_a_disk_that_comes_later() {
    let (bench, file) = (Bench::new(), file());
    let function = function(&bench, &spec(), None);
    let mut driver = Driver::bind(&bench, &function, ALL, 16);
    header(&bench, HEADER, 0, 3);
    driver.rings[0].add(&bench, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    driver.kick(&bench, 0);
    file.write_all_at(&[7; 512], 3 * 512).unwrap();
    assert!(!enter(&function).is_running());
    let short = File::from(rustix::fs::memfd_create(c"short", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    short.set_len(DISK_BYTES - 512).unwrap();
    let refused = enter(&function).attach_disk(RawDisk::new(short, false).unwrap());
    assert!(matches!(refused, Err(AttachError::TooSmall { .. })));
    enter(&function).attach_disk(RawDisk::new(file.try_clone().unwrap(), false).unwrap()).unwrap();
    driver.rings[0].wait_used(&bench, 1);
    assert_eq!(bench.read(DATA, 512), [7; 512]);
    assert!(enter(&function).attach_disk(RawDisk::new(file, false).unwrap()).is_err(), "one disk is enough");
}

/// Moves a device in the middle of its work to another machine with the same memory, and goes on there.
#[test]
fn a_disk_that_moves_with_requests_in_the_ring_loses_and_doubles_none() {
    let mut rig = rig(ALL, 64);
    let mut expected = vec![0u8; DISK_BYTES as usize];
    for hop in 0..20usize {
        let mut heads = Vec::new();
        for request in 0..15u64 {
            let data = pattern(hop * 100 + request as usize, 8192);
            let sector = request * 16;
            expected[sector as usize * 512..][..8192].copy_from_slice(&data);
            rig.bench.write(DATA + request * 8192, &data);
            header(&rig.bench, HEADER + 16 * request, 1, sector);
            heads.push(rig.driver.rings[0].add_indirect(
                &rig.bench,
                &[(HEADER + 16 * request, 16, 0), (DATA + request * 8192, 8192, 0), (STATUS + request, 1, WRITE)],
            ));
            if request == hop as u64 % 15 {
                rig.driver.kick(&rig.bench, 0);
            }
        }
        let mut function = enter(&rig.function);
        function.quiesce().unwrap();
        let bytes = function.export_state().unwrap();
        let disk = function.detach_disk();
        assert!(disk.is_some());
        drop(function);

        let bench = Bench::with_memory(rig.bench.memory.clone());
        let function = self::function(&bench, &spec(), None);
        enter(&function).quiesce().unwrap();
        enter(&function).import_state(1, &bytes).unwrap();
        assert_eq!(bench.msi.route_calls(), 1);
        enter(&function).attach_disk(disk.unwrap()).unwrap();
        enter(&function).resume().unwrap();
        (rig.bench, rig.function) = (bench, function);
        // The last requests were never announced: a device that goes on looks by itself.
        let mut back: Vec<_> = rig.driver.rings[0].wait_used(&rig.bench, 15).into_iter().map(|used| used.0).collect();
        back.sort_unstable();
        heads.sort_unstable();
        assert_eq!(back, heads);
        wait_until("the interrupt arrives", || Driver::interrupts(&rig.bench) == [1]);
    }
    let mut on_disk = vec![0; DISK_BYTES as usize];
    rig.file.read_exact_at(&mut on_disk, 0).unwrap();
    assert!(on_disk == expected);
}

#[test]
fn a_thousand_pauses_under_load_lose_nothing() {
    let mut rig = rig(EVENT_IDX | FLUSH | INDIRECT_DESC, 64);
    let mut outstanding = 0;
    for round in 0..1000u64 {
        for request in 0..8 {
            header(&rig.bench, HEADER + 16 * request, 0, round);
            let pieces =
                [(HEADER + 16 * request, 16, 0), (DATA + request * 4096, 4096, WRITE), (STATUS + request, 1, WRITE)];
            rig.driver.rings[0].add_indirect(&rig.bench, &pieces);
            outstanding += 1;
        }
        rig.driver.kick(&rig.bench, 0);
        let mut function = enter(&rig.function);
        function.quiesce().unwrap();
        outstanding -= rig.driver.rings[0].take_used(&rig.bench).len();
        function.resume().unwrap();
        drop(function);
        rig.driver.rings[0].wait_used(&rig.bench, outstanding);
        outstanding = 0;
    }
}

#[test]
fn a_driver_that_resets_and_binds_again_finds_a_new_device() {
    let mut rig = rig(ALL, 16);
    for size in [8, 256, 2] {
        rig.driver.reset(&rig.bench);
        rig.driver = Driver::bind(&rig.bench, &rig.function, FLUSH | INDIRECT_DESC, size);
        header(&rig.bench, HEADER, 4, 0);
        rig.driver.rings[0].add(&rig.bench, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
        rig.driver.kick(&rig.bench, 0);
        rig.driver.rings[0].wait_used(&rig.bench, 1);
    }
}

#[test]
fn a_chain_that_loops_or_points_outside_makes_the_device_ask_for_a_reset() {
    let broken: &[&[Piece]] = &[
        &[(HEADER, 16, NEXT), (DATA, 512, WRITE | NEXT)],
        &[(u64::MAX - 8, 16, 0)],
        &[(0xc000_0000, 16, 0), (STATUS, 1, WRITE)],
        &[(HEADER, 16, 0), (crate::virtio::transport::fake_driver::MEMORY_BYTES - 1, 2, WRITE)],
        &[(HEADER, 16, 0), (DATA, 512, WRITE), (DATA, 512, 0), (STATUS, 1, WRITE)],
        &[(HEADER, 8, 0), (STATUS, 1, WRITE)],
        &[(HEADER, 16, 0)],
        &[(HEADER, 16, 0), (STATUS, 0, WRITE)],
        &[(HEADER, 7, INDIRECT)],
        &[(HEADER, 0, INDIRECT)],
        &[(HEADER, 16, INDIRECT | NEXT)],
        &[(HEADER, u32::MAX, 0), (DATA, u32::MAX, 0)],
    ];
    for chain in broken {
        let mut rig = rig(ALL, 16);
        let ring = &mut rig.driver.rings[0];
        for (index, piece) in chain.iter().enumerate() {
            // A chain that ends in NEXT goes on at its own last descriptor.
            let next = if index + 1 == chain.len() { index as u16 } else { index as u16 + 1 };
            let more = if index + 1 < chain.len() { NEXT } else { 0 };
            ring.describe(&rig.bench, ring.table(), index as u16, (piece.0, piece.1, piece.2 | more), next);
        }
        ring.publish(&rig.bench, 0);
        rig.driver.kick(&rig.bench, 0);
        wait_until("the device asks for a reset", || rig.driver.status(&rig.bench) & 0x40 != 0);
        wait_until("it says so", || Driver::interrupts(&rig.bench).contains(&0));
        rig.driver.reset(&rig.bench);
        rig.driver = Driver::bind(&rig.bench, &rig.function, ALL, 16);
        assert_eq!(rig.run(0, 0, &[(DATA, 512, WRITE)]).0, 0, "and works after it");
    }
}

#[test]
fn an_available_index_that_jumps_is_not_believed() {
    let rig = rig(ALL, 16);
    rig.bench.write(rig.driver.rings[0].available + 2, &1000u16.to_le_bytes());
    rig.driver.kick(&rig.bench, 0);
    wait_until("the device asks for a reset", || rig.driver.status(&rig.bench) & 0x40 != 0);
    rig.driver.reset(&rig.bench);
}

#[test]
fn rings_outside_memory_never_start_the_device() {
    let (bench, file) = (Bench::new(), file());
    let function = function(&bench, &spec(), Some(&file));
    let mut driver = Driver::find(&bench, &function);
    driver.negotiate(&bench, ALL);
    driver.out(&bench, 0x20, &0xdead_0000u64.to_le_bytes());
    driver.out(&bench, 0x1c, &1u16.to_le_bytes());
    driver.start(&bench);
    assert_eq!(driver.status(&bench) & 0x40, 0x40);
    assert!(!enter(&function).is_running());
    driver.reset(&bench);
    Driver::bind(&bench, &function, ALL, 16);
}

#[test]
fn a_hostile_state_is_refused_and_never_a_panic() {
    let mut rig = rig(ALL, 16);
    assert_eq!(rig.run(0, 0, &[(DATA, 512, WRITE)]).0, 0);
    enter(&rig.function).quiesce().unwrap();
    let good = enter(&rig.function).export_state().unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let bench = Bench::with_memory(rig.bench.memory.clone());
            let target = VirtioPci::new(Blk::new(&spec()).0, Blk::new(&spec()).1, 0, 10, bench.wiring()).unwrap();
            let mut target = enter(&target);
            // Some bits are the guest's and may be anything; what counts is that nothing breaks.
            if target.import_state(1, &bytes).is_ok() {
                target.resume().unwrap();
                target.quiesce().unwrap();
            }
        }
        let cut = VirtioPci::new(Blk::new(&spec()).0, Blk::new(&spec()).1, 0, 10, rig.bench.wiring());
        if let Ok(cut) = cut {
            assert!(enter(&cut).import_state(1, &good[..at]).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random descriptors, random rings: the device answers, asks for a reset, or waits; it never panics, and it
    /// always comes to rest.
    #[test]
    fn hostile_descriptors_never_break_the_device(
        table in proptest::collection::vec((0u64..0x30_0000, prop_oneof![0u32..0x2000, any::<u32>()], 0u16..8, 0u16..20), 16),
        headers in proptest::collection::vec((0u32..16, any::<u64>()), 4),
        heads in proptest::collection::vec(0u16..18, 1..40),
        jump in any::<bool>(),
    ) {
        let mut rig = rig(ALL, 16);
        for (at, (kind, sector)) in headers.iter().enumerate() {
            header(&rig.bench, at as u64 * 0x1000, *kind, *sector % 64);
        }
        let ring = &mut rig.driver.rings[0];
        for (index, (address, length, flags, next)) in table.iter().enumerate() {
            // Half of the addresses are headers, so that some requests are whole.
            let address = if address & 1 == 0 { address & 0x3000 } else { *address };
            let length = if index % 3 == 0 { 16 } else { *length };
            ring.describe(&rig.bench, ring.table(), index as u16, (address, length, *flags), *next);
        }
        for (count, head) in heads.iter().enumerate() {
            let ring = &mut rig.driver.rings[0];
            ring.publish(&rig.bench, *head);
            if jump && count == 20 {
                rig.bench.write(ring.available + 2, &ring.next_available.wrapping_add(300).to_le_bytes());
            }
            rig.driver.kick(&rig.bench, 0);
        }
        enter(&rig.function).quiesce().unwrap();
        enter(&rig.function).export_state().unwrap();
        enter(&rig.function).resume().unwrap();
        rig.driver.reset(&rig.bench);
        let mut driver = Driver::bind(&rig.bench, &rig.function, ALL, 16);
        header(&rig.bench, HEADER, 4, 0);
        driver.rings[0].add(&rig.bench, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
        driver.kick(&rig.bench, 0);
        driver.rings[0].wait_used(&rig.bench, 1);
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_pause_and_latency() {
    let mut rig = rig(EVENT_IDX | FLUSH | INDIRECT_DESC, 256);
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let begin = std::time::Instant::now();
            enter(&rig.function).quiesce().unwrap();
            let quiet = begin.elapsed();
            enter(&rig.function).resume().unwrap();
            let resumed = begin.elapsed();
            let t = std::time::Instant::now();
            rig.run(0, 0, &[(DATA, 4096, WRITE)]);
            (quiet, resumed - quiet, t.elapsed())
        })
        .collect();
    times.sort();
    eprintln!("quiesce, resume, first request: median {:?} worst {:?}", times[100], times[199]);
    let begin = std::time::Instant::now();
    for _ in 0..20_000 {
        header(&rig.bench, HEADER, 0, 0);
        rig.driver.rings[0].add_indirect(&rig.bench, &[(HEADER, 16, 0), (DATA, 4096, WRITE), (STATUS, 1, WRITE)]);
        rig.driver.kick(&rig.bench, 0);
        while rig.driver.rings[0].take_used(&rig.bench).is_empty() {}
    }
    eprintln!("QD1 4 KiB reads: {:?} each", begin.elapsed() / 20_000);
    let begin = std::time::Instant::now();
    let mut done = 0;
    let mut sent = 0;
    while done < 200_000 {
        while sent - done < 64 {
            let at = sent as u64 % 64;
            header(&rig.bench, HEADER + 16 * at, 0, at * 8);
            let pieces = [(HEADER + 16 * at, 16, 0), (DATA + at * 4096, 4096, WRITE), (STATUS + at, 1, WRITE)];
            rig.driver.rings[0].add_indirect(&rig.bench, &pieces);
            sent += 1;
        }
        rig.driver.kick(&rig.bench, 0);
        done += rig.driver.rings[0].take_used(&rig.bench).len();
    }
    eprintln!("QD64 4 KiB reads: {:?} each", begin.elapsed() / 200_000);
}

#[test]
fn a_driver_that_enables_no_queue_does_not_cost_the_device_its_disk() {
    let mut rig = rig(ALL, 16);
    let driver = Driver::find(&rig.bench, &rig.function);
    let mut idle = driver.clone();
    idle.negotiate(&rig.bench, ALL);
    idle.start(&rig.bench);
    enter(&rig.function).quiesce().unwrap();
    assert!(enter(&rig.function).has_disk());
    enter(&rig.function).resume().unwrap();
    rig.driver = Driver::bind(&rig.bench, &rig.function, ALL, 16);
    assert_eq!(rig.run(0, 0, &[(DATA, 512, WRITE)]), (0, 513));
}

proptest! {
    #![proptest_config(hostile_state::config())]

    #[test]
    fn a_hostile_state_is_refused_or_the_disk_lives(
        (lies, noise) in hostile_state::lies(), outstanding in 0u64..4, event_index in any::<bool>(),
    ) {
        let (bench, file) = (Bench::new(), file());
        let source = function(&bench, &spec(), None);
        let mut driver = Driver::bind(&bench, &source, if event_index { ALL } else { FLUSH }, 16);
        for request in 0..outstanding {
            header(&bench, HEADER + 16 * request, 0, request);
            driver.rings[0].add(&bench, &[(HEADER + 16 * request, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
        }
        enter(&source).quiesce().unwrap();
        let bytes = hostile_state::with(&enter(&source).export_state().unwrap(), &lies);
        let next = Bench::with_memory(bench.memory.clone());
        let fresh = |bench: &Bench| {
            let function = function(bench, &spec(), Some(&file));
            enter(&function).quiesce().unwrap();
            function
        };
        if let Some((_function, mut driver)) = hostile_state::outlive(fresh, &next, (&noise, &bytes), false) {
            header(&next, HEADER, 0, 0);
            driver.rings[0].add(&next, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
            driver.kick(&next, 0);
            prop_assert_eq!(driver.rings[0].wait_used(&next, 1)[0].1, 513);
        }
    }
}
