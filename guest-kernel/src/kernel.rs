//! Puts the parts together, in ring 3.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicPtr, Ordering::Acquire, Ordering::Release};

use heapless::{String, Vec};
use virtio_drivers::transport::DeviceType;

use witness::boot::acpi::{PROCESSORS_MAX, Platform};
use witness::boot::power::Power;
use witness::boot::processors::{self, Seat};
use witness::boot::start_info::{CMDLINE_MAX, RANGES_MAX, Range, StartInfo};
use witness::boot::{entry, paging};
use witness::report::desk::{Desk, Devices, Machine};
use witness::report::record::line;
use witness::report::serial::Serial;
use witness::report::settings::{Settings, pages};
use witness::ring0::descriptors::CPUS_MAX;
use witness::ring0::{descriptors, gate};
use witness::virtio::bus::Bus;
use witness::witness::clock::{Counter, KvmClock, KvmClocks, Tsc};
use witness::witness::content::{PAGE_BYTES, Recipe};
use witness::witness::cpu::Registers;
use witness::witness::echo::server::Server;
use witness::witness::journal::keeper::Keeper;
use witness::witness::memory::{Memory, REGIONS_MAX, Region, regions};
use witness::witness::share::Share;
use witness::witness::tally::Tally;
use witness::witness::worker::{Common, Step, Worker};
use witness::witness::{frequency, ipi, timer};

const PAGE: u64 = PAGE_BYTES as u64;

static mut SERIAL: Serial = Serial::new();
static COMMON: Common = Common::new();
static TALLIES: [Tally; CPUS_MAX] = [const { Tally::new() }; CPUS_MAX];
static KVM_CLOCKS: KvmClocks<CPUS_MAX> = KvmClocks::new();
static mut KVM_CLOCK_PAGES: [KvmClock; CPUS_MAX] = [const { KvmClock::new() }; CPUS_MAX];
/// What the other CPUs do; null until it is known.
static JOB: AtomicPtr<Job> = AtomicPtr::new(core::ptr::null_mut());

/// What every CPU needs to know to work.
struct Job {
    memory: Memory,
    cpus: u64,
    /// LAPIC identifiers of the CPUs, by number.
    apics: Vec<u8, CPUS_MAX>,
    kvmclock: bool,
    tsc_hz: u64,
    settings: Settings,
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    // A line of its own, past whatever waits: the kernel is at its end and owns the line.
    let mut serial = Serial::new();
    serial.put("\r\n");
    serial.put(&line(format_args!("panic {}", info.message())));
    if let Some(place) = info.location() {
        serial.put(&line(format_args!("panic at {place}")));
    }
    serial.flush();
    gate::hang()
}

/// The kernel proper; called by the entry, in ring 3, with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn witness_main(start_info: u64, first_tsc: u64) -> ! {
    let serial = &raw mut SERIAL;
    // SAFETY: this function runs once; the panic handler does not touch this value.
    let serial = unsafe { &mut *serial };
    serial.start();
    serial.put(&line(format_args!("first tsc={first_tsc}")));
    serial.flush();
    // SAFETY: interrupts are off and other CPUs do not run yet.
    unsafe { descriptors::fill_idt() };

    // SAFETY: the loader's structures lie in memory that is mapped and that nothing has written since.
    let byte = |address: u64| unsafe { (address as *const u8).read_volatile() };
    let info = match StartInfo::read(start_info, byte) {
        Ok(info) => info,
        Err(error) => panic!("hvm_start_info at {start_info:#x}: {error:?}"),
    };
    let mut cmdline: String<CMDLINE_MAX> = String::new();
    (info.cmdline.start..info.cmdline.end).for_each(|address| _ = cmdline.push(char::from(byte(address) & 0x7f)));
    let (settings, complaints) = Settings::parse(&cmdline);
    for word in &complaints {
        serial.put(&line(format_args!("ignored {word}")));
    }
    let platform = Platform::read(info.rsdp, byte);

    timer::enable();
    // SAFETY: the interrupt table is filled.
    unsafe { gate::enable_interrupts() };
    let kvmclock = start_kvmclock(0);
    // SAFETY: KVM has filled the structure when the register is written.
    let scale = kvmclock.then(|| unsafe { kvmclock_page(0).read_volatile() }.tsc_hz()).flatten();
    let (tsc_hz, source) = frequency::tsc_hz(scale);
    let others = others(&platform, settings.cpus);
    let estate = Estate::divide(&info.ram, others.len() as u64);
    let recipe = Recipe { seed: settings.seed, content: settings.content, write: settings.write };
    let memory = estate.memory(pages(settings.own), recipe);
    let cpus = 1 + wake(&others, &estate, tsc_hz, serial);
    let apics: Vec<u8, CPUS_MAX> = core::iter::once(timer::id()).chain(others).take(cpus as usize).collect();
    serial.put(&line(format_args!(
        "start pages={} cpus={cpus} tsc_hz={tsc_hz} source={source:?} kvmclock={} cmdline={cmdline}",
        memory.pages(),
        if kvmclock { "on" } else { "off" },
    )));
    let power = Power::new(&platform, settings.s5);
    let devices = devices(&platform, &settings, tsc_hz, first_tsc, serial);
    serve(Job { memory, cpus, apics, kvmclock, tsc_hz, settings }, power, devices, first_tsc, serial)
}

