//! States of devices, as the host of a move sends them: each is taken over by a device of a machine without KVM, which then runs. (What a guest may do
//! to them afterwards, and that a driver finds them well again, is tested field by field in `vmm`.)

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmm::bus::{Bus, BusDevice, Shared, enter};
use vmm::device::Device;
use vmm::disk::RawDisk;
use vmm::interrupt::DoorbellAddress;
use vmm::interrupt::fake::{FakeDoorbells, FakeMsi};
use vmm::machine::{DiskSpec, NicSpec};
use vmm::memory::{GuestMemory, Layout, guest_memory};
use vmm::pci::{BarWindows, ConfigPorts, Ecam, PciFunction, PciRoot, slots};
use vmm::virtio::blk::Blk;
use vmm::virtio::net::{Net, Tap};
use vmm::virtio::rng::Rng;
use vmm::virtio::transport::{VirtioPci, Wiring};

use super::{Outcome, Prepared};

const MEMORY_BYTES: u64 = 16 << 20;
const DISK_BYTES: u64 = 1 << 20;
/// Rings of each device's queues lie from here, 64 KiB each; what lies below is requests.
const RINGS: u64 = 1 << 20;
const RING_BYTES: u64 = 0x1_0000;
/// The devices, their threads' rings, and an error.
const BYTES_MAX: usize = 16 << 20;
const NOTIFY: u64 = 0x3000;

type Function = (Arc<Mutex<dyn Device>>, Arc<Mutex<dyn PciFunction>>);

/// Devices round some memory, and what they are wired to.
struct Machine {
    mmio: Bus,
    bells: Arc<FakeDoorbells>,
    root: Shared<PciRoot>,
    functions: Vec<Function>,
}

/// What outlasts a machine.
struct Host {
    memory: GuestMemory,
    disk: File,
    tap: Option<OwnedFd>,
}

impl Host {
    fn new() -> Self {
        let memfd = |bytes| {
            let memfd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memfd");
            ftruncate(&memfd, bytes).expect("a size");
            memfd
        };
        let layout = Layout::new(MEMORY_BYTES).expect("a size");
        let memory = guest_memory::map(&layout, &memfd(MEMORY_BYTES)).expect("memory");
        Self { memory, disk: memfd(DISK_BYTES).into(), tap: tap() }
    }

    /// A disk, an entropy device and, where there may be a tap, a NIC, on a PCI bus.
    fn machine(&self) -> Machine {
        let (mmio, bells, root) = (Bus::new(), Arc::<FakeDoorbells>::default(), Arc::new(Mutex::new(PciRoot::new())));
        let wiring = Wiring {
            mmio: mmio.clone(),
            windows: BarWindows::of(&Layout::new(MEMORY_BYTES).expect("a size")),
            memory: self.memory.clone(),
            msi: Arc::<FakeMsi>::default(),
            doorbells: bells.clone(),
        };
        let spec = DiskSpec { capacity_bytes: DISK_BYTES, read_only: false, serial: "fuzz".into() };
        let (front, engine) = Blk::new(&spec);
        let disk = VirtioPci::new(front, engine, 0, slots::DISK_SLOT, wiring.clone()).expect("a disk");
        let raw = RawDisk::new(self.disk.try_clone().expect("a descriptor"), false).expect("a file");
        enter(&disk).attach_disk(raw).expect("it fits");
        let (front, engine) = Rng::new();
        let rng = VirtioPci::new(front, engine, 0, slots::RNG_SLOT, wiring.clone()).expect("a device");
        let mut functions: Vec<(u8, Function)> =
            vec![(slots::DISK_SLOT, (disk.clone(), disk)), (slots::RNG_SLOT, (rng.clone(), rng))];
        if let Some(tap) = &self.tap {
            let spec = NicSpec { mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56], mtu: None };
            let tap = Tap::new(tap.try_clone().expect("a descriptor")).expect("a tap");
            let (front, engine) = Net::new(&spec, tap);
            let nic = VirtioPci::new(front, engine, 0, slots::NIC_SLOT, wiring).expect("a NIC");
            functions.push((slots::NIC_SLOT, (nic.clone(), nic)));
        }
        for (slot, (_, function)) in &functions {
            enter(&root).insert(*slot, function);
        }
        Machine { mmio, bells, root, functions: functions.into_iter().map(|(_, function)| function).collect() }
    }
}

/// A tap that is up, in a network namespace of this thread's.
fn tap() -> Option<OwnedFd> {
    // SAFETY: only this thread's network namespace changes; its process is the worker's own.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return None;
    }
    let tap = File::options().read(true).write(true).open("/dev/net/tun").ok()?;
    // SAFETY: all-zero is a valid ifreq; the calls read and write just that structure.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        if libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &request) != 0 {
            return None;
        }
        libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF as _, &mut request);
        let socket = OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0));
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request);
    }
    Some(tap.into())
}

impl Machine {
    /// The devices, the bus among them.
    fn devices(&self) -> Vec<Arc<Mutex<dyn Device>>> {
        let functions = self.functions.iter().map(|(device, _)| device.clone());
        std::iter::once(self.root.clone() as Arc<Mutex<dyn Device>>).chain(functions).collect()
    }

    fn bar(function: &Function) -> u64 {
        let mut bar = [0; 8];
        enter(&function.1).read_config(0x10, &mut bar);
        u64::from_le_bytes(bar) & !0xf
    }

