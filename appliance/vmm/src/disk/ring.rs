//! io_uring for one disk: a slot for each operation in flight, and descriptors watched in the same wait.
//!
//! The ring belongs to the thread that made it. A slot is filled ([`DiskRing::buffers`]), started, and given back by its
//! [`Completion`]; between the two the kernel owns the buffers. [`DiskRing::wait`] submits what was started since the last
//! call and sleeps until something completes or a watched descriptor is signalled: one system call for all of it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use libc::iovec;

use super::raw::RawDisk;
use super::transfer::{AlignedBuffer, CHUNK_BYTES, Kind, Transfer, Way};

/// Watches beside the operations; bounds the submission queue.
const WATCHES_MAX: u16 = 8;
/// Marks a watch in a completion's user data; below it are slots.
const WATCH_BIT: u64 = 1 << 32;
/// Buffers in one system call (IOV_MAX, `readv(2)`).
const BUFFERS_PER_CALL: usize = 1024;
/// Attempts in a row answered by EAGAIN or EINTR before the operation fails.
const RETRIES_MAX: u32 = 64;
/// The disk's file, registered with the ring.
const FILE: types::Fixed = types::Fixed(0);

/// Names a watched descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchToken(pub u16);

/// What a wait ended with.
#[derive(Debug)]
pub enum Completion {
    /// A watched descriptor became readable. It is not read, and reported once for each signal (edge-triggered).
    Signalled(WatchToken),
    /// The operation in this slot is over, wholly done or failed, and the slot is free.
    Done {
        /// The slot.
        slot: u16,
        /// Its outcome. A short file, a full one, a lost server: all are errors here.
        result: io::Result<()>,
    },
}

/// A disk and its operations in flight.
pub struct DiskRing {
    ring: IoUring,
    disk: Option<RawDisk>,
    block_bytes: u32,
    memory_align: u32,
    slots: Vec<Transfer>,
    in_flight: usize,
    watches: [RawFd; WATCHES_MAX as usize],
    can_punch: bool,
    can_zero: bool,
    zeroes: Option<AlignedBuffer>,
    reaped: Vec<(u64, i32, u32)>,
}

impl DiskRing {
    /// A ring for `slots` operations at once, for the calling thread only.
    ///
    /// # Errors
    /// Those of io_uring_setup(2) and io_uring_register(2). The disk is given back.
    pub fn new(disk: RawDisk, slots: u16) -> Result<Self, (RawDisk, io::Error)> {
        match Self::set_up(&disk, slots) {
            Ok(ring) => Ok(Self {
                ring,
                block_bytes: disk.block_bytes(),
                memory_align: disk.memory_align(),
                disk: Some(disk),
                slots: (0..slots).map(|_| Transfer::default()).collect(),
                in_flight: 0,
                watches: [-1; WATCHES_MAX as usize],
                can_punch: true,
                can_zero: true,
                zeroes: None,
                reaped: Vec::with_capacity(2 * usize::from(slots)),
            }),
            Err(error) => Err((disk, error)),
        }
    }

    fn set_up(disk: &RawDisk, slots: u16) -> io::Result<IoUring> {
        let entries = (u32::from(slots) + u32::from(WATCHES_MAX)).next_power_of_two();
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            // Kernels before 6.1 do not know these flags, which only save wake-ups.
            .or_else(|_| IoUring::builder().build(entries))?;
        ring.submitter().register_files(&[disk.file().as_raw_fd()])?;
        Ok(ring)
    }