/// The journal on the first disk and the echo on the first network interface, as far as they are asked for and possible.
fn devices(platform: &Platform, settings: &Settings, tsc_hz: u64, first_tsc: u64, serial: &mut Serial) -> Devices {
    let mut devices = Devices { journal: None, echo: None };
    if settings.journal.is_none() && settings.echo.is_none() {
        return devices;
    }
    // SAFETY: what ACPI says of it; this is the one place that looks at the bus.
    let mut bus = platform.ecam.map(|ecam| unsafe { Bus::look(ecam) });
    let mut first = |kind| bus.as_mut().and_then(|bus| bus.first(kind));
    if let Some(rate) = settings.journal {
        match first(DeviceType::Block).map(|disk| Keeper::new(disk, settings.seed, rate, tsc_hz, Tsc.read())) {
            Some(Ok(keeper)) => devices.journal = Some(keeper),
            Some(Err(error)) => serial.put(&line(format_args!("error no journal on the first disk: {error}"))),
            None => serial.put(&line(format_args!("error no journal: there is no virtio disk on PCI bus 0"))),
        }
    }
    if let Some(address) = settings.echo {
        // SAFETY: this is the one place that makes a server, and it runs once.
        let server = |nic| unsafe { Server::new(nic, address, tsc_hz, first_tsc) };
        match first(DeviceType::Network).map(server) {
            Some(Ok(server)) => devices.echo = Some(server),
            Some(Err(error)) => serial.put(&line(format_args!("error no echo on the first NIC: {error}"))),
            None => serial.put(&line(format_args!("error no echo: there is no virtio NIC on PCI bus 0"))),
        }
    }
    devices
}

fn kvmclock_page(cpu: usize) -> *const KvmClock {
    (&raw const KVM_CLOCK_PAGES).cast::<KvmClock>().wrapping_add(cpu)
}

fn start_kvmclock(cpu: usize) -> bool {
    frequency::start_kvmclock(kvmclock_page(cpu))
}

/// LAPIC identifiers of the CPUs besides this one that are to work.
fn others(platform: &Platform, cpus_max: u64) -> Vec<u8, PROCESSORS_MAX> {
    let this = timer::id();
    let most = cpus_max.min(CPUS_MAX as u64) as usize - 1;
    platform.processors.iter().copied().filter(|id| *id != this).take(most).collect()
}

/// Wakes CPUs; how many came.
fn wake(others: &[u8], estate: &Estate, tsc_hz: u64, serial: &mut Serial) -> u64 {
    if estate.trampoline == 0 && !others.is_empty() {
        serial.put(&line(format_args!("error no memory below 1 MiB to wake other CPUs with")));
        return 0;
    }
    for (cpu, apic) in (1..).zip(others) {
        let seat = (estate.seats as *mut Seat).wrapping_add(cpu as usize - 1);
        // SAFETY: the estate set a page and a seat for each CPU aside.
        if !unsafe { processors::wake(*apic, cpu, estate.trampoline, seat, tsc_hz) } {
            serial.put(&line(format_args!("error the CPU with LAPIC identifier {apic} does not wake")));
            return cpu - 1;
        }
    }
    others.len() as u64
}

/// The work of the first CPU: its share, and the desk.
fn serve(mut job: Job, power: Power, devices: Devices, first_tsc: u64, serial: &mut Serial) -> ! {
    let orders = &COMMON.orders;
    orders.set_pattern(job.settings.pattern);
    orders.set_verify(job.settings.verify);
    orders.set_nap(job.settings.nap);
    orders.set_scan(job.settings.scan);
    orders.set_set(pages(job.settings.set));
    orders.set_rate(if job.settings.idle { 0 } else { job.settings.rate });
    JOB.store(&raw mut job, Release);
    let job = &job;
    let machine = Machine {
        memory: &job.memory,
        common: &COMMON,
        tallies: &TALLIES[..job.cpus as usize],
        clocks: &KVM_CLOCKS,
        power,
        tsc_hz: job.tsc_hz,
        first_tsc,
    };
    let registers = Registers::put(job.settings.seed);
    let (msrs, debug, avx) = (registers.msrs(), registers.debug(), registers.avx());
    serial.put(&line(format_args!("registers msrs={msrs} debug={debug} avx={avx}")));
    let mut desk = Desk::new(machine, serial, job.settings.clone(), devices, Tsc.read());
    work(job, 0, registers, |worker, clock| desk.serve(worker, clock))
}

