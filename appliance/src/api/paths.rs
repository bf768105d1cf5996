//! Where roles listen. Everything lies below one folder, which is a parameter so that tests can run several hosts
//! on one machine.

use std::path::PathBuf;

use model::names::{DatastoreName, VmName};

/// The folder of sockets and logs of one host.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// `GODWIT_RUN` where it is set (tests), `/run/godwit` on a host.
    pub fn from_environment() -> Self {
        Self(std::env::var_os("GODWIT_RUN").map_or_else(|| PathBuf::from("/run/godwit"), PathBuf::from))
    }

    /// The folder at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// The socket of a role: `host`, `lease`, `migrate`, `init`.
    pub fn socket(&self, role: &str) -> PathBuf {
        self.0.join(format!("{role}.sock"))
    }

    /// The log of a role.
    pub fn log(&self, role: &str) -> PathBuf {
        self.0.join("log").join(format!("{role}.log"))
    }

    /// A folder in which there is never anything: the root of a role that sees no files.
    pub fn empty(&self) -> PathBuf {
        self.0.join("empty")
    }

    /// Until when VMs of a datastore may run: what [`super::deadline`] maps.
    pub fn deadline(&self, datastore: &DatastoreName) -> PathBuf {
        self.0.join(format!("deadline-{datastore}"))
    }

    /// The folder of what belongs to running VMs.
    pub fn vms(&self) -> PathBuf {
        self.0.join("vm")
    }

    /// The folder of one running VM: `control.sock`, `serial.sock`, `record`.
    pub fn vm(&self, name: &VmName) -> PathBuf {
        self.vms().join(name.as_str())
    }
}
