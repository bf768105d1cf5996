//! A machine's state into a fresh machine, and on.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vmm::clock::{ClockReading, ClockState};
use vmm::state::{ChunkKind, StateReader, StateWriter};
use vmm::vcpu::state::VcpuState;

use super::*;

/// Carries a paused machine over: memory, then state. Both memories are then the same to the byte.
fn hop(source: &mut Machine, source_memory: &File, cpus: u8) -> (Machine, File) {
    let state = source.export_state().unwrap();
    carry(&state, source_memory, cpus, None)
}

/// The same with a state that was taken before, and what the guest's clock should show.
fn carry(state: &[u8], source_memory: &File, cpus: u8, real: Option<ClockReading>) -> (Machine, File) {
    let (mut destination, memory) = build(cpus, MEMORY_BYTES).unwrap();
    let mut before = vec![0; MEMORY_BYTES as usize];
    source_memory.read_exact_at(&mut before, 0).unwrap();
    memory.write_all_at(&before, 0).unwrap();
    destination.import_state(state, real).unwrap();
    let mut after = vec![0; MEMORY_BYTES as usize];
    memory.read_exact_at(&mut after, 0).unwrap();
    assert!(before == after, "restoring a state changes memory");
    (destination, memory)
}

#[test]
fn a_guest_goes_on_in_a_fresh_machine_hop_after_hop() {
    let Some((mut machine, mut memory)) = with_guest(1, "count") else { return };
    machine.start().unwrap();
    for hop_number in 0..20 {
        let before = word(&memory, guest::ROUNDS_CHECKED);
        wait_until("progress", || word(&memory, guest::ROUNDS_CHECKED) > before + 20);
        machine.pause().unwrap();
        let left_at = word(&memory, guest::ROUNDS);
        (machine, memory) = hop(&mut machine, &memory, 1);
        assert_eq!(word(&memory, guest::ROUNDS), left_at, "hop {hop_number}");
        machine.resume().unwrap();
    }
    let before = word(&memory, guest::ROUNDS_CHECKED);
    wait_until("progress", || word(&memory, guest::ROUNDS_CHECKED) > before);
    assert_eq!(output(&machine), "R", "no access gave a wrong answer, and the output came along");
    machine.pause().unwrap();
    machine.export_state().unwrap();
    eprintln!("{:?}", machine.timings());
}

#[test]
fn two_vcpus_go_on_in_a_fresh_machine_hop_after_hop() {
    let Some((mut machine, mut memory)) = with_guest(2, "m") else { return };
    machine.start().unwrap();
    wait_until("the second vCPU", || word(&memory, guest::SECOND_ROUNDS) > 10);
    for _ in 0..10 {
        machine.pause().unwrap();
        (machine, memory) = hop(&mut machine, &memory, 2);
        machine.resume().unwrap();
        let before = (word(&memory, guest::ROUNDS_CHECKED), word(&memory, guest::SECOND_ROUNDS));
        wait_until("progress of both", || {
            word(&memory, guest::ROUNDS_CHECKED) > before.0 && word(&memory, guest::SECOND_ROUNDS) > before.1
        });
    }
    assert_eq!(output(&machine), "R");
}

