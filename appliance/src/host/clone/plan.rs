//! What a clone is to be made of: the files of its VM, and whether that can be done.

use std::fs::{File, TryLockError};
use std::sync::Arc;

use model::diagnosis::Reason;
use model::names::VmName;
use model::units::Bytes;
use model::vm_config::{FilePath, VmConfig};

use crate::datastore::parts::{Link, Part};
use crate::datastore::{Datastore, DatastoreError};
use crate::host::control_plane::ControlPlane;
use crate::host::located::{Located, vm_folders};

/// A file that a vm.toml names.
#[derive(Debug)]
pub struct Planned {
    /// Its path in the folder of either VM.
    pub path: FilePath,
    /// The VM's, open for reading.
    pub file: File,
    /// Its size, bytes.
    pub size: u64,
    /// What of it has room on the datastore, bytes.
    pub allocated: u64,
    /// The guest writes it.
    pub is_written: bool,
    /// The link by which it stays shared; none of what is copied.
    pub shared: Option<Link>,
}

/// The files of a clone.
#[derive(Debug)]
pub struct Plan {
    /// Them, none twice.
    pub files: Vec<Planned>,
    datastore: Arc<Datastore>,
}

impl Plan {
    /// The files of a VM's folder that its vm.toml names: what VMs share, and a host's own drives, stay what they are.
    ///
    /// # Errors
    /// Each that is not there or not readable.
    pub fn of(located: &Located, config: &VmConfig) -> Result<Self, Vec<Reason>> {
        let boot = [Some(&config.boot.kernel), config.boot.initrd.as_ref()];
        let named = boot.into_iter().flatten().map(|path| (path, false));
        let named =
            named.chain(config.disks.iter().filter_map(|disk| Some((disk.medium.own_file()?, !disk.read_only))));
        let mut plan = Self { files: Vec::new(), datastore: Arc::clone(&located.datastore) };
        let mut problems = Vec::new();
        for (path, is_written) in named {
            if let Some(known) = plan.files.iter_mut().find(|file| file.path == *path) {
                known.is_written |= is_written;
                continue;
            }
            match plan.datastore.part(&located.folder(), path.as_str()) {
                Ok(Part { file, size, allocated, link }) => {
                    plan.files.push(Planned { path: path.clone(), file, size, allocated, is_written, shared: link });
                }
                Err(error) => problems.push(located.reason(path, &error)),
            }
        }
        plan.unshare();
        if problems.is_empty() { Ok(plan) } else { Err(problems) }
    }

    /// What a guest writes is never shared, wherever it lies; nor is what is linked by a folder in which such a file is, for
    /// the clone needs that folder for itself.
    fn unshare(&mut self) {
        let written: Vec<String> =
            self.files.iter().filter(|file| file.is_written).map(|file| file.path.as_str().to_owned()).collect();
        for file in &mut self.files {
            file.shared.take_if(|link| {
                let below = format!("{}/", link.path);
                written.iter().any(|path| *path == link.path || path.starts_with(&below))
            });
        }
    }

    /// Those that are copied.
    pub fn copied(&self) -> impl Iterator<Item = &Planned> {
        self.files.iter().filter(|file| file.shared.is_none())
    }

    /// Bytes that the files have which are copied, with their holes.
    pub fn size(&self) -> u64 {
        self.copied().map(|file| file.size).sum()
    }

    /// Room that the copies need.
    pub fn needs(&self) -> Bytes {
        Bytes(self.copied().map(|file| file.allocated).sum())
    }

    /// Shares the locks of the files that a guest writes, for as long as the plan is there. The first that another has locked.
    ///
    /// # Errors
    /// The datastore does not answer, or locks nothing.
    pub fn lock(&self) -> Result<Option<&FilePath>, DatastoreError> {
        for Planned { path, file, .. } in self.files.iter().filter(|file| file.is_written) {
            let file = file.try_clone()?;
            let locked = self.datastore.with_open(move || match file.try_lock_shared() {
                Ok(()) => Ok(true),
                Err(TryLockError::WouldBlock) => Ok(false),
                Err(TryLockError::Error(error)) => Err(error.into()),
            });
            if !locked? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        self.datastore.close(std::mem::take(&mut self.files));
    }
}

/// Why what is to be copied does not fit, if it does not.
pub fn room_problem(datastore: &Datastore, needs: Bytes, free: Bytes) -> Option<Reason> {
    (needs > free).then(|| {
        let name = datastore.name();
        let cause = format!("datastore {name} has {free} free, and what is to be copied needs {needs}");
        Reason::new(cause, format!("make room there, then try again; datastore show {name}"))
    })
}

/// Why a name cannot be had, one reason for each datastore that has it: a name is that of one VM, wherever it lies. Of a datastore
/// that does not answer counts what it had when it did.
pub fn name_problems(plane: &ControlPlane, new: &VmName) -> Vec<Reason> {
    let has = |datastore: &Arc<Datastore>| match vm_folders(datastore) {
        Ok(folders) => folders.iter().any(|folder| folder == new.as_str()),
        Err(_) => plane.listed(datastore).iter().flatten().any(|row| row.name == new.as_str()),
    };
    let taken = plane.datastores.all().into_iter().filter(has).map(|datastore| {
        let cause = format!("datastore {} has a VM {new}, or a folder vms/{new}, already", datastore.name());
        Reason::new(cause, format!("choose another name; vm show {new}"))
    });
    taken.collect()
}