    /// Does what a driver does until a device works: features, interrupts, three queues of 16.
    fn bind(&self, function: &Function, rings: u64) {
        let bar = Self::bar(function);
        let out = |offset: u64, bytes: &[u8]| assert!(self.mmio.write(bar + offset, bytes), "the BAR answers");
        let input = |offset: u64| {
            let mut word = [0; 4];
            assert!(self.mmio.read(bar + offset, &mut word), "the BAR answers");
            word
        };
        out(0x14, &[3]);
        for half in 0..2u32 {
            out(0x00, &half.to_le_bytes());
            out(0x08, &half.to_le_bytes());
            out(0x0c, &input(0x04));
        }
        out(0x14, &[0xb]);
        let mut at = [0; 1];
        enter(&function.1).read_config(0x34, &mut at);
        enter(&function.1).write_config(usize::from(at[0]) + 2, &0x8000u16.to_le_bytes());
        for vector in 0..3u64 {
            out(0x4000 + vector * 16, &0xfee0_0000u64.to_le_bytes());
            out(0x4008 + vector * 16, &(vector as u32).to_le_bytes());
            out(0x400c + vector * 16, &[0; 4]);
        }
        for queue in 0..3u16 {
            let base = rings + u64::from(queue) * RING_BYTES;
            out(0x16, &queue.to_le_bytes());
            out(0x1a, &queue.to_le_bytes());
            out(0x18, &16u16.to_le_bytes());
            out(0x20, &base.to_le_bytes());
            out(0x28, &(base + 0x4000).to_le_bytes());
            out(0x30, &(base + 0x8000).to_le_bytes());
            out(0x1c, &1u16.to_le_bytes());
        }
        out(0x14, &[0xf]);
    }

    fn run(&self) {
        let devices = self.devices();
        devices.iter().for_each(|device| enter(device).resume().expect("what was taken over goes on"));
        let (mut ecam, mut ports) = (Ecam(self.root.clone()), ConfigPorts(self.root.clone()));
        for function in &self.functions {
            let bar = Self::bar(function);
            for queue in 0..3 {
                self.bells.ring(DoorbellAddress::Mmio(bar + NOTIFY + queue * 4), queue as u16);
                self.mmio.write(bar + NOTIFY + queue * 4, &(queue as u16).to_le_bytes());
            }
            for offset in (0..0x40).chain([0x1000, 0x2000, 0x2004, 0x4000, 0x5000]) {
                self.mmio.read(bar + offset, &mut [0; 4]);
            }
        }
        for offset in (0..0x10_0000).step_by(0x8000 / 16) {
            ecam.read(offset, &mut [0xff; 4]);
        }
        ports.read(4, &mut [0xff; 4]);
        ports.write(4, &[0xff; 4]);
        // The threads get their turn; nothing hangs on whether they took it.
        std::thread::yield_now();
        for device in &devices {
            let mut device = enter(device);
            device.quiesce().expect("what was taken over comes to rest");
            device.export_state().expect("what came to rest is saved");
        }
    }
}

/// Rings whose requests are: each of the first four descriptors, in turn, some of them chains; the rest is nonsense.
fn fill(memory: &GuestMemory) {
    use vm_memory::{Bytes, GuestAddress};
    let write = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(at)).expect("inside of the memory");
    for at in (0..RINGS).step_by(512) {
        write(at, &[0, 0, 0, 0, 0, 0, 0, 0, (at >> 9) as u8, 0, 0, 0, 0, 0, 0, 0]);
    }
    for base in (RINGS..RINGS + 9 * RING_BYTES).step_by(RING_BYTES as usize) {
        for descriptor in 0..16u64 {
            let flags = [1u16, 3, 2, 0, 2, 0x4, 7, 1][descriptor as usize % 8];
            let address = if descriptor == 6 { u64::MAX - 8 } else { descriptor * 0x1000 };
            write(base + descriptor * 16, &address.to_le_bytes());
            write(base + descriptor * 16 + 8, &[16u32, 512, 1, 100][descriptor as usize % 4].to_le_bytes());
            write(base + descriptor * 16 + 12, &flags.to_le_bytes());
            write(base + descriptor * 16 + 14, &((descriptor as u16 + 1) % 16).to_le_bytes());
        }
        for entry in 0..16u16 {
            write(base + 0x4004 + u64::from(entry) * 2, &(entry % 8 * 4 % 16).to_le_bytes());
        }
        write(base + 0x4002, &4u16.to_le_bytes());
    }
}

pub(super) fn prepare() -> Result<Prepared, String> {
    let host = Host::new();
    fill(&host.memory);
    let machine = host.machine();
    let states = |machine: &Machine| -> Vec<Vec<u8>> {
        let device = |(device, at): (Arc<Mutex<dyn Device>>, u8)| {
            let state = enter(&device).export_state().expect("it is at rest");
            [vec![at], state].concat()
        };
        machine.devices().into_iter().zip(0u8..).map(device).collect()
    };
    let mut inputs = states(&machine);
    for (function, at) in machine.functions.iter().zip(0u64..) {
        machine.bind(function, RINGS + at * 3 * RING_BYTES);
    }
    inputs.extend(states(&machine));
    let execute = move |input: &[u8]| {
        let Some((at, state)) = input.split_first() else { return Outcome::Refused };
        // Each input finds the memory that the one before found: what it did must not hang on those before it.
        fill(&host.memory);
        let machine = host.machine();
        let devices = machine.devices();
        let device = &devices[usize::from(*at) % devices.len()];
        let version = enter(device).chunk().version;
        if enter(device).import_state(version, state).is_err() {
            return Outcome::Refused;
        }
        machine.run();
        Outcome::Taken
    };
    Ok(Prepared { inputs, text: false, bytes_max: BYTES_MAX, execute: Box::new(execute) })
}
