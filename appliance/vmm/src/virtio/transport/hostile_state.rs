//! States that no machine exports: what a host that lies may send, field by field, and what a function that took one over must still do.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::VirtioPci;
use super::fake_driver::{Bench, Driver, MEMORY_BYTES, wait_until};
use super::state::FunctionState;
use crate::bus::{Shared, enter};
use crate::device::Device;
use crate::pci::PciFunction;
use crate::pci::slots::bar_start;
use crate::state::{decode, encode};
use crate::virtio::device::VirtioDevice;

const COMMAND: usize = 0x04;
const BAR: usize = 0x10;
const CONFIG_BYTES: usize = 256;
/// Where a driver looks for the function in the end.
const BAR_AT_LAST: u64 = 0xd000_0000;
/// So much of the guest's memory holds what proptest chose, over and over.
const NOISE_BYTES: usize = 1 << 20;

/// One field that is not what a machine would have exported.
#[derive(Debug, Clone)]
pub(crate) enum Lie {
    Queues(usize),
    Ring { queue: usize, part: usize, at: u64 },
    Size { queue: usize, size: u16 },
    Ready { queue: usize, ready: bool },
    Indices { queue: usize, available: u16, used: u16 },
    Features(u64),
    Status(u8),
    Selected(u16, u32, u32),
    Vectors(Vec<u16>),
    ConfigVector(u16),
    Flags(u8, u8, bool),
    Active(bool),
    Config { at: usize, value: u8 },
    ConfigBytes(usize),
    Bar { command: u8, at: u64 },
    Window { bar: u8, offset: u32, length: u32 },
    Entries(usize),
    Entry { vector: usize, entry: [u32; 4] },
    Pending(u64),
    Msix { enabled: bool, masked: bool },
    Front(Vec<u8>),
    FrontByte(prop::sample::Index, u8),
}

fn number() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 2, 0xffff, 0xffff_ffff, MEMORY_BYTES - 16, MEMORY_BYTES, 1 << 63, u64::MAX - 15, u64::MAX];
    prop_oneof![any::<u64>(), (0u64..64).prop_map(|bit| 1 << bit), select(edges.to_vec())]
}

fn address() -> impl Strategy<Value = u64> {
    let noise = (0u64..NOISE_BYTES as u64 / 16).prop_map(|at| at * 16);
    prop_oneof![4 => noise, 2 => 0..MEMORY_BYTES, 1 => number(), 1 => Just(bar_start(1)), 1 => Just(MEMORY_BYTES - 4096)]
}

fn index() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..64, any::<u16>()]
}

fn lie() -> impl Strategy<Value = Lie> {
    let bar = prop_oneof![number(), (0u64..32).prop_map(|slot| bar_start(slot as u8)), Just(0xe000_0000)];
    let entry = [number(), number(), number(), number()].prop_map(|words| words.map(|word| word as u32));
    let queue = prop_oneof![
        4 => (0usize..3, 0usize..3, address()).prop_map(|(queue, part, at)| Lie::Ring { queue, part, at }),
        2 => (0usize..3, index(), index()).prop_map(|(queue, available, used)| Lie::Indices { queue, available, used }),
        1 => (0usize..3, prop_oneof![any::<u16>(), (0u16..16).prop_map(|bit| 1 << bit)])
            .prop_map(|(queue, size)| Lie::Size { queue, size }),
        1 => (0usize..3, any::<bool>()).prop_map(|(queue, ready)| Lie::Ready { queue, ready }),
        1 => (0usize..40).prop_map(Lie::Queues),
    ];
    let registers = prop_oneof![
        number().prop_map(Lie::Features),
        any::<u8>().prop_map(Lie::Status),
        (any::<u16>(), any::<u32>(), any::<u32>())
            .prop_map(|(queue, device, driver)| Lie::Selected(queue, device, driver)),
        vec(index(), 0..6).prop_map(Lie::Vectors),
        index().prop_map(Lie::ConfigVector),
        any::<(u8, u8, bool)>().prop_map(|(isr, generation, reset)| Lie::Flags(isr, generation, reset)),
        any::<bool>().prop_map(Lie::Active),
    ];
    let pci = prop_oneof![
        (0..CONFIG_BYTES, any::<u8>()).prop_map(|(at, value)| Lie::Config { at, value }),
        (0..2 * CONFIG_BYTES).prop_map(Lie::ConfigBytes),
        (any::<u8>(), bar).prop_map(|(command, at)| Lie::Bar { command, at }),
        (any::<bool>(), number(), number()).prop_map(|(bar, offset, length)| {
            Lie::Window { bar: bar.into(), offset: offset as u32 & 0x7fff, length: length as u32 }
        }),
        (0usize..80).prop_map(Lie::Entries),
        (0usize..4, entry).prop_map(|(vector, entry)| Lie::Entry { vector, entry }),
        number().prop_map(Lie::Pending),
        any::<(bool, bool)>().prop_map(|(enabled, masked)| Lie::Msix { enabled, masked }),
    ];
    let front = prop_oneof![
        vec(any::<u8>(), 0..24).prop_map(Lie::Front),
        any::<(prop::sample::Index, u8)>().prop_map(|(at, value)| Lie::FrontByte(at, value)),
    ];
    prop_oneof![4 => queue, 2 => registers, 3 => pci, 1 => front]
}

