//! What a monitor process cannot do: it sees no file, its system call filter is there and stops what does not belong, and
//! under it a monitor does all that it is ever asked.

mod world;

#[path = "../vmm/tests/native/guest.rs"]
#[allow(dead_code, reason = "the guest of a few instructions belongs to the machine's own tests; here its ELF is used")]
mod guest;
#[path = "../vmm/tests/native/messenger.rs"]
mod messenger;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use godwit::api::channel::{Channel, Listener};
use godwit::api::host::VmState;
use godwit::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
use godwit::host::kernel_log;
use godwit::network::link;
use godwit::network::netlink::Netlink;
use godwit::network::packet::PacketSocket;
use godwit::network::tap::Tap;
use messenger::{Messenger, VECTOR};
use model::cpu_report::Baseline;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::process::{Pid, Signal, kill_process};
use vmm::machine::spec::{DiskSpec, MachineSpec, NicSpec};
use vmm::memory::DirtyBitmap;
use vmm::memory::layout::ECAM_START;
use vmm::pci::slots;
use world::leftovers::sessions_of_monitor;
use world::{BOUND, Datastore, Host, line, wait};

const PATIENCE: Duration = BOUND;

fn word(memory: &File, address: u64) -> u32 {
    let mut bytes = [0; 4];
    memory.read_exact_at(&mut bytes, address).expect("read");
    u32::from_le_bytes(bytes)
}

/// The threads of a process that are not under a filter, and how many it has.
fn unfiltered(pid: u32) -> (Vec<String>, usize) {
    let mut found = (Vec::new(), 0);
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").flatten() {
        // One that is gone already needs none.
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        found.1 += 1;
        if !status.contains("\nSeccomp:\t2\n") {
            found.0.push(status.lines().next().unwrap_or_default().to_owned());
        }
    }
    found
}

#[test]
fn for_a_monitor_no_path_leads_anywhere() {
    let Some(datastore) = Datastore::with_witness("nowhere") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    let pid = host.pid("witness").expect("it runs");
    for place in ["root", "cwd"] {
        let there: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/{place}/")).expect("readable").flatten().collect();
        assert!(there.is_empty(), "{place}: {there:?}");
    }
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/root")).ok(),
        std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
    );
}

#[test]
fn every_thread_of_a_running_monitor_is_under_the_filter() {
    let Some(datastore) = Datastore::with_witness("filtered") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    host.serial("witness").wait_for("witness: ready");
    let (unfiltered, threads) = unfiltered(host.pid("witness").expect("it runs"));
    assert!(threads >= 4, "a monitor has threads: {threads}");
    assert!(unfiltered.is_empty(), "{unfiltered:#?}");
}

/// Has the first thread of a process, which waits for connections, make a system call instead, as somebody who has taken it
/// over would.
fn make_it_call(pid: u32, number: libc::c_long, arguments: [u64; 3]) {
    let pid = pid.cast_signed();
    let traced = |request: libc::c_uint, data: *mut libc::user_regs_struct| {
        // SAFETY: `data` is null, or the registers that the request reads or fills; no memory of ours is touched else.
        let outcome = unsafe { libc::ptrace(request as _, pid, std::ptr::null_mut::<libc::c_void>(), data) };
        assert_eq!(outcome, 0, "ptrace {request}: {}", std::io::Error::last_os_error());
    };
    wait("it waits for a connection", || {
        traced(libc::PTRACE_ATTACH as _, std::ptr::null_mut());
        let mut status = 0;
        // SAFETY: `status` is an int that lives until the call returns.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }, pid);
        // SAFETY: all zeroes is a value of plain integers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        traced(libc::PTRACE_GETREGS as _, &raw mut registers);
        let waits = registers.orig_rax == libc::SYS_accept4 as u64;
        if waits {
            // The instruction before the next one is the system call that it is in; -1: it is not begun again.
            (registers.rip, registers.orig_rax) = (registers.rip - 2, u64::MAX);
            (registers.rax, [registers.rdi, registers.rsi, registers.rdx]) = (number as u64, arguments);
            traced(libc::PTRACE_SETREGS as _, &raw mut registers);
        }
        traced(libc::PTRACE_DETACH as _, std::ptr::null_mut());
        waits
    });
}