/// The work of another CPU; called by its entry, in ring 3.
#[unsafe(no_mangle)]
extern "C" fn witness_processor(cpu: u64) -> ! {
    processors::awake(cpu);
    let job = loop {
        // SAFETY: the first CPU keeps the job on a stack that it never leaves, and changes it no more.
        if let Some(job) = unsafe { JOB.load(Acquire).as_ref() } {
            break job;
        }
        core::hint::spin_loop();
    };
    timer::enable();
    if job.kvmclock && !start_kvmclock(cpu as usize) {
        panic!("kvmclock is there for the first CPU and not for CPU {cpu}");
    }
    work(job, cpu, Registers::put(job.settings.seed ^ cpu << 32), |_, _| true)
}

/// The loop of one CPU; `attend` is called between two steps and says whether it may halt.
fn work(job: &Job, cpu: u64, registers: Registers, mut attend: impl FnMut(&mut Worker<Tsc>, u64) -> bool) -> ! {
    if job.settings.tick_hz > 0 {
        timer::start(cpu as u8, job.settings.tick_hz, job.tsc_hz);
    }
    let index = cpu as usize;
    let share = Share { cpu, cpus: job.cpus };
    let mut worker = Worker::new(&job.memory, share, &COMMON, &TALLIES[index], Tsc, job.tsc_hz);
    let (mut looked, mut checked) = (Tsc.read(), Tsc.read());
    let mut ring = ipi::Ring::new(cpu, &job.apics);
    let mut timer = timer::Watch::new(cpu, job.tsc_hz);
    loop {
        let step = worker.step();
        registers.check();
        // What takes exits of the hypervisor is done 100 times and once a second.
        if worker.now().wrapping_sub(looked) > job.tsc_hz / 100 {
            looked = worker.now();
            timer.look();
            worker.look();
            ring.look();
            registers.check_x87();
            worker.look();
        }
        if worker.now().wrapping_sub(checked) > job.tsc_hz {
            checked = worker.now();
            registers.check_privileged(|| worker.look());
        }
        // SAFETY: this CPU's structure, which KVM keeps.
        let look = || unsafe { KvmClock::now(kvmclock_page(index), &Tsc) };
        let clock = if job.kvmclock { KVM_CLOCKS.look(index, look) } else { 0 };
        let may_halt = attend(&mut worker, clock);
        if step == Step::Idle && may_halt && COMMON.orders.nap() {
            gate::halt();
        }
    }
}

/// All memory, and what of it is set aside before the rest is owned.
struct Estate {
    ram: Vec<Range, RANGES_MAX>,
    taken: Vec<Range, 4>,
    versions: *mut u32,
    seats: u64,
    trampoline: u64,
}

impl Estate {
    /// Sets aside page 0 (a null pointer is no page), the image, a page for the trampoline, and a place for page tables,
    /// versions and seats, and maps everything.
    fn divide(ram: &[Range], others: u64) -> Self {
        let ram: Vec<Range, RANGES_MAX> =
            ram.iter().map(|r| Range { start: r.start, end: r.end.min(paging::HIGHEST) }).collect();
        let end = ram.iter().map(|range| range.end).max().unwrap_or(0);
        let total: u64 = ram.iter().map(|range| range.end.saturating_sub(range.start) / PAGE).sum();
        let image = entry::image();
        let mut taken: Vec<Range, 4> = Vec::new();
        let mut take = |start, end| _ = taken.push(Range { start, end });
        take(0, PAGE);
        take(image.start, image.end);
        let free: Vec<Region, REGIONS_MAX> =
            regions(&ram, &[Range { start: 0, end: PAGE }, Range { start: image.start, end: image.end }], u64::MAX);
        let trampoline = free.iter().find(|region| region.base < 1 << 20).map_or(0, |region| region.base);
        take(trampoline, trampoline + PAGE);

        let tables = paging::tables_needed(end) * PAGE;
        let seats = tables + (total * 4).next_multiple_of(PAGE);
        let need = seats + others * size_of::<Seat>() as u64;
        let fits =
            |region: &&Region| region.base >= 1 << 20 && region.pages * PAGE >= need && region.base + need <= 1 << 32;
        let Some(place) = free.iter().find(fits) else { panic!("no room for {need} bytes of tables") };
        take(place.base, place.base + need);
        // SAFETY: memory that nothing else uses, below 4 GiB; other CPUs do not run yet.
        unsafe { paging::map(end, place.base) };
        let versions = (place.base + tables) as *mut u32;
        // SAFETY: room for a version of each page was taken.
        unsafe { versions.write_bytes(0, total as usize) };
        Self { ram, taken, versions, seats: place.base + seats, trampoline }
    }

    /// The rest, `pages_max` at most.
    fn memory(&self, pages_max: u64, recipe: Recipe) -> Memory {
        let owned = regions(&self.ram, &self.taken, pages_max);
        // SAFETY: memory that the loader calls ordinary, without what is set aside; the loader's structures and the ACPI
        // tables that may lie in it have been read.
        unsafe { Memory::new(&owned, self.versions, recipe) }
    }
}
