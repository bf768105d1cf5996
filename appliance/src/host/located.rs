//! A VM where it lies: its folder on a datastore, its vm.toml, its files.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::names::{MacAddress, VmName};
use model::vm_config::{Disk, Draft, FilePath, Medium, VmConfig};
use vmm::boot::kernel::{self, HEADER_BYTES};

use crate::api::lease::VmOnDatastore;
use crate::datastore::{Datastore, DatastoreError};
use crate::host::control_plane::ControlPlane;
use crate::host::host_drive;
use crate::host::mac_addresses;

/// What a person is told who gave a VM a kernel that cannot be loaded.
pub const KERNEL_HINT: &str = "boot.kernel in vm.toml must be a bzImage or an ELF with a PVH entry";

/// A VM found on a datastore.
#[derive(Clone)]
pub struct Located {
    /// Its name.
    pub name: VmName,
    /// Its datastore.
    pub datastore: Arc<Datastore>,
    /// Its vm.toml.
    pub config_text: String,
}

/// Finds a VM on the datastores of this host. One that is found is taken although another datastore does not answer: that one
/// may have a VM of this name too, but a lost datastore must not keep the VMs of the others from being worked on.
///
/// # Errors
/// It lies on none of them, on more than one, or on none that answers.
pub fn locate(plane: &ControlPlane, name: &VmName, what: &str) -> Result<Located, Diagnosis> {
    let mut found = Vec::new();
    let mut silent = Vec::new();
    for datastore in plane.known_datastores(what)? {
        if let Some(away) = away(&datastore) {
            silent.push(away);
            continue;
        }
        match Located::read(&datastore, name) {
            Ok(located) => found.push(located),
            Err(error) if error.is_missing() => {}
            Err(error @ (DatastoreError::NotText | DatastoreError::TooLarge(_) | DatastoreError::LeadsOut)) => silent
                .push(Reason::new(
                    format!("{} on datastore {}: {error}", vm_file(name, "vm.toml"), datastore.name()),
                    "put a vm.toml there as config/examples has them",
                )),
            Err(error) => silent.push(Reason::new(
                format!("datastore {}: {error}", datastore.name()),
                format!("datastore show {}", datastore.name()),
            )),
        }
    }
    match (found.len(), silent.is_empty()) {
        (1, _) => Ok(found.remove(0)),
        (0, true) => {
            let cause = format!("no datastore of this host has a VM {name} (vms/{name}/vm.toml)");
            Err(Diagnosis::new(what, cause, "vm list; datastore list"))
        }
        (0, false) => Err(Diagnosis::of(what, silent)),
        _ => {
            let places: Vec<&str> = found.iter().map(|located| located.datastore.name().as_str()).collect();
            let cause = format!("several datastores have a VM {name}: {}", places.join(", "));
            Err(Diagnosis::new(what, cause, "rename one of them: its folder and vm.name in its vm.toml"))
        }
    }
}

/// What is told of a datastore that is known not to answer: asking it would only be waited for, by every command.
pub(super) fn away(datastore: &Datastore) -> Option<Reason> {
    datastore.away().map(|cause| Reason::new(cause, format!("datastore show {}", datastore.name())))
}

/// How long a list waits for one answer of a datastore.
pub(super) const LISTING: Duration = Duration::from_millis(limits::DATASTORE_LISTING_MS_MAX);

/// The names of the VMs of a datastore.
///
/// # Errors
/// As of [`vm_folders`].
pub(super) fn vm_names(datastore: &Datastore) -> Result<Vec<VmName>, Reason> {
    Ok(vm_folders(datastore)?.iter().filter_map(|folder| folder.parse().ok()).collect())
}

/// The folders of a datastore's `vms/`, also those whose names no VM can have.
///
/// # Errors
/// The datastore does not answer: at once where that is known, and else with a word in the log.
pub(super) fn vm_folders(datastore: &Datastore) -> Result<Vec<String>, Reason> {
    vm_folders_within(datastore.request_bound(), datastore)
}

/// The same, and waits for it up to `bound`.
///
/// # Errors
/// As of [`vm_folders`].
pub(super) fn vm_folders_within(bound: Duration, datastore: &Datastore) -> Result<Vec<String>, Reason> {
    if let Some(away) = away(datastore) {
        return Err(away);
    }
    datastore.folders_within(bound, "vms").map_err(|error| {
        let name = datastore.name();
        log::warn!("the VMs of datastore {name} are not listed: {error}");
        Reason::new(format!("datastore {name}: {error}"), format!("datastore show {name}"))
    })
}

/// The path of a file in a VM's folder, from the root of its datastore.
fn vm_file(name: &VmName, file: &str) -> String {
    format!("vms/{name}/{file}")
}

impl Located {
    /// A VM of this datastore.
    ///
    /// # Errors
    /// Its vm.toml is not there or cannot be read.
    pub fn read(datastore: &Arc<Datastore>, name: &VmName) -> Result<Self, DatastoreError> {
        Self::read_within(datastore.request_bound(), datastore, name)
    }

    /// The same, and waits for it up to `bound`.
    ///
    /// # Errors
    /// As of [`Located::read`].
    pub fn read_within(bound: Duration, datastore: &Arc<Datastore>, name: &VmName) -> Result<Self, DatastoreError> {
        let path = vm_file(name, "vm.toml");
        let config_text = datastore.read_text_within(bound, &path, limits::VM_CONFIG_BYTES_MAX)?;
        Ok(Self { name: name.clone(), datastore: Arc::clone(datastore), config_text })
    }

