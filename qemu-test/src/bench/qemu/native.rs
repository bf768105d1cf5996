//! QEMU as a process of this machine, at each end of the cable.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bench::case::Case;
use crate::bench::contestant::MOVE_BOUND;
use crate::bench::conversation::Conversation;
use crate::bench::link::{Link, kernel_address};
use crate::bench::qemu::moves::Ends;
use crate::bench::qemu::way::{KEY_FILE, Way, new_key};
use crate::error::{Doing, Result};
use crate::machine::Qmp;
use crate::wait;

/// The two ends of the cable.
pub(in crate::bench) struct Native<'a> {
    link: &'a Link,
    kernel: &'a Path,
    /// Where the control sockets and the key lie.
    folder: &'a Path,
}

impl<'a> Native<'a> {
    /// Ends that run this kernel, and keep their files in this folder.
    pub(in crate::bench) fn at(link: &'a Link, kernel: &'a Path, folder: &'a Path) -> Result<Self> {
        let key = folder.join(KEY_FILE);
        std::fs::write(&key, new_key()? + "\n").at("writing", &key)?;
        Ok(Self { link, kernel, folder })
    }

    fn socket(&self, end: usize) -> PathBuf {
        self.folder.join(format!("qmp-{end}"))
    }
}

impl Ends for Native<'_> {
    fn launch(&mut self, way: Way, case: Case, end: usize) -> Result<Conversation> {
        let socket = self.socket(end);
        let _ = std::fs::remove_file(&socket);
        let mut command = self.link.at(end, "qemu-system-x86_64");
        command.args(way.words(case, end, self.kernel, self.folder)).args(["-serial", "stdio"]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        Conversation::begin(command)
    }

    fn control(&mut self, end: usize) -> Result<Qmp> {
        let socket = self.socket(end);
        let connect = || Ok(Qmp::connect("QEMU", &socket).map_err(|error| error.to_string()));
        wait::until("QEMU's control socket", Duration::from_secs(60), connect)
    }

    fn address(&self, end: usize) -> Ipv4Addr {
        kernel_address(end)
    }

    fn move_bound(&self) -> Duration {
        MOVE_BOUND
    }

    fn workers(&self) -> Vec<u32> {
        Vec::new()
    }

    fn clear(&mut self) -> Result<()> {
        // Both end with their conversations.
        Ok(())
    }
}
