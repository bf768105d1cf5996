//! The transport with a device of the test's own, whose engine does as the test says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::fake_driver::{Bench, Driver, WRITE, wait_until};
use super::*;
use crate::bus::{Shared, enter};
use crate::device::Device;
use crate::interrupt::DoorbellAddress;
use crate::pci::PciFunction;
use crate::state::StateError;
use crate::virtio::chain::Chain;
use crate::virtio::device::{Engine, Kind, Queues, VirtioDevice};
use crate::virtio::worker::{Control, interest, wait_for};

const FEATURE: u64 = 1 << 3;

/// Gives every request of every queue back; holds one back for ever while `stuck`.
struct Echo {
    stuck: Arc<AtomicBool>,
    runs: Arc<AtomicUsize>,
}

struct EchoFront;

impl Engine for Echo {
    fn ready(&self) -> bool {
        true
    }

    fn run(&mut self, queues: &mut Queues, control: &Control) {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let mut chain = Chain::default();
        loop {
            // Looked at once a turn: let go between two looks, it would wait for a wake that it has taken already.
            let stuck = self.stuck.load(Ordering::SeqCst);
            if control.stopping() && !stuck && control.agree_to_stop() {
                return;
            }
            for queue in queues.iter_mut().flatten() {
                queue.take_kick();
                loop {
                    while queue.pop(&mut chain) {
                        queue.push_used(chain.head, 0);
                    }
                    if !queue.enable_kicks() {
                        break;
                    }
                }
                queue.notify();
            }
            let mut ready = vec![interest(control.wake_descriptor(), libc::POLLIN)];
            ready.extend(queues.iter().flatten().map(|queue| interest(queue.kick(), libc::POLLIN)));
            if stuck && control.stopping() {
                std::thread::sleep(Duration::from_millis(1));
            } else {
                wait_for(&mut ready);
                control.take_wake();
            }
        }
    }
}

impl VirtioDevice for EchoFront {
    type Engine = Echo;

    const KIND: Kind =
        Kind { id: 63, class: 0xff_0000, noun: "echo", chunk: 0x7000, version: 3, queue_sizes: &[16, 16, 16] };

    fn features(&self) -> u64 {
        FEATURE
    }

    fn read_config(&self, _: usize, _: &mut [u8]) {}

    fn write_config(&mut self, _: usize, _: &[u8]) {}

    fn activate(&mut self, _: &mut Echo, _: u64) {}

    fn reset(&mut self, _: &mut Echo) {}

    fn export_state(&self, _: &Echo) -> Result<Vec<u8>, StateError> {
        Ok(vec![])
    }

    fn import_state(&mut self, _: &mut Echo, _: &[u8]) -> Result<(), StateError> {
        Ok(())
    }
}

struct Rig {
    bench: Bench,
    function: Shared<VirtioPci<EchoFront>>,
    stuck: Arc<AtomicBool>,
    runs: Arc<AtomicUsize>,
}

