//! The kernel itself under QEMU, natively where /dev/kvm is there, else emulated. Without QEMU there is nothing to test
//! with, and the tests say so.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use witness::witness::journal::survey::Survey;

/// Far more than anything here takes on a loaded machine.
const BOUND: Duration = Duration::from_secs(120);

/// One machine at a time: two CPUs that spin leave no room for a second pair.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn kernel() -> &'static Path {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--target", "x86_64-unknown-none", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&folder)
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the kernel does not build");
        folder.join("x86_64-unknown-none/release/witness")
    })
}

fn qemu_is_there() -> bool {
    let there = Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("skipped: there is no qemu-system-x86_64");
    }
    there
}

fn has_kvm() -> bool {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("witness-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files is writable");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Machine {
    child: Child,
    lines: Receiver<String>,
    monitor: PathBuf,
}

impl Machine {
    fn start(folder: &Folder, name: &str, options: &[&str], cmdline: &str) -> Self {
        let monitor = folder.0.join(format!("{name}.monitor"));
        let cpu: &[&str] = if has_kvm() {
            &["-accel", "kvm", "-cpu", "host,-arch-capabilities"]
        } else {
            &["-accel", "tcg", "-cpu", "max"]
        };
        let mut child = Command::new("qemu-system-x86_64")
            .args(cpu)
            .args(["-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(options)
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .arg("-kernel")
            .arg(kernel())
            .args(["-append", cmdline])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("QEMU starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, monitor }
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().expect("piped"), "{line}").expect("the machine runs");
    }

    /// The next line that begins with `witness: ` and `start`.
    fn line(&self, start: &str) -> String {
        let end = Instant::now() + BOUND;
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.strip_prefix("witness: ").is_some_and(|rest| rest.starts_with(start)) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line that begins with {start:?} among {seen:#?}");
    }

    fn ask(&mut self, command: &str, answer: &str) -> String {
        self.type_line(command);
        self.line(answer)
    }

    /// What QEMU's monitor answers.
    fn monitor(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(&self.monitor).expect("the monitor listens");
        socket.set_read_timeout(Some(BOUND)).expect("a socket");
        let mut prompts = 0;
        let mut text = String::new();
        let mut byte = [0];
        while prompts < 2 && socket.read(&mut byte).expect("the monitor answers") == 1 {
            text.push(char::from(byte[0]));
            if text.ends_with("(qemu) ") {
                prompts += 1;
                if prompts == 1 {
                    text.clear();
                    writeln!(socket, "{command}").expect("the monitor listens");
                }
            }
        }
        text
    }

    /// Waits until the machine has ended by itself.
    fn end(&mut self) {
        let end = Instant::now() + BOUND;
        while self.child.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < end, "the machine does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of `key` in a record.
fn value(line: &str, key: &str) -> u64 {
    let text = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let text = text.unwrap_or_else(|| panic!("no {key} in {line}"));
    text.parse().unwrap_or_else(|_| panic!("{key} is no number in {line}"))
}

fn assert_all_is_well(record: &str) {
    for key in ["bad", "tsc_back", "clock_back", "timer_back", "registers_bad", "lost_lines", "ipis_lost", "ipis_extra"]
    {
        assert_eq!(value(record, key), 0, "{record}");
    }
}

#[test]
fn a_bit_flipped_in_the_machines_memory_is_found_named_and_counted_once() {
    if !qemu_is_there() {
        return;
    }
    let _turn = turn();
    let folder = Folder::new("flip");
    let memory = folder.0.join("memory");
    let backend = format!("memory-backend-file,id=ram,size=64M,share=on,mem-path={}", memory.display());
    let options = ["-m", "64", "-object", &backend, "-machine", "memory-backend=ram"];
    let mut machine = Machine::start(&folder, "one", &options, "rate=1000 set=1M report_ms=0");
    machine.line("ready ");
    assert_all_is_well(&machine.ask("r", "t="));
    let file = OpenOptions::new().read(true).write(true).open(&memory).expect("the memory's file");
    // Far from the working set: only the round of verification comes by here.
    let address = 0x300_0008;
    let mut byte = [0];
    file.read_exact_at(&mut byte, address).expect("within the memory");
    file.write_all_at(&[byte[0] ^ 0x10], address).expect("within the memory");
    let damage = machine.line("damage ");
    assert!(damage.contains("address=0x3000000 ") && damage.ends_with("like=bits:1"), "{damage}");
    assert_eq!((value(&damage, "word"), value(&damage, "words")), (1, 1));
    machine.ask("v", "audit ");
    let audit = machine.ask("v", "audit ");
    assert_eq!(value(&audit, "bad"), 1, "{audit}");
    assert_eq!(value(&audit, "versions"), value(&audit, "versions_due"), "{audit}");
}

#[test]
fn every_processor_dirties_and_verifies_its_share() {
    if !qemu_is_there() {
        return;
    }
    let _turn = turn();
    let folder = Folder::new("smp");
    let cmdline = "rate=20000 set=16M report_ms=0";
    let mut machine = Machine::start(&folder, "one", &["-m", "64", "-smp", "2"], cmdline);
    let start = machine.line("start ");
    assert_eq!(value(&start, "cpus"), 2, "{start}");
    machine.line("ready ");
    let audit = machine.ask("v", "audit ");
    assert_eq!(value(&audit, "versions"), value(&audit, "versions_due"), "{audit}");
    let record = machine.ask("r", "t=");
    assert_all_is_well(&record);
    assert!(value(&record, "passes") > 0 && value(&record, "dirtied") > 0, "{record}");
    assert!(value(&record, "ipis") > 0, "they call each other: {record}");
}

#[test]
fn a_journal_is_kept_on_a_disk_read_back_and_found_by_the_next_guest() {
    if !qemu_is_there() {
        return;
    }
    let _turn = turn();
    let folder = Folder::new("journal");
    let disk = folder.0.join("disk");
    fs::File::create(&disk).and_then(|file| file.set_len(256 << 10)).expect("the folder is writable");
    let drive = format!("file={},format=raw,if=none,id=disk", disk.display());
    let options = ["-m", "64", "-drive", &drive, "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"];
    let cmdline = "rate=100 set=1M scan=1000 report_ms=0 journal=max";
    let mut machine = Machine::start(&folder, "first", &options, cmdline);
    let start = machine.line("journal start ");
    assert_eq!((value(&start, "slots"), value(&start, "newest"), value(&start, "bad")), (64, 0, 0), "{start}");
    machine.line("ready ");
    machine.ask("j", "journal audit ");
    let audit = machine.ask("j", "journal audit ");
    assert_eq!((value(&audit, "bad"), value(&audit, "unanswered")), (0, 0), "{audit}");
    drop(machine);
    let survey = Survey::of(&fs::read(&disk).expect("it is there")).expect("large enough");
    let flushed = value(&audit, "flushed").max(survey.flushed());
    assert_eq!(survey.damages(flushed).collect::<Vec<_>>(), []);
    // One record is lost while nobody looks.
    let file = OpenOptions::new().write(true).open(&disk).expect("it is there");
    file.write_all_at(&[0; 4096], survey.flushed() % 64 * 4096).expect("written");
    let machine = Machine::start(&folder, "second", &options, cmdline);
    let start = machine.line("journal start ");
    assert_eq!(value(&start, "bad"), 1, "{start}");
    let damage = machine.line("journal damage ");
    assert!(damage.ends_with("like=zero") && value(&damage, "record") == survey.flushed(), "{damage}");
}

#[test]
fn orders_on_the_line_are_followed() {
    if !qemu_is_there() {
        return;
    }
    let _turn = turn();
    let folder = Folder::new("orders");
    let mut machine = Machine::start(&folder, "one", &["-m", "64"], "rate=max set=16M report_ms=0 start=idle");
    assert_eq!(value(&machine.line("ready "), "dirtied"), 0);
    machine.ask("d", "ok d");
    machine.ask("v", "audit ");
    machine.ask("i", "ok i");
    let (first, second) = (machine.ask("r", "t="), machine.ask("r", "t="));
    assert!(value(&first, "dirtied") > 0, "{first}");
    assert_eq!(value(&first, "dirtied"), value(&second, "dirtied"));
    machine.ask("rate sideways", "error unknown command rate sideways");
    machine.ask("poke 99999999", "error no page 99999999");
}

#[test]
fn the_machine_powers_off_by_command_and_by_its_button_and_resets_in_both_ways() {
    if !qemu_is_there() {
        return;
    }
    let _turn = turn();
    let folder = Folder::new("power");
    for command in ["q", "b", "t"] {
        let mut machine = Machine::start(&folder, command, &["-m", "32"], "report_ms=0");
        machine.line("ready ");
        machine.ask(command, &format!("ok {command}"));
        machine.end();
    }
    let mut machine = Machine::start(&folder, "button", &["-m", "32"], "report_ms=0");
    machine.line("ready ");
    machine.monitor("system_powerdown");
    machine.line("ok power button");
    machine.end();
}

#[test]
fn a_move_leaves_every_page_clock_and_register_as_it_was_and_shows_in_the_gap() {
    if !qemu_is_there() {
        return;
    }
    let _turn = turn();
    let folder = Folder::new("move");
    let wire = format!("unix:{}", folder.0.join("wire").display());
    let (options, cmdline) = (["-m", "128", "-smp", "2"], "rate=5000 set=16M report_ms=0");
    let mut source = Machine::start(&folder, "source", &options, cmdline);
    source.line("ready ");
    let incoming: Vec<&str> = options.iter().copied().chain(["-incoming", &wire]).collect();
    let mut destination = Machine::start(&folder, "destination", &incoming, cmdline);
    let end = Instant::now() + BOUND;
    while !Path::new(wire.trim_start_matches("unix:")).exists() {
        assert!(Instant::now() < end, "the destination does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    source.ask("g", "ok g");
    source.monitor(&format!("migrate -d {wire}"));
    loop {
        let state = source.monitor("info migrate");
        if state.contains("completed") {
            break;
        }
        assert!(!state.contains("failed") && Instant::now() < end, "{state}");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(source);
    let audit = destination.ask("v", "audit ");
    assert_eq!((value(&audit, "bad"), value(&audit, "versions")), (0, value(&audit, "versions_due")), "{audit}");
    let record = destination.ask("r", "t=");
    assert_all_is_well(&record);
    assert!(value(&record, "gap_max_us") > 0 && value(&record, "passes") > 0, "{record}");
}
