//! Programs that outlive the command that started them: found again by their pid file, ended by their own pid only.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::error::{Doing, Result};
use crate::wait;

/// A program that wrote `pid_file`, recognised by a word of its command line that only it has.
#[derive(Debug, Clone)]
pub struct Background {
    /// Where it wrote its process id.
    pub pid_file: PathBuf,
    /// A word (a path of this fleet) that its command line holds.
    pub mark: String,
}

impl Background {
    /// Its process id while it runs: a pid that was given to another program since does not count.
    pub fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(&self.pid_file).ok()?;
        let number: i32 = text.trim().parse().ok()?;
        let command = fs::read(Path::new("/proc").join(number.to_string()).join("cmdline")).ok()?;
        String::from_utf8_lossy(&command).contains(&self.mark).then(|| Pid::from_raw(number))?
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.pid().is_some()
    }

    /// Sends it a signal, if it runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match self.pid() {
            Some(pid) => {
                kill_process(pid, signal).doing(format!("sending a signal to process {}", pid.as_raw_nonzero()))
            }
            None => Ok(()),
        }
    }

    /// Ends it at once, as a power cut would, and waits until it is gone with all that it had open: a program has no command line any more
    /// (proc_pid_cmdline(5)) while its last threads still hold its sockets, and its successor could not listen there.
    pub fn kill(&self) -> Result<()> {
        if let Some(process) = self.pid().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
            // One that has ended meanwhile is told by its descriptor.
            let _ = pidfd_send_signal(&process, Signal::KILL);
            let gone = || {
                let mut ended = [PollFd::new(&process, PollFlags::IN)];
                let ready = poll(&mut ended, Some(&Timespec::default())).doing("waiting for a killed program")?;
                Ok(if ready > 0 { Ok(()) } else { Err(format!("{} runs", self.mark)) })
            };
            wait::until("the end of a killed program", Duration::from_secs(20), gone)?;
        }
        let _ = fs::remove_file(&self.pid_file);
        Ok(())
    }
}