fn rig() -> Rig {
    let (bench, stuck, runs) = (Bench::new(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let engine = Echo { stuck: Arc::clone(&stuck), runs: Arc::clone(&runs) };
    let function = VirtioPci::new(EchoFront, engine, 4, 7, bench.wiring()).unwrap();
    enter(&function).resume().unwrap();
    Rig { bench, function, stuck, runs }
}

impl Rig {
    fn move_bar(&self, to: u64) {
        let mut function = enter(&self.function);
        function.write_config(4, &[0, 0]);
        function.write_config(0x10, &(to as u32).to_le_bytes());
        function.write_config(0x14, &((to >> 32) as u32).to_le_bytes());
        function.write_config(4, &[6, 0]);
    }

    fn echo(&self, driver: &mut Driver, queue: usize) {
        let head = driver.rings[queue].add(&self.bench, &[(0x1000, 16, WRITE)]);
        driver.kick(&self.bench, queue as u16);
        assert_eq!(driver.rings[queue].wait_used(&self.bench, 1), [(head, 0)]);
    }
}

#[test]
fn a_bar_that_moves_takes_its_doorbells_along_while_the_device_works() {
    let rig = rig();
    let mut driver = Driver::bind(&rig.bench, &rig.function, u64::MAX, 16);
    rig.echo(&mut driver, 0);
    let old = driver.bar;
    for to in [0xd000_0000, 0x1_2000_0000, 0xc000_0000] {
        rig.move_bar(to);
        assert!(!rig.bench.mmio.read(driver.bar, &mut [0; 4]), "the old place is empty");
        assert!(!rig.bench.bells.ring(DoorbellAddress::Mmio(driver.bar + 0x3000), 0));
        driver.bar = to;
        assert_eq!(driver.status(&rig.bench), 0xf);
        rig.echo(&mut driver, 1);
        assert_eq!(rig.bench.bells.registered(), 3);
    }
    rig.move_bar(0xfee0_0000);
    assert_eq!(rig.bench.bells.registered(), 0, "outside the windows it answers nobody");
    rig.move_bar(old);
    driver.bar = old;
    rig.echo(&mut driver, 2);
}

#[test]
fn two_functions_may_swap_places_in_any_order() {
    let rig = rig();
    let engine = Echo { stuck: Arc::default(), runs: Arc::default() };
    let other = VirtioPci::new(EchoFront, engine, 5, 8, rig.bench.wiring()).unwrap();
    let (first, second) = (crate::pci::slots::bar_start(7), crate::pci::slots::bar_start(8));
    rig.move_bar(second);
    assert!(!rig.bench.mmio.read(first, &mut [0; 4]), "its new place is taken, so it is nowhere");
    enter(&other).write_config(0x10, &(first as u32).to_le_bytes());
    enter(&rig.function).place_bar();
    for place in [first, second] {
        assert!(rig.bench.mmio.read(place, &mut [0; 4]));
    }
    assert_eq!(rig.bench.bells.registered(), 6);
}

/// Two functions as they are on every machine, and what they export once the guest has moved their BARs to `places`.
fn exported_at(bench: &Bench, places: [u64; 2]) -> [Vec<u8>; 2] {
    let source = Bench::with_memory(bench.memory.clone());
    [0, 1].map(|at| {
        let function = function_in(&source, at);
        enter(&function).write_config(0x10, &(places[at] as u32).to_le_bytes());
        enter(&function).export_state().unwrap()
    })
}

fn function_in(bench: &Bench, at: usize) -> Shared<VirtioPci<EchoFront>> {
    let engine = Echo { stuck: Arc::default(), runs: Arc::default() };
    VirtioPci::new(EchoFront, engine, at as u16, 7 + at as u8, bench.wiring()).unwrap()
}

#[test]
fn functions_that_had_swapped_places_answer_there_after_a_move_too() {
    let bench = Bench::new();
    let (first, second) = (crate::pci::slots::bar_start(7), crate::pci::slots::bar_start(8));
    let states = exported_at(&bench, [second, first]);
    let functions = [0, 1].map(|at| function_in(&bench, at));
    for (function, state) in functions.iter().zip(&states) {
        enter(function).import_state(3, state).unwrap();
    }
    functions.iter().for_each(|function| enter(function).resume().unwrap());
    assert_eq!(bench.bells.registered(), 6, "each has its doorbells");
    for (function, place) in functions.iter().zip([second, first]) {
        assert_eq!(Driver::find(&bench, function).bar, place);
    }
}

#[test]
fn of_functions_whose_bars_come_to_lie_upon_one_another_one_answers_and_both_can_be_moved_apart() {
    let bench = Bench::new();
    let first = crate::pci::slots::bar_start(7);
    let states = exported_at(&bench, [first, first]);
    let functions = [0, 1].map(|at| function_in(&bench, at));
    for (function, state) in functions.iter().zip(&states) {
        enter(function).import_state(3, state).unwrap();
        enter(function).resume().unwrap();
    }
    assert_eq!(bench.bells.registered(), 3);
    enter(&functions[0]).write_config(0x10, &0xd000_0000u32.to_le_bytes());
    enter(&functions[1]).place_bar();
    for function in &functions {
        let mut driver = Driver::bind(&bench, function, u64::MAX, 16);
        driver.rings[0].add(&bench, &[(0x1000, 16, WRITE)]);
        driver.kick(&bench, 0);
        driver.rings[0].wait_used(&bench, 1);
    }
}

#[test]
fn a_function_that_is_gone_leaves_nothing_behind() {
    let rig = rig();
    Driver::bind(&rig.bench, &rig.function, u64::MAX, 16);
    assert_eq!((rig.bench.bells.registered(), rig.bench.msi.allocated()), (3, 4));
    drop(rig.function);
    assert_eq!((rig.bench.bells.registered(), rig.bench.msi.allocated()), (0, 0));
    assert!(!rig.bench.mmio.read(crate::pci::slots::bar_start(7), &mut [0; 4]));
}

#[test]
fn features_that_were_not_offered_or_are_too_old_are_not_accepted() {
    let rig = rig();
    let driver = Driver::find(&rig.bench, &rig.function);
    for (features, accepted) in
        [(FEATURE, false), (1 << 32 | 1 << 5, false), (1 << 33 | 1 << 32, false), (1 << 32 | FEATURE, true)]
    {
        driver.reset(&rig.bench);
        driver.out(&rig.bench, 0x14, &[3]);
        for half in 0..2u32 {
            driver.out(&rig.bench, 0x08, &half.to_le_bytes());
            driver.out(&rig.bench, 0x0c, &((features >> (32 * half)) as u32).to_le_bytes());
        }
        driver.out(&rig.bench, 0x14, &[0xb]);
        assert_eq!(driver.status(&rig.bench) & 8 != 0, accepted, "{features:#x}");
        driver.out(&rig.bench, 0x14, &[0xf]);
        assert_eq!(driver.status(&rig.bench) & 4 != 0, accepted, "and no driver is ready without it");
    }
}

#[test]
fn a_queue_that_is_in_use_cannot_be_changed() {
    let rig = rig();
    let mut driver = Driver::bind(&rig.bench, &rig.function, u64::MAX, 8);
    driver.out(&rig.bench, 0x16, &0u16.to_le_bytes());
    driver.out(&rig.bench, 0x18, &16u16.to_le_bytes());
    driver.out(&rig.bench, 0x20, &0x5000u64.to_le_bytes());
    assert_eq!(u16::from_le_bytes(driver.input(&rig.bench, 0x18)), 8);
    assert_ne!(u32::from_le_bytes(driver.input(&rig.bench, 0x20)), 0x5000);
    rig.echo(&mut driver, 0);
    driver.reset(&rig.bench);
    for size in [0u16, 3, 17, 32, u16::MAX] {
        driver.out(&rig.bench, 0x18, &size.to_le_bytes());
        assert_eq!(u16::from_le_bytes(driver.input(&rig.bench, 0x18)), 16, "{size}");
    }
    driver.out(&rig.bench, 0x16, &9u16.to_le_bytes());
    assert_eq!(u16::from_le_bytes(driver.input(&rig.bench, 0x18)), 0, "a queue that does not exist has no size");
}

#[test]
fn a_queue_keeps_its_number_when_others_are_off_also_after_a_move() {
    let rig = rig();
    let mut driver = Driver::find(&rig.bench, &rig.function);
    driver.negotiate(&rig.bench, FEATURE);
    driver.set_up_interrupts(&rig.bench, &rig.function);
    driver.add_queue(&rig.bench, 2, 16);
    driver.start(&rig.bench);
    let use_it = |bench: &Bench, driver: &mut Driver| {
        driver.rings[0].add(bench, &[(0x1000, 16, WRITE)]);
        driver.kick(bench, 2);
        driver.rings[0].wait_used(bench, 1);
        wait_until("its interrupt arrives", || Driver::interrupts(bench) == [3]);
    };
    use_it(&rig.bench, &mut driver);
    let mut function = enter(&rig.function);
    function.quiesce().unwrap();
    let bytes = function.export_state().unwrap();
    let bench = Bench::with_memory(rig.bench.memory.clone());
    let target =
        VirtioPci::new(EchoFront, Echo { stuck: Arc::default(), runs: Arc::default() }, 4, 7, bench.wiring()).unwrap();
    assert!(matches!(enter(&target).import_state(2, &bytes), Err(StateError::Version { version: 2, .. })));
    enter(&target).import_state(3, &bytes).unwrap();
    enter(&target).resume().unwrap();
    assert_eq!(Driver::interrupts(&bench), [3], "a device that goes on interrupts once");
    use_it(&bench, &mut driver);
}

#[test]
fn a_reset_that_waits_for_storage_holds_up_no_vcpu() {
    let rig = rig();
    let driver = Driver::bind(&rig.bench, &rig.function, u64::MAX, 16);
    wait_until("the engine runs", || rig.runs.load(Ordering::SeqCst) == 1);
    rig.stuck.store(true, Ordering::SeqCst);
    driver.out(&rig.bench, 0x14, &[0]);
    for _ in 0..100 {
        assert_eq!(driver.status(&rig.bench), 0xf, "not yet");
    }
    driver.out(&rig.bench, 0x14, &[1]);
    driver.out(&rig.bench, 0x16, &1u16.to_le_bytes());
    rig.stuck.store(false, Ordering::SeqCst);
    wait_until("the device is reset", || driver.status(&rig.bench) == 0);
    let mut driver = Driver::bind(&rig.bench, &rig.function, u64::MAX, 16);
    rig.echo(&mut driver, 0);
}

#[test]
fn a_reset_under_way_is_over_when_the_machine_has_come_to_rest() {
    let rig = rig();
    let driver = Driver::bind(&rig.bench, &rig.function, u64::MAX, 16);
    driver.out(&rig.bench, 0x14, &[0]);
    enter(&rig.function).quiesce().unwrap();
    let bytes = enter(&rig.function).export_state().unwrap();
    let bench = Bench::with_memory(rig.bench.memory.clone());
    let target =
        VirtioPci::new(EchoFront, Echo { stuck: Arc::default(), runs: Arc::default() }, 4, 7, bench.wiring()).unwrap();
    enter(&target).import_state(3, &bytes).unwrap();
    enter(&target).resume().unwrap();
    assert_eq!(driver.status(&bench), 0);
    assert!(!enter(&target).is_running());
}

#[test]
fn a_device_that_cannot_come_to_rest_says_so_and_goes_on() {
    let rig = rig();
    let mut driver = Driver::bind(&rig.bench, &rig.function, u64::MAX, 16);
    wait_until("the engine runs", || rig.runs.load(Ordering::SeqCst) == 1);
    rig.stuck.store(true, Ordering::SeqCst);
    enter(&rig.function).set_patience(Duration::from_millis(20));
    let error = enter(&rig.function).quiesce().unwrap_err();
    assert!(error.to_string().starts_with("echo 4: requests in flight did not end"), "{error}");
    rig.echo(&mut driver, 0);
    rig.stuck.store(false, Ordering::SeqCst);
    enter(&rig.function).set_patience(Duration::from_secs(60));
    enter(&rig.function).quiesce().unwrap();
    enter(&rig.function).resume().unwrap();
    rig.echo(&mut driver, 0);
}

#[test]
fn a_pause_that_is_called_off_changes_nothing() {
    let rig = rig();
    let mut driver = Driver::bind(&rig.bench, &rig.function, u64::MAX, 16);
    for _ in 0..1000 {
        enter(&rig.function).begin_quiesce();
        enter(&rig.function).cancel_quiesce();
        rig.echo(&mut driver, 0);
    }
}

#[test]
fn configuration_space_has_a_window_onto_the_bar() {
    let rig = rig();
    let driver = Driver::find(&rig.bench, &rig.function);
    let mut function = enter(&rig.function);
    let mut byte = |at: usize| {
        let mut data = [0; 1];
        function.read_config(at, &mut data);
        usize::from(data[0])
    };
    let mut at = byte(0x34);
    while at != 0 && (byte(at) != 9 || byte(at + 3) != 5) {
        at = byte(at + 1);
    }
    assert_ne!(at, 0, "there is such a capability");
    let mut access = |offset: u32, length: u32, write: Option<&[u8]>| {
        function.write_config(at + 4, &[0]);
        function.write_config(at + 8, &offset.to_le_bytes());
        function.write_config(at + 12, &length.to_le_bytes());
        if let Some(data) = write {
            function.write_config(at + 16, data);
        }
        let mut data = [0; 4];
        function.read_config(at + 16, &mut data);
        u32::from_le_bytes(data)
    };
    access(0x14, 1, Some(&[3]));
    assert_eq!(access(0x14, 1, None) & 0xff, 3);
    assert_eq!(access(0x12, 2, None) & 0xffff, 3, "three queues");
    for (offset, length) in [(0x7fff, 4), (u32::MAX, 4), (0, 3), (0, u32::MAX), (1, 2)] {
        access(offset, length, Some(&[0xff; 4]));
    }
    drop(function);
    assert_eq!(driver.status(&rig.bench), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is written and read anywhere: no panic, and after a reset the device serves a well-behaved driver.
    #[test]
    fn hostile_registers_never_break_the_transport(
        accesses in proptest::collection::vec(
            (any::<bool>(), prop_oneof![0u64..0x40, 0u64..0x8000, 0x3000u64..0x3010, 0x4000u64..0x4040], 0usize..4, any::<u64>(), any::<bool>()),
            0..200,
        ),
    ) {
        let rig = rig();
        let mut bar = crate::pci::slots::bar_start(7);
        for (write, offset, width, value, config) in accesses {
            let width = 1usize << width;
            let bytes = value.to_le_bytes();
            if config {
                let offset = (offset & 0xff) as usize;
                let mut function = enter(&rig.function);
                if write {
                    function.write_config(offset, &bytes[..width.min(4)]);
                } else {
                    function.read_config(offset, &mut [0; 4][..width.min(4)]);
                }
            } else if write {
                rig.bench.mmio.write(bar + offset, &bytes[..width]);
            } else {
                rig.bench.mmio.read(bar + offset, &mut [0; 8][..width]);
            }
        }
        rig.move_bar(0xd000_0000);
        bar = 0xd000_0000;
        enter(&rig.function).quiesce().unwrap();
        let bytes = enter(&rig.function).export_state().unwrap();
        enter(&rig.function).resume().unwrap();
        let bench = Bench::with_memory(rig.bench.memory.clone());
        let engine = Echo { stuck: Arc::default(), runs: Arc::default() };
        let target = VirtioPci::new(EchoFront, engine, 4, 7, bench.wiring()).unwrap();
        enter(&target).import_state(3, &bytes).unwrap();
        enter(&target).resume().unwrap();
        prop_assert!(bench.mmio.write(bar + 0x14, &[0]));
        let mut driver = Driver::bind(&bench, &target, u64::MAX, 16);
        driver.rings[0].add(&bench, &[(0x1000, 16, WRITE)]);
        driver.kick(&bench, 0);
        driver.rings[0].wait_used(&bench, 1);
    }
}

proptest! {
    #![proptest_config(super::hostile_state::config())]

    #[test]
    fn a_hostile_state_is_refused_or_the_function_lives(
        (lies, noise) in super::hostile_state::lies(), queues in 1u16..4,
    ) {
        let fresh = |bench: &Bench| function_in(bench, 0);
        let bench = Bench::new();
        let source = fresh(&bench);
        let mut driver = Driver::find(&bench, &source);
        driver.negotiate(&bench, u64::MAX);
        driver.set_up_interrupts(&bench, &source);
        (0..queues).for_each(|queue| driver.add_queue(&bench, queue, 16));
        driver.start(&bench);
        let bytes = super::hostile_state::with(&enter(&source).export_state().unwrap(), &lies);
        let next = Bench::with_memory(bench.memory.clone());
        if let Some((_function, mut driver)) = super::hostile_state::outlive(fresh, &next, (&noise, &bytes), true) {
            driver.rings[2].add(&next, &[(0x1000, 16, WRITE)]);
            driver.kick(&next, 2);
            driver.rings[2].wait_used(&next, 1);
        }
    }
}
