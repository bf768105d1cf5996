//! What a lease process leaves to its successor of the same boot, in memory of this host: it must be had when the
//! datastore is not, because the successor has to fence at its predecessor's deadline all the same.

use std::fs;
use std::io;
use std::path::PathBuf;

use protocol::lease::host_lease::Remembered;
use protocol::lease::identity::AreaId;
use protocol::lease::layout::{Area, Geometry};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    area: AreaId,
    stride: u32,
    slots: u16,
    vms: u16,
    life: Remembered,
}

/// The place where it is kept.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
}

impl Memory {
    /// Kept at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// What the predecessor left, if VMs may still run under it.
    pub fn recall(&self) -> Option<(Area, Remembered)> {
        let bytes = fs::read(&self.path).ok()?;
        let kept: Kept =
            postcard::from_bytes(&bytes).inspect_err(|error| log::error!("{}: {error}", self.path.display())).ok()?;
        let geometry = Geometry::new(kept.stride, kept.slots, kept.vms)?;
        Some((Area { id: kept.area, geometry }, kept.life))
    }

    /// Leaves `life` in `area`, or that nothing runs.
    ///
    /// # Errors
    /// This host's memory is full.
    pub fn leave(&self, area: Area, life: Option<Remembered>) -> io::Result<()> {
        let Some(life) = life else {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let Area { id, geometry } = area;
        let (stride, slots, vms) = (geometry.stride(), geometry.slots(), geometry.vms());
        let bytes = postcard::to_stdvec(&Kept { area: id, stride, slots, vms, life }).map_err(io::Error::other)?;
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, bytes)?;
        fs::rename(&fresh, &self.path)
    }
}
