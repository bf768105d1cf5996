//! Puts the parts together, in ring 3.

use core::panic::PanicInfo;

use heapless::{String, Vec};

use witness::boot::power::Power;
use witness::boot::start_info::{CMDLINE_MAX, Range, StartInfo};
use witness::boot::{entry, paging};
use witness::report::desk::{Desk, Machine};
use witness::report::record::line;
use witness::report::serial::Serial;
use witness::report::settings::{Settings, pages};
use witness::ring0::{descriptors, gate};
use witness::witness::clock::{Counter, KvmClock, Ratchet, Tsc};
use witness::witness::content::{PAGE_BYTES, Recipe};
use witness::witness::memory::{Memory, REGIONS_MAX, Region, regions};
use witness::witness::share::Share;
use witness::witness::worker::{Common, Step, Tally, Worker};
use witness::witness::{cpu, frequency, timer};

static mut SERIAL: Serial = Serial::new();
static COMMON: Common = Common::new();
static TALLIES: [Tally; 1] = [const { Tally::new() }; 1];
static KVM_CLOCK: Ratchet = Ratchet::new();
static mut KVM_CLOCK_PAGE: KvmClock = KvmClock::new();

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

    timer::enable();
    // SAFETY: the interrupt table is filled.
    unsafe { gate::enable_interrupts() };
    let clock = frequency::start_kvmclock(&raw const KVM_CLOCK_PAGE);
    // SAFETY: KVM has filled the page when the register is written.
    let scale = clock.then(|| unsafe { (&raw const KVM_CLOCK_PAGE).read_volatile() }.tsc_hz()).flatten();
    let (tsc_hz, source) = frequency::tsc_hz(scale);
    if settings.tick_hz > 0 {
        timer::start(settings.tick_hz, tsc_hz);
    }

    let recipe = Recipe { seed: settings.seed, content: settings.content, write: settings.write };
    let memory = own(&info.ram, pages(settings.own), recipe);
    serial.put(&line(format_args!(
        "start pages={} tsc_hz={tsc_hz} source={source:?} kvmclock={} cmdline={cmdline}",
        memory.pages(),
        if clock { "on" } else { "off" },
    )));
    let power = Power { s5: settings.s5 };
    let machine = Machine {
        memory: &memory,
        common: &COMMON,
        tallies: &TALLIES,
        clock: clock.then_some(&KVM_CLOCK),
        power,
        tsc_hz,
        first_tsc,
    };
    work(machine, serial, settings)
}

/// The loop of the first CPU.
fn work(machine: Machine, serial: &mut Serial, settings: Settings) -> ! {
    let orders = &COMMON.orders;
    orders.set_pattern(settings.pattern);
    orders.set_verify(settings.verify);
    orders.set_scan(settings.scan);
    orders.set_set(pages(settings.set));
    orders.set_rate(if settings.idle { 0 } else { settings.rate });
    let seed = settings.seed;
    let (memory, has_clock) = (machine.memory, machine.clock.is_some());
    let share = Share { cpu: 0, cpus: TALLIES.len() as u64 };
    let mut worker = Worker::new(memory, share, &COMMON, &TALLIES[0], Tsc, machine.tsc_hz);
    let mut desk = Desk::new(machine, serial, settings, Tsc.read());
    cpu::put_registers(seed);
    loop {
        let step = worker.step();
        cpu::check_registers(seed);
        let clock = if has_clock {
            // SAFETY: this CPU's page, which KVM keeps.
            KVM_CLOCK.look(|| unsafe { KvmClock::nanoseconds(&raw const KVM_CLOCK_PAGE, &Tsc) })
        } else {
            0
        };
        desk.serve(Tsc.read(), clock);
        if step == Step::Idle && desk.nap() {
            gate::halt();
        }
    }
}

/// Takes all memory that is left over: maps it, puts the version table into it.
fn own(ram: &[Range], pages_max: u64, recipe: Recipe) -> Memory {
    let ram: Vec<Range, 64> = ram.iter().map(|r| Range { start: r.start, end: r.end.min(paging::HIGHEST) }).collect();
    let end = ram.iter().map(|range| range.end).max().unwrap_or(0);
    let total: u64 = ram.iter().map(|range| range.end.saturating_sub(range.start) / PAGE_BYTES as u64).sum();
    let image = entry::image();
    // Page 0 stays alone: a null pointer is no page.
    let mut taken: Vec<Range, 4> = Vec::new();
    let _ = taken.push(Range { start: 0, end: PAGE_BYTES as u64 });
    let _ = taken.push(Range { start: image.start, end: image.end });

    let tables = paging::tables_needed(end) * PAGE_BYTES as u64;
    let need = (tables + total * 4).next_multiple_of(PAGE_BYTES as u64);
    let free: Vec<Region, REGIONS_MAX> = regions(&ram, &taken, u64::MAX);
    let Some(place) = free.iter().find(|r| r.pages * PAGE_BYTES as u64 >= need && r.base + need < 1 << 32) else {
        panic!("no room for {need} bytes of tables");
    };
    let _ = taken.push(Range { start: place.base, end: place.base + need });
    // SAFETY: memory that nothing else uses, below 4 GiB; other CPUs do not run yet.
    unsafe { paging::map(end, place.base) };
    let versions = (place.base + tables) as *mut u32;
    // SAFETY: room for a version of each page was taken.
    unsafe { versions.write_bytes(0, total as usize) };
    let owned = regions(&ram, &taken, pages_max);
    // SAFETY: memory that the loader calls ordinary, without the image and the tables; the loader's structures in it have
    // been read.
    unsafe { Memory::new(&owned, versions, recipe) }
}
