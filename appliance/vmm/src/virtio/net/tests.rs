//! A driver and a wire: frames between a guest's rings and a real tap, in a network namespace of the test's thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::bus::{Shared, enter};
use crate::device::Device;
use crate::machine::NicSpec;
use crate::virtio::transport::VirtioPci;
use crate::virtio::transport::fake_driver::{Bench, Driver, Piece, WRITE, wait_until};
use crate::virtio::transport::hostile_state;
use crate::virtio::worker::interest;

const MRG_RXBUF: u64 = 1 << 15;
const EVENT_IDX: u64 = 1 << 29;
const CTRL: u64 = 1 << 17 | 1 << 21 | 1 << 2;
const OFFLOADS: u64 = 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9;
const BUFFERS: u64 = 0x10_0000;
const FRAME: u64 = 0x2000;
/// For experiments (IEEE 802); nothing else on the wire has it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// The other end of the tap.
struct Wire {
    socket: File,
    vnet: bool,
}

/// A tap that is up, in a fresh network namespace, and its wire. None where that is not allowed.
fn tap() -> Option<(OwnedFd, Wire)> {
    // SAFETY: only this thread's network namespace changes; it ends with the test.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        eprintln!("skipped: no network namespace: {}", io::Error::last_os_error());
        return None;
    }
    let tap = File::options().read(true).write(true).open("/dev/net/tun").ok()?;
    // SAFETY: all-zero is a valid ifreq; the calls below read and write just that structure.
    let index = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..4].copy_from_slice(&[b't' as _, b'a' as _, b'p' as _, b'0' as _]);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        assert_eq!(libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &request), 0);
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let socket = OwnedFd::from_raw_fd(socket);
        std::fs::write("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "1").ok();
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request), 0);
        assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as _, &mut request), 0);
        request.ifr_ifru.ifru_ifindex
    };
    Some((tap.into(), wire(index, false)))
}

/// The largest packet that the tap's link carries.
fn set_mtu(bytes: i32) {
    // SAFETY: as in `tap`; the descriptor of the socket has no other owner.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..4].copy_from_slice(&[b't' as _, b'a' as _, b'p' as _, b'0' as _]);
        request.ifr_ifru.ifru_mtu = bytes;
        let socket = OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0));
        assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU as _, &request), 0);
    }
}

fn wire(index: i32, vnet: bool) -> Wire {
    // SAFETY: plain socket calls with structures of the right kind and size.
    unsafe {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = libc::socket(libc::AF_PACKET, flags, i32::from((libc::ETH_P_ALL as u16).to_be()));
        assert!(socket >= 0);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index;
        let length = size_of_val(&address) as u32;
        assert_eq!(libc::bind(socket, (&raw const address).cast(), length), 0);
        if vnet {
            let on = 1i32;
            assert_eq!(libc::setsockopt(socket, libc::SOL_PACKET, 15, (&raw const on).cast(), 4), 0);
        }
        Wire { socket: File::from_raw_fd(socket), vnet }
    }
}

impl Wire {
    fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.socket.write(frame).unwrap(), frame.len());
    }

    /// The next frame of the test's kind.
    fn receive(&mut self) -> Vec<u8> {
        let mut frame = vec![0; 70_000];
        let mut length = 0;
        wait_until("a frame is on the wire", || match self.socket.read(&mut frame) {
            Ok(got) => {
                length = got;
                frame[12..14] == ETHERTYPE
            }
            Err(_) => false,
        });
        frame.truncate(length);
        frame
    }

    fn index(&self) -> i32 {
        // SAFETY: a C string, and no pointers kept.
        unsafe { libc::if_nametoindex(c"tap0".as_ptr()) as i32 }
    }
}

fn frame(seed: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 1];
    frame.extend(ETHERTYPE);
    frame.extend((frame.len()..length).map(|at| (at as u8).wrapping_mul(seed | 1)));
    frame
}

fn spec() -> NicSpec {
    NicSpec { mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56], mtu: None }
}

struct Rig {
    bench: Bench,
    function: Shared<VirtioPci<Net>>,
    driver: Driver,
    wire: Wire,
    tap: OwnedFd,
}

fn rig(features: u64) -> Option<Rig> {
    let (tap, wire) = tap()?;
    let bench = Bench::new();
    let (front, engine) = Net::new(&spec(), Tap::new(tap.try_clone().unwrap()).unwrap());
    let function = VirtioPci::new(front, engine, 0, 2, bench.wiring()).unwrap();
    enter(&function).resume().unwrap();
    let driver = Driver::bind(&bench, &function, features, 64);
    Some(Rig { bench, function, driver, wire, tap })
}

