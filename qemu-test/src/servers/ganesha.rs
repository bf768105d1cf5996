//! nfs-ganesha: an NFS server in user space.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::process::Background;
use crate::wait;
use crate::wire::{Wire, Wires};

/// Seconds that the server keeps the locks of a client that it does not hear of: much longer than the expiry of a host lease, as
/// with any real server (60 to 90 s), and not that long, because a take-over from a dead host waits for it.
const LEASE_SECONDS: u64 = 40;

/// An NFS server with one export.
#[derive(Debug, Clone)]
pub struct Ganesha {
    folder: PathBuf,
}

impl Ganesha {
    /// The server whose files lie in `folder`, running or not.
    pub fn of(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The path that clients mount.
    pub fn export() -> &'static str {
        "/lab"
    }

    /// Serves `datastore` on the datastore wire.
    pub fn start(&self, wires: &Wires, datastore: &Path) -> Result<()> {
        fs::create_dir_all(self.folder.join("recovery")).at("creating", &self.folder)?;
        let configuration = self.folder.join("ganesha.conf");
        fs::write(&configuration, self.configuration(datastore)).at("writing", &configuration)?;
        let log = self.log();
        let _ = fs::remove_file(&log);
        wires
            .inside("ganesha.nfsd")
            .arg("-f")
            .arg(&configuration)
            .arg("-L")
            .arg(&log)
            .arg("-p")
            .arg(self.process().pid_file)
            .run()?;
        let address =
            std::net::SocketAddr::from((Wire::Datastore.outer_address().unwrap_or([0, 0, 0, 0].into()), 2049));
        let answers = || {
            let connected =
                wires.enter(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())?;
            Ok(connected.then_some(()).ok_or_else(|| fs::read_to_string(self.log()).unwrap_or_default()))
        };
        wait::until("the NFS server to answer", Duration::from_secs(30), answers)
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.process().runs()
    }

    /// Ends it at once.
    pub fn kill(&self) -> Result<()> {
        self.process().kill()
    }

    /// Stops it from answering, without closing anything: a server that hangs.
    pub fn freeze(&self) -> Result<()> {
        self.process().signal(rustix::process::Signal::STOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.process().signal(rustix::process::Signal::CONT)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("ganesha.log")
    }

    fn process(&self) -> Background {
        Background { pid_file: self.folder.join("ganesha.pid"), mark: self.folder.display().to_string() }
    }

    fn configuration(&self, datastore: &Path) -> String {
        let address = Wire::Datastore.outer_address().unwrap_or([0, 0, 0, 0].into());
        format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = 2049; Enable_NLM = false; Enable_RQUOTA = false; \
             Bind_addr = {address}; mount_path_pseudo = true; }}\n\
             NFSv4 {{ Graceless = true; Minor_Versions = 0, 1, 2; Lease_Lifetime = {LEASE_SECONDS}; \
             RecoveryBackend = fs; RecoveryRoot = \"{recovery}\"; }}\n\
             MDCACHE {{ Dir_Chunk = 0; }}\n\
             EXPORT {{ Export_Id = 1; Path = \"{path}\"; Pseudo = \"{export}\"; Access_Type = RW; \
             Squash = No_Root_Squash; SecType = sys; Attr_Expiration_Time = 0; FSAL {{ Name = VFS; }} }}\n",
            recovery = self.folder.join("recovery").display(),
            path = datastore.display(),
            export = Self::export(),
        )
    }
}
