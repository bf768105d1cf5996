//! Resets of a guest that uses what a PC has: long mode, local APIC timers, two vCPUs. (`tests/witness.rs` moves it.)

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

#[test]
fn a_witness_starts_again_after_each_way_to_end() {
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
