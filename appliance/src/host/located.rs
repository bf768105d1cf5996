//! A VM where it lies: its folder on a datastore, its vm.toml, its files.

use std::fs::File;
use std::sync::Arc;

use model::config_tree::ConfigError;
use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::names::{MacAddress, VmName};
use model::vm_config::{Disk, FilePath, VmConfig};

use crate::api::lease::VmOnDatastore;
use crate::datastore::Datastore;
use crate::host::control_plane::ControlPlane;

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

/// Finds a VM on the datastores of this host.
///
/// # Errors
/// It lies on none of them, on more than one, or a datastore does not answer.
pub fn locate(plane: &ControlPlane, name: &VmName, what: &str) -> Result<Located, Diagnosis> {
    let mut found = Vec::new();
    let mut silent = Vec::new();
    for datastore in plane.datastores.all() {
        match datastore.read_text(&vm_file(name, "vm.toml"), limits::VM_CONFIG_BYTES_MAX) {
            Ok(config_text) => found.push(Located { name: name.clone(), datastore, config_text }),
            Err(error) if error.is_missing() => {}
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

/// The path of a file in a VM's folder, from the root of its datastore.
fn vm_file(name: &VmName, file: &str) -> String {
    format!("vms/{name}/{file}")
}

/// What is said of a disk that another has locked.
const LOCKED: &str = "another host has it open for a VM, or had when it died: the server lets go of its lock when it has not \
                      heard of that host for the time that the server is set to";

/// Why a disk cannot be opened for a VM to run with.
#[derive(Debug)]
pub enum Unopened {
    /// Another has it locked: it comes free when that one ends, or its server gives it up.
    Locked(Reason),
    /// Anything else.
    Failed(Reason),
}

impl Unopened {
    /// What a person is told.
    pub fn reason(self) -> Reason {
        match self {
            Self::Locked(reason) | Self::Failed(reason) => reason,
        }
    }
}

impl Located {
    /// Its place, as the lease role knows it.
    pub fn vm(&self) -> VmOnDatastore {
        VmOnDatastore { datastore: self.datastore.name().clone(), vm: self.name.clone() }
    }

    /// Reads its configuration.
    ///
    /// # Errors
    /// Every error of the text.
    pub fn read_config(&self) -> Result<VmConfig, Vec<ConfigError>> {
        let file = vm_file(&self.name, "vm.toml");
        let config = VmConfig::parse(&file, &self.config_text)?;
        if config.name != self.name {
            let problem = format!("is \"{}\", but the folder is \"{}\": make them the same", config.name, self.name);
            return Err(vec![ConfigError { file, line: 1, key: "vm.name".to_owned(), problem }]);
        }
        Ok(config)
    }

    /// Its configuration.
    ///
    /// # Errors
    /// Every error of the text, as a refusal of `what`.
    pub fn config(&self, what: &str) -> Result<VmConfig, Diagnosis> {
        self.read_config().map_err(|errors| {
            let hint = format!("mend it on datastore {}, then: vm check {}", self.datastore.name(), self.name);
            Diagnosis::of(what, errors.iter().map(|error| Reason::new(error.to_string(), &hint)).collect())
        })
    }

    fn reason(&self, file: &FilePath, error: &dyn std::fmt::Display) -> Reason {
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

    /// Opens a disk for the VM: O_DIRECT, for writing unless it is read-only.
    ///
    /// # Errors
    /// It is not there or not accessible.
    pub fn open_disk(&self, disk: &Disk) -> Result<File, Reason> {
        let opened = self.datastore.open_disk(&vm_file(&self.name, disk.file.as_str()), disk.read_only);
        opened.map_err(|error| self.reason(&disk.file, &error))
    }

    /// As [`Self::open_disk`], for the VM to run with: locked, if it may write it.
    ///
    /// # Errors
    /// It is not there or not accessible, or another has it locked.
    pub fn open_disk_to_run(&self, disk: &Disk) -> Result<File, Unopened> {
        let opened = self.datastore.open_disk_to_run(&vm_file(&self.name, disk.file.as_str()), disk.read_only);
        match opened {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(Unopened::Locked(self.reason(&disk.file, &LOCKED))),
            Err(error) => Err(Unopened::Failed(self.reason(&disk.file, &error))),
        }
    }

    /// The size of a disk, bytes.
    ///
    /// # Errors
    /// It is not there, or its size is not a multiple of 512.
    pub fn disk_size(&self, disk: &Disk) -> Result<u64, Reason> {
        let size = self.open_disk(disk)?.metadata().map_err(|error| self.reason(&disk.file, &error))?.len();
        if size == 0 || size % 512 != 0 {
            return Err(self.reason(&disk.file, &format!("its size, {size} bytes, is not a multiple of 512")));
        }
        Ok(size)
    }

    /// The MAC address of a NIC whose configuration has none: made of the VM's name and the NIC's number, so that it
    /// is the same at every start and on every host.
    pub fn made_mac(&self, nic: usize) -> MacAddress {
        let digest = xxhash_rust::xxh3::xxh3_64(format!("{}/{}/{nic}", self.datastore.name(), self.name).as_bytes());
        let [a, b, c, ..] = digest.to_be_bytes();
        MacAddress::new([0x52, 0x54, 0x00, a, b, c]).expect("0x52 is even, so the address is unicast")
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
