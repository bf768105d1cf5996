//! Runs one VM from files, on the terminal: for work on the VMM. No lease, no sandbox, no control plane.
//!
//! `run --kernel FILE [--initrd FILE] [--cmdline WORDS] [--cpus N] [--memory-mib N] [--disk FILE[,ro]]... [--tap NAME]... [--hops N
//! --every-ms N --after TEXT]`. With hops the VM is moved, again and again once TEXT was on its serial line, into a new machine
//! round the same memory: everything but the copying of a migration. A guest that reboots is started again.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use model::cpu_report::Baseline;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmm::machine::{DiskSpec, Event, Machine, MachineSpec, NicSpec, Resources};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Default)]
struct Arguments {
    kernel: String,
    initrd: Option<String>,
    cmdline: String,
    cpus: u8,
    memory_mib: u64,
    disks: Vec<(String, bool)>,
    taps: Vec<String>,
    hops: u32,
    every_ms: u64,
    after: String,
}

fn arguments() -> Outcome<Arguments> {
    let mut found = Arguments { cpus: 1, memory_mib: 256, every_ms: 200, ..Default::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--kernel" => found.kernel = value,
            "--initrd" => found.initrd = Some(value),
            "--cmdline" => found.cmdline = value,
            "--cpus" => found.cpus = value.parse()?,
            "--memory-mib" => found.memory_mib = value.parse()?,
            "--disk" => match value.strip_suffix(",ro") {
                Some(path) => found.disks.push((path.into(), true)),
                None => found.disks.push((value, false)),
            },
            "--tap" => found.taps.push(value),
            "--hops" => found.hops = value.parse()?,
            "--after" => found.after = value,
            "--every-ms" => found.every_ms = value.parse()?,
            _ => return Err(format!("unknown word {word}").into()),
        }
    }
    Ok(found)
}

/// Opens a disk as a datastore would: without the page cache where the file system can.
fn open_disk(path: &str, read_only: bool) -> Outcome<File> {
    let mut options = File::options();
    options.read(true).write(!read_only);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
    Ok(direct.or_else(|_| options.open(path))?)
}

fn initrd(arguments: &Arguments) -> Outcome<Option<File>> {
    Ok(arguments.initrd.as_ref().map(File::open).transpose()?)
}

fn open_tap(name: &str) -> Outcome<OwnedFd> {
    let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero is a valid ifreq; TUNSETIFF reads and writes just that.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &mut request)
    };
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(tap.into()) }
}

fn spec(arguments: &Arguments) -> Outcome<MachineSpec> {
    let mut disks = Vec::new();
    for (index, (path, read_only)) in arguments.disks.iter().enumerate() {
        let capacity_bytes = File::open(path)?.metadata()?.len() / 512 * 512;
        disks.push(DiskSpec { capacity_bytes, read_only: *read_only, serial: format!("disk-{index}") });
    }
    let nic = |index: usize| NicSpec { mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56 + index as u8], mtu: None };
    Ok(MachineSpec {
        cpus: arguments.cpus,
        memory_bytes: arguments.memory_mib << 20,
        cpu_baseline: Baseline::Host,
        disks,
        nics: (0..arguments.taps.len()).map(nic).collect(),
        rng: true,
    })
}

fn build(spec: &MachineSpec, memory: &OwnedFd, taps: &[OwnedFd]) -> Outcome<Machine> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?.into();
    let taps = taps.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
    Ok(Machine::build(spec.clone(), Resources { kvm, memory: memory.try_clone()?, taps })?)
}

/// Moves the machine into a new one round the same memory, and says what took how long.
fn hop(mut source: Machine, spec: &MachineSpec, memory: &OwnedFd, taps: &[OwnedFd]) -> Outcome<Machine> {
    let mut target = build(spec, memory, taps)?;
    let begin = Instant::now();
    source.pause()?;
    let paused = begin.elapsed();
    let state = source.export_state()?;
    let saved = begin.elapsed();
    for disk in 0..spec.disks.len() {
        target.attach_disk(disk, source.detach_disk(disk)?)?;
    }
    target.import_state(&state, None)?;
    let restored = begin.elapsed();
    target.resume()?;
    let all = begin.elapsed();
    target.announce();
    eprintln!(
        "hop: pause {paused:?}, save {:?}, restore {:?}, resume {:?}, all {all:?}, {} bytes; {:?}; {:?}",
        saved - paused,
        restored - saved,
        all - restored,
        state.len(),
        source.timings(),
        target.timings()
    );
    Ok(target)
}

fn typed() -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(got) = std::io::stdin().read(&mut bytes) {
            if got == 0 || send.send(bytes[..got].to_vec()).is_err() {
                return;
            }
        }
    });
    receive
}

fn main() -> Outcome<()> {
    let arguments = arguments()?;
    let spec = spec(&arguments)?;
    let memory = memfd_create("guest", MemfdFlags::CLOEXEC)?;
    ftruncate(&memory, spec.memory_bytes)?;
    let taps = arguments.taps.iter().map(|name| open_tap(name)).collect::<Outcome<Vec<_>>>()?;
    let mut machine = build(&spec, &memory, &taps)?;
    for (index, (path, read_only)) in arguments.disks.iter().enumerate() {
        machine.attach_disk(index, open_disk(path, *read_only)?)?;
    }
    machine.load(File::open(&arguments.kernel)?, initrd(&arguments)?, &arguments.cmdline)?;
    machine.start()?;
    let typed = typed();
    let (mut shown, mut hops, mut last_hop, mut said) = (0, 0, Instant::now(), String::new());
    loop {
        let output = machine.serial_output().read(shown);
        std::io::stdout().write_all(&output.bytes)?;
        std::io::stdout().flush()?;
        shown = output.next;
        if hops == 0 {
            said.push_str(&String::from_utf8_lossy(&output.bytes));
        }
        if let Some(event) = machine.take_event() {
            eprintln!("the VM has ended: {event:?}");
            if event == Event::Reset {
                machine.reset()?;
                machine.start()?;
                continue;
            }
            return if event == Event::Shutdown { Ok(()) } else { Err("not by itself".into()) };
        }
        if let Ok(bytes) = typed.try_recv() {
            machine.serial_input(&bytes);
        }
        if hops < arguments.hops
            && said.contains(&arguments.after)
            && last_hop.elapsed() >= Duration::from_millis(arguments.every_ms)
        {
            machine = hop(machine, &spec, &memory, &taps)?;
            machine.set_image(File::open(&arguments.kernel)?, initrd(&arguments)?, &arguments.cmdline);
            (hops, last_hop) = (hops + 1, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