impl Rig {
    fn offer(&mut self, count: u64, bytes: u32) -> Vec<u16> {
        let heads = (0..count)
            .map(|at| self.driver.rings[0].add(&self.bench, &[(BUFFERS + at * 0x1_0000, bytes, WRITE)]))
            .collect();
        self.driver.kick(&self.bench, 0);
        heads
    }

    fn transmit(&mut self, frame: &[u8]) {
        self.bench.write(FRAME, &[0; 12]);
        self.bench.write(FRAME + 12, frame);
        self.driver.rings[1].add(&self.bench, &[(FRAME, 12, 0), (FRAME + 12, frame.len() as u32, 0)]);
        self.driver.kick(&self.bench, 1);
        self.driver.rings[1].wait_used(&self.bench, 1);
    }

    /// Sends one command, gives its answer.
    fn command(&mut self, command: &[u8]) -> u8 {
        self.bench.write(0x8000, command);
        self.bench.write(0x8800, &[0xee]);
        self.driver.rings[2]
            .add(&self.bench, &[(0x8000, 2, 0), (0x8002, command.len() as u32 - 2, 0), (0x8800, 1, WRITE)]);
        self.driver.kick(&self.bench, 2);
        self.driver.rings[2].wait_used(&self.bench, 1);
        self.bench.read(0x8800, 1)[0]
    }

    fn status(&self) -> u16 {
        u16::from_le_bytes(self.driver.input(&self.bench, 0x2006))
    }
}

#[test]
fn frames_pass_whole_in_both_directions() {
    let Some(mut rig) = rig(MRG_RXBUF | EVENT_IDX) else { return };
    for round in 0..200u8 {
        let length = 60 + usize::from(round) * 7;
        let out = frame(round, length);
        rig.transmit(&out);
        assert!(rig.wire.receive() == out);
        let heads = rig.offer(1, 2048);
        let into = frame(round ^ 0x55, length);
        rig.wire.send(&into);
        let used = rig.driver.rings[0].wait_used(&rig.bench, 1);
        assert_eq!(used, [(heads[0], 12 + length as u32)]);
        let header = rig.bench.read(BUFFERS, 12);
        assert_eq!(header[10..], [1, 0], "it lies in one buffer");
        assert!(rig.bench.read(BUFFERS + 12, length) == into);
        assert!(rig.bench.is_dirty(BUFFERS));
    }
}

#[test]
fn a_frame_that_spans_buffers_says_over_how_many() {
    let Some(mut rig) = rig(MRG_RXBUF) else { return };
    rig.offer(40, 512);
    let into = frame(3, 1400);
    rig.wire.send(&into);
    let used = rig.driver.rings[0].wait_used(&rig.bench, 1);
    assert_eq!(used.iter().map(|used| used.1).collect::<Vec<_>>(), [512, 512, 388], "all appear together");
    assert_eq!(rig.bench.read(BUFFERS, 12)[10..], [3, 0]);
    let whole: Vec<u8> = (0..3).flat_map(|at| rig.bench.read(BUFFERS + at * 0x1_0000, 512)).collect();
    assert!(whole[12..1412] == into[..]);
    assert!(!rig.bench.is_dirty(BUFFERS + 3 * 0x1_0000), "buffers that hold nothing are not dirty");
}

#[test]
fn a_frame_waits_for_buffers_and_is_not_lost() {
    let Some(mut rig) = rig(MRG_RXBUF) else { return };
    rig.offer(1, 512);
    let into = frame(9, 1200);
    rig.wire.send(&into);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(rig.driver.rings[0].take_used(&rig.bench).is_empty());
    for at in 1..3 {
        rig.driver.rings[0].add(&rig.bench, &[(BUFFERS + at * 0x1_0000, 512, WRITE)]);
        rig.driver.kick(&rig.bench, 0);
    }
    let used = rig.driver.rings[0].wait_used(&rig.bench, 3);
    assert_eq!(used.iter().map(|used| used.1).sum::<u32>(), 1212);
}

