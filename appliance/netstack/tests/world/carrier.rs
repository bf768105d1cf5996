//! A wire in this machine's time whose rate, delay and loss are chosen, for kernels that have no netem: each end's NIC is a
//! TAP device, and a thread carries every frame from one to the other through a [`Direction`].
//!
//! ```text
//!   namespace a   mig0 (TAP) --- read --- Direction --- written when it is due --- mig0 (TAP)   namespace b
//!                            --- written when it is due --- Direction --- read ---
//! ```
//!
//! The TAPs offer a NIC's offloads. The line carries and loses single frames all the same: a batch is cut into what it stands for,
//! and frames that follow each other closely are handed over together, as a NIC does with its receiver ([`MODERATION`]).
//!
//! The thread takes processor time that a real wire would not, and so the wire has a ceiling: measure it, with a [`Nature`] that
//! neither delays nor loses and has no rate. How late frames were put out for want of a processor is in the [`Tally`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::direction::{Direction, Nature};
use super::super_frame::SuperFrame;

/// Frames of one end, or batches of them, that are taken before the other is looked at.
const BATCH: usize = 16;
/// Bytes of the largest batch with its headers, and more.
const FRAME_MAX: usize = 1 << 17;
/// Frames that follow each other within so much are handed over together, when the last of them has arrived.
const MODERATION: Duration = Duration::from_micros(50);
/// Time between two looks whether the wire is taken away.
const LOOK: Duration = Duration::from_millis(20);
/// What else the machine does is not to show in the delay.
const NICENESS: i32 = -15;

/// `_IOW('T', 202, int)` and `_IOW('T', 208, unsigned int)` (linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
/// Checksums, and the cutting of TCP by IPv4 and IPv6, with ECN, and of UDP (TUN_F_CSUM, _TSO4, _TSO6, _TSO_ECN, _USO4, _USO6).
const OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40;

/// What a wire did with the frames of both directions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Frames that were to arrive.
    pub carried: u64,
    /// Frames that were lost as it was asked for.
    pub lost: u64,
    /// Frames that found the line's queue full.
    pub overflowed: u64,
    /// Hand-overs: one is of a frame, or of some that follow each other.
    pub handed_over: u64,
    /// Of these, how many an end did not take.
    pub refused: u64,
    /// Sum of the time by which they were later than due.
    pub late: Duration,
    /// The greatest of it.
    pub latest: Duration,
}

impl Tally {
    /// Mean time by which frames were handed over later than they were due.
    pub fn late_mean(&self) -> Duration {
        Duration::from_secs_f64(self.late.as_secs_f64() / self.handed_over.max(1) as f64)
    }
}

/// The thread that carries; it ends with this.
pub struct Carrier {
    enough: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    thread: Option<JoinHandle<()>>,
}

impl Carrier {
    /// Begins to carry between two TAPs; what is lost follows from the seed.
    pub fn between(taps: [File; 2], nature: Nature, seed: u64) -> Self {
        let (enough, tally) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (is_enough, kept) = (Arc::clone(&enough), Arc::clone(&tally));
        let thread = std::thread::spawn(move || {
            // The machine may be asked to do without both: the tally tells what came of it.
            let _ = rustix::process::nice(NICENESS);
            let _ = rustix::thread::set_current_timer_slack(Some(NonZeroU64::MIN));
            carry(taps, nature, seed, &is_enough, &kept);
        });
        Self { enough, tally, thread: Some(thread) }
    }

    /// What was done up to now.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the wire broke");
        }
    }
}

fn carry(mut taps: [File; 2], nature: Nature, seed: u64, enough: &AtomicBool, kept: &Mutex<Tally>) {
    let now = Instant::now();
    let mut directions = [0, 1].map(|end| Direction::new(nature, seed * 2 + 1 + end, now));
    let mut buffer = vec![0; FRAME_MAX];
    let mut tally = Tally::default();
    while !enough.load(Ordering::Relaxed) {
        let mut took = false;
        for (tap, direction) in taps.iter_mut().zip(&mut directions) {
            for _ in 0..BATCH {
                match tap.read(&mut buffer) {
                    Ok(length) => take(direction, &buffer[..length]),
                    // EIO and EBADFD: the interface is not up yet, or was taken away.
                    Err(_) => break,
                }
                took = true;
            }
        }
        let now = Instant::now();
        for (end, direction) in directions.iter_mut().enumerate() {
            let tap = &mut taps[1 - end];
            while let Some((put, late)) = direction.deliver(now, |frame, due| (tap.write(frame), now - due)) {
                tally.handed_over += 1;
                tally.refused += u64::from(put.is_err());
                tally.late += late;
                tally.latest = tally.latest.max(late);
            }
        }
        tally.carried = directions.iter().map(|direction| direction.passed).sum();
        tally.lost = directions.iter().map(|direction| direction.lost).sum();
        tally.overflowed = directions.iter().map(|direction| direction.overflowed).sum();
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = tally;
        if !took {
            wait(&taps, directions.iter().filter_map(Direction::next_arrival).min());
        }
    }
}

/// Decides about each frame of a batch that is sent now.
fn take(direction: &mut Direction, batch: &[u8]) {
    let Some(batch) = SuperFrame::read(batch) else { return };
    let now = Instant::now();
    let mut run: Option<Run> = None;
    let hand_over = |direction: &mut Direction, run: Option<Run>| {
        if let Some(Run { pieces, last, .. }) = run {
            let mut bytes = direction.buffer();
            batch.pieces(pieces, &mut bytes);
            direction.arrive(last, bytes);
        }
    };
    for (at, length) in batch.lengths().into_iter().enumerate() {
        let due = direction.fate(length, now);
        match (&mut run, due) {
            (Some(run), Some(due)) if due - run.first <= MODERATION => (run.pieces.end, run.last) = (at + 1, due),
            _ => {
                let next = due.map(|due| Run { pieces: at..at + 1, first: due, last: due });
                hand_over(direction, std::mem::replace(&mut run, next));
            }
        }
    }
    hand_over(direction, run);
}

/// Frames of a batch that follow each other and are handed over together.
struct Run {
    pieces: Range<usize>,
    /// When the first of them arrives, and the last.
    first: Instant,
    last: Instant,
}

/// Waits until an end sends something, or the next frame is due.
fn wait(taps: &[File; 2], due: Option<Instant>) {
    let left = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()).min(LOOK));
    let timeout = Timespec { tv_sec: 0, tv_nsec: left.as_nanos() as _ };
    let mut readable = taps.each_ref().map(|tap| PollFd::new(tap, PollFlags::IN));
    // Interrupted or not: both are looked at next.
    let _ = poll(&mut readable, Some(&timeout));
}

/// A TAP device of this name in the network namespace of this thread; it is gone when the file is closed.
///
/// # Errors
///
/// Those of opening `/dev/net/tun`, of TUNSETIFF and of TUNSETOFFLOAD (linux/if_tun.h): no such device, no right to make one, or
/// a kernel before 6.2, which does not cut UDP for a TAP.
pub fn tap(name: &str) -> io::Result<File> {
    let device = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the one ifreq that `request` is.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    // SAFETY: the argument of TUNSETOFFLOAD is a number.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETOFFLOAD, OFFLOADS) })?;
    Ok(device)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
