//! The witness kernel on this host's own /dev/kvm: it boots, obeys, ends, and is moved, alive, by the tens, and afterwards
//! finds every page, clock and register as it was. Where there is no /dev/kvm each test says so and is skipped.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use model::cpu_report::Baseline;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmm::clock::ClockReading;
use vmm::machine::{DiskSpec, Event, InstallError, Machine, MachineError, MachineSpec, Resources};
use vmm::memory::DirtyBitmap;
use witness_kernel::witness::journal::survey::Survey;

const PAGE_BYTES: u64 = 4096;
const MEMORY_BYTES: u64 = 64 << 20;
const JOURNAL_BYTES: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(120);
/// Copying goes on while a round leaves more pages than this, as long as there are rounds.
const REST_PAGES: u64 = 500;
const ROUNDS_MAX: u32 = 10;

/// One machine at a time: its CPUs spin, and two pairs would starve each other.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn kernel() -> File {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    let path = KERNEL.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("witness");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-kernel/Cargo.toml");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--target", "x86_64-unknown-none", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&folder)
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the witness does not build");
        folder.join("x86_64-unknown-none/release/witness")
    });
    File::open(path).expect("cargo built it")
}

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

/// A file for the journal, removed at the end.
struct Disk(PathBuf);

impl Disk {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.journal", std::process::id()));
        File::create(&path).unwrap().set_len(JOURNAL_BYTES).unwrap();
        Self(path)
    }

    fn open(&self) -> File {
        File::options().read(true).write(true).open(&self.0).unwrap()
    }

    /// Everything up to `flushed` is there, as the file has it; gives the highest number that is there.
    fn judge(&self, flushed: u64) -> u64 {
        let read = || Survey::of(&std::fs::read(&self.0).unwrap()).expect("a journal");
        // A guest that writes meanwhile may flush more than the part shows that was read first: it is read once more.
        let flushed = read().flushed().max(flushed);
        let survey = read();
        assert_eq!(survey.damages(flushed).collect::<Vec<_>>(), [], "of what was flushed up to {flushed}");
        survey.newest()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A machine, its memory, and what its guest has said.
struct Guest {
    machine: Machine,
    memory: File,
    heard: u64,
    partial: String,
    lines: VecDeque<String>,
}

impl Guest {
    fn empty(cpus: u8, has_disk: bool) -> Option<Self> {
        let kvm = kvm()?;
        let memory = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, MEMORY_BYTES).unwrap();
        let own = File::from(memory.try_clone().unwrap());
        let disk = DiskSpec { capacity_bytes: JOURNAL_BYTES, read_only: false, serial: "journal".into() };
        let spec = MachineSpec {
            cpus,
            memory_bytes: MEMORY_BYTES,
            cpu_baseline: Baseline::Host,
            disks: if has_disk { vec![disk] } else { vec![] },
            nics: vec![],
            rng: false,
        };
        let machine = Machine::build(spec, Resources { kvm, memory, taps: vec![] }).unwrap();
        Some(Self { machine, memory: own, heard: 0, partial: String::new(), lines: VecDeque::new() })
    }

    /// A witness at work, all of its pages filled.
    fn ready(cpus: u8, command_line: &str) -> Option<Self> {
        Self::ready_with(cpus, None, command_line)
    }

    /// The same with a journal on this disk.
    fn ready_with(cpus: u8, disk: Option<&Disk>, command_line: &str) -> Option<Self> {
        let mut guest = Self::empty(cpus, disk.is_some())?;
        disk.into_iter().for_each(|disk| guest.attach(disk));
        guest.machine.load(kernel(), None, command_line).unwrap();
        guest.machine.start().unwrap();
        let start = guest.line("start ");
        assert_eq!(value(&start, "cpus"), u64::from(cpus), "{start}");
        guest.line("ready ");
        Some(guest)
    }

    /// Gives it its disk. What died in the middle of its requests keeps the lock until the kernel has ended the last of them.
    fn attach(&self, disk: &Disk) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.machine.attach_disk(0, disk.open()) {
                Err(MachineError::Install(InstallError::Locked { .. })) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                attached => return attached.unwrap(),
            }
        }
    }

    fn listen(&mut self) {
        let output = self.machine.serial_output().read(self.heard);
        self.heard = output.next;
        for letter in output.bytes {
            match letter {
                b'\n' => self.lines.push_back(std::mem::take(&mut self.partial)),
                b'\r' => {}
                letter => self.partial.push(char::from(letter)),
            }
        }
    }

    /// The next line that begins with `witness: ` and `start`.
    fn line(&mut self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            self.listen();
            while let Some(line) = self.lines.pop_front() {
                if line.strip_prefix("witness: ").is_some_and(|rest| rest.starts_with(start)) {
                    return line;
                }
                seen.push(line);
            }
            let event = self.machine.take_event();
            assert!(event.is_none() && Instant::now() < deadline, "no {start:?}, {event:?}, but {seen:#?}");
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    fn ask(&mut self, command: &str, answer: &str) -> String {
        let line = format!("{command}\n");
        assert_eq!(self.machine.serial_input(line.as_bytes()), line.len());
        self.line(answer)
    }

    /// Waits until each CPU has been called so many times.
    fn wait_for_ipis(&mut self, ipis: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let record = self.ask("r", "t=");
            if value(&record, "ipis") >= ipis {
                return;
            }
            assert!(Instant::now() < deadline, "a CPU is not called any more, {ipis} are due: {record}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn event(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.machine.take_event() {
                return event;
            }
            assert!(Instant::now() < deadline, "nothing happens");
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    fn page(&self, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_BYTES as usize];
        self.memory.read_exact_at(&mut bytes, page * PAGE_BYTES).unwrap();
        bytes
    }

    /// Moves the running guest into a fresh machine: rounds of copying, then the stun with the rest and the state. The
    /// stun waits until the rest has `rest_min` pages; `lose` gets source and destination, and may take pages out of the
    /// last copy.
    fn moved(self, rest_min: u64, lose: impl Fn(&Self, &Self, &DirtyBitmap)) -> Self {
        let has_disk = !self.machine.spec().disks.is_empty();
        let mut destination = Self::empty(self.machine.spec().cpus, has_disk).unwrap();
        let bitmap = DirtyBitmap::new(self.machine.layout().pages()).unwrap();
        let copy = |source: &Self| {
            let mut buffer = Vec::new();
            bitmap.take_runs(|first, count| {
                buffer.resize((count * PAGE_BYTES) as usize, 0);
                source.memory.read_exact_at(&mut buffer, first * PAGE_BYTES).unwrap();
                destination.memory.write_all_at(&buffer, first * PAGE_BYTES).unwrap();
            });
        };
        let mut source = self;
        source.machine.dirty_log().start().unwrap();
        for _ in 0..ROUNDS_MAX {
            source.machine.dirty_log().harvest(&bitmap).unwrap();
            if bitmap.count() <= REST_PAGES {
                break;
            }
            copy(&source);
        }
        let deadline = Instant::now() + PATIENCE;
        while bitmap.count() < rest_min {
            assert!(Instant::now() < deadline, "the guest writes nothing");
            std::thread::sleep(Duration::from_millis(1));
            source.machine.dirty_log().harvest(&bitmap).unwrap();
        }
        source.machine.pause().unwrap();
        let state = source.machine.export_state().unwrap();
        let real = ClockReading { ns: source.machine.clock_ns().unwrap(), at: Instant::now() };
        source.machine.dirty_log().harvest(&bitmap).unwrap();
        lose(&source, &destination, &bitmap);
        copy(&source);
        // The way: ten of them are more than what a guest's clock is allowed to be wrong by.
        std::thread::sleep(Duration::from_millis(10));
        destination.machine.import_state(&state, Some(real)).unwrap();
        if has_disk {
            destination.machine.attach_disk(0, source.machine.detach_disk(0).unwrap()).unwrap();
        }
        destination.machine.resume().unwrap();
        destination.heard = source.heard;
        destination.partial = source.partial;
        destination.lines = source.lines;
        destination
    }
}

