//! Machines on this host's own /dev/kvm, with guests of a few instructions. Where there is no /dev/kvm each test says so and
//! is skipped.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use model::cpu_report::Baseline;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{Bytes, GuestAddress};
use vmm::machine::{Event, Machine, MachineError, MachineSpec, Phase, Resources};
use vmm::memory::DirtyBitmap;

mod dirty;
mod guest;
mod life;
mod linux;
mod messenger;
mod state;
mod virtio;
mod witness;

const MEMORY_BYTES: u64 = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// `/dev/kvm`, or the reason why there is none.
fn kvm() -> Option<OwnedFd> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(file) => Some(file.into()),
        Err(error) => {
            eprintln!("skipped: /dev/kvm: {error}");
            None
        }
    }
}

fn memfd(bytes: u64) -> OwnedFd {
    let memory = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, bytes).unwrap();
    memory
}

fn spec(cpus: u8, memory_bytes: u64) -> MachineSpec {
    MachineSpec { cpus, memory_bytes, cpu_baseline: Baseline::Host, disks: vec![], nics: vec![], rng: false }
}

/// An empty machine of that shape, and its memory.
fn build(cpus: u8, memory_bytes: u64) -> Option<(Machine, File)> {
    let kvm = kvm()?;
    let memory = memfd(memory_bytes);
    let own = File::from(memory.try_clone().unwrap());
    let machine = Machine::build(spec(cpus, memory_bytes), Resources { kvm, memory, taps: vec![] }).unwrap();
    Some((machine, own))
}

/// A machine with the small guest in it, ready to start.
fn with_guest(cpus: u8, what: &str) -> Option<(Machine, File)> {
    let (mut machine, memory) = build(cpus, MEMORY_BYTES)?;
    machine.load(guest::image(), None, what).unwrap();
    Some((machine, memory))
}

/// Waits for something that comes soon, with a generous bound.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn word(memory: &File, address: u64) -> u32 {
    let mut bytes = [0; 4];
    memory.read_exact_at(&mut bytes, address).unwrap();
    u32::from_le_bytes(bytes)
}

fn output(machine: &Machine) -> String {
    String::from_utf8_lossy(&machine.serial_output().read(0).bytes).into_owned()
}

fn wait_event(machine: &Machine) -> Event {
    let mut event = None;
    wait_until("an event", || {
        event = machine.take_event();
        event.is_some()
    });
    event.unwrap()
}