#[test]
fn a_monitor_that_calls_what_no_monitor_calls_is_stopped_and_its_host_says_why() {
    let Some(datastore) = Datastore::with_witness("stopped") else { return };
    let mut host = Host::boot(&datastore, "host-a", 1);
    for adopted in [false, true] {
        assert_eq!(host.ask("vm start witness").0, 0);
        host.serial("witness").wait_for("witness: ready");
        if adopted {
            host.restart_control_plane();
            wait("its datastore is there", || line(&host.ask("host check").1).contains("datastore lab: available"));
            wait("the VM is adopted", || host.state("witness") == VmState::Running);
        }
        let pid = host.pid("witness").expect("it runs");
        make_it_call(pid, libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0]);
        wait("the VM ends", || host.state("witness") == VmState::Stopped);
        let told = host.last_end("witness");
        println!("{told}");
        match kernel_log::filtered_call(pid) {
            Some(call) => {
                assert_eq!(i64::from(call), libc::SYS_socket);
                assert!(told.contains("stopped by its system call filter at system call 41"), "{told}");
            }
            // A kernel without audit: of a monitor that is not its child the host does not know how it ended.
            None if adopted => assert!(told.contains("ended without a word"), "{told}"),
            None => assert!(told.contains("stopped by its system call filter"), "{told}"),
        }
    }
}

const MEMORY_BYTES: u64 = 32 << 20;
const DISK_BYTES: u64 = 8 << 20;
/// An EtherType that is free for experiments (IEEE 802, 9.2.3).
const ETHER_TYPE: u16 = 0x88b5;
const HEADER_BYTES: usize = 12;

/// A monitor process, spoken to as control plane and migration engine do.
struct Monitor {
    child: Child,
    socket: PathBuf,
    control: Channel<VmmRequest, VmmAnswer>,
}

impl Monitor {
    /// Starts one and has it build its machine.
    fn start(folder: &Path, name: &str, memory: &File, tap: &Tap) -> Option<Self> {
        let kvm = match File::options().read(true).write(true).open("/dev/kvm") {
            Ok(kvm) => kvm,
            Err(error) => {
                println!("skipped: /dev/kvm: {error}");
                return None;
            }
        };
        let socket = folder.join(format!("{name}.sock"));
        let listener = Listener::bind(&socket).expect("a folder of our own");
        let child = Command::new(env!("CARGO_BIN_EXE_godwit"))
            .args(["vmm", name])
            .env("GODWIT_RUN", folder)
            .stdin(Stdio::from(listener.into_socket()))
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        let control = Channel::connect(&socket).expect("its socket listens since before it lives");
        let monitor = Self { child, socket, control };
        let disk = DiskSpec { capacity_bytes: DISK_BYTES, read_only: false, serial: "disk0".into() };
        let nic = NicSpec { mac: [0x52, 0x54, 0, 1, 2, 3], mtu: None };
        let spec = MachineSpec {
            cpus: 2,
            memory_bytes: MEMORY_BYTES,
            cpu_baseline: Baseline::Host,
            disks: vec![disk],
            nics: vec![nic],
            rng: true,
        };
        monitor.ask(&VmmRequest::Build { spec }, &[kvm.as_fd(), memory.as_fd(), tap.file.as_fd()]);
        Some(monitor)
    }

