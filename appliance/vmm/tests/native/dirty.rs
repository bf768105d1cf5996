//! The dirty log against a guest that writes known pages.

use std::collections::BTreeSet;

use super::*;

/// Low memory, and memory behind the hole, so that there are two slots.
const TWO_SLOTS: u64 = (3 << 30) + (64 << 20);

fn harvest(machine: &Machine) -> BTreeSet<u64> {
    let bitmap = DirtyBitmap::new(machine.layout().pages()).unwrap();
    machine.dirty_log().harvest(&bitmap).unwrap();
    let mut pages = BTreeSet::new();
    bitmap.take_runs(|first, count| pages.extend(first..first + count));
    pages
}

/// Has the guest write to each address, and waits until it has.
fn let_guest_write(machine: &Machine, memory: &File, addresses: &[u32]) {
    for (index, address) in (0u64..).zip(addresses) {
        machine.memory().write_obj(*address, GuestAddress(guest::PAGE_LIST + index * 4)).unwrap();
    }
    machine.memory().write_obj(addresses.len() as u32, GuestAddress(guest::PAGE_COUNT)).unwrap();
    wait_until("the guest's writes", || word(memory, guest::PAGE_COUNT) == 0);
}

#[test]
fn a_harvest_is_exactly_what_guest_and_vmm_wrote() {
    let Some((mut machine, memory)) = with_guest(1, "dirty") else { return };
    machine.start().unwrap();
    machine.dirty_log().start().unwrap();
    assert_eq!(harvest(&machine).len() as u64, machine.layout().pages(), "the first harvest is everything");
    assert_eq!(harvest(&machine), BTreeSet::new());
    let page = |address: u64| address / 4096;
    for round in 0..20u32 {
        let addresses: Vec<u32> = (0..50).map(|n| 0x40_0000 + (n * 37 + round * 11) % 4000 * 0x1000).collect();
        let_guest_write(&machine, &memory, &addresses);
        let own = 0x18_0000 + u64::from(round) * 4096;
        machine.memory().write_obj(1u8, GuestAddress(own)).unwrap();
        let mut expected: BTreeSet<u64> = addresses.iter().map(|address| page(u64::from(*address))).collect();
        expected.extend([page(guest::PAGE_LIST), page(guest::PAGE_COUNT), page(own)]);
        assert_eq!(harvest(&machine), expected, "round {round}");
        assert_eq!(harvest(&machine), BTreeSet::new(), "round {round}");
    }
    machine.dirty_log().stop().unwrap();
    let bitmap = DirtyBitmap::new(machine.layout().pages()).unwrap();
    assert!(machine.dirty_log().harvest(&bitmap).is_err(), "the log is off");
    machine.dirty_log().start().unwrap();
    assert_eq!(harvest(&machine).len() as u64, machine.layout().pages(), "and starts with everything again");
}

#[test]
fn pages_behind_the_hole_have_the_numbers_of_the_memfd() {
    let Some((mut machine, _memory)) = build(1, TWO_SLOTS) else { return };
    machine.load(guest::image(), None, "dirty").unwrap();
    machine.start().unwrap();
    machine.dirty_log().start().unwrap();
    harvest(&machine);
    machine.memory().write_obj(1u8, GuestAddress((4 << 30) + 0x5000)).unwrap();
    assert_eq!(harvest(&machine), BTreeSet::from([(3 << 30) / 4096 + 5]));
}

#[test]
fn a_bitmap_of_another_size_is_refused() {
    let Some((machine, _memory)) = build(1, MEMORY_BYTES) else { return };
    machine.dirty_log().start().unwrap();
    assert!(machine.dirty_log().harvest(&DirtyBitmap::new(64).unwrap()).is_err());
}

/// The whole of a move but the wire: copy while the guest writes, round after round, then the rest, then the state.
#[test]
fn pre_copy_against_a_running_guest_ends_with_the_same_memory() {
    let Some((mut machine, memory)) = with_guest(2, "m") else { return };
    machine.start().unwrap();
    wait_until("the second vCPU", || word(&memory, guest::SECOND_ROUNDS) > 10);
    for _ in 0..10 {
        let (mut destination, copy) = build(2, MEMORY_BYTES).unwrap();
        let shared = memfd(DirtyBitmap::bytes_for(machine.layout().pages()));
        let ours = DirtyBitmap::shared(shared.try_clone().unwrap(), machine.layout().pages()).unwrap();
        let theirs = DirtyBitmap::shared(shared, machine.layout().pages()).unwrap();
        let transfer = || {
            theirs.take_runs(|first, count| {
                let mut bytes = vec![0; (count * 4096) as usize];
                memory.read_exact_at(&mut bytes, first * 4096).unwrap();
                copy.write_all_at(&bytes, first * 4096).unwrap();
            });
        };
        machine.dirty_log().start().unwrap();
        for _ in 0..4 {
            machine.dirty_log().harvest(&ours).unwrap();
            transfer();
        }
        machine.pause().unwrap();
        let state = machine.export_state().unwrap();
        machine.dirty_log().harvest(&ours).unwrap();
        transfer();
        let (mut before, mut after) = (vec![0; MEMORY_BYTES as usize], vec![0; MEMORY_BYTES as usize]);
        memory.read_exact_at(&mut before, 0).unwrap();
        copy.read_exact_at(&mut after, 0).unwrap();
        assert!(before == after, "a page was missed");
        destination.import_state(&state, None).unwrap();
        destination.resume().unwrap();
        let rounds = word(&copy, guest::ROUNDS_CHECKED);
        wait_until("progress at the destination", || word(&copy, guest::ROUNDS_CHECKED) > rounds);
        destination.pause().unwrap();
        machine.dirty_log().stop().unwrap();
        machine.resume().unwrap();
    }
}
