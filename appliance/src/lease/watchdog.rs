//! The watchdog: resets the host when the lease role does not feed it (the second fence of DESIGN.md, section 7).
//!
//! It is fed only while every datastore's keeper allows it: one fence that hangs is enough for a reset. Its time must be
//! `LEASE_WATCHDOG_MS` at most, or others could take VMs that still run; a device that cannot do that is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::limits;
use model::names::DatastoreName;
use protocol::lease::record::Watchdog as Kind;

/// A keeper that has not fed for this long does not want the host to live.
const FRESH: Duration = Duration::from_millis(limits::LEASE_FEED_MS * 3 / 2);
/// Written before closing, it disarms the device ("magic close", the kernel's watchdog-api.rst).
const DISARM: &[u8] = b"V";

/// The watchdog of this host, armed or not.
#[derive(Debug, Default)]
pub struct Watchdog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    device: Option<(File, Kind)>,
    fed: BTreeMap<DatastoreName, Instant>,
    /// Those that fence.
    starved: BTreeSet<DatastoreName>,
}

impl Watchdog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms the device at `path`, unless one is armed; says what others may count on.
    pub fn arm(&self, path: &str) -> Kind {
        let mut state = self.state();
        if let Some((_, kind)) = &state.device {
            return *kind;
        }
        match open(path) {
            Ok((device, kind)) => {
                log::info!("{path} is armed ({kind:?})");
                state.device = Some((device, kind));
                kind
            }
            Err(error) => {
                log::warn!("{path} is not used as watchdog: {error}");
                Kind::None
            }
        }
    }

    /// What others may count on.
    pub fn kind(&self) -> Kind {
        self.state().device.as_ref().map_or(Kind::None, |(_, kind)| *kind)
    }

    /// The keeper of a datastore allows the host to live.
    pub fn feed(&self, datastore: &DatastoreName) {
        let mut state = self.state();
        let now = Instant::now();
        state.fed.insert(datastore.clone(), now);
        state.starved.remove(datastore);
        let all_fresh = state.starved.is_empty() && state.fed.values().all(|fed| now.duration_since(*fed) <= FRESH);
        if let (true, Some((device, _))) = (all_fresh, &mut state.device)
            && let Err(error) = device.write_all(b"\0")
        {
            log::error!("the watchdog cannot be fed: {error}");
        }
    }

    /// The keeper of a datastore fences: until it feeds again, no other keeper keeps this host alive.
    pub fn starve(&self, datastore: &DatastoreName) {
        self.state().starved.insert(datastore.clone());
    }

    /// A datastore was given up in order: with the last one the watchdog is disarmed.
    pub fn release(&self, datastore: &DatastoreName) {
        let mut state = self.state();
        state.fed.remove(datastore);
        state.starved.remove(datastore);
        if state.fed.is_empty()
            && let Some((mut device, _)) = state.device.take()
            && let Err(error) = device.write_all(DISARM)
        {
            log::error!("the watchdog cannot be disarmed: {error}");
        }
    }
}

fn open(path: &str) -> io::Result<(File, Kind)> {
    let mut device = File::options().write(true).open(path)?;
    match prepare(&device) {
        Ok(kind) => Ok((device, kind)),
        Err(error) => {
            // Opening has armed it.
            device.write_all(DISARM)?;
            Err(error)
        }
    }
}

/// `struct watchdog_info` of linux/watchdog.h.
#[repr(C)]
struct Info {
    options: u32,
    firmware: u32,
    identity: [u8; 32],
}

/// WDIOC_GETSUPPORT, `_IOR('W', 0, struct watchdog_info)`.
const GET_SUPPORT: u64 = 0x8028_5700;
/// WDIOC_SETTIMEOUT, `_IOWR('W', 6, int)`.
const SET_TIMEOUT: u64 = 0xc004_5706;

fn prepare(device: &File) -> io::Result<Kind> {
    let mut info = Info { options: 0, firmware: 0, identity: [0; 32] };
    // SAFETY: the kernel writes at most the 40 bytes of `struct watchdog_info` behind the pointer.
    let asked = unsafe { libc::ioctl(device.as_raw_fd(), GET_SUPPORT as _, &raw mut info) };
    if asked < 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = libc::c_int::try_from(limits::LEASE_WATCHDOG_MS / 1_000).map_err(io::Error::other)?;
    let mut seconds = wanted;
    // SAFETY: the kernel reads and writes one int behind the pointer.
    let set = unsafe { libc::ioctl(device.as_raw_fd(), SET_TIMEOUT as _, &raw mut seconds) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    if seconds > wanted {
        return Err(io::Error::other(format!("its shortest time is {seconds} s; {wanted} s are needed")));
    }
    let software = info.identity.starts_with(b"Software Watchdog");
    Ok(if software { Kind::Software } else { Kind::Hardware })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed_bytes(path: &std::path::Path) -> Vec<u8> {
        std::fs::read(path).expect("read")
    }

    #[test]
    fn one_keeper_that_does_not_feed_starves_the_watchdog_and_the_last_release_disarms_it() {
        let path = std::env::temp_dir().join(format!("godwit-watchdog-{}", std::process::id()));
        let device = File::create(&path).expect("made");
        let dog = Watchdog::default();
        dog.state().device = Some((device, Kind::Hardware));
        let [a, b] = ["a", "b"].map(|name| name.parse::<DatastoreName>().expect("a name"));
        dog.feed(&a);
        dog.feed(&b);
        assert_eq!(fed_bytes(&path), b"\0\0");
        let long_ago = Instant::now().checked_sub(FRESH * 2).expect("the machine runs for longer");
        dog.state().fed.insert(b.clone(), long_ago);
        dog.feed(&a);
        assert_eq!(fed_bytes(&path), b"\0\0", "b does not feed");
        dog.release(&b);
        dog.feed(&a);
        dog.release(&a);
        assert_eq!(fed_bytes(&path), b"\0\0\0V");
        std::fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn a_keeper_that_fences_starves_the_watchdog_at_once_until_it_has_fenced() {
        let path = std::env::temp_dir().join(format!("godwit-watchdog-fence-{}", std::process::id()));
        let dog = Watchdog::default();
        dog.state().device = Some((File::create(&path).expect("made"), Kind::Hardware));
        let [a, b] = ["a", "b"].map(|name| name.parse::<DatastoreName>().expect("a name"));
        dog.feed(&b);
        dog.starve(&b);
        dog.feed(&a);
        assert_eq!(fed_bytes(&path), b"\0", "b fed a moment ago, and fences");
        dog.feed(&b);
        assert_eq!(fed_bytes(&path), b"\0\0");
        std::fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn what_is_no_watchdog_is_not_counted_on() {
        assert_eq!(Watchdog::default().arm("/dev/null"), Kind::None);
        assert_eq!(Watchdog::default().arm("/dev/there-is-no-such-device"), Kind::None);
    }
}