/// For tests of them: a device that does not live is waited for, so little is tried to make its lies fewer.
pub(crate) fn config() -> ProptestConfig {
    ProptestConfig { cases: 200, max_shrink_iters: 8, failure_persistence: None, ..ProptestConfig::default() }
}

/// Some lies, and what they make of a state; and what lies in the guest's memory.
pub(crate) fn lies() -> impl Strategy<Value = (Vec<Lie>, Vec<u16>)> {
    (vec(lie(), 1..6), vec(index(), 256))
}

/// The state `bytes` with these fields changed.
pub(crate) fn with(bytes: &[u8], lies: &[Lie]) -> Vec<u8> {
    let mut state: FunctionState = decode("a function", bytes).unwrap();
    lies.iter().for_each(|lie| change(&mut state, lie));
    encode("a function", &state).unwrap()
}

fn change(state: &mut FunctionState, lie: &Lie) {
    let registers = &mut state.registers;
    let put = |bytes: &mut Vec<u8>, at: usize, new: &[u8]| {
        bytes.iter_mut().skip(at).zip(new).for_each(|(byte, new)| *byte = *new);
    };
    match lie {
        Lie::Queues(count) => {
            let Some(last) = registers.queues.last().copied() else { return };
            registers.queues.resize(*count, last);
        }
        Lie::Ring { queue, part, at } => {
            let Some(queue) = registers.queues.get_mut(*queue) else { return };
            *[&mut queue.descriptors, &mut queue.available, &mut queue.used][*part] = *at;
        }
        Lie::Size { queue, size } => {
            registers.queues.iter_mut().skip(*queue).take(1).for_each(|queue| queue.size = *size)
        }
        Lie::Ready { queue, ready } => {
            registers.queues.iter_mut().skip(*queue).take(1).for_each(|queue| queue.ready = *ready);
        }
        Lie::Indices { queue, available, used } => {
            let Some(queue) = registers.queues.get_mut(*queue) else { return };
            (queue.next_available, queue.next_used) = (*available, *used);
        }
        Lie::Features(features) => registers.driver_features = *features,
        Lie::Status(status) => registers.status = *status,
        Lie::Selected(queue, device, driver) => {
            (registers.queue_select, registers.device_feature_select, registers.driver_feature_select) =
                (*queue, *device, *driver);
        }
        Lie::Vectors(vectors) => state.vectors.clone_from(vectors),
        Lie::ConfigVector(vector) => state.config_vector = *vector,
        Lie::Flags(isr, generation, reset) => state.flags = (*isr, *generation, *reset),
        Lie::Active(active) => state.active = *active,
        Lie::Config { at, value } => put(&mut state.config.bytes, *at, &[*value]),
        Lie::ConfigBytes(count) => state.config.bytes.resize(*count, 0),
        Lie::Bar { command, at } => {
            // The bits that no guest can change stay, or the state is another kind of function's.
            put(&mut state.config.bytes, COMMAND, &[*command & 6]);
            put(&mut state.config.bytes, BAR, &(*at & !0x7fff | 4).to_le_bytes());
        }
        Lie::Window { bar, offset, length } => {
            let window = window_at(&state.config.bytes);
            put(&mut state.config.bytes, window + 4, &[*bar]);
            put(&mut state.config.bytes, window + 8, &offset.to_le_bytes());
            put(&mut state.config.bytes, window + 12, &length.to_le_bytes());
        }
        Lie::Entries(count) => state.msix.entries.resize(*count, [u32::MAX; 4]),
        Lie::Entry { vector, entry } => {
            state.msix.entries.iter_mut().skip(*vector).take(1).for_each(|found| *found = *entry);
        }
        Lie::Pending(pending) => state.msix.pending = *pending,
        Lie::Msix { enabled, masked } => (state.msix.enabled, state.msix.masked) = (*enabled, *masked),
        Lie::Front(front) => state.front.clone_from(front),
        Lie::FrontByte(at, value) => {
            if !state.front.is_empty() {
                let at = at.index(state.front.len());
                state.front[at] = *value;
            }
        }
    }
}