    /// Its folder, from the root of its datastore.
    pub fn folder(&self) -> String {
        format!("vms/{}", self.name)
    }

    /// Its place, as the lease role knows it.
    pub fn vm(&self) -> VmOnDatastore {
        VmOnDatastore { datastore: self.datastore.name().clone(), vm: self.name.clone() }
    }

    /// Its configuration, as far as its vm.toml can be understood.
    pub fn draft(&self) -> Draft {
        Draft::read(&vm_file(&self.name, "vm.toml"), &self.config_text, Some(&self.name))
    }

    pub(super) fn reason(&self, file: &FilePath, error: &dyn std::fmt::Display) -> Reason {
        let datastore = self.datastore.name();
        Reason::new(
            format!("{} on datastore {datastore}: {error}", vm_file(&self.name, file.as_str())),
            format!("mend vm.toml or put the file there; datastore show {datastore}"),
        )
    }

    /// Opens a file of the VM for reading.
    ///
    /// # Errors
    /// It is not there or not readable.
    pub fn open_file(&self, file: &FilePath) -> Result<File, Reason> {
        self.datastore.open_read(&vm_file(&self.name, file.as_str())).map_err(|error| self.reason(file, &error))
    }

    /// Looks whether a file of the VM is a kernel that can be loaded; only its header is read.
    ///
    /// # Errors
    /// It is not there, not readable, or no such kernel.
    pub fn look_at_kernel(&self, file: &FilePath) -> Result<(), Reason> {
        let header = self.datastore.read_start(&vm_file(&self.name, file.as_str()), HEADER_BYTES as u64);
        let header = header.map_err(|error| self.reason(file, &error))?;
        let looked = kernel::recognise(&header).map(drop);
        looked.map_err(|error| Reason { hint: KERNEL_HINT.to_owned(), ..self.reason(file, &error) })
    }

    /// Opens a disk for the VM: O_DIRECT, for writing unless it is read-only.
    ///
    /// # Errors
    /// It is not there or not accessible.
    pub fn open_disk(&self, disk: &Disk) -> Result<File, Reason> {
        let path = match &disk.medium {
            Medium::File(file) => vm_file(&self.name, file.as_str()),
            Medium::Iso(path) => path.as_str().to_owned(),
            Medium::Device(device) => {
                return host_drive::open(device, disk.read_only).map_err(|error| error.reason(device));
            }
        };
        self.datastore.open_disk(&path, disk.read_only).map_err(|error| {
            let reason = self.of_disk(disk, &error);
            let mend = error.mend().map(|mend| format!("{mend}; datastore show {}", self.datastore.name()));
            Reason { hint: mend.unwrap_or(reason.hint), ..reason }
        })
    }

    /// What is told of a disk.
    fn of_disk(&self, disk: &Disk, error: &dyn std::fmt::Display) -> Reason {
        let datastore = self.datastore.name();
        match &disk.medium {
            Medium::File(file) => self.reason(file, error),
            Medium::Iso(path) => Reason::new(
                format!("{path} on datastore {datastore}: {error}"),
                format!(
                    "mend vm.toml (iso is a path from the root of the datastore) or put the file there; datastore show {datastore}"
                ),
            ),
            Medium::Device(device) => host_drive::reason(device, error),
        }
    }

    /// What is told of a disk that another has locked.
    pub fn locked(&self, disk: &Disk) -> Reason {
        match &disk.medium {
            Medium::File(file) => self.locked_file(file),
            Medium::Iso(_) | Medium::Device(_) => self.of_disk(disk, &"another VM has it"),
        }
    }

    /// The same, by its file in the VM's folder.
    pub fn locked_file(&self, file: &FilePath) -> Reason {
        const LOCKED: &str = "another has it locked: a host that runs the VM, or one that died, of which the server has to give \
                              its locks up first";
        self.reason(file, &LOCKED)
    }

    /// The size of a disk, bytes.
    ///
    /// # Errors
    /// It is not there, is empty, or its size is not a multiple of 512.
    pub fn disk_size(&self, disk: &Disk) -> Result<u64, Reason> {
        // A drive that its own VM writes is in use, and can be looked at.
        let look = Disk { read_only: disk.read_only || disk.medium.own_file().is_none(), ..disk.clone() };
        // A block device has no length of its own, but an end.
        let size = self.open_disk(&look)?.seek(SeekFrom::End(0)).map_err(|error| self.of_disk(disk, &error))?;
        if size == 0 {
            return Err(self.of_disk(disk, &"it is empty"));
        }
        if size % 512 != 0 {
            return Err(self.of_disk(disk, &format!("its size, {size} bytes, is not a multiple of 512")));
        }
        Ok(size)
    }

    /// The MAC addresses of its NICs, in their order. Where its configuration has none, it is made.
    pub fn macs(&self, config: &VmConfig) -> Vec<MacAddress> {
        let made = |nic: usize| mac_addresses::made(self.datastore.name(), &self.name, nic, 0);
        config.nics.iter().enumerate().map(|(n, nic)| nic.mac.unwrap_or_else(|| made(n))).collect()
    }

    /// Writes a receipt of the VM's.
    ///
    /// # Errors
    /// The datastore does not take it.
    pub fn write_receipt(&self, id: &str, text: &str) -> Result<(), crate::datastore::DatastoreError> {
        self.datastore.make_folder(&vm_file(&self.name, "receipts"))?;
        self.datastore.replace(&vm_file(&self.name, &format!("receipts/{id}.toml")), text.as_bytes())
    }
}
