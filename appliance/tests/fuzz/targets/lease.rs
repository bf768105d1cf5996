//! A lease area as whoever can write to the datastore may have left it: its sectors have the right checksums, but say what they like. A host joins
//! it, asks for VMs, and goes on for a while.

use std::collections::BTreeMap;

use model::names::VmName;
use protocol::lease::host_lease::HostIdentity;
use protocol::lease::identity::{AreaId, BootId, Epoch, HostId};
use protocol::lease::keeper::{Access, Effect, Input, IoResult, Keeper, RequestId};
use protocol::lease::layout::{Area, Geometry, Place};
use protocol::lease::record::{AreaHeader, Watchdog};
use protocol::lease::sector::{self, Reader, Record, SECTOR_BYTES, Writer};
use protocol::lease::vm_lease::{Request, Take, Vouched};
use protocol::time::{Duration, Instant};

use super::{Outcome, Prepared};

const AREA: AreaId = AreaId(0x1234);
const SLOTS: u16 = 3;
const VMS: u16 = 2;
/// Bytes of the body of a sector, between its sequence number and its checksum.
const BODY_BYTES: usize = 488;
/// An input is a list of these: the number of a sector, and its bytes.
const PIECE_BYTES: usize = 2 + SECTOR_BYTES;
/// The area, what is read of it, and the keepers.
const BYTES_MAX: usize = 4 << 20;
/// Virtual time for which a host goes on, and the most that it may want at one moment of it.
const TIME: Duration = Duration::from_secs(60);
const EFFECTS_MAX: usize = 10_000;

fn area() -> Area {
    Area { id: AREA, geometry: Geometry::new(512, SLOTS, VMS).expect("within the limits") }
}

/// A body of any bytes, of a kind.
struct Any<const KIND: u8>([u8; BODY_BYTES]);

impl<const KIND: u8> Record for Any<KIND> {
    const KIND: u8 = KIND;
    const VERSION: u8 = 1;

    fn write(&self, body: &mut Writer<'_>) {
        body.bytes(&self.0);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        body.array().map(Self)
    }
}

/// The area's bytes and the hosts on it.
struct World {
    bytes: Vec<u8>,
    hosts: BTreeMap<u128, Keeper>,
    now: Instant,
    answered: u64,
}

impl World {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, hosts: BTreeMap::new(), now: Instant::ZERO + Duration::from_secs(1_000), answered: 0 }
    }

    fn join(&mut self, host: u128) {
        let name = format!("host-{host}").parse().expect("valid");
        let identity = HostIdentity { host: HostId(host), boot: BootId(host), name, watchdog: Watchdog::None };
        self.hosts.insert(host, Keeper::new(area(), identity, None, host as u64, self.now));
    }

    fn ask(&mut self, host: u128, id: u64, request: Request) {
        let keeper = self.hosts.get_mut(&host).expect("it joined");
        keeper.handle_input(self.now, Input::Request(RequestId(id), request));
    }

    /// Lets so much time pass. All I/O is done at once.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for keeper in self.hosts.values_mut() {
                keeper.handle_timeout(self.now);
                let mut effects = 0;
                while let Some(effect) = keeper.poll_effect() {
                    effects += 1;
                    assert!(
                        effects < EFFECTS_MAX,
                        "a keeper wants ever more at one moment, at last: {}",
                        told(&effect)
                    );
                    match effect {
                        Effect::Io(io) => {
                            let result = access(&mut self.bytes, &io.access);
                            keeper.handle_input(self.now, Input::IoEnded(io.id, result));
                        }
                        Effect::Fence(_) => keeper.handle_input(self.now, Input::Killed),
                        Effect::Reply(_, answer) => self.answered += u64::from(answer.is_ok()),
                        Effect::FeedWatchdog | Effect::Remember(_) | Effect::Note(_) => {}
                    }
                }
                let _ = (keeper.hosts(), keeper.dead_boots(), keeper.known_vms(), keeper.standing());
            }
            let next = self.hosts.values().map(Keeper::poll_timeout).min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_millis(1)).min(end);
        }
    }
}

/// An effect without the bytes that it carries.
fn told(effect: &Effect) -> String {
    match effect {
        Effect::Io(io) => match &io.access {
            Access::Read { offset, bytes } => format!("read {bytes} bytes at {offset}"),
            Access::Write { offset, data } => format!("write {} bytes at {offset}", data.len()),
        },
        effect => format!("{effect:?}"),
    }
}

