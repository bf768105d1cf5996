//! Storage servers, on the datastore wire: one file each make. nfs-ganesha runs on this machine, inside the lab's network
//! namespace; the kernel's NFS server runs in a machine of its own.
//!
//! A new make: a file, and its lines in [`Make`].

mod ganesha;
mod http;
mod knfsd;

use std::fmt;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::home::Home;
use crate::machine::BootOutcome;
use crate::process::Background;
use crate::wait;
use crate::wire::Wires;

use ganesha::Ganesha;
use knfsd::Knfsd;

/// NFS's port.
const PORT: u16 = 2049;

/// Whose NFS server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Make {
    /// nfs-ganesha, in user space on this machine; hosts mount NFS 4.1
    #[default]
    Ganesha,
    /// The kernel's, in a machine of its own; hosts mount NFS 4.2
    Knfsd,
}

/// What a host mounts.
#[derive(Debug, Clone, Copy)]
pub struct Export {
    /// The server.
    pub server: Ipv4Addr,
    /// The path that it exports.
    pub path: &'static str,
    /// The version of NFS, as the hosts' configuration writes it.
    pub version: &'static str,
}

impl Make {
    /// Its name, as one types it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ganesha => "ganesha",
            Self::Knfsd => "knfsd",
        }
    }

    /// What the hosts mount.
    pub fn export(self) -> Export {
        match self {
            Self::Ganesha => Ganesha::export(),
            Self::Knfsd => Knfsd::export(),
        }
    }

    /// The server of this make in a fleet, running or not.
    pub fn server(self, home: &Home) -> Box<dyn Server> {
        match self {
            Self::Ganesha => Box::new(Ganesha::of(home)),
            Self::Knfsd => Box::new(Knfsd::of(home)),
        }
    }
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ganesha => "nfs-ganesha",
            Self::Knfsd => "the kernel's NFS server",
        })
    }
}

/// The second export of the kernel's NFS server, empty at first.
pub const SPARE: &str = Knfsd::SPARE;

/// What an export is replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacement {
    /// A copy of it, as after a restore.
    Copy,
    /// An empty folder.
    Nothing,
}

/// Replaces that export: what hosts have mounted of it is stale.
///
/// # Errors
/// The server does not do it.
pub fn replace_spare(home: &Home, by: Replacement) -> Result<()> {
    Knfsd::of(home).replace_spare(by)
}

/// The NFS server of a fleet.
pub trait Server {
    /// The process that a power cut or a hang befalls.
    fn process(&self) -> Background;

    /// Starts it. The first time it serves what lies in the fleet's datastore folder; after a kill, what clients left.
    ///
    /// # Errors
    /// It does not answer in time.
    fn start(&self) -> Result<BootOutcome>;

    /// Ends its service and begins it again, as an administrator does: connections, opens and locks are gone, files are not.
    ///
    /// # Errors
    /// It does not answer in time.
    fn restart(&self) -> Result<()>;

    /// A file of the datastore as the server has it now, to be read.
    ///
    /// # Errors
    /// There is no such file, or the server does not give it.
    fn file(&self, path: &str) -> Result<File>;

    /// Whether it runs.
    fn runs(&self) -> bool {
        self.process().runs()
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// It does not end.
    fn kill(&self) -> Result<()> {
        self.process().kill()
    }

    /// Stops it from answering, without closing anything: a server that hangs. Its clock goes on.
    ///
    /// # Errors
    /// The signal cannot be sent.
    fn freeze(&self) -> Result<()> {
        self.process().signal(rustix::process::Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The signal cannot be sent.
    fn thaw(&self) -> Result<()> {
        self.process().signal(rustix::process::Signal::CONT)
    }
}

/// Waits until a server takes connections; what its `log` says is told where it does not.
fn wait_until_it_answers(wires: &Wires, address: Ipv4Addr, bound: Duration, log: impl Fn() -> String) -> Result<()> {
    let address = SocketAddr::from((address, PORT));
    wait::until("the NFS server to answer", bound, || {
        let connected = wires.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())?;
        Ok(connected.then_some(()).ok_or_else(&log))
    })
}
