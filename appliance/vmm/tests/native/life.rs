//! Boot, pause and resume, and every way in which a guest ends.

use super::*;

#[test]
fn a_guest_boots_and_speaks_on_its_serial_port() {
    let Some((mut machine, memory)) = with_guest(1, "count") else { return };
    assert_eq!(machine.phase(), Phase::Ready);
    machine.start().unwrap();
    wait_until("rounds", || word(&memory, guest::ROUNDS_CHECKED) > 10);
    machine.pause().unwrap();
    assert_eq!(output(&machine), "R");
    eprintln!("faithful: {}, {:?}", machine.is_faithful(), machine.timings());
}

#[test]
fn a_paused_guest_stands_still_and_loses_no_access_in_a_thousand_pauses() {
    let Some((mut machine, memory)) = with_guest(1, "count") else { return };
    machine.start().unwrap();
    let mut before = 0;
    for round in 0..1000 {
        machine.pause().unwrap();
        let now = word(&memory, guest::ROUNDS);
        // The access that is under way is finished, so the second count is at most one behind.
        assert!(now - word(&memory, guest::ROUNDS_CHECKED) <= 1, "round {round}");
        assert!(now >= before);
        before = now;
        machine.resume().unwrap();
    }
    let before = word(&memory, guest::ROUNDS_CHECKED);
    wait_until("progress", || word(&memory, guest::ROUNDS_CHECKED) > before);
    machine.pause().unwrap();
    let still = word(&memory, guest::ROUNDS);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(word(&memory, guest::ROUNDS), still);
    assert_eq!(output(&machine), "R", "no access gave a wrong answer");
}

#[test]
fn two_vcpus_pause_and_resume_together_a_thousand_times() {
    let Some((mut machine, memory)) = with_guest(2, "m") else { return };
    machine.start().unwrap();
    wait_until("the second vCPU", || word(&memory, guest::SECOND_ROUNDS) > 10);
    for _ in 0..1000 {
        machine.pause().unwrap();
        let still = (word(&memory, guest::ROUNDS), word(&memory, guest::SECOND_ROUNDS));
        assert_eq!(still, (word(&memory, guest::ROUNDS), word(&memory, guest::SECOND_ROUNDS)));
        machine.resume().unwrap();
    }
    let before = (word(&memory, guest::ROUNDS_CHECKED), word(&memory, guest::SECOND_ROUNDS));
    wait_until("progress of both", || {
        word(&memory, guest::ROUNDS_CHECKED) > before.0 && word(&memory, guest::SECOND_ROUNDS) > before.1
    });
    assert_eq!(output(&machine), "R");
}

#[test]
fn a_vcpu_that_was_never_started_pauses_too() {
    let Some((mut machine, memory)) = with_guest(16, "count") else { return };
    machine.start().unwrap();
    wait_until("rounds", || word(&memory, guest::ROUNDS) > 0);
    for _ in 0..20 {
        machine.pause().unwrap();
        machine.resume().unwrap();
    }
    let before = word(&memory, guest::ROUNDS_CHECKED);
    wait_until("progress", || word(&memory, guest::ROUNDS_CHECKED) > before);
}

#[test]
fn each_end_of_a_guest_is_an_event_of_its_own() {
    for (what, expected) in
        [("s", Event::Shutdown), ("k", Event::Reset), ("x", Event::Reset), ("t", Event::TripleFault)]
    {
        let Some((mut machine, _memory)) = with_guest(1, what) else { return };
        machine.start().unwrap();
        assert_eq!(wait_event(&machine), expected, "{what}");
        machine.pause().unwrap();
        assert!(matches!(machine.resume(), Err(MachineError::Ended)), "a guest that has ended does not run");
        assert!(matches!(machine.export_state(), Err(MachineError::Ended)), "nor is it moved");
        assert_eq!(machine.take_event(), None);
    }
}

#[test]
fn a_guest_that_kvm_cannot_run_says_where_and_why() {
    let Some((mut machine, _memory)) = with_guest(1, "u") else { return };
    machine.start().unwrap();
    let Event::Failed(why) = wait_event(&machine) else { panic!("another event") };
    assert!(why.contains("vCPU 0") && why.contains("rip 0xd0000000"), "{why}");
}

#[test]
fn the_power_button_lets_the_guest_shut_itself_down() {
    let Some((mut machine, _memory)) = with_guest(1, "b") else { return };
    machine.start().unwrap();
    wait_until("the guest", || output(&machine) == "R");
    assert_eq!(machine.take_event(), None);
    machine.power_button();
    assert_eq!(wait_event(&machine), Event::Shutdown);
}

#[test]
fn what_is_typed_reaches_the_guest_and_comes_back() {
    let Some((mut machine, _memory)) = with_guest(1, "echo") else { return };
    machine.start().unwrap();
    let text: String = (0..500).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    assert_eq!(machine.serial_input(text.as_bytes()), text.len());
    wait_until("the echo", || output(&machine).len() > text.len());
    assert_eq!(output(&machine), format!("R{text}"));
}

