//! The state of a whole machine on KVM: its chunks are changed, with a right checksum; what is taken over runs for a moment.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use model::cpu_report::Baseline;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmm::clock::ClockReading;
use vmm::machine::{DiskSpec, Machine, MachineSpec, Resources};
use vmm::state::{ChunkKind, StateReader, StateWriter};

use super::{Outcome, Prepared};

const MEMORY_BYTES: u64 = 16 << 20;
const DISK_BYTES: u64 = 1 << 20;
/// Where the guest is loaded: HLT, and a jump back to it.
const LOAD_ADDRESS: u64 = 1 << 20;
const CODE: [u8; 3] = [0xf4, 0xeb, 0xfd];
/// A machine, its state, and the parts of one that is taken over.
const BYTES_MAX: usize = 64 << 20;
/// How long what was taken over runs.
const RUNS: Duration = Duration::from_micros(300);

fn memfd(bytes: u64) -> OwnedFd {
    let memfd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&memfd, bytes).expect("a size");
    memfd
}

fn build() -> Result<Machine, String> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm").map_err(|error| format!("/dev/kvm: {error}"))?;
    let disk = DiskSpec { capacity_bytes: DISK_BYTES, read_only: false, serial: "fuzz".into() };
    let spec = MachineSpec {
        cpus: 1,
        memory_bytes: MEMORY_BYTES,
        cpu_baseline: Baseline::Host,
        disks: vec![disk],
        nics: vec![],
        rng: true,
    };
    let resources = Resources { kvm: kvm.into(), memory: memfd(MEMORY_BYTES), taps: vec![] };
    let machine = Machine::build(spec, resources).map_err(|error| error.to_string())?;
    machine.attach_disk(0, memfd(DISK_BYTES).into()).map_err(|error| error.to_string())?;
    Ok(machine)
}

/// The guest as an ELF with a PVH note.
fn image() -> File {
    let mut note: Vec<u8> = [4u32, 4, 18].iter().flat_map(|word| word.to_le_bytes()).collect();
    note.extend(b"Xen\0");
    note.extend((LOAD_ADDRESS as u32).to_le_bytes());
    let (note_at, note_bytes) = (64 + 2 * 56u64, note.len() as u64);
    let code_at = note_at + note_bytes;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    [LOAD_ADDRESS, 64, 0].iter().for_each(|long| elf.extend(long.to_le_bytes()));
    elf.extend([0; 4]);
    [64u16, 56, 2, 64, 0, 0].iter().for_each(|short| elf.extend(short.to_le_bytes()));
    for (kind, at, address, bytes) in [(1u32, code_at, LOAD_ADDRESS, CODE.len() as u64), (4, note_at, 0, note_bytes)] {
        elf.extend(kind.to_le_bytes());
        elf.extend(7u32.to_le_bytes());
        [at, address, address, bytes, bytes, 4].iter().for_each(|long| elf.extend(long.to_le_bytes()));
    }
    elf.extend(note);
    elf.extend(CODE);
    let mut file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.write_all(&elf).expect("room");
    file.rewind().expect("a file");
    file
}

/// The chunks of a state in the order of their kinds.
fn chunks(state: &[u8]) -> Vec<(u16, u16, Vec<u8>)> {
    let kinds = [
        ChunkKind::MACHINE,
        ChunkKind::VCPU,
        ChunkKind::IRQCHIP,
        ChunkKind::CLOCK,
        ChunkKind::SERIAL,
        ChunkKind::RTC,
        ChunkKind::ACPI_PM,
        ChunkKind::RESET_CONTROL,
        ChunkKind::DEVICES_FROM,
        ChunkKind::DEVICES_FROM + 0x10,
        ChunkKind::DEVICES_FROM + 0x12,
    ];
    let mut reader = StateReader::new(state).expect("a state");
    let mut take = |kind| {
        let (version, payload) = reader.take(kind, 0).expect("a chunk");
        (kind, version, payload.to_vec())
    };
    let chunks = kinds.map(&mut take).to_vec();
    reader.finish().expect("no other chunk");
    chunks
}

fn assembled(chunks: &[(u16, u16, Vec<u8>)]) -> Option<Vec<u8>> {
    let mut writer = StateWriter::new();
    for (kind, version, payload) in chunks {
        writer.add(ChunkKind::new(*kind, 0, *version), payload).ok()?;
    }
    writer.finish().ok()
}

pub(super) fn prepare() -> Result<Prepared, String> {
    let mut machine = build()?;
    machine.load(image(), None, "fuzz").map_err(|error| error.to_string())?;
    let early = chunks(&machine.export_state().map_err(|error| error.to_string())?);
    machine.start().map_err(|error| error.to_string())?;
    machine.pause().map_err(|error| error.to_string())?;
    let later = chunks(&machine.export_state().map_err(|error| error.to_string())?);
    // An input is one chunk: its place in the list, and its payload. All else is as it was.
    let mut inputs = Vec::new();
    for chunks in [&early, &later] {
        inputs.extend(chunks.iter().zip(0u8..).map(|((_, _, payload), at)| [vec![at], payload.clone()].concat()));
    }
    let execute = move |input: &[u8]| {
        let Some((at, payload)) = input.split_first() else { return Outcome::Refused };
        let mut chunks = later.clone();
        let at = usize::from(*at) % chunks.len();
        chunks[at].2 = payload.to_vec();
        let Some(state) = assembled(&chunks) else { return Outcome::Refused };
        let mut machine = build().expect("a machine");
        // Bytes that are no state at all, too.
        let _ = StateReader::new(input);
        let clock = ClockReading { ns: 1 << 40, at: Instant::now() };
        if machine.import_state(&state, Some(clock)).is_err() {
            return Outcome::Refused;
        }
        machine.resume().expect("what was taken over goes on");
        std::thread::sleep(RUNS);
        let _ = machine.take_event();
        machine.pause().expect("what was taken over comes to rest");
        // A guest that ended meanwhile is not saved; any other is.
        let _ = machine.export_state();
        Outcome::Taken
    };
    Ok(Prepared { inputs, text: false, bytes_max: BYTES_MAX, execute: Box::new(execute) })
}
