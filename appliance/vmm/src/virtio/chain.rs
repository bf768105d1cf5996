//! The buffers of one request: a descriptor chain, read once and checked.
//!
//! virtio 1.2, section 2.7. The descriptors are the guest's memory and hostile: a chain may loop, point outside RAM, be
//! longer than the queue, or change while it is read. It is copied out once, into lists that keep their capacity, and
//! used only in this form.

use std::ops::Deref;

use libc::iovec;
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::GuestMemory;

/// Descriptors of one chain at most (also IOV_MAX); we offer queues of 256 and segment limits below that.
pub const SEGMENTS_MAX: usize = 1024;

/// A stretch of guest memory that was inside RAM when the chain was read; RAM never shrinks.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// The same in the VMM's address space.
    pub pointer: *mut u8,
    /// Bytes; never 0.
    pub length: usize,
}

// SAFETY: the pointer names guest memory, which is mapped in the whole process and shared with the guest anyway; whoever
// uses it holds the `GuestMemory` that keeps it mapped.
unsafe impl Send for Segment {}

impl Segment {
    /// As system calls want it.
    pub fn iovec(&self) -> iovec {
        iovec { iov_base: self.pointer.cast(), iov_len: self.length }
    }

    /// Without its first `skip` bytes.
    fn after(&self, skip: usize) -> Self {
        Self {
            address: self.address + skip as u64,
            pointer: self.pointer.wrapping_add(skip),
            length: self.length - skip,
        }
    }
}

/// A chain that cannot be served; the driver is broken or hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// It loops, ends in the middle, or refers to a descriptor or indirect table that is none.
    #[error("the descriptor chain loops or has no end")]
    Broken,
    /// More than [`SEGMENTS_MAX`] descriptors.
    #[error("the descriptor chain has more than {SEGMENTS_MAX} descriptors")]
    TooLong,
    /// A buffer is not wholly in RAM.
    #[error("a buffer at {address:#x} is not in the guest's memory")]
    Outside {
        /// Guest-physical address of the buffer.
        address: u64,
    },
    /// A readable buffer comes after a writable one (virtio 1.2, 2.7.4.2).
    #[error("a descriptor that the device reads follows one that it writes")]
    Order,
}

/// One request: what the device may read and what it may write, in order.
#[derive(Debug, Default)]
pub struct Chain {
    /// Index that goes back in the used ring.
    pub head: u16,
    /// What the device may read.
    pub readable: Segments,
    /// What the device may write.
    pub writable: Segments,
}

/// A list of stretches of guest memory.
#[derive(Debug, Default)]
pub struct Segments {
    list: Vec<Segment>,
    bytes: usize,
}

impl Chain {
    /// Takes a chain off the descriptors, replacing what was here. Empty buffers are left out.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(super) fn load<M>(&mut self, mut chain: DescriptorChain<M>, memory: &GuestMemory) -> Result<(), ChainError>
    where
        M: Deref<Target = GuestMemory>,
    {
        self.head = chain.head_index();
        self.readable.clear();
        self.writable.clear();
        let (mut count, mut last): (usize, Option<Descriptor>) = (0, None);
        for descriptor in chain.by_ref() {
            count += 1;
            if count > SEGMENTS_MAX {
                return Err(ChainError::TooLong);
            }
            self.take(&descriptor, memory)?;
            last = Some(descriptor);
        }
        // The iterator also stops at what it cannot follow: the last descriptor then still promises another.
        match last {
            Some(last) if !last.has_next() => Ok(()),
            _ => Err(ChainError::Broken),
        }
    }

    fn take(&mut self, descriptor: &Descriptor, memory: &GuestMemory) -> Result<(), ChainError> {
        let (address, length) = (descriptor.addr(), descriptor.len() as usize);
        if length == 0 {
            return Ok(());
        }
        if !descriptor.is_write_only() && self.writable.bytes > 0 {
            return Err(ChainError::Order);
        }
        // One stretch in one region: the regions of RAM are apart, so a buffer across two is outside RAM in between.
        let slice = memory
            .get_slice(GuestAddress(address.0), length)
            .map_err(|_| ChainError::Outside { address: address.0 })?;
        let segment = Segment { address: address.0, pointer: slice.ptr_guard_mut().as_ptr(), length };
        let list = if descriptor.is_write_only() { &mut self.writable } else { &mut self.readable };
        list.list.push(segment);
        list.bytes += length;
        Ok(())
    }
}

impl Segments {
    fn clear(&mut self) {
        self.list.clear();
        self.bytes = 0;
    }

    /// Bytes altogether.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The stretches.
    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// The stretches of the `length` bytes from `skip` on, as far as there are any.
    pub fn range(&self, skip: usize, length: usize) -> impl Iterator<Item = Segment> {
        let (mut skip, mut left) = (skip, length);
        self.list.iter().filter_map(move |segment| {
            if skip >= segment.length {
                skip -= segment.length;
                return None;
            }
            let mut rest = segment.after(std::mem::take(&mut skip));
            rest.length = rest.length.min(left);
            left -= rest.length;
            (rest.length > 0).then_some(rest)
        })
    }

    /// Copies bytes out, from `skip` on. False if there are not enough.
    pub fn read(&self, skip: usize, into: &mut [u8]) -> bool {
        let mut done = 0;
        for segment in self.range(skip, into.len()) {
            // SAFETY: the segment was checked to be inside mapped guest memory when the chain was loaded, and `into` has
            // room for it since `range` is bounded by its length. The guest may write meanwhile; bytes are only copied.
            unsafe {
                std::ptr::copy_nonoverlapping(segment.pointer, into[done..].as_mut_ptr(), segment.length);
            }
            done += segment.length;
        }
        done == into.len()
    }

    /// Copies bytes in, from `skip` on, and marks the pages dirty. False if there is not enough room; what fits is written.
    pub fn write(&self, memory: &GuestMemory, skip: usize, from: &[u8]) -> bool {
        let mut done = 0;
        for segment in self.range(skip, from.len()) {
            // SAFETY: as in `read`, the other way round.
            unsafe {
                std::ptr::copy_nonoverlapping(from[done..].as_ptr(), segment.pointer, segment.length);
            }
            mark_dirty(memory, &segment);
            done += segment.length;
        }
        done == from.len()
    }
}

/// Marks the pages of a segment that something wrote through its pointer. To be called after the write, or a harvest
/// in between would miss it.
pub fn mark_dirty(memory: &GuestMemory, segment: &Segment) {
    if let Some((region, at)) = memory.to_region_addr(GuestAddress(segment.address)) {
        region.bitmap().mark_dirty(at.0 as usize, segment.length);
    }
}

/// The mapped address of guest memory lists for tests and system calls.
pub fn iovecs(segments: impl Iterator<Item = Segment>, into: &mut Vec<iovec>) {
    into.clear();
    into.extend(segments.map(|segment| segment.iovec()));
}
