//! nfs-ganesha: an NFS server in user space.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Doing, LabError, Result};
use crate::home::Home;
use crate::machine::BootOutcome;
use crate::process::Background;
use crate::servers::{Export, Make, PORT, Server, wait_until_it_answers};
use crate::wire::{Wire, Wires};

/// Seconds that it keeps the locks of a client that it does not hear of, and waits after a restart for clients to claim theirs
/// again: what Godwit's README asks for, a little more than the expiry of a host lease.
const LEASE_SECONDS: u64 = 15;
const BOUND: Duration = Duration::from_secs(30);

/// An nfs-ganesha that serves the fleet's datastore folder.
pub(super) struct Ganesha {
    folder: PathBuf,
    datastore: PathBuf,
    wires: Wires,
}

impl Ganesha {
    pub(super) fn of(home: &Home) -> Self {
        Self {
            folder: home.run().join(Make::Ganesha.word()),
            datastore: home.datastore(),
            wires: Wires::of(&home.tag()),
        }
    }

    /// With a 6.12 client, its NFS 4.2 gives EIO on the first reads.
    pub(super) fn export() -> Export {
        let server = Wire::Datastore.outer_address().unwrap_or([0, 0, 0, 0].into());
        Export { server, path: "/lab", version: "4.1" }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("ganesha.log")
    }

    fn configuration(&self) -> String {
        let Export { server: address, path: export, .. } = Self::export();
        format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {PORT}; Enable_NLM = false; Enable_RQUOTA = false; \
             Bind_addr = {address}; mount_path_pseudo = true; }}\n\
             NFSv4 {{ Graceless = false; Grace_Period = {LEASE_SECONDS}; Minor_Versions = 0, 1, 2; Lease_Lifetime = {LEASE_SECONDS}; \
             RecoveryBackend = fs; RecoveryRoot = \"{recovery}\"; }}\n\
             MDCACHE {{ Dir_Chunk = 0; }}\n\
             EXPORT {{ Export_Id = 1; Path = \"{path}\"; Pseudo = \"{export}\"; Access_Type = RW; \
             Squash = No_Root_Squash; SecType = sys; Attr_Expiration_Time = 0; FSAL {{ Name = VFS; }} }}\n",
            recovery = self.folder.join("recovery").display(),
            path = self.datastore.display(),
        )
    }
}

impl Server for Ganesha {
    fn process(&self) -> Background {
        Background { pid_file: self.folder.join("ganesha.pid"), mark: self.folder.display().to_string() }
    }

    fn start(&self) -> Result<BootOutcome> {
        fs::create_dir_all(self.folder.join("recovery")).at("creating", &self.folder)?;
        let configuration = self.folder.join("ganesha.conf");
        fs::write(&configuration, self.configuration()).at("writing", &configuration)?;
        let log = self.log();
        let _ = fs::remove_file(&log);
        self.wires
            .inside("ganesha.nfsd")
            .arg("-f")
            .arg(&configuration)
            .arg("-L")
            .arg(&log)
            .arg("-p")
            .arg(self.process().pid_file)
            .run()?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        wait_until_it_answers(&self.wires, Self::export().server, BOUND, said)?;
        if !self.runs() {
            return Err(LabError::Input(format!("nfs-ganesha ended at its start: {}", said())));
        }
        Ok(BootOutcome::First)
    }

    fn restart(&self) -> Result<()> {
        self.kill()?;
        self.start().map(drop)
    }

    fn file(&self, path: &str) -> Result<File> {
        let path = self.datastore.join(path);
        File::open(&path).at("opening", &path)
    }
}
