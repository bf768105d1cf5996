//! Whether `init` asked this process to end.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::signal::register_signal_handler;

static ARRIVED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    ARRIVED.store(true, Ordering::Relaxed);
}

/// From now on SIGTERM is only noted.
pub fn begin() {
    if let Err(error) = register_signal_handler(libc::SIGTERM, note) {
        log::error!("SIGTERM ends this process at once: {error}");
    }
}

/// Whether it came.
pub fn arrived() -> bool {
    ARRIVED.load(Ordering::Relaxed)
}
