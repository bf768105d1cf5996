//! The witness (`guest-kernel/`): a guest that verifies its memory, clocks and registers for ever, moved while it does.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::*;

const WITNESS_MEMORY: u64 = 128 << 20;

/// The witness as a kernel image, built once. None, with the reason, where it cannot be built.
fn image() -> Option<File> {
    static BUILT: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-kernel/Cargo.toml");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("witness");
        let build = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--target", "x86_64-unknown-none", "--manifest-path"])
            .arg(&manifest)
            .env("CARGO_TARGET_DIR", &target)
            .output();
        match build {
            Ok(output) if output.status.success() => Some(target.join("x86_64-unknown-none/release/witness")),
            Ok(output) => {
                eprintln!("skipped: the witness cannot be built: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                eprintln!("skipped: cargo cannot be run: {error}");
                None
            }
        }
    });
    path.as_ref().map(|path| File::open(path).unwrap())
}

fn with_witness(cpus: u8, words: &str) -> Option<(Machine, File)> {
    let (mut machine, memory) = build(cpus, WITNESS_MEMORY)?;
    machine.load(image()?, None, words).unwrap();
    Some((machine, memory))
}

/// Records that are complete: the last line may still be under way.
fn records(machine: &Machine) -> Vec<String> {
    let text = output(machine);
    let complete = text.rfind('\n').unwrap_or(0);
    text[..complete].lines().filter(|line| line.starts_with("witness: t=")).map(str::to_owned).collect()
}

/// Waits for new records. The ring forgets old ones, so they are told by their time and not counted.
fn wait_records(machine: &Machine, count: usize) {
    let mut last = records(machine).pop();
    for _ in 0..count {
        wait_until("a record", || {
            let now = records(machine).pop();
            let new = now.is_some() && now != last;
            last = now;
            new
        });
    }
}

fn field(record: &str, name: &str) -> u64 {
    let value = record.split(' ').find_map(|word| word.strip_prefix(&format!("{name}=")));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {record}"))
}

fn assert_sound(machine: &Machine) {
    let text = output(machine);
    assert!(!text.contains("damage") && !text.contains("panic"), "{text}");
    for record in records(machine) {
        for name in ["bad", "tsc_back", "clock_back", "timer_back", "registers_bad"] {
            assert_eq!(field(&record, name), 0, "{name} in {record}");
        }
    }
}

/// Copies the memory while the guest runs, then the rest and the state.
fn migrate(source: &mut Machine, source_memory: &File, cpus: u8) -> (Machine, File) {
    let (mut destination, memory) = build(cpus, WITNESS_MEMORY).unwrap();
    let bitmap = DirtyBitmap::new(source.layout().pages()).unwrap();
    let transfer = || {
        bitmap.take_runs(|first, count| {
            let mut bytes = vec![0; (count * 4096) as usize];
            source_memory.read_exact_at(&mut bytes, first * 4096).unwrap();
            memory.write_all_at(&bytes, first * 4096).unwrap();
        });
    };
    source.dirty_log().start().unwrap();
    for _ in 0..3 {
        source.dirty_log().harvest(&bitmap).unwrap();
        transfer();
    }
    source.pause().unwrap();
    let state = source.export_state().unwrap();
    source.dirty_log().harvest(&bitmap).unwrap();
    transfer();
    destination.import_state(&state).unwrap();
    destination.resume().unwrap();
    (destination, memory)
}

fn moves(cpus: u8, words: &str, count: usize) {
    let Some((mut machine, mut memory)) = with_witness(cpus, words) else { return };
    machine.start().unwrap();
    wait_until("the witness", || output(&machine).contains("witness: ready"));
    for _ in 0..count {
        wait_records(&machine, 2);
        (machine, memory) = migrate(&mut machine, &memory, cpus);
    }
    wait_records(&machine, 2);
    assert_sound(&machine);
    let last = records(&machine).pop().unwrap();
    assert!(field(&last, "verified") > 0 && field(&last, "ticks") > 0, "{last}");
    eprintln!("{last}\n{:?}", machine.timings());
    machine.serial_input(b"v\n");
    wait_until("the audit", || output(&machine).contains("witness: audit"));
    assert_sound(&machine);
    machine.power_button();
    assert_eq!(wait_event(&machine), Event::Shutdown, "the power button");
    drop(memory);
}

#[test]
fn a_witness_that_dirties_memory_is_moved_ten_times_without_a_bad_page_or_a_step_back() {
    moves(1, "rate=5000 set=16M own=64M report_ms=50", 10);
}

#[test]
fn a_witness_on_two_vcpus_is_moved_ten_times_without_a_bad_page_or_a_step_back() {
    moves(2, "rate=5000 set=16M own=64M report_ms=50", 10);
}

#[test]
fn a_napping_witness_loses_no_tick_in_thirty_moves() {
    moves(1, "rate=100 set=4M own=16M report_ms=20 nap=on scan=100 tick_hz=1000", 30);
}

#[test]
fn a_witness_resets_and_ends_as_it_is_told() {
    let Some((mut machine, _memory)) = with_witness(2, "own=16M set=4M report_ms=50") else { return };
    let typed_end = |machine: &mut Machine, letter: &[u8]| {
        machine.start().unwrap();
        let starts = output(machine).matches("witness: ready").count();
        wait_until("the witness", || output(machine).matches("witness: ready").count() > starts);
        machine.serial_input(letter);
        wait_event(machine)
    };
    assert_eq!(typed_end(&mut machine, b"b\n"), Event::Reset);
    machine.reset().unwrap();
    assert_eq!(typed_end(&mut machine, b"t\n"), Event::TripleFault);
    machine.reset().unwrap();
    assert_eq!(typed_end(&mut machine, b"q\n"), Event::Shutdown);
}