#[test]
fn a_guest_of_which_one_vcpu_could_not_be_parked_runs_on() {
    let Some((mut machine, _memory)) = with_guest(2, "echo") else { return };
    machine.start().unwrap();
    wait_until("the guest", || output(&machine) == "R");
    let serial = machine.serial();
    // The guest asks its serial port again and again: its vCPU soon waits for it, and hears nobody.
    let held = serial.lock().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let refused = machine.pause();
    drop(held);
    assert!(matches!(refused, Err(MachineError::Stuck { what: "park", .. })), "{refused:?}");
    assert_eq!(machine.phase(), Phase::Running);
    machine.serial_input(b"on");
    wait_until("the echo", || output(&machine) == "Ron");
    machine.pause().unwrap();
    machine.resume().unwrap();
}

#[test]
fn a_reset_guest_starts_from_the_beginning_with_clean_memory_again_and_again() {
    let Some((mut machine, memory)) = with_guest(2, "m") else { return };
    for round in 1..=5 {
        machine.start().unwrap();
        wait_until("both vCPUs", || {
            word(&memory, guest::SECOND_ROUNDS) > 3 && word(&memory, guest::ROUNDS_CHECKED) > 3
        });
        machine.reset().unwrap();
        assert_eq!(machine.phase(), Phase::Ready);
        assert_eq!((word(&memory, guest::ROUNDS), word(&memory, guest::SECOND_ROUNDS)), (0, 0));
        assert_eq!(output(&machine), "R".repeat(round));
    }
    let Some((mut machine, _memory)) = with_guest(1, "x") else { return };
    for _ in 0..3 {
        machine.start().unwrap();
        assert_eq!(wait_event(&machine), Event::Reset);
        machine.reset().unwrap();
    }
}

#[test]
fn a_throttled_guest_is_held_again_and_again_and_an_unthrottled_one_is_not() {
    let Some((mut machine, memory)) = with_guest(1, "count") else { return };
    machine.start().unwrap();
    wait_until("rounds", || word(&memory, guest::ROUNDS) > 0);
    assert_eq!(machine.throttled(0), Some(Duration::ZERO));
    machine.throttle(95).unwrap();
    assert_eq!(machine.slowed(), [95]);
    wait_until("holds", || machine.throttled(0) > Some(Duration::from_millis(500)));
    let before = word(&memory, guest::ROUNDS);
    wait_until("progress between holds", || word(&memory, guest::ROUNDS) > before);
    machine.pause().unwrap();
    machine.resume().unwrap();
    machine.throttle(0).unwrap();
    assert_eq!(machine.slowed(), [0]);
    let before = word(&memory, guest::ROUNDS);
    wait_until("the last hold to end", || word(&memory, guest::ROUNDS) > before + 10);
    let held = machine.throttled(0);
    let before = word(&memory, guest::ROUNDS);
    wait_until("progress without holds", || word(&memory, guest::ROUNDS) > before + 1000);
    assert_eq!(machine.throttled(0), held);
    assert_eq!(machine.throttled(7), None);
}

#[test]
fn calls_that_the_phase_does_not_allow_are_refused() {
    let Some((mut machine, _memory)) = build(1, MEMORY_BYTES) else { return };
    assert!(matches!(machine.resume(), Err(MachineError::Phase { phase: Phase::Empty, .. })));
    assert!(matches!(machine.pause(), Err(MachineError::Phase { phase: Phase::Empty, .. })));
    assert!(matches!(machine.export_state(), Err(MachineError::Phase { phase: Phase::Empty, .. })));
    machine.load(guest::image(), None, "count").unwrap();
    assert!(matches!(machine.load(guest::image(), None, "count"), Err(MachineError::Phase { .. })));
    machine.start().unwrap();
    machine.resume().unwrap();
    assert!(matches!(machine.export_state(), Err(MachineError::Phase { phase: Phase::Running, .. })));
    assert!(matches!(machine.import_state(&[], None), Err(MachineError::Phase { .. })));
}

#[test]
fn a_machine_whose_parts_do_not_fit_is_refused() {
    let Some(kvm) = kvm() else { return };
    let wrong = |spec: MachineSpec, memory: u64| {
        let kvm = kvm.try_clone().unwrap();
        Machine::build(spec, Resources { kvm, memory: memfd(memory), taps: vec![] }).unwrap_err().to_string()
    };
    assert!(wrong(spec(0, MEMORY_BYTES), MEMORY_BYTES).contains("0 vCPUs"));
    assert!(wrong(spec(1, MEMORY_BYTES), MEMORY_BYTES * 2).contains("the memory descriptor has"));
    assert!(wrong(spec(1, 12345), 12345).contains("12345 bytes"));
    let no_kvm = Resources { kvm: memfd(4096), memory: memfd(MEMORY_BYTES), taps: vec![] };
    assert!(Machine::build(spec(1, MEMORY_BYTES), no_kvm).is_err());
}
