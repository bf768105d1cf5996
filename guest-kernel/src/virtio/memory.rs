//! Memory that devices reach: everything is mapped where it is, so an address is an address. Rings come out of a small pool
//! and stay, since no device is ever let go of.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Pages of the pool: two for each queue of a disk and of a network interface, and some to spare.
const PAGES: usize = 8;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[[u8; PAGE_SIZE]; PAGES]>);

// SAFETY: each page is given out once, and Rust makes no reference to what was not.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([[0; PAGE_SIZE]; PAGES]));
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The identity map.
#[derive(Debug)]
pub struct Identity;

// SAFETY: the pool's pages are zeroed, aligned, and given out once; registers lie in the identity map of the first 4 GiB,
// which `Bus` has made sure of, and in no memory of Rust's.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = TAKEN.fetch_add(pages, Relaxed);
        assert!(first + pages <= PAGES, "the pool of {PAGES} pages is too small for all rings: enlarge it");
        let page = POOL.0.get().cast::<[u8; PAGE_SIZE]>().wrapping_add(first).cast::<u8>();
        let Some(pointer) = NonNull::new(page) else { unreachable!("a static lies somewhere") };
        (page as PhysAddr, pointer)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // It stays taken.
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        let Some(pointer) = NonNull::new(address as *mut u8) else { unreachable!("no BAR lies at 0") };
        pointer
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