    fn ask(&self, request: &VmmRequest, beside: &[BorrowedFd<'_>]) -> (VmmAnswer, Option<OwnedFd>) {
        match self.control.ask(request, beside, BOUND) {
            Ok((VmmAnswer::Failed(why), _)) => panic!("{request:?}: {why}"),
            Ok((answer, given)) => (answer, given.into_iter().next()),
            Err(error) => panic!("{request:?}: {error}"),
        }
    }

    /// A further connection with one request, whose answers come for ever.
    fn listen(&self, request: &VmmRequest) -> Channel<VmmRequest, VmmAnswer> {
        let channel = Channel::connect(&self.socket).expect("it listens");
        channel.send(request, &[]).expect("sent");
        channel
    }

    /// Ends it as its owner would, and sees that it was alive and well until then.
    fn quit(mut self) {
        let (unfiltered, _) = unfiltered(self.child.id());
        assert!(unfiltered.is_empty(), "{unfiltered:#?}");
        self.control.send(&VmmRequest::Quit, &[]).expect("it is there");
        let mut ended = None;
        wait("the monitor ends", || {
            ended = self.child.try_wait().expect("it is our child");
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // The only error is that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who asked for a stop and died is not obeyed any more: whoever has the guest now let it go on.
fn is_not_stopped_for_who_is_gone(monitor: &Monitor) {
    let sessions = || sessions_of_monitor(monitor.child.id());
    let own = sessions();
    let pid = Pid::from_raw(monitor.child.id().cast_signed()).expect("it lives");
    for request in [VmmRequest::Pause, VmmRequest::Save] {
        kill_process(pid, Signal::STOP).expect("it is our child");
        drop(monitor.listen(&request));
        kill_process(pid, Signal::CONT).expect("it is our child");
        // Connections are taken in their order: the first is served before the second is answered.
        let next = monitor.listen(&VmmRequest::Status);
        next.receive_within(BOUND).expect("answered");
        drop(next);
        wait("both are ended", || sessions() == own);
        let now = monitor.ask(&VmmRequest::Status, &[]).0;
        assert!(matches!(&now, VmmAnswer::Status(status) if status.life == VmmLife::Running), "{request:?}: {now:?}");
    }
}

/// A virtio queue, with the test as its driver: one request at a time.
struct Queue<'a> {
    memory: &'a File,
    doorbell: u64,
    index: u16,
    /// Table, then a page further what is made available, then what was used, then data.
    base: u64,
    offered: u16,
}

const TABLE: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const DATA: u64 = 0x3000;
const QUEUE_BYTES: u64 = 0x10000;
const ENTRIES: u16 = 16;

/// Brings the device in a slot to life, with as many queues and the low half of its features.
fn device(memory: &File, slot: u8, features: u64, queues: u16) -> Vec<Queue<'_>> {
    let guest = Messenger(memory);
    let (bar, config) = (slots::bar_start(slot), ECAM_START + u64::from(slot) * 0x8000);
    guest.write(bar + 0x14, 1, 0);
    guest.write(bar + 0x14, 1, 3);
    for (half, features) in [(0, features), (1, 1)] {
        guest.write(bar + 0x08, 4, half);
        guest.write(bar + 0x0c, 4, features);
    }
    guest.write(bar + 0x14, 1, 0xb);
    let entry = bar + 0x4000;
    guest.write(entry, 8, 0xfee0_0000);
    guest.write(entry + 8, 4, u64::from(VECTOR));
    guest.write(entry + 12, 4, 0);
    let capability = guest.read(config + 0x34, 1);
    guest.write(config + capability + 2, 2, 0x8000);
    let queues: Vec<_> = (0..queues)
        .map(|index| {
            let base = 0x80_0000 + (u64::from(slot) * 4 + u64::from(index)) * QUEUE_BYTES;
            Queue { memory, doorbell: bar + 0x3000 + u64::from(index) * 4, index, base, offered: 0 }
        })
        .collect();
    for queue in &queues {
        guest.write(bar + 0x16, 2, u64::from(queue.index));
        guest.write(bar + 0x1a, 2, 0);
        guest.write(bar + 0x18, 2, u64::from(ENTRIES));
        for (register, part) in [(0x20, TABLE), (0x28, AVAILABLE), (0x30, USED)] {
            guest.write(bar + register, 4, queue.base + part);
        }
        guest.write(bar + 0x1c, 2, 1);
    }
    guest.write(bar + 0x14, 1, 0xf);
    assert_eq!(guest.read(bar + 0x14, 1), 0xf, "the device in slot {slot} is well");
    queues
}

impl Queue<'_> {
    /// Makes a request of these pieces available: bytes that the device reads, or how many it may write. They lie one
    /// behind the other from [`DATA`] on.
    fn offer(&mut self, pieces: &[Result<&[u8], u32>]) {
        let mut address = self.base + DATA;
        for (at, piece) in pieces.iter().enumerate() {
            let (length, writable) = match piece {
                Ok(bytes) => {
                    self.memory.write_all_at(bytes, address).expect("written");
                    (bytes.len() as u32, 0)
                }
                Err(length) => (*length, 2),
            };
            let flags = writable | u16::from(at + 1 < pieces.len());
            let mut descriptor = Vec::from(address.to_le_bytes());
            descriptor.extend(length.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend((at as u16 + 1).to_le_bytes());
            self.memory.write_all_at(&descriptor, self.base + TABLE + at as u64 * 16).expect("written");
            address += u64::from(length);
        }
        let entry = self.base + AVAILABLE + 4 + 2 * u64::from(self.offered % ENTRIES);
        self.memory.write_all_at(&0u16.to_le_bytes(), entry).expect("written");
        self.offered = self.offered.wrapping_add(1);
        self.memory.write_all_at(&self.offered.to_le_bytes(), self.base + AVAILABLE + 2).expect("written");
        Messenger(self.memory).write(self.doorbell, 2, u64::from(self.index));
    }

    /// Waits until the request has come back; gives its bytes, and how many of them the device wrote.
    fn answer(&self) -> (Vec<u8>, u32) {
        let used = || (word(self.memory, self.base + USED) >> 16) as u16;
        wait("a request comes back", || used() == self.offered);
        let entry = self.base + USED + 4 + 8 * u64::from(self.offered.wrapping_sub(1) % ENTRIES);
        let mut bytes = vec![0; (QUEUE_BYTES - DATA) as usize];
        self.memory.read_exact_at(&mut bytes, self.base + DATA).expect("read");
        (bytes, word(self.memory, entry + 4))
    }

    /// One request of a disk: its kind, where, and what is written or how many bytes are read; gives what was read.
    fn disk(&mut self, kind: u32, sector: u64, data: Option<Result<&[u8], u32>>) -> Vec<u8> {
        let mut header = Vec::from(kind.to_le_bytes());
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let pieces: Vec<_> = [Some(Ok(&header[..])), data, Some(Err(1))].into_iter().flatten().collect();
        self.offer(&pieces);
        let answer = self.answer().0;
        let end = 16 + data.map_or(0, |data| data.map_or_else(|bytes| bytes as usize, <[u8]>::len));
        assert_eq!(answer[end], 0, "status of request {kind}");
        answer[16..end].to_vec()
    }
}

fn memfd(bytes: u64) -> OwnedFd {
    let memory = memfd_create("memory", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&memory, bytes).expect("sized");
    memory
}

fn frames_received(link: &str) -> u64 {
    let links = std::fs::read_to_string("/proc/thread-self/net/dev").expect("this thread's networks");
    let line = links.lines().find_map(|line| line.trim_start().strip_prefix(link)?.strip_prefix(':')).expect("a link");
    line.split_ascii_whitespace().nth(1).and_then(|frames| frames.parse().ok()).expect("a count")
}

/// Disk, NIC and entropy do what they are for.
fn use_devices(disk: &mut Queue<'_>, nic: &mut [Queue<'_>], rng: &mut Queue<'_>, tap: &Tap) {
    let page: Vec<u8> = (0..4096u32).map(|at| (at * 13 + at / 256) as u8).collect();
    disk.disk(1, 64, Some(Ok(&page)));
    disk.disk(4, 0, None);
    assert!(disk.disk(0, 64, Some(Err(4096))) == page, "what was written is read");

    rng.offer(&[Err(64)]);
    assert_eq!(rng.answer().1, 64, "entropy");

    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(ETHER_TYPE.to_be_bytes());
    frame.resize(60, 0x5a);
    let before = frames_received(&tap.name);
    nic[1].offer(&[Ok(&[0; HEADER_BYTES]), Ok(&frame)]);
    nic[1].answer();
    wait("the frame arrives", || frames_received(&tap.name) > before);
    nic[0].offer(&[Err(2048)]);
    let wire = PacketSocket::open(tap.index, ETHER_TYPE).expect("root in its own network namespace");
    wire.send(&frame).expect("sent");
    let (received, length) = nic[0].answer();
    assert_eq!(received[HEADER_BYTES..length as usize], frame, "the frame that was sent");
}

/// A life with everything in it that a monitor is ever asked.
fn live(folder: &Path) {
    let mut netlink = Netlink::open().expect("netlink");
    let taps = ["mon0", "mon1"].map(|name| {
        let tap = Tap::create(&mut netlink, name).expect("a tap");
        link::set_up(&mut netlink, tap.index, true).expect("up");
        tap
    });
    let memory = File::from(memfd(MEMORY_BYTES));
    let open_disk = || {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_DIRECT);
        options.open(folder.join("disk")).expect("a file system with direct I/O")
    };
    open_disk().set_len(DISK_BYTES).expect("sized");

    let Some(source) = Monitor::start(folder, "source", &memory, &taps[0]) else { return };
    source.ask(&VmmRequest::AttachDisk { index: 0 }, &[open_disk().as_fd()]);
    let (kernel, initrd) = (Messenger::image(), File::from(memfd(8192)));
    source.ask(&VmmRequest::Load { cmdline: "quiet".into(), initrd: true }, &[kernel.as_fd(), initrd.as_fd()]);
    Messenger(&memory).prepare();
    let (events, serial) = (source.listen(&VmmRequest::Watch), source.listen(&VmmRequest::SerialAttach));
    source.ask(&VmmRequest::Resume, &[]);
    let mut disk = device(&memory, slots::DISK_SLOT, 1 << 9, 1);
    let mut nic = device(&memory, slots::NIC_SLOT, 0, 2);
    let mut rng = device(&memory, slots::RNG_SLOT, 0, 1);
    use_devices(&mut disk[0], &mut nic, &mut rng[0], &taps[0]);
    assert!(Messenger(&memory).interrupts(VECTOR) > 0, "devices interrupt");
    serial.send(&VmmRequest::Serial(b"typed\n".to_vec()), &[]).expect("sent");
    source.ask(&VmmRequest::PowerButton, &[]);

    source.ask(&VmmRequest::Pause, &[]);
    source.ask(&VmmRequest::Resume, &[]);
    use_devices(&mut disk[0], &mut nic, &mut rng[0], &taps[0]);
    assert!(
        matches!(source.ask(&VmmRequest::Status, &[]).0, VmmAnswer::Status(status) if status.life == VmmLife::Running)
    );
    assert!(matches!(source.ask(&VmmRequest::Describe, &[]), (VmmAnswer::Described(_), Some(_))));
    is_not_stopped_for_who_is_gone(&source);

    let bitmap = memfd(DirtyBitmap::bytes_for(MEMORY_BYTES / 4096));
    // A check watches the guest when the move begins, which misses no page for it.
    let seen = memfd(DirtyBitmap::bytes_for(MEMORY_BYTES / 4096));
    let check = source.listen(&VmmRequest::Status);
    check.receive_within(BOUND).expect("an answer");
    let of_check =
        |request: VmmRequest, beside: &[BorrowedFd<'_>]| check.ask(&request, beside, BOUND).expect("answered").0;
    let started = of_check(VmmRequest::DirtyLogStart { sample: true }, &[seen.as_fd()]);
    assert!(matches!(started, VmmAnswer::Done), "{started:?}");
    let harvested = of_check(VmmRequest::DirtyLogHarvest, &[]);
    assert!(matches!(harvested, VmmAnswer::Harvested { .. }), "{harvested:?}");
    source.ask(&VmmRequest::DirtyLogStart { sample: false }, &[bitmap.as_fd()]);
    let refused = of_check(VmmRequest::DirtyLogHarvest, &[]);
    assert!(matches!(&refused, VmmAnswer::Failed(why) if why.contains("a move of the VM")), "{refused:?}");
    let stopped = of_check(VmmRequest::DirtyLogStop, &[]);
    assert!(matches!(stopped, VmmAnswer::Done), "{stopped:?}");
    drop(check);
    let all = source.ask(&VmmRequest::DirtyLogHarvest, &[]).0;
    assert!(matches!(all, VmmAnswer::Harvested { pages, .. } if pages == MEMORY_BYTES / 4096), "{all:?}");
    for percent in [50, 99, 0] {
        source.ask(&VmmRequest::Throttle { percent }, &[]);
        disk[0].disk(0, 0, Some(Err(4096)));
        let harvested = source.ask(&VmmRequest::DirtyLogHarvest, &[]).0;
        let VmmAnswer::Harvested { pages, slowed } = harvested else { panic!("{harvested:?}") };
        assert!(
            pages > 0 && slowed.len() == 2 && slowed.iter().max() == Some(&percent),
            "{pages} pages, slowed by {slowed:?}"
        );
    }
    let target = Monitor::start(folder, "target", &memory, &taps[1]).expect("there was a KVM");
    let saved = source.ask(&VmmRequest::Save, &[]);
    let (VmmAnswer::Saved { length, .. }, Some(state)) = saved else { panic!("{saved:?}") };
    let again = source.control.ask(&VmmRequest::Announce { again: true }, &[], BOUND).expect("answered").0;
    assert!(matches!(&again, VmmAnswer::Failed(_)), "it may run elsewhere by now: {again:?}");
    source.ask(&VmmRequest::DirtyLogHarvest, &[]);
    source.ask(&VmmRequest::DirtyLogStop, &[]);
    target.ask(&VmmRequest::Restore { length, clock: None }, &[state.as_fd()]);
    target.ask(&VmmRequest::AttachDisk { index: 0 }, &[open_disk().as_fd()]);
    let life_after = |request: &VmmRequest| {
        target.ask(request, &[]);
        let VmmAnswer::Status(status) = target.ask(&VmmRequest::Status, &[]).0 else { panic!("it tells") };
        status.life
    };
    assert_eq!(life_after(&VmmRequest::ResumeArrived), VmmLife::Running);
    assert_eq!(life_after(&VmmRequest::Pause), VmmLife::Paused);
    assert_eq!(life_after(&VmmRequest::ResumeArrived), VmmLife::Paused, "who moved it here did not pause it");
    assert_eq!(life_after(&VmmRequest::Resume), VmmLife::Running);
    let told = target.ask(&VmmRequest::Announce { again: true }, &[]).0;
    assert!(matches!(told, VmmAnswer::Announced { frames: 0, unheard: 0, since_ms: None }), "it was not yet: {told:?}");
    for again in [false, true] {
        let told = target.ask(&VmmRequest::Announce { again }, &[]).0;
        assert!(matches!(told, VmmAnswer::Announced { frames: 1, unheard: 1, since_ms: Some(_) }), "{told:?}");
    }
    use_devices(&mut disk[0], &mut nic, &mut rng[0], &taps[1]);
    let told = target.ask(&VmmRequest::Announce { again: true }, &[]).0;
    assert!(matches!(told, VmmAnswer::Announced { frames: 0, unheard: 0, .. }), "its guest was heard of: {told:?}");
    let told = target.ask(&VmmRequest::Announce { again: false }, &[]).0;
    assert!(matches!(told, VmmAnswer::Announced { frames: 1, unheard: 0, .. }), "once in any case: {told:?}");

    drop((events, serial));
    source.quit();
    target.quit();
}

#[test]
fn a_monitor_serves_its_guest_and_is_moved_under_the_filter() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("monitor-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("made");
    let own = folder.clone();
    let thread = std::thread::spawn(move || {
        // SAFETY: unshare(2) with CLONE_NEWNET touches nothing but this thread's network namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            println!("skipped: no network namespace: {}", std::io::Error::last_os_error());
            return;
        }
        live(&own);
    });
    let outcome = thread.join();
    let _ = std::fs::remove_dir_all(&folder);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