    /// The disk.
    pub fn disk(&self) -> &RawDisk {
        self.disk.as_ref().expect("only into_disk and drop take the disk, and both consume the ring")
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Reports every signal of an eventfd as [`Completion::Signalled`], at once if it is readable already. The descriptor
    /// must outlive the ring.
    pub fn watch(&mut self, token: WatchToken, descriptor: RawFd) {
        self.watches[usize::from(token.0)] = descriptor;
        let poll = opcode::PollAdd::new(types::Fd(descriptor), libc::POLLIN as u32).multi(true).build();
        self.push(poll.user_data(WATCH_BIT | u64::from(token.0)));
    }

    /// The empty buffer list of a free slot, for the caller to fill before a read or a write.
    pub fn buffers(&mut self, slot: u16) -> &mut Vec<iovec> {
        let buffers = &mut self.slots[usize::from(slot)].buffers;
        buffers.clear();
        buffers
    }

    /// Starts an operation on `length` bytes at `offset` of the file, in a slot that is free. Reads and writes use the
    /// slot's buffers, whose lengths sum up to `length`.
    ///
    /// # Safety
    /// The buffers must be valid for reads (and for writes if `kind` is `Read`) until this slot's completion.
    pub unsafe fn start(&mut self, slot: u16, kind: Kind, offset: u64, length: u64) {
        let (block, memory) = (self.block_bytes, self.memory_align);
        let transfer = &mut self.slots[usize::from(slot)];
        (transfer.kind, transfer.offset, transfer.left) = (kind, offset, length);
        (transfer.first, transfer.retries) = (0, 0);
        transfer.way = match kind {
            Kind::Read | Kind::Write { .. } if transfer.aligned(block, memory) => Way::Direct,
            Kind::Read | Kind::Write { .. } => Way::Bounce { chunk: 0 },
            Kind::Flush => Way::Sync,
            Kind::Discard => Way::Fallocate,
            Kind::WriteZeroes { unmap, .. } if if unmap { self.can_punch } else { self.can_zero } => Way::Fallocate,
            Kind::WriteZeroes { .. } => Way::Zeroes,
        };
        self.in_flight += 1;
        self.submit_next(slot);
    }

    /// Submits everything started and waits until at least one completion is there.
    ///
    /// # Errors
    /// Those of io_uring_enter(2) that are no reason to try again: the ring is broken.
    pub fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Appends what has completed to `completions`; continues operations that are only partly done.
    pub fn reap(&mut self, completions: &mut Vec<Completion>) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|e| (e.user_data(), e.result(), e.flags())));
        for (user_data, result, flags) in reaped.drain(..) {
            if user_data & WATCH_BIT != 0 {
                let token = WatchToken(user_data as u16);
                if !cqueue::more(flags) {
                    self.watch(token, self.watches[usize::from(token.0)]);
                }
                completions.push(Completion::Signalled(token));
                continue;
            }
            let slot = user_data as u16;
            if let Some(result) = self.progress(slot, result) {
                self.in_flight -= 1;
                completions.push(Completion::Done { slot, result });
            }
        }
        self.reaped = reaped;
    }

    /// Ends the ring and gives the disk back. Waits for what is in flight.
    pub fn into_disk(mut self) -> RawDisk {
        self.quiesce();
        self.disk.take().expect("only into_disk and drop take the disk, and both consume the ring")
    }

    /// Takes the kernel's answer for a slot; None if the operation goes on.
    fn progress(&mut self, slot: u16, result: i32) -> Option<io::Result<()>> {
        let transfer = &mut self.slots[usize::from(slot)];
        if result < 0 {
            let errno = -result;
            if matches!(errno, libc::EAGAIN | libc::EINTR) && transfer.retries < RETRIES_MAX {
                transfer.retries += 1;
                self.submit_next(slot);
                return None;
            }
            if transfer.way == Way::Fallocate && is_refusal(errno) {
                return self.without_fallocate(slot);
            }
            return Some(Err(io::Error::from_raw_os_error(errno)));
        }
        transfer.retries = 0;
        match transfer.way {
            Way::Sync => return Some(Ok(())),
            Way::Fallocate => {
                if !matches!(transfer.kind, Kind::WriteZeroes { durable: true, .. }) {
                    return Some(Ok(()));
                }
                transfer.way = Way::Sync;
            }
            Way::Direct | Way::Bounce { .. } | Way::Zeroes => {
                // Nothing read: the file ended early. Nothing written: no room. More than asked: no kernel does that.
                if result == 0 || result as u64 > transfer.left {
                    return Some(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                if matches!(transfer.way, Way::Bounce { .. }) && transfer.kind == Kind::Read {
                    transfer.copy_chunk(result as usize, false);
                }
                transfer.advance(result as usize);
                if transfer.left == 0 {
                    return Some(Ok(()));
                }
            }
        }
        self.submit_next(slot);
        None
    }

    /// The file refused fallocate: remember it, and do without.
    fn without_fallocate(&mut self, slot: u16) -> Option<io::Result<()>> {
        let transfer = &mut self.slots[usize::from(slot)];
        match transfer.kind {
            Kind::WriteZeroes { unmap, .. } => {
                if unmap {
                    self.can_punch = false;
                } else {
                    self.can_zero = false;
                }
                transfer.way = Way::Zeroes;
                self.submit_next(slot);
                None
            }
            // A discard is a hint; a file that cannot forget keeps the data.
            _ => Some(Ok(())),
        }
    }

    /// Submits the next system call of the operation in this slot.
    fn submit_next(&mut self, slot: u16) {
        let entry = self.next_entry(slot).user_data(u64::from(slot));
        self.push(entry);
    }

    fn next_entry(&mut self, slot: u16) -> squeue::Entry {
        let memory_align = self.memory_align;
        let transfer = &mut self.slots[usize::from(slot)];
        let durable = matches!(transfer.kind, Kind::Write { durable: true } | Kind::WriteZeroes { durable: true, .. });
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        match transfer.way {
            Way::Sync => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
            Way::Fallocate => {
                let mode = match transfer.kind {
                    Kind::WriteZeroes { unmap: false, .. } => libc::FALLOC_FL_ZERO_RANGE,
                    _ => libc::FALLOC_FL_PUNCH_HOLE,
                };
                opcode::Fallocate::new(FILE, transfer.left)
                    .offset(transfer.offset)
                    .mode(mode | libc::FALLOC_FL_KEEP_SIZE)
                    .build()
            }
            Way::Direct => {
                let rest = &transfer.buffers[transfer.first..];
                let count = rest.len().min(BUFFERS_PER_CALL) as u32;
                match transfer.kind {
                    Kind::Read => opcode::Readv::new(FILE, rest.as_ptr(), count).offset(transfer.offset).build(),
                    _ => {
                        opcode::Writev::new(FILE, rest.as_ptr(), count).offset(transfer.offset).rw_flags(flags).build()
                    }
                }
            }
            Way::Bounce { .. } => {
                let chunk = transfer.left.min(CHUNK_BYTES as u64) as usize;
                transfer.way = Way::Bounce { chunk };
                let bounce = transfer.bounce.get_or_insert_with(|| AlignedBuffer::new(memory_align)).pointer();
                if transfer.kind == Kind::Read {
                    return opcode::Read::new(FILE, bounce, chunk as u32).offset(transfer.offset).build();
                }
                transfer.copy_chunk(chunk, true);
                opcode::Write::new(FILE, bounce, chunk as u32).offset(transfer.offset).rw_flags(flags).build()
            }
            Way::Zeroes => {
                let chunk = transfer.left.min(CHUNK_BYTES as u64) as u32;
                let zeroes = self.zeroes.get_or_insert_with(|| AlignedBuffer::new(memory_align)).pointer();
                opcode::Write::new(FILE, zeroes, chunk).offset(transfer.offset).rw_flags(flags).build()
            }
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the buffers and buffer lists behind the entry live until its completion: guest memory by the contract of
        // `start`, bounce buffers and lists because a slot is not touched between start and completion.
        if unsafe { self.ring.submission().push(&entry) }.is_ok() {
            return;
        }
        // There is room for every slot and watch at once, so only entries not yet taken by the kernel can fill the queue.
        if let Err(error) = self.ring.submit() {
            log::warn!("the disk's submission queue is full and cannot be submitted: {error}");
        }
        // SAFETY: as above.
        unsafe { self.ring.submission().push(&entry) }.expect("the submission queue has room for every slot and watch");
    }

    /// Waits for everything in flight. The kernel writes into the buffers until then.
    fn quiesce(&mut self) {
        let mut completions = Vec::new();
        while self.in_flight > 0 {
            if self.wait().is_err() {
                // Buffers that a broken ring may still use cannot be freed or unmapped: stop here, loudly.
                std::process::abort();
            }
            self.reap(&mut completions);
        }
    }
}

impl Drop for DiskRing {
    fn drop(&mut self) {
        self.quiesce();
    }
}

/// Whether fallocate(2) is not to be had on this file, which can be read and written all the same. EACCES and EPERM are NFS 4.2's
/// way to say so: its client sends DEALLOCATE with the credentials of the process, not with those of the open file, and the
/// server refuses a monitor's user.
fn is_refusal(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::EACCES | libc::EPERM)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

    use super::*;

    /// A file in the working directory's file system (tmpfs refuses O_DIRECT on some kernels), unlinked at once.
    fn file(bytes: u64, flags: i32) -> File {
        let path = std::env::temp_dir().join(format!("disk-ring-{}-{:p}", std::process::id(), &bytes));
        let file =
            File::options().read(true).write(true).create_new(true).custom_flags(flags).open(&path).expect("a file");
        std::fs::remove_file(&path).unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    fn run(ring: &mut DiskRing) -> Vec<io::Result<()>> {
        let (mut completions, mut results) = (Vec::new(), Vec::new());
        while ring.in_flight() > 0 {
            ring.wait().unwrap();
            ring.reap(&mut completions);
        }
        for completion in completions {
            if let Completion::Done { result, .. } = completion {
                results.push(result);
            }
        }
        results
    }

    fn piece(memory: &mut [u8]) -> iovec {
        iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() }
    }

    #[test]
    fn unaligned_buffers_reach_a_direct_file_through_the_bounce_buffer() {
        let file = file(8 << 20, libc::O_DIRECT);
        let mut ring = DiskRing::new(RawDisk::new(file, false).unwrap(), 4).unwrap_or_else(|(_, e)| panic!("{e}"));
        // Larger than a chunk, odd pieces at odd addresses.
        let mut data: Vec<u8> = (0..(3 << 20) + 1).map(|i| (i * 7 + i / 4096) as u8).collect();
        let whole = data[1..].to_vec();
        let (a, b) = data[1..].split_at_mut(1_234_567);
        let pieces = [piece(a), piece(b)];
        ring.buffers(0).extend(pieces);
        // SAFETY: `data` outlives `run`, which waits for the completion.
        unsafe { ring.start(0, Kind::Write { durable: false }, 4096, 3 << 20) };
        assert!(run(&mut ring).iter().all(Result::is_ok));
        let mut back = vec![0u8; (3 << 20) + 3];
        let into = piece(&mut back[3..]);
        ring.buffers(1).push(into);
        // SAFETY: as above.
        unsafe { ring.start(1, Kind::Read, 4096, 3 << 20) };
        assert!(run(&mut ring).iter().all(Result::is_ok));
        assert!(back[3..] == whole[..]);
    }

    #[test]
    fn a_read_past_the_end_of_a_shrunken_file_is_an_error_and_not_old_memory() {
        let file = file(64 << 10, 0);
        let mut ring = DiskRing::new(RawDisk::new(file.try_clone().unwrap(), false).unwrap(), 2)
            .unwrap_or_else(|(_, e)| panic!("{e}"));
        file.set_len(8192).unwrap();
        let mut memory = vec![0xeeu8; 16384];
        let into = piece(&mut memory);
        ring.buffers(0).push(into);
        // SAFETY: `memory` outlives `run`.
        unsafe { ring.start(0, Kind::Read, 0, 16384) };
        assert!(run(&mut ring)[0].is_err());
    }

    #[test]
    fn zeroes_are_written_also_where_the_file_cannot_punch() {
        let file = file(8 << 20, 0);
        file.write_all_at(&vec![0xffu8; 8 << 20], 0).unwrap();
        for can in [true, false] {
            let disk = RawDisk::new(file.try_clone().unwrap(), false).unwrap();
            let mut ring = DiskRing::new(disk, 2).unwrap_or_else(|(_, e)| panic!("{e}"));
            (ring.can_zero, ring.can_punch) = (can, can);
            let offset = if can { 512 } else { 4 << 20 };
            // SAFETY: no buffers.
            unsafe { ring.start(0, Kind::WriteZeroes { unmap: false, durable: true }, offset, (2 << 20) + 512) };
            assert!(run(&mut ring)[0].is_ok());
            let mut back = vec![1u8; (2 << 20) + 512];
            file.read_exact_at(&mut back, offset).unwrap();
            assert!(back.iter().all(|&b| b == 0));
            file.read_exact_at(&mut back[..512], offset + (2 << 20) + 512).unwrap();
            assert!(back[..512].iter().all(|&b| b == 0xff));
        }
    }

    #[test]
    fn a_file_that_lets_nobody_punch_makes_no_discard_fail() {
        let file = File::from(rustix::fs::memfd_create("sealed", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap());
        file.write_all_at(&[0xff; 8192], 0).unwrap();
        // Punching is EPERM from here on.
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE).unwrap();
        let disk = RawDisk::new(file.try_clone().unwrap(), false).unwrap();
        let mut ring = DiskRing::new(disk, 2).unwrap_or_else(|(_, e)| panic!("{e}"));
        // SAFETY: no buffers.
        unsafe { ring.start(0, Kind::Discard, 0, 4096) };
        assert!(run(&mut ring)[0].is_ok());
        // Zeroes are another matter: they are written, and this file refuses that too.
        // SAFETY: no buffers.
        unsafe { ring.start(0, Kind::WriteZeroes { unmap: true, durable: false }, 0, 4096) };
        assert!(run(&mut ring)[0].is_err());
        assert!(!ring.can_punch);
    }

    #[test]
    fn every_signal_of_a_watched_eventfd_is_reported_without_reading_it() {
        let disk = RawDisk::new(file(4096, 0), false).unwrap();
        let mut ring = DiskRing::new(disk, 2).unwrap_or_else(|(_, e)| panic!("{e}"));
        let event = vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).unwrap();
        ring.watch(WatchToken(3), event.as_raw_fd());
        let mut completions = Vec::new();
        for _ in 0..1000 {
            event.write(1).unwrap();
            ring.wait().unwrap();
            ring.reap(&mut completions);
            assert!(completions.iter().any(|c| matches!(c, Completion::Signalled(WatchToken(3)))));
            completions.clear();
        }
    }
}
