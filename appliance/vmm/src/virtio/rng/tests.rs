//! A driver draws entropy through a whole function.

use proptest::prelude::{any, prop_assert_eq, proptest};

use super::*;
use crate::bus::enter;
use crate::device::Device;
use crate::virtio::transport::VirtioPci;
use crate::virtio::transport::fake_driver::{Bench, Driver, WRITE};
use crate::virtio::transport::hostile_state;

#[test]
fn buffers_are_filled_and_no_two_alike_also_after_a_move() {
    let bench = Bench::new();
    let (front, engine) = Rng::new();
    let function = VirtioPci::new(front, engine, 0, 1, bench.wiring()).unwrap();
    enter(&function).resume().unwrap();
    let mut driver = Driver::bind(&bench, &function, u64::MAX, 8);
    let mut draw = |bench: &Bench| {
        driver.rings[0].add(bench, &[(0x1000, 100, WRITE), (0x3000, 156, WRITE)]);
        driver.kick(bench, 0);
        assert_eq!(driver.rings[0].wait_used(bench, 1)[0].1, 256);
        [bench.read(0x1000, 100), bench.read(0x3000, 156)].concat()
    };
    let (one, two) = (draw(&bench), draw(&bench));
    assert_ne!(one, two);
    assert!(one.iter().any(|&byte| byte != one[0]));

    enter(&function).quiesce().unwrap();
    let bytes = enter(&function).export_state().unwrap();
    let next = Bench::with_memory(bench.memory.clone());
    let (front, engine) = Rng::new();
    let target = VirtioPci::new(front, engine, 0, 1, next.wiring()).unwrap();
    enter(&target).import_state(1, &bytes).unwrap();
    enter(&target).resume().unwrap();
    assert_ne!(draw(&next), two);
}

#[test]
fn a_greedy_request_is_bounded_and_an_empty_one_answered() {
    let bench = Bench::new();
    let (front, engine) = Rng::new();
    let function = VirtioPci::new(front, engine, 0, 1, bench.wiring()).unwrap();
    enter(&function).resume().unwrap();
    let mut driver = Driver::bind(&bench, &function, u64::MAX, 8);
    driver.rings[0].add(&bench, &[(0x1000, 16 << 20, WRITE)]);
    driver.rings[0].add(&bench, &[(0x1000, 100, 0)]);
    driver.kick(&bench, 0);
    let used = driver.rings[0].wait_used(&bench, 2);
    assert_eq!((used[0].1, used[1].1), (64 << 10, 0));
}

proptest! {
    #![proptest_config(hostile_state::config())]

    #[test]
    fn a_hostile_state_is_refused_or_the_entropy_device_lives(
        (lies, noise) in hostile_state::lies(), outstanding in 0usize..4, event_index in any::<bool>(),
    ) {
        let fresh = |bench: &Bench| {
            let (front, engine) = Rng::new();
            VirtioPci::new(front, engine, 0, 1, bench.wiring()).unwrap()
        };
        let bench = Bench::new();
        let source = fresh(&bench);
        let mut driver = Driver::bind(&bench, &source, if event_index { u64::MAX } else { 0 }, 8);
        (0..outstanding).for_each(|_| { driver.rings[0].add(&bench, &[(0x1000, 100, WRITE)]); });
        let bytes = hostile_state::with(&enter(&source).export_state().unwrap(), &lies);
        let next = Bench::with_memory(bench.memory.clone());
        if let Some((_function, mut driver)) = hostile_state::outlive(fresh, &next, (&noise, &bytes), true) {
            driver.rings[0].add(&next, &[(0x1000, 100, WRITE)]);
            driver.kick(&next, 0);
            prop_assert_eq!(driver.rings[0].wait_used(&next, 1)[0].1, 100);
        }
    }
}
