//! One operation on a disk: what is left of it, and through which memory it goes.

use std::alloc::Layout;
use std::ptr::NonNull;

use libc::iovec;

/// Bounce buffers and emulated zeroes go through the file in pieces of this many bytes.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the disk into memory.
    Read,
    /// From memory to the disk. `durable`: completed only when it is on stable storage (RWF_DSYNC).
    Write {
        /// Completed only when stable.
        durable: bool,
    },
    /// fdatasync.
    Flush,
    /// The range may be forgotten: a hint.
    Discard,
    /// The range reads as zeroes afterwards. `unmap`: space may be given back. `durable` as for writes.
    WriteZeroes {
        /// Space may be given back.
        unmap: bool,
        /// Completed only when stable.
        durable: bool,
    },
}

/// How the rest of an operation reaches the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Straight between the buffers and the file.
    Direct,
    /// Through the bounce buffer; this many bytes are on their way.
    Bounce {
        /// Bytes of the chunk in flight.
        chunk: usize,
    },
    /// fallocate(2).
    Fallocate,
    /// Writes of zeroes, where fallocate is not supported.
    Zeroes,
    /// fdatasync(2): the operation itself, or the end of one that must be durable.
    Sync,
}

/// An operation in a slot. The buffer list keeps its capacity from one use to the next.
#[derive(Debug)]
pub struct Transfer {
    /// Pieces of memory, in order. Read and write only.
    pub buffers: Vec<iovec>,
    /// What is done.
    pub kind: Kind,
    /// How.
    pub way: Way,
    /// Where the rest begins in the file, bytes.
    pub offset: u64,
    /// Bytes left.
    pub left: u64,
    /// Index of the first buffer with bytes left.
    pub first: usize,
    /// Attempts in a row that moved nothing and told to try again.
    pub retries: u32,
    /// Memory of the right alignment, if this slot ever needed it.
    pub bounce: Option<AlignedBuffer>,
}

// SAFETY: the raw pointers in `buffers` name guest memory, which every thread of the VMM may reach; who starts a
// transfer keeps that memory mapped until its completion.
unsafe impl Send for Transfer {}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            buffers: Vec::new(),
            kind: Kind::Flush,
            way: Way::Sync,
            offset: 0,
            left: 0,
            first: 0,
            retries: 0,
            bounce: None,
        }
    }
}

impl Transfer {
    /// Whether every buffer can be handed to O_DIRECT as it is.
    pub fn aligned(&self, block: u32, memory: u32) -> bool {
        let (block, memory) = (block as usize - 1, memory as usize - 1);
        self.buffers.iter().all(|b| b.iov_base as usize & memory == 0 && b.iov_len & block == 0)
    }

    /// Takes `bytes` as done: moves the offset and the beginning of the buffers.
    pub fn advance(&mut self, bytes: usize) {
        self.offset += bytes as u64;
        self.left -= bytes as u64;
        let mut rest = bytes;
        while rest > 0 {
            let Some(buffer) = self.buffers.get_mut(self.first) else { return };
            let step = rest.min(buffer.iov_len);
            buffer.iov_base = buffer.iov_base.cast::<u8>().wrapping_add(step).cast();
            buffer.iov_len -= step;
            rest -= step;
            if buffer.iov_len == 0 {
                self.first += 1;
            }
        }
    }

    /// Copies the next `chunk` bytes of the buffers into the bounce buffer (`to_bounce`) or out of it, without moving on.
    pub fn copy_chunk(&mut self, chunk: usize, to_bounce: bool) {
        let Some(bounce) = &self.bounce else { return };
        let mut done = 0;
        for buffer in &self.buffers[self.first..] {
            let step = (chunk - done).min(buffer.iov_len);
            let (guest, ours) = (buffer.iov_base.cast::<u8>(), bounce.pointer().wrapping_add(done));
            // SAFETY: the buffer's memory is mapped until completion (see `start` of the ring), the bounce buffer has
            // CHUNK_BYTES >= chunk bytes, and guest memory never overlaps an allocation of the VMM. The guest may change
            // its side meanwhile; the bytes are only moved.
            unsafe {
                if to_bounce {
                    std::ptr::copy_nonoverlapping(guest, ours, step);
                } else {
                    std::ptr::copy_nonoverlapping(ours, guest, step);
                }
            }
            done += step;
            if done == chunk {
                return;
            }
        }
    }
}

/// Zeroed heap memory of [`CHUNK_BYTES`] with the alignment that a disk asks for.
#[derive(Debug)]
pub struct AlignedBuffer {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer owns its allocation and nothing else refers to it.
unsafe impl Send for AlignedBuffer {}

impl AlignedBuffer {
    /// `align` is a power of two of at most 64 KiB (checked by `RawDisk::new`).
    pub fn new(align: u32) -> Self {
        let align = (align as usize).clamp(4096, 64 * 1024).next_power_of_two();
        let layout = Layout::from_size_align(CHUNK_BYTES, align).expect("1 MiB with a small power of two is a layout");
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { std::alloc::handle_alloc_error(layout) };
        Self { memory, layout }
    }

    /// Its beginning.
    pub fn pointer(&self) -> *mut u8 {
        self.memory.as_ptr()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout.
        unsafe { std::alloc::dealloc(self.memory.as_ptr(), self.layout) }
    }
}