#[test]
fn no_access_is_lost_or_doubled_by_fifty_moves() {
    // Each byte that the guest reads from its serial port is gone from there, and each that it writes stands in the output.
    let Some((mut machine, mut memory)) = with_guest(1, "echo") else { return };
    machine.start().unwrap();
    let text: String = (0..20_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    assert_eq!(machine.serial_input(text.as_bytes()), text.len());
    for _ in 0..50 {
        let before = machine.serial_output().read(u64::MAX).next;
        wait_until("letters", || machine.serial_output().read(u64::MAX).next > before + 100);
        machine.pause().unwrap();
        (machine, memory) = hop(&mut machine, &memory, 1);
        machine.resume().unwrap();
    }
    wait_until("the end", || machine.serial_output().read(u64::MAX).next > text.len() as u64);
    machine.pause().unwrap();
    assert!(output(&machine) == format!("R{text}"), "a letter was lost or came twice");
    drop(memory);
}

#[test]
fn a_guest_that_was_never_started_can_be_moved_and_then_starts() {
    let Some((mut machine, memory)) = with_guest(2, "m") else { return };
    let (mut machine, memory) = hop(&mut machine, &memory, 2);
    machine.start().unwrap();
    wait_until("both vCPUs", || word(&memory, guest::SECOND_ROUNDS) > 3 && word(&memory, guest::ROUNDS_CHECKED) > 3);
}

#[test]
fn taking_the_state_changes_nothing_and_taking_it_over_loses_nothing() {
    let Some((mut machine, memory)) = with_guest(1, "count") else { return };
    machine.start().unwrap();
    wait_until("rounds", || word(&memory, guest::ROUNDS) > 100);
    machine.pause().unwrap();
    // What does not count time: devices, but the power management timer, and interrupt controllers.
    let timeless = |machine: &mut Machine| -> Vec<Vec<u8>> {
        let state = machine.export_state().unwrap();
        let mut reader = StateReader::new(&state).unwrap();
        let kinds = [ChunkKind::SERIAL, ChunkKind::RTC, ChunkKind::RESET_CONTROL, ChunkKind::DEVICES_FROM];
        kinds.map(|kind| reader.take(kind, 0).unwrap().1.to_vec()).to_vec()
    };
    let first = timeless(&mut machine);
    assert_eq!(timeless(&mut machine), first);
    let (mut other, _other_memory) = hop(&mut machine, &memory, 1);
    assert_eq!(timeless(&mut other), first);
    machine.resume().unwrap();
    let before = word(&memory, guest::ROUNDS_CHECKED);
    wait_until("the source goes on after a failed move", || word(&memory, guest::ROUNDS_CHECKED) > before);
}

#[test]
fn the_clock_goes_on_and_never_back() {
    let Some((mut machine, mut memory)) = with_guest(1, "count") else { return };
    machine.start().unwrap();
    for _ in 0..5 {
        machine.pause().unwrap();
        let before = machine.clock_ns().unwrap();
        (machine, memory) = hop(&mut machine, &memory, 1);
        let after = machine.clock_ns().unwrap();
        assert!(after >= before, "{after} < {before}");
        machine.resume().unwrap();
    }
    drop(memory);
}

/// kvmclock of a state, and the time of its first vCPU's TSC, nanoseconds.
fn clocks(state: &[u8]) -> [i128; 2] {
    let mut reader = StateReader::new(state).unwrap();
    let clock: ClockState = reader.take_decoded(ChunkKind::new(ChunkKind::CLOCK, 0, 1), "the clock").unwrap();
    let vcpu: VcpuState = reader.take_decoded(ChunkKind::new(ChunkKind::VCPU, 0, 1), "a vCPU").unwrap();
    let (tsc, khz) = vcpu.tsc();
    [i128::from(clock.ns), i128::from(tsc) * 1_000_000 / i128::from(khz)]
}

#[test]
fn clocks_that_stood_still_go_forward_to_what_they_should_show_and_together() {
    /// By so much the kernel's clocks may go at different rates in the time of this test, and more.
    const RATES: i128 = 1_000_000;
    let Some((mut machine, mut memory)) = with_guest(2, "m") else { return };
    machine.start().unwrap();
    wait_until("the second vCPU", || word(&memory, guest::SECOND_ROUNDS) > 10);
    let mut apart = Vec::new();
    for _ in 0..5 {
        machine.pause().unwrap();
        let saved = machine.export_state().unwrap();
        let real = ClockReading { ns: machine.clock_ns().unwrap(), at: Instant::now() };
        // The way.
        std::thread::sleep(Duration::from_millis(30));
        (machine, memory) = carry(&saved, &memory, 2, Some(real));
        let shows = |passed: Duration| i128::from(real.ns) + passed.as_nanos() as i128;
        let least = shows(real.at.elapsed());
        let clock = i128::from(machine.clock_ns().unwrap());
        assert!(
            (least - RATES..=shows(real.at.elapsed()) + RATES).contains(&clock),
            "{clock} ns, at least {least} are right"
        );
        let (then, now) = (clocks(&saved), clocks(&machine.export_state().unwrap()));
        let went = [0, 1].map(|which| now[which] - then[which]);
        assert!(went.iter().all(|went| *went > 30_000_000), "{went:?}");
        apart.push((went[0] - went[1]).abs());
        machine.resume().unwrap();
        let before = (word(&memory, guest::ROUNDS_CHECKED), word(&memory, guest::SECOND_ROUNDS));
        wait_until("progress of both", || {
            word(&memory, guest::ROUNDS_CHECKED) > before.0 && word(&memory, guest::SECOND_ROUNDS) > before.1
        });
    }
    // Where nothing came between the reading of the one and the other. (A machine that is not faithful shows the host's TSC, which is right in any case.)
    assert!(*apart.iter().min().unwrap() < RATES, "kvmclock and TSC went apart: {apart:?} ns");
}

#[test]
fn a_moved_guest_can_be_reset_once_it_has_an_image_again() {
    let Some((mut machine, memory)) = with_guest(1, "count") else { return };
    machine.start().unwrap();
    wait_until("rounds", || word(&memory, guest::ROUNDS) > 10);
    machine.pause().unwrap();
    let (mut machine, memory) = hop(&mut machine, &memory, 1);
    machine.set_image(guest::image(), None, "count");
    machine.resume().unwrap();
    machine.reset().unwrap();
    assert_eq!(word(&memory, guest::ROUNDS), 0);
    machine.start().unwrap();
    wait_until("rounds", || word(&memory, guest::ROUNDS_CHECKED) > 10);
    assert_eq!(output(&machine), "RR");
}

#[test]
fn a_machine_that_rehearsed_has_written_no_page_and_takes_a_state_over_as_any_other() {
    let Some((mut machine, memory)) = with_guest(1, "count") else { return };
    machine.start().unwrap();
    wait_until("rounds", || word(&memory, guest::ROUNDS) > 10);
    machine.pause().unwrap();
    let (mut destination, copy) = build(1, MEMORY_BYTES).unwrap();
    let mut bytes = vec![0; MEMORY_BYTES as usize];
    memory.read_exact_at(&mut bytes, 0).unwrap();
    copy.write_all_at(&bytes, 0).unwrap();
    let harvested = |machine: &Machine| {
        let bitmap = DirtyBitmap::new(machine.layout().pages()).unwrap();
        machine.dirty_log().harvest(&bitmap).unwrap();
        bitmap.count()
    };
    destination.dirty_log().start().unwrap();
    // A fresh log begins with every page.
    harvested(&destination);
    destination.rehearse().unwrap();
    destination.rehearse().unwrap();
    assert_eq!(harvested(&destination), 0);
    destination.import_state(&machine.export_state().unwrap(), None).unwrap();
    let refused = destination.rehearse().unwrap_err().to_string();
    assert!(refused.contains("rehearse"), "{refused}");
    let before = word(&copy, guest::ROUNDS_CHECKED);
    destination.resume().unwrap();
    wait_until("progress", || word(&copy, guest::ROUNDS_CHECKED) > before + 20);
}

#[test]
fn a_state_of_another_machine_or_a_damaged_one_is_refused() {
    let Some((mut machine, _memory)) = with_guest(1, "count") else { return };
    let state = machine.export_state().unwrap();
    let (mut other, _) = build(2, MEMORY_BYTES).unwrap();
    let error = other.import_state(&state, None).unwrap_err().to_string();
    assert!(error.contains("another shape"), "{error}");
    let (mut same, _) = build(1, MEMORY_BYTES).unwrap();
    for cut in [0, 1, 20, state.len() / 2, state.len() - 1] {
        assert!(same.import_state(&state[..cut], None).is_err());
    }
    let mut flipped = state.clone();
    flipped[state.len() / 2] ^= 1;
    assert!(same.import_state(&flipped, None).is_err());
    same.import_state(&state, None).unwrap();
}

/// A state with the payload of one chunk changed and a right checksum, so that the importers themselves are reached.
fn with_payload(state: &[u8], kind: u16, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let kinds = [
        ChunkKind::MACHINE,
        ChunkKind::VCPU,
        ChunkKind::IRQCHIP,
        ChunkKind::CLOCK,
        ChunkKind::SERIAL,
        ChunkKind::RTC,
        ChunkKind::ACPI_PM,
        ChunkKind::RESET_CONTROL,
        ChunkKind::DEVICES_FROM,
    ];
    let mut reader = StateReader::new(state).unwrap();
    let mut writer = StateWriter::new();
    for each in kinds {
        let (version, payload) = reader.take(each, 0).unwrap();
        let mut payload = payload.to_vec();
        if each == kind {
            change(&mut payload);
        }
        writer.add(ChunkKind::new(each, 0, version), &payload).unwrap();
    }
    reader.finish().unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_state_with_any_payload_is_taken_or_refused_without_a_panic() {
    let Some((mut machine, memory)) = with_guest(1, "count") else { return };
    machine.start().unwrap();
    wait_until("rounds", || word(&memory, guest::ROUNDS) > 10);
    machine.pause().unwrap();
    let state = machine.export_state().unwrap();
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let kinds = prop::sample::select(vec![
        ChunkKind::VCPU,
        ChunkKind::IRQCHIP,
        ChunkKind::CLOCK,
        ChunkKind::SERIAL,
        ChunkKind::RTC,
        ChunkKind::ACPI_PM,
        ChunkKind::RESET_CONTROL,
        ChunkKind::DEVICES_FROM,
    ]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20);
    let result = runner.run(&(kinds, changes, any::<Option<prop::sample::Index>>()), |(kind, changes, cut)| {
        let damaged = with_payload(&state, kind, |payload| {
            for (at, value) in &changes {
                let at = at.index(payload.len());
                payload[at] = *value;
            }
            if let Some(cut) = cut {
                payload.truncate(cut.index(payload.len()));
            }
        });
        let (mut other, _memory) = build(1, MEMORY_BYTES).unwrap();
        let _ = other.import_state(&damaged, None);
        Ok(())
    });
    result.unwrap();
    let incomplete = {
        let mut reader = StateReader::new(&state).unwrap();
        let mut writer = StateWriter::new();
        let (version, payload) = reader.take(ChunkKind::MACHINE, 0).unwrap();
        writer.add(ChunkKind::new(ChunkKind::MACHINE, 0, version), payload).unwrap();
        writer.finish().unwrap()
    };
    let (mut other, _memory) = build(1, MEMORY_BYTES).unwrap();
    let error = other.import_state(&incomplete, None).unwrap_err().to_string();
    assert!(error.contains("no chunk"), "{error}");
}
