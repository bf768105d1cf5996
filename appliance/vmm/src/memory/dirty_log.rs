//! KVM's dirty log: which pages of guest RAM the vCPUs, and the VMM itself, have written since the last look.
//!
//! The kernel keeps a bit a page from [`DirtyLog::start`] on. A harvest reads the bits, clears those that it read (so that
//! the next write of such a page is seen again), and only then returns: whoever copies pages after a harvest copies at least
//! what was harvested. The log is off outside a move; turning it off costs time and does not belong into the stun.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestRegionMmap, MmapRegion};

use super::{DirtyBitmap, GuestMemory, Layout, PAGE_BYTES};
use crate::bus::enter;
use crate::kvm_raw;
use crate::vcpu::dirtying::Dirtying;

/// Pages of a word, and what the start of a range to be cleared must be a multiple of.
const WORD_PAGES: u64 = 64;
/// Most words that are cleared by one call: 1 GiB of RAM. The kernel holds a lock of the vCPUs' page faults meanwhile.
const CLEAR_WORDS_MAX: usize = 4096;

/// Why the log could not be turned on or off, or read.
#[derive(Debug, thiserror::Error)]
pub enum DirtyLogError {
    /// The kernel refused.
    #[error("KVM refused {what}")]
    Kernel {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The bitmap is for a machine of another size.
    #[error("the dirty bitmap has {found} pages; the machine has {wanted}")]
    Size {
        /// Pages of the bitmap.
        found: u64,
        /// Pages of the machine.
        wanted: u64,
    },
    /// Nothing is being logged.
    #[error("the dirty log is not on")]
    Off,
}

fn refused(what: &'static str) -> impl Fn(io::Error) -> DirtyLogError {
    move |source| DirtyLogError::Kernel { what, source }
}

/// One stretch of guest RAM as KVM knows it.
#[derive(Debug)]
struct Slot {
    number: u32,
    guest_address: u64,
    bytes: u64,
    host_address: u64,
    /// First page in the numbering of the memfd.
    first_page: u64,
}

impl Slot {
    fn pages(&self) -> u64 {
        self.bytes / PAGE_BYTES
    }
}

/// The dirty log of a machine. It may be harvested from any thread, while vCPUs run.
#[derive(Debug)]
pub struct DirtyLog {
    vm: Arc<VmFd>,
    memory: GuestMemory,
    slots: Vec<Slot>,
    /// Reading does not clear: it is done by a call of its own.
    manual: bool,
    /// The kernel's log starts with every page set.
    initially_set: bool,
    on: AtomicBool,
    harvest: Mutex<Harvest>,
    /// Who is told what was found.
    dirtying: Option<Arc<Dirtying>>,
}

#[derive(Debug, Default)]
struct Harvest {
    /// No harvest since the log was turned on.
    first: bool,
    words: Vec<u64>,
}

impl DirtyLog {
    /// Gives guest RAM to KVM, with the log off.
    ///
    /// # Errors
    /// [`DirtyLogError::Kernel`].
    pub fn new(vm: Arc<VmFd>, memory: GuestMemory, layout: &Layout) -> Result<Self, DirtyLogError> {
        let wanted = u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
        let offered = vm.check_extension_raw(u64::from(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
        let mut flags = u64::try_from(offered).unwrap_or(0) & wanted;
        if flags != 0 {
            let mut capability = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
            capability.args[0] = flags;
            if let Err(error) = vm.enable_cap(&capability) {
                log::warn!("the dirty log cannot be cleared by hand, and is slower: {error}");
                flags = 0;
            }
        }
        let mut slots = Vec::new();
        for (number, range) in layout.ranges().iter().enumerate() {
            let host = memory.get_host_address(GuestAddress(range.start));
            let host = host.map_err(|error| refused("guest memory")(io::Error::other(error.to_string())))?;
            slots.push(Slot {
                number: number as u32,
                guest_address: range.start,
                bytes: range.bytes,
                host_address: host as u64,
                first_page: range.offset / PAGE_BYTES,
            });
        }
        let log = Self {
            vm,
            memory,
            slots,
            manual: flags & u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0,
            initially_set: flags & u64::from(KVM_DIRTY_LOG_INITIALLY_SET) != 0,
            on: AtomicBool::new(false),
            harvest: Mutex::default(),
            dirtying: None,
        };
        log.set_slots(0)?;
        Ok(log)
    }

    /// From now on tells `dirtying` of each harvest.
    #[must_use]
    pub(crate) fn watched_by(self, dirtying: Arc<Dirtying>) -> Self {
        Self { dirtying: Some(dirtying), ..self }
    }

    fn set_slots(&self, flags: u32) -> Result<(), DirtyLogError> {
        for slot in &self.slots {
            let region = kvm_userspace_memory_region {
                slot: slot.number,
                flags,
                guest_phys_addr: slot.guest_address,
                memory_size: slot.bytes,
                userspace_addr: slot.host_address,
            };
            // SAFETY: the region is a mapping of `memory`, which this value holds at least as long as the machine's
            // descriptor; slots do not overlap, as the stretches of a layout do not.
            let done = unsafe { self.vm.set_user_memory_region(region) };
            done.map_err(|error| refused("guest memory")(io::Error::from_raw_os_error(error.errno())))?;
        }
        Ok(())
    }

    /// Pages of the machine.
    pub fn pages(&self) -> u64 {
        self.slots.iter().map(Slot::pages).sum()
    }

    /// Whether writes are being logged.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Begins to log. The first harvest after it marks every page, as everything has to be copied once.
    ///
    /// # Errors
    /// [`DirtyLogError::Kernel`]; the log is off.
    pub fn start(&self) -> Result<(), DirtyLogError> {
        let mut harvest = enter(&self.harvest);
        if self.is_on() {
            self.set_slots(0)?;
        }
        // Before the log is on, so that no write of the VMM's falls between.
        self.memory.iter().for_each(|region| own_writes(region).reset());
        if let Err(error) = self.set_slots(KVM_MEM_LOG_DIRTY_PAGES) {
            let _ = self.set_slots(0);
            return Err(error);
        }
        harvest.first = true;
        self.on.store(true, Ordering::Release);
        Ok(())
    }

    /// Ends it. Not for the stun.
    ///
    /// # Errors
    /// [`DirtyLogError::Kernel`].
    pub fn stop(&self) -> Result<(), DirtyLogError> {
        let mut harvest = enter(&self.harvest);
        self.on.store(false, Ordering::Release);
        *harvest = Harvest::default();
        self.set_slots(0)
    }

    /// Adds to `bitmap` every page that a vCPU or the VMM has written since the last harvest, and forgets them. With all
    /// vCPUs and devices at rest it is the final word; else pages written meanwhile come with this harvest or the next.
    ///
    /// # Errors
    /// [`DirtyLogError`]. Pages may have been added already; none is lost that was not.
    pub fn harvest(&self, bitmap: &DirtyBitmap) -> Result<(), DirtyLogError> {
        if bitmap.pages() != self.pages() {
            return Err(DirtyLogError::Size { found: bitmap.pages(), wanted: self.pages() });
        }
        let mut harvest = enter(&self.harvest);
        if !self.is_on() {
            return Err(DirtyLogError::Off);
        }
        let Harvest { first, words } = &mut *harvest;
        let first = std::mem::take(first);
        if first && !self.initially_set {
            bitmap.set_all();
        }
        let mut found = 0;
        for slot in &self.slots {
            found += self.harvest_slot(slot, words, bitmap)?;
        }
        if let Some(dirtying) = &self.dirtying {
            // What is found first was not written.
            if first { dirtying.begin() } else { dirtying.harvested(found) }
        }
        self.harvest_own_writes(bitmap);
        Ok(())
    }

    /// How many pages KVM's log has of it.
    fn harvest_slot(&self, slot: &Slot, words: &mut Vec<u64>, bitmap: &DirtyBitmap) -> Result<u64, DirtyLogError> {
        let count = slot.pages().div_ceil(WORD_PAGES) as usize;
        words.resize(count, 0);
        kvm_raw::get_dirty_log(&self.vm, slot.number, slot.pages(), words).map_err(refused("its dirty log"))?;
        let first_word = (slot.first_page / WORD_PAGES) as usize;
        let mut found = 0;
        for (start, end) in dirty_runs(words) {
            found += words[start..end].iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            // Into the bitmap before the log is cleared: if clearing fails, the pages are not lost.
            for (word, bits) in (first_word + start..).zip(&words[start..end]) {
                bitmap.or_word(word, *bits);
            }
            if self.manual {
                let first = start as u64 * WORD_PAGES;
                let pages = ((end - start) as u64 * WORD_PAGES).min(slot.pages() - first);
                kvm_raw::clear_dirty_log(&self.vm, slot.number, first, pages as u32, &words[start..end])
                    .map_err(refused("to clear its dirty log"))?;
            }
        }
        Ok(found)
    }

    /// Pages that the VMM's devices wrote.
    fn harvest_own_writes(&self, bitmap: &DirtyBitmap) {
        for (region, slot) in self.memory.iter().zip(&self.slots) {
            let first_word = (slot.first_page / WORD_PAGES) as usize;
            for (index, word) in own_writes(region).get_and_reset().into_iter().enumerate() {
                bitmap.or_word(first_word + index, word);
            }
        }
    }
}

/// The whole bitmap of a region's own writes (its trait gives a slice that can only be marked).
fn own_writes(region: &GuestRegionMmap<AtomicBitmap>) -> &AtomicBitmap {
    let mapping: &MmapRegion<AtomicBitmap> = region;
    mapping.bitmap()
}

/// Stretches of words that are not 0, as start and end, none longer than [`CLEAR_WORDS_MAX`].
fn dirty_runs(words: &[u64]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, _) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
        match runs.last_mut() {
            Some((start, end)) if *end == index && index - *start < CLEAR_WORDS_MAX => *end = index + 1,
            _ => runs.push((index, index + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_words_that_are_not_zero_and_none_is_too_long() {
        assert_eq!(dirty_runs(&[0, 1, 2, 0, 0, 3]), [(1, 3), (5, 6)]);
        assert_eq!(dirty_runs(&[]), []);
        assert_eq!(dirty_runs(&[1; 5000]), [(0, CLEAR_WORDS_MAX), (CLEAR_WORDS_MAX, 5000)]);
    }
}