#[test]
fn a_large_segment_arrives_in_one_piece_if_the_guest_takes_such() {
    for (offloads, whole) in [(OFFLOADS, true), (0, false)] {
        let Some(mut rig) = rig(MRG_RXBUF | offloads) else { return };
        rig.offer(40, 4096);
        let mut wire = wire(rig.wire.index(), true);
        assert!(wire.vnet);
        let payload = 20_000usize;
        // A TCP segment over IPv4, checksum left to the card: header of 10 bytes, then the frame.
        let mut sent = vec![1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0];
        sent.extend(&frame(0, 14)[..12]);
        sent.extend([8, 0, 0x45, 0]);
        sent.extend(((40 + payload) as u16).to_be_bytes());
        sent.extend([0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        sent.extend([0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        sent.extend((0..payload).map(|at| at as u8));
        wire.send(&sent);
        let frames = if whole { 1 } else { payload.div_ceil(1448) };
        let mut used = Vec::new();
        wait_until("the segment arrives", || {
            used.extend(rig.driver.rings[0].take_used(&rig.bench));
            let bytes: u32 = used.iter().map(|used: &(u16, u32)| used.1).sum();
            bytes as usize >= payload + frames * (12 + 54)
        });
        let header = rig.bench.read(BUFFERS, 12);
        assert_eq!(header[1] != 0, whole, "segmentation left to the guest");
        assert_eq!(u16::from_le_bytes([header[10], header[11]]), if whole { 5 } else { 1 });
        assert_eq!(used.len(), if whole { 5 } else { frames });
    }
}

#[test]
fn without_mergeable_buffers_each_frame_takes_one_and_what_does_not_fit_is_lost() {
    let Some(mut rig) = rig(0) else { return };
    let heads = rig.offer(2, 600);
    rig.wire.send(&frame(1, 1000));
    rig.wire.send(&frame(2, 500));
    assert_eq!(rig.driver.rings[0].wait_used(&rig.bench, 1), [(heads[0], 512)]);
    assert!(rig.bench.read(BUFFERS + 12, 500) == frame(2, 500));
}

#[test]
fn a_nic_is_announced_on_its_wire_and_its_guest_is_heard_of_by_its_own_traffic_alone() {
    for by_sending in [true, false] {
        let Some(mut rig) = rig(MRG_RXBUF | 1 << 16) else { return };
        let heard = |rig: &Rig| enter(&rig.function).is_heard();
        enter(&rig.function).announce_place().unwrap();
        let mut announced = vec![0; 2048];
        wait_until("the announcement is on the wire", || {
            rig.wire.socket.read(&mut announced).is_ok_and(|length| length == 60) && announced[12..14] == [0x80, 0x35]
        });
        assert!(announced[..12] == [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        rig.offer(2, 2048);
        let mut to_all = frame(1, 100);
        to_all[..6].fill(0xff);
        rig.wire.send(&to_all);
        rig.driver.rings[0].wait_used(&rig.bench, 1);
        assert!(!heard(&rig), "what is for everybody comes anywhere");
        if by_sending {
            rig.transmit(&frame(2, 100));
        } else {
            rig.wire.send(&frame(2, 100));
            rig.driver.rings[0].wait_used(&rig.bench, 1);
        }
        assert!(heard(&rig), "by sending: {by_sending}");
    }
}

#[test]
fn a_link_that_is_down_carries_nothing_and_the_guest_sees_it() {
    let Some(mut rig) = rig(MRG_RXBUF | 1 << 16) else { return };
    assert_eq!(rig.status(), 1);
    enter(&rig.function).set_link(false);
    assert_eq!(rig.status(), 0);
    assert!(Driver::interrupts(&rig.bench).contains(&0));
    rig.offer(2, 2048);
    rig.transmit(&frame(1, 100));
    rig.wire.send(&frame(2, 100));
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(rig.driver.rings[0].take_used(&rig.bench).is_empty());
    enter(&rig.function).set_link(true);
    rig.transmit(&frame(3, 100));
    assert!(rig.wire.receive() == frame(3, 100), "the first one never was on the wire");
    rig.wire.send(&frame(4, 100));
    rig.driver.rings[0].wait_used(&rig.bench, 1);
    assert!(rig.bench.read(BUFFERS + 12, 100) == frame(4, 100));
}

#[test]
fn the_control_queue_takes_offloads_and_acknowledgements_and_refuses_the_rest() {
    let Some(mut rig) = rig(MRG_RXBUF | CTRL | OFFLOADS | 1 << 16) else { return };
    assert_eq!(rig.command(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), 0, "checksums only");
    assert_eq!(rig.command(&[5, 0, 0, 0, 0, 0, 0, 0x80, 0, 0]), 1, "an offload that was not negotiated");
    assert_eq!(rig.command(&[0, 0, 1]), 1, "a class that is not offered");
    assert!(enter(&rig.function).announce());
    assert_eq!(rig.status(), 3);
    assert!(Driver::interrupts(&rig.bench).contains(&0));
    assert_eq!(rig.command(&[3, 0, 0]), 0);
    assert_eq!(rig.status(), 1);
}

#[test]
fn a_nic_that_moves_takes_its_buffers_along_and_gets_nothing_stale() {
    let Some(mut rig) = rig(MRG_RXBUF | CTRL | OFFLOADS | EVENT_IDX) else { return };
    let heads = rig.offer(30, 4096);
    assert_eq!(rig.command(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), 0);
    rig.wire.send(&frame(1, 200));
    assert_eq!(rig.driver.rings[0].wait_used(&rig.bench, 1)[0].0, heads[0]);
    enter(&rig.function).quiesce().unwrap();
    let bytes = enter(&rig.function).export_state().unwrap();
    assert!(rig.driver.rings[0].take_used(&rig.bench).is_empty());
    // What arrives while nobody listens.
    rig.wire.send(&frame(2, 200));
    let bench = Bench::with_memory(rig.bench.memory.clone());
    let (front, engine) = Net::new(&spec(), Tap::new(rig.tap.try_clone().unwrap()).unwrap());
    let target = VirtioPci::new(front, engine, 0, 2, bench.wiring()).unwrap();
    enter(&target).import_state(1, &bytes).unwrap();
    assert!(!enter(&target).is_running(), "silent until it is resumed");
    enter(&target).resume().unwrap();
    (rig.function, rig.bench) = (target, bench);
    assert_eq!(rig.command(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0, "the thread is at work: stale frames are gone");
    rig.wire.send(&frame(3, 200));
    assert_eq!(rig.driver.rings[0].wait_used(&rig.bench, 1)[0].0, heads[1], "the next buffer, and none is lost");
    assert!(rig.bench.read(BUFFERS + 0x1_0000 + 12, 200) == frame(3, 200));
    for head in &heads[2..] {
        rig.wire.send(&frame(4, 60));
        assert_eq!(rig.driver.rings[0].wait_used(&rig.bench, 1)[0].0, *head);
    }
}

#[test]
fn frames_from_before_the_driver_are_for_nobody() {
    let Some(mut rig) = rig(MRG_RXBUF) else { return };
    rig.driver.reset(&rig.bench);
    rig.wire.send(&frame(1, 100));
    rig.driver = Driver::bind(&rig.bench, &rig.function, MRG_RXBUF, 64);
    rig.offer(2, 2048);
    rig.wire.send(&frame(2, 100));
    rig.driver.rings[0].wait_used(&rig.bench, 1);
    assert!(rig.bench.read(BUFFERS + 12, 100) == frame(2, 100));
}

#[test]
fn hostile_buffers_never_break_the_nic() {
    let Some(mut rig) = rig(MRG_RXBUF | OFFLOADS | CTRL) else { return };
    let broken: &[(usize, &[Piece])] = &[
        (0, &[(BUFFERS, 4, WRITE)]),
        (0, &[(BUFFERS, 2048, 0)]),
        (0, &[(u64::MAX - 4, 2048, WRITE)]),
        (1, &[(0xc000_0000, 100, 0)]),
    ];
    for (queue, chain) in broken {
        rig.driver.rings[*queue].add(&rig.bench, chain);
        rig.driver.kick(&rig.bench, *queue as u16);
        rig.wire.send(&frame(1, 100));
        wait_until("the device asks for a reset", || rig.driver.status(&rig.bench) & 0x40 != 0);
        rig.driver.reset(&rig.bench);
        rig.driver = Driver::bind(&rig.bench, &rig.function, MRG_RXBUF, 64);
    }
    // Frames that are none, and headers that the kernel refuses, are lost; the next one passes.
    rig.bench.write(FRAME, &[0xff; 12]);
    for pieces in
        [&[(FRAME, 12, 0)][..], &[(FRAME, 26, 0)], &[(FRAME, 200, 0)], &[(FRAME, 200_000, 0)], &[(FRAME, 5, WRITE)]]
    {
        rig.driver.rings[1].add(&rig.bench, pieces);
        rig.driver.kick(&rig.bench, 1);
        rig.driver.rings[1].wait_used(&rig.bench, 1);
    }
    while rig.wire.socket.read(&mut [0; 2048]).is_ok() {}
    rig.transmit(&frame(7, 100));
    assert!(rig.wire.receive() == frame(7, 100));
}

#[test]
fn a_thousand_pauses_under_traffic_lose_no_buffer() {
    let Some(mut rig) = rig(MRG_RXBUF | EVENT_IDX) else { return };
    for round in 0..1000u32 {
        let head = rig.driver.rings[0].add(&rig.bench, &[(BUFFERS, 2048, WRITE)]);
        rig.driver.kick(&rig.bench, 0);
        rig.wire.send(&frame(round as u8, 100));
        let mut function = enter(&rig.function);
        function.quiesce().unwrap();
        function.resume().unwrap();
        drop(function);
        assert_eq!(rig.driver.rings[0].wait_used(&rig.bench, 1), [(head, 112)]);
    }
}

#[test]
fn a_file_is_no_tap() {
    let memfd = rustix::fs::memfd_create(c"tap", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert!(Tap::new(memfd).is_err());
}

#[test]
fn a_hostile_state_is_refused_or_the_nic_lives() {
    let Some(rig) = rig(MRG_RXBUF) else { return };
    let Rig { wire, tap, .. } = rig;
    let wire = std::cell::RefCell::new(wire);
    let fresh = |bench: &Bench| {
        let (front, engine) = Net::new(&spec(), Tap::new(tap.try_clone().unwrap()).unwrap());
        VirtioPci::new(front, engine, 0, 2, bench.wiring()).unwrap()
    };
    let input = (hostile_state::lies(), 0u64..4, any::<bool>(), any::<bool>());
    let mut runner = TestRunner::new(hostile_state::config());
    let case = |(lies, noise): (Vec<_>, Vec<_>), outstanding: u64, all: bool, waiting: bool| {
        let mut wire = wire.borrow_mut();
        let bench = Bench::new();
        let source = fresh(&bench);
        let mut driver = Driver::bind(&bench, &source, if all { u64::MAX } else { MRG_RXBUF }, 64);
        for at in 0..outstanding {
            driver.rings[0].add(&bench, &[(BUFFERS + at * 0x1_0000, 2048, WRITE)]);
            driver.rings[1].add(&bench, &[(FRAME, 100, 0)]);
            driver.rings[2].add(&bench, &[(0x8000, 2, 0), (0x8800, 1, WRITE)]);
        }
        let bytes = hostile_state::with(&enter(&source).export_state().unwrap(), &lies);
        drop(source);
        if waiting {
            wire.send(&frame(1, 1000));
        }
        let next = Bench::with_memory(bench.memory.clone());
        let Some((function, mut driver)) = hostile_state::outlive(fresh, &next, (&noise, &bytes), true) else { return };
        enter(&function).set_link(true);
        while wire.socket.read(&mut [0; 2048]).is_ok() {}
        next.write(FRAME, &[0; 12]);
        next.write(FRAME + 12, &frame(7, 100));
        driver.rings[1].add(&next, &[(FRAME, 112, 0)]);
        driver.kick(&next, 1);
        assert!(wire.receive() == frame(7, 100));
        (0..4).for_each(|at| {
            driver.rings[0].add(&next, &[(BUFFERS + at * 0x1_0000, 2048, WRITE)]);
        });
        driver.kick(&next, 0);
        wire.send(&frame(9, 100));
        let used = driver.rings[0].wait_used(&next, 1);
        assert_eq!(used[0].1, 112);
    };
    let run = runner.run(&input, |(lies, outstanding, all, waiting)| {
        case(lies, outstanding, all, waiting);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn a_frame_longer_than_the_guest_was_told_to_expect_waits_for_buffers_like_any_other() {
    let Some(mut rig) = rig(MRG_RXBUF) else { return };
    set_mtu(9000);
    for round in 0..3u64 {
        // Too few buffers even for an ordinary frame: this one waits in ours, until there are more than an ordinary one needs.
        rig.offer(1, 512);
        let into = frame(round as u8, 4000);
        rig.wire.send(&into);
        wait_until("the frame is read", || {
            let mut waiting = [interest(rig.tap.as_raw_fd(), libc::POLLIN)];
            // SAFETY: a valid slice for the length of the call, which does not wait.
            unsafe { libc::poll(waiting.as_mut_ptr(), 1, 0) == 0 }
        });
        for at in 1..8 {
            rig.driver.rings[0].add(&rig.bench, &[(BUFFERS + at * 0x1_0000, 512, WRITE)]);
            rig.driver.kick(&rig.bench, 0);
        }
        let used = rig.driver.rings[0].wait_used(&rig.bench, 8);
        assert_eq!(used.iter().map(|used| used.1).sum::<u32>(), 4012, "round {round}");
    }
}