/// The value of `key` in a record.
fn value(line: &str, key: &str) -> u64 {
    let text = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let text = text.unwrap_or_else(|| panic!("no {key} in {line}"));
    text.parse().unwrap_or_else(|_| panic!("{key} is no number in {line}"))
}

/// What the guest's clocks show, kvmclock and by the TSC, milliseconds, between two moments.
struct Clocks {
    asked: Instant,
    shown_ms: [u64; 2],
    answered: Instant,
}

impl Clocks {
    fn of(guest: &mut Guest) -> Self {
        let asked = Instant::now();
        let record = guest.ask("r", "t=");
        let shown_ms = ["clock", "t"].map(|key| {
            let text = record.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            text.unwrap_or_else(|| panic!("no {key} in {record}")).replace('.', "").parse().unwrap()
        });
        Self { asked, shown_ms, answered: Instant::now() }
    }

    fn assert_went_as_real_time_did_since(&self, before: &Self) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        let (least, most) = (ms(self.asked - before.answered), ms(self.answered - before.asked));
        // The guest counts the TSC by a rate that it was told in kHz; and who takes a reading may be kept from its processor before it says so.
        let slack = 50 + most / 1_000;
        for (name, (now, then)) in ["kvmclock", "TSC"].iter().zip(self.shown_ms.iter().zip(&before.shown_ms)) {
            let went = now - then;
            assert!(
                (least.saturating_sub(slack)..=most + slack).contains(&went),
                "{name}: {went} ms of {least} to {most}"
            );
        }
    }
}