fn access(area: &mut [u8], access: &Access) -> IoResult {
    match access {
        Access::Read { offset, bytes } => {
            let at = usize::try_from(*offset).expect("small");
            area.get(at..at + bytes).map_or(IoResult::Failed, |bytes| IoResult::Read(bytes.to_vec()))
        }
        Access::Write { offset, data } => {
            let at = usize::try_from(*offset).expect("small");
            let place = area.get_mut(at..at + data.len()).expect("no keeper writes outside of its area");
            place.copy_from_slice(data);
            IoResult::Written
        }
    }
}

pub(super) fn prepare() -> Result<Prepared, String> {
    let mut inputs = vec![Vec::new()];
    let mut world = World::new(vec![0; area().geometry.area_bytes() as usize]);
    let vm: VmName = "web".parse().expect("valid");
    world.join(1);
    world.pass(TIME);
    inputs.push(taken_apart(&world.bytes));
    world.ask(1, 1, Request::Acquire(vm.clone(), Take::IfFree));
    world.pass(TIME);
    inputs.push(taken_apart(&world.bytes));
    world.join(2);
    world.pass(TIME);
    world.ask(1, 2, Request::Prepare(vm.clone(), HostId(2), Epoch(1)));
    world.ask(2, 3, Request::Acquire("db".parse().expect("valid"), Take::IfFree));
    world.pass(TIME);
    inputs.push(taken_apart(&world.bytes));
    assert!(world.answered >= 2, "the hosts of the inputs did what they were asked: {}", world.answered);
    Ok(Prepared { inputs, text: false, bytes_max: BYTES_MAX, execute: Box::new(read) })
}

/// The sectors that were written.
fn taken_apart(bytes: &[u8]) -> Vec<u8> {
    let sectors =
        bytes.chunks_exact(SECTOR_BYTES).zip(0u16..).filter(|(sector, _)| sector.iter().any(|byte| *byte != 0));
    sectors.flat_map(|(sector, number)| number.to_le_bytes().into_iter().chain(sector.iter().copied())).collect()
}

fn sealed<const KIND: u8>(sector: &[u8], offset: u64) -> [u8; SECTOR_BYTES] {
    let sequence = u64::from_le_bytes(std::array::from_fn(|at| sector[8 + at]));
    sector::encode(&Any::<KIND>(std::array::from_fn(|at| sector[16 + at])), sequence, AREA, offset)
}

fn read(input: &[u8]) -> Outcome {
    let geometry = area().geometry;
    let mut bytes = vec![0; geometry.area_bytes() as usize];
    for piece in input.chunks_exact(PIECE_BYTES) {
        let offset = u64::from(u16::from_le_bytes([piece[0], piece[1]])) * SECTOR_BYTES as u64;
        let Some(place) = bytes.get_mut(offset as usize..offset as usize + SECTOR_BYTES) else { continue };
        let within = |extent: protocol::lease::layout::Extent| {
            (extent.offset..extent.offset + extent.bytes as u64).contains(&offset)
        };
        let blocks =
            within(geometry.directory().extent()) || (0..VMS).any(|vm| within(geometry.vm(Place(vm)).extent()));
        if within(geometry.hosts().extent()) {
            place.copy_from_slice(&sealed::<b'H'>(&piece[2..], offset));
        } else if blocks {
            place.copy_from_slice(&sealed::<b'B'>(&piece[2..], offset));
        } else {
            place.copy_from_slice(&piece[2..]);
        }
        let _ = sector::decode::<AreaHeader>(&sealed::<b'A'>(&piece[2..], 0), AREA, 0);
    }
    let mut world = World::new(bytes);
    world.join(3);
    world.pass(TIME);
    let vm = |name: &str| -> VmName { name.parse().expect("valid") };
    let requests = [
        Request::Query(vm("web")),
        Request::Glance(vm("db")),
        Request::Acquire(vm("web"), Take::IfFree),
        Request::Acquire(vm("new"), Take::IfFree),
        Request::Prepare(vm("web"), HostId(1), Epoch(1)),
        Request::Commit(vm("db"), Epoch(2)),
        Request::Resolve(vm("web"), Epoch(1)),
        Request::Mend(vm("db"), Vouched::No),
        Request::GiveUp(vm("web")),
        Request::Forget(vm("db")),
    ];
    for (request, id) in requests.into_iter().zip(1..) {
        world.ask(3, id, request);
        world.pass(Duration::from_secs(5));
    }
    world.pass(TIME);
    Outcome::taken_if(world.answered > 0)
}
