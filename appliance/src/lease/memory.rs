//! What a lease process leaves to its successor of the same boot, in memory of this host: it must be had when the
//! datastore is not, because the successor has to fence at its predecessor's deadline all the same, and when the host
//! role is not, because nobody else would tell the successor which datastores there are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::names::{DatastoreName, HostName};
use protocol::lease::host_lease::Remembered;
use protocol::lease::identity::{AreaId, HostId};
use protocol::lease::layout::{Area, Geometry};
use serde::{Deserialize, Serialize};

const PREFIX: &str = "life-";

/// One datastore on which VMs may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The datastore.
    pub datastore: DatastoreName,
    /// Where its lease area lies.
    pub path: PathBuf,
    /// This host.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// Its watchdog device.
    pub watchdog: Option<String>,
    /// The life under which VMs may run.
    pub life: Remembered,
    area: (AreaId, u32, u16, u16),
}

impl Kept {
    /// What is to be kept of a life in `area`.
    pub fn new(
        datastore: DatastoreName,
        path: PathBuf,
        (host, name): (HostId, HostName),
        watchdog: Option<String>,
        area: Area,
        life: Remembered,
    ) -> Self {
        let Area { id, geometry } = area;
        let area = (id, geometry.stride(), geometry.slots(), geometry.vms());
        Self { datastore, path, host, name, watchdog, life, area }
    }

    /// The area.
    pub fn area(&self) -> Option<Area> {
        let (id, stride, slots, vms) = self.area;
        Some(Area { id, geometry: Geometry::new(stride, slots, vms)? })
    }
}

fn file(folder: &Path, datastore: &DatastoreName) -> PathBuf {
    folder.join(format!("{PREFIX}{datastore}"))
}

/// All that predecessors left in `folder`.
pub fn recall_all(folder: &Path) -> Vec<Kept> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let kept = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)));
    kept.filter_map(|entry| {
        let bytes = fs::read(entry.path()).ok()?;
        let unreadable = |error: &postcard::Error| log::error!("{}: {error}", entry.path().display());
        postcard::from_bytes::<Kept>(&bytes).inspect_err(unreadable).ok()
    })
    .collect()
}

/// Leaves a life to the successor.
///
/// # Errors
/// This host's memory is full.
pub fn leave(folder: &Path, kept: &Kept) -> io::Result<()> {
    let bytes = postcard::to_stdvec(kept).map_err(io::Error::other)?;
    let path = file(folder, &kept.datastore);
    // Outside the prefix, so that half a file is never recalled.
    let fresh = folder.join(format!("new-{PREFIX}{}", kept.datastore));
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, &path)
}

/// Nothing runs on a datastore any more.
///
/// # Errors
/// As unlink(2), except that there was nothing.
pub fn forget(folder: &Path, datastore: &DatastoreName) -> io::Result<()> {
    match fs::remove_file(file(folder, datastore)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::lease::identity::{Generation, Slot};

    #[test]
    fn a_successor_recalls_what_its_predecessor_left_and_nothing_after_it_was_forgotten() {
        let folder = std::env::temp_dir().join(format!("godwit-memory-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("made");
        let area = Area { id: AreaId(5), geometry: Geometry::new(512, 4, 4).expect("valid") };
        let life = Remembered { slot: Slot(1), generation: Generation(2), renewed_at: 3 };
        let who = (HostId(9), "host-a".parse().expect("a name"));
        let store: DatastoreName = "nfs".parse().expect("a name");
        let kept = Kept::new(store.clone(), folder.join("lease"), who, None, area, life);
        leave(&folder, &kept).expect("left");
        assert_eq!(recall_all(&folder), std::slice::from_ref(&kept));
        assert_eq!(kept.area(), Some(area));
        forget(&folder, &store).expect("forgotten");
        assert!(recall_all(&folder).is_empty());
        fs::remove_dir_all(&folder).expect("removed");
    }
}