fn assert_all_is_well(record: &str) {
    for key in ["bad", "tsc_back", "clock_back", "timer_back", "registers_bad", "lost_lines", "ipis_lost", "ipis_extra"]
    {
        assert_eq!(value(record, key), 0, "{record}");
    }
}

/// Moves a witness ten times, and each time lets it audit itself.
fn move_ten_times(cpus: u8, command_line: &str) {
    let _turn = turn();
    let Some(mut guest) = Guest::ready(cpus, command_line) else { return };
    let (mut dirtied, mut ticks) = (0, 0);
    let before = Clocks::of(&mut guest);
    for hop in 0..10 {
        guest.ask("g", "ok g");
        let ipis = value(&guest.ask("r", "t="), "ipis");
        guest = guest.moved(0, |_, _, _| ());
        let audit = guest.ask("v", "audit ");
        assert_eq!((value(&audit, "bad"), value(&audit, "versions")), (0, value(&audit, "versions_due")), "{audit}");
        let record = guest.ask("r", "t=");
        assert_all_is_well(&record);
        assert!(value(&record, "dirtied") > dirtied && value(&record, "ticks") > ticks, "hop {hop}: {record}");
        if cpus > 1 {
            guest.wait_for_ipis(ipis + 2);
        }
        (dirtied, ticks) = (value(&record, "dirtied"), value(&record, "ticks"));
        eprintln!("hop {hop}: the guest felt {} us", value(&record, "gap_max_us"));
    }
    Clocks::of(&mut guest).assert_went_as_real_time_did_since(&before);
}

#[test]
fn a_witness_that_dirties_pages_is_moved_alive_hop_after_hop() {
    move_ten_times(1, "rate=20000 set=16M report_ms=0");
}

#[test]
fn a_witness_on_two_vcpus_is_moved_alive_hop_after_hop() {
    move_ten_times(2, "rate=5000 set=16M scan=50000 report_ms=0");
}

#[test]
fn a_witness_that_sleeps_between_its_ticks_wakes_after_each_hop() {
    move_ten_times(1, "rate=500 set=4M verify=off nap=on report_ms=0");
}

#[test]
fn a_journal_that_is_written_flat_out_loses_and_doubles_nothing_hop_after_hop() {
    let _turn = turn();
    let disk = Disk::new("hops");
    let words = "rate=500 set=4M scan=5000 report_ms=0 journal=max";
    let Some(mut guest) = Guest::ready_with(1, Some(&disk), words) else { return };
    let mut flushed = 0;
    for hop in 0..10 {
        guest = guest.moved(0, |_, _, _| ());
        let audit = guest.ask("j", "journal audit ");
        assert_eq!((value(&audit, "bad"), value(&audit, "unanswered")), (0, 0), "hop {hop}: {audit}");
        assert!(value(&audit, "flushed") > flushed, "hop {hop}: nothing was written: {audit}");
        flushed = value(&audit, "flushed");
        assert!(disk.judge(flushed) >= flushed);
    }
    assert_eq!(value(&guest.ask("r", "t="), "journal_bad"), 0);
    // What dies with its memory leaves what it flushed, for itself when it starts again.
    drop(guest);
    disk.judge(flushed);
    let guest = Guest::ready_with(1, Some(&disk), words);
    let audit = guest.expect("there was a first").ask("j", "journal audit ");
    assert!(value(&audit, "bad") == 0 && value(&audit, "flushed") >= flushed, "{audit}");
}

#[test]
fn a_record_that_a_disk_loses_behind_its_guest_is_seen_by_the_guest_and_from_outside() {
    let _turn = turn();
    let disk = Disk::new("lost");
    let Some(mut guest) = Guest::ready_with(1, Some(&disk), "own=4M report_ms=0 journal=max") else { return };
    let flushed = value(&guest.ask("j", "journal audit "), "flushed");
    guest.ask("journal 0", "ok journal 0");
    let flushed = value(&guest.ask("j", "journal audit "), "flushed").max(flushed);
    let slot = flushed % (JOURNAL_BYTES / PAGE_BYTES);
    disk.open().write_all_at(&[0; 512], slot * PAGE_BYTES).unwrap();
    let audit = guest.ask("j", "journal audit ");
    assert_eq!(value(&audit, "bad"), 1, "{audit}");
    let survey = Survey::of(&std::fs::read(&disk.0).unwrap()).expect("a journal");
    let damages: Vec<_> = survey.damages(flushed).map(|damage| (damage.slot as u64, damage.due)).collect();
    assert_eq!(damages, [(slot, flushed)]);
}

