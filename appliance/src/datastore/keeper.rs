//! Keeps one datastore mounted: tries for ever, watches, says since when it is lost.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::host_config::DatastoreKind;
use model::limits;
use model::units::Bytes;

use super::bounded::DatastoreError;
use super::store::Datastore;
use super::{mount, trouble};

/// Time between two looks at a mounted datastore.
const WATCH: Duration = Duration::from_secs(3);
/// Looks at a mounted datastore from one try to write there to the next.
const LOOKS_A_TRY: u32 = 10;
/// First pause between two attempts to mount.
const RETRY_MIN: Duration = Duration::from_millis(500);

/// A datastore with less room is tried at each look: what lacks it may already be failing.
pub(super) const SCARCE: Bytes = Bytes::mib(1);

/// Why nothing can be written to a datastore that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwritable {
    /// In a word or two, for a list.
    pub state: &'static str,
    /// For a person.
    pub reason: Reason,
}

/// How a datastore is.
#[derive(Clone, Debug)]
pub enum State {
    /// It was never there since this role started; the last refusal, if there was one.
    Mounting(Option<Reason>),
    /// It answers.
    Available {
        /// All its room.
        size: Bytes,
        /// What of it this host may fill.
        free: Bytes,
        /// Why nothing can be written there, if that is so.
        unwritable: Option<Unwritable>,
    },
    /// It answered once and does not now.
    Lost {
        /// Its last answer.
        since: Instant,
        /// What it says now.
        why: Reason,
    },
}

/// Keeps the datastore until the process ends.
pub fn keep(datastore: &Arc<Datastore>) {
    let mut pause = RETRY_MIN;
    loop {
        match mount_once(datastore) {
            Ok(()) => {
                pause = RETRY_MIN;
                watch(datastore);
            }
            Err(error) => {
                let reason = mount::refusal(datastore.name(), datastore.kind(), &error);
                datastore.refused(reason);
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(limits::DATASTORE_RETRY_MS_MAX));
            }
        }
    }
}

fn mount_once(datastore: &Datastore) -> io::Result<()> {
    let root = datastore.root();
    match datastore.kind() {
        DatastoreKind::Directory { .. } => std::fs::read_dir(root).map(|_| ()),
        nfs @ DatastoreKind::Nfs { .. } => {
            if is_mounted(root)? {
                // An earlier control plane of this boot mounted it, and VMs may use it.
                return Ok(());
            }
            std::fs::create_dir_all(root)?;
            mount::mount_nfs(nfs, root)
        }
    }
}

/// Whether something is mounted at `root`; asks the kernel's table and never the server.
fn is_mounted(root: &std::path::Path) -> io::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(table.lines().any(|line| line.split(' ').nth(1).is_some_and(|place| std::path::Path::new(place) == root)))
}

/// Watches a mounted datastore until it has to be mounted again.
fn watch(datastore: &Arc<Datastore>) {
    for looks in 0_u32.. {
        match look(datastore) {
            Ok(_) if is_gone(datastore) => {
                datastore.lost(Reason::new(
                    "it was unmounted",
                    "nothing: it is mounted again by itself when its server answers",
                ));
                return;
            }
            Ok((size, free)) => {
                datastore.answered(size, free);
                let doubted = datastore.take_doubt() || free < SCARCE || !datastore.writable();
                if looks.is_multiple_of(LOOKS_A_TRY) || doubted {
                    datastore.try_to_write();
                }
            }
            Err(DatastoreError::Io(error)) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => {
                // Before it is unmounted: the folder beneath is not to be taken for a datastore without VMs.
                datastore.lost(trouble::replaced(&datastore.place()));
                mount::force_unmount(datastore.root());
                return;
            }
            Err(error) => datastore.lost(trouble::reason(&datastore.place(), &error)),
        }
        std::thread::sleep(WATCH);
    }
}

/// Whether what answers is not the datastore but the empty folder beneath it.
fn is_gone(datastore: &Datastore) -> bool {
    matches!(datastore.kind(), DatastoreKind::Nfs { .. }) && !is_mounted(datastore.root()).unwrap_or(true)
}

/// Room of the datastore, asked of the server.
fn look(datastore: &Datastore) -> Result<(Bytes, Bytes), DatastoreError> {
    datastore.bounded().for_its_keeper().run(|root| {
        // A listing too: statfs may be answered from a cache.
        std::fs::read_dir(root)?.next();
        let room = rustix::fs::statvfs(root).map_err(io::Error::from)?;
        let bytes = |blocks: u64| Bytes(blocks.saturating_mul(room.f_frsize));
        Ok((bytes(room.f_blocks), bytes(room.f_bavail)))
    })
}