/// Where the capability of the window onto the BAR (virtio 1.2, 4.1.4.9) stands; 0 if there is none.
fn window_at(config: &[u8]) -> usize {
    let byte = |at: usize| usize::from(config.get(at).copied().unwrap_or(0));
    let mut at = byte(0x34);
    for _ in 0..16 {
        if byte(at) == 9 && byte(at + 3) == 5 {
            return at;
        }
        at = byte(at + 1);
    }
    0
}

/// Gives a fresh function a state. If it takes it, the function runs: every doorbell rings and is answered, every register is touched, it comes
/// to rest, what it exports then is taken by another, and a driver that resets it finds a device like any other. Gives that driver,
/// bound with queues of 16, or none if the state was refused. `reads_bells`: its engine resets the eventfds of its doorbells, so that it
/// shows when one was heard.
pub(crate) fn outlive<D: VirtioDevice>(
    fresh: impl Fn(&Bench) -> Shared<VirtioPci<D>>,
    bench: &Bench,
    (noise, bytes): (&[u16], &[u8]),
    reads_bells: bool,
) -> Option<(Shared<VirtioPci<D>>, Driver)> {
    let noise: Vec<u8> = noise.iter().flat_map(|word| word.to_le_bytes()).collect();
    let noise = noise.repeat(NOISE_BYTES / noise.len());
    bench.write(0, &noise);
    let function = fresh(bench);
    if enter(&function).import_state(D::KIND.version, bytes).is_err() {
        return None;
    }
    enter(&function).resume().unwrap();
    // When the second ring is heard, the engine has done what the first asked for.
    for _ in 0..2 {
        enter(&function).ring_all();
        if reads_bells {
            wait_until("every doorbell of a queue in use is heard", || enter(&function).all_heard());
        } else {
            // Its turn: whether it took it does not show, and nothing below hangs on it.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    touch_all(&function);
    enter(&function).quiesce().unwrap();
    let again = enter(&function).export_state().unwrap();
    let other = Bench::with_memory(bench.memory.clone());
    enter(&fresh(&other)).import_state(D::KIND.version, &again).unwrap();
    enter(&function).resume().unwrap();
    let mut registers = enter(&function);
    registers.write_config(COMMAND, &[0, 0]);
    registers.write_config(BAR, &(BAR_AT_LAST as u32).to_le_bytes());
    registers.write_config(BAR + 4, &[0; 4]);
    registers.write_config(COMMAND, &[6, 0]);
    drop(registers);
    Driver::find(bench, &function);
    bench.msi.take_delivered();
    let driver = Driver::bind(bench, &function, u64::MAX, 16);
    Some((function, driver))
}

/// Reads all of configuration space and BAR, and writes back what can be without a reset.
fn touch_all<D: VirtioDevice>(function: &Shared<VirtioPci<D>>) {
    let mut function = enter(function);
    for offset in (0..CONFIG_BYTES).step_by(4) {
        let mut word = [0; 4];
        function.read_config(offset, &mut word);
        // The window onto the BAR may point at the status: a write there is the driver's reset, which comes later.
        if !(0x40..0x100).contains(&offset) {
            function.write_config(offset, &word);
        }
    }
    function.touch_bar();
}