#[test]
fn a_page_that_a_move_loses_is_seen_and_called_a_lost_write() {
    let _turn = turn();
    let Some(guest) = Guest::ready(1, "rate=20000 set=16M report_ms=0") else { return };
    // The highest page that was written since it was last copied is one of the working set: the kernel's own lie below.
    // That the log names a page is not enough: KVM logs a page that is read for the first time, too.
    let mut guest = guest.moved(200, |source, destination, bitmap| {
        let written = |page: &u64| bitmap.is_set(*page) && source.page(*page) != destination.page(*page);
        let lost = (0..bitmap.pages()).rfind(written).expect("the guest wrote something");
        let word = usize::try_from(lost / 64).unwrap();
        let others = bitmap.take_word(word) & !(1 << (lost % 64));
        bitmap.or_word(word, others);
    });
    let damage = guest.line("damage ");
    assert_eq!(value(&damage, "words"), 512, "{damage}");
    let older = damage.split("like=version:").nth(1).map(|version| version.parse::<u64>().unwrap());
    assert!(older.is_some_and(|older| older < value(&damage, "version")), "{damage}");
    let audit = guest.ask("v", "audit ");
    assert_eq!(value(&audit, "bad"), 1, "{audit}");
}

#[test]
fn of_several_vcpus_only_the_one_that_dirties_is_slowed() {
    let _turn = turn();
    // A working set of 64 pages is the first vCPU's alone; the others read all the time.
    let words = "rate=max set=256K verify=scan scan=max own=16M report_ms=0";
    let Some(mut guest) = Guest::ready(2, words) else { return };
    let bitmap = DirtyBitmap::new(guest.machine.layout().pages()).unwrap();
    guest.machine.dirty_log().start().unwrap();
    let harvests = |guest: &Guest, count: u32| {
        for _ in 0..count {
            guest.machine.dirty_log().harvest(&bitmap).unwrap();
            // Each finds some pages of the other's, too, which are few only if it is not done all the time.
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    harvests(&guest, 5);
    for percent in [20, 60] {
        guest.machine.throttle(percent).unwrap();
        assert_eq!(guest.machine.slowed(), [percent, 0]);
        let held = guest.machine.throttled(0);
        let deadline = Instant::now() + PATIENCE;
        while guest.machine.throttled(0) == held {
            assert!(Instant::now() < deadline, "the vCPU that dirties is not held");
            harvests(&guest, 1);
        }
        // Slowed, it dirties less, and is so all the same.
        harvests(&guest, 5);
        assert_eq!(guest.machine.slowed(), [percent, 0]);
    }
    assert_eq!(guest.machine.throttled(1), Some(Duration::ZERO), "the other was never held");
    guest.machine.throttle(0).unwrap();
    assert_eq!(guest.machine.slowed(), [0, 0]);
    guest.machine.dirty_log().stop().unwrap();
    assert_all_is_well(&guest.ask("r", "t="));
}

#[test]
fn each_way_in_which_the_witness_ends_is_an_event_of_its_own() {
    let _turn = turn();
    for (command, expected) in [("q", Event::Shutdown), ("b", Event::Reset), ("t", Event::TripleFault)] {
        let Some(mut guest) = Guest::ready(1, "own=4M report_ms=0") else { return };
        guest.ask(command, &format!("ok {command}"));
        assert_eq!(guest.event(), expected, "{command}");
    }
    let Some(mut guest) = Guest::ready(2, "own=4M report_ms=0") else { return };
    guest.machine.power_button();
    guest.line("ok power button");
    assert_eq!(guest.event(), Event::Shutdown);
}

#[test]
fn a_pause_stands_in_the_gap_that_the_guest_felt() {
    let _turn = turn();
    let Some(mut guest) = Guest::ready(1, "own=4M report_ms=0") else { return };
    guest.ask("g", "ok g");
    guest.machine.pause().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    guest.machine.resume().unwrap();
    let record = guest.ask("r", "t=");
    assert!(value(&record, "gap_max_us") >= 300_000, "{record}");
    assert_all_is_well(&record);
}
