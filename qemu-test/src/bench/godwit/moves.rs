//! Runs and moves the VMs of the cases, by the consoles of two hosts.

use std::cell::{RefCell, RefMut};
use std::time::{Duration, Instant};

use model::receipt::{Receipt, Verdict};
use model::vm_config::Verify;

use crate::bench::case::{Case, Rivals};
use crate::bench::contestant::{Contestant, Guest, Moved};
use crate::bench::conversation::Conversation;
use crate::bench::godwit::vm::{is_measured, name, vm_name};
use crate::bench::surroundings;
use crate::error::{LabError, Result};
use crate::wait::Found;

/// How long a console may take to say whether a VM's serial port is joined to it.
const ANSWER_BOUND: Duration = Duration::from_secs(60);

/// A host, by its console.
pub(in crate::bench) trait Host {
    /// Its name.
    fn name(&self) -> String;

    /// Waits until its console takes the next command without delay.
    fn ready(&mut self) -> Result<()>;

    /// Types a command that must succeed; gives what it printed.
    fn done(&mut self, command: &str) -> Result<String>;

    /// The serial port of a VM that runs here, or is about to: a host may tell of a move before the other shows the VM. It
    /// is not to be used any more when the next command is typed.
    fn attach(&mut self, vm: &str) -> Result<Conversation>;

    /// The process of this machine that is the VM's monitor, if the host is no machine of its own.
    fn machine(&mut self, vm: &str) -> Result<Option<u32>>;

    /// The processes of this machine that do the host's work.
    fn workers(&self) -> Vec<u32>;
}

/// Two hosts that share the datastore of the cases.
pub(in crate::bench) trait Hosts {
    /// Both, up.
    fn both(&mut self) -> Result<[&mut dyn Host; 2]>;

    /// Forgets them after a failure, if others can take their places.
    fn give_up(&mut self) {}
}

/// The hosts as one of those who are compared: they verify moves to this depth.
pub(in crate::bench) struct AtDepth<'a, H> {
    pub(in crate::bench) verify: Verify,
    /// One guest at a time is theirs.
    pub(in crate::bench) hosts: &'a RefCell<H>,
}

impl<H: Hosts> Contestant for AtDepth<'_, H> {
    fn name(&self) -> String {
        name(self.verify)
    }

    fn is_among(&self, rivals: Rivals) -> bool {
        is_measured(rivals, self.verify)
    }

    fn start(&mut self, case: Case) -> Result<Box<dyn Guest + '_>> {
        let verify = self.verify;
        let mut hosts = self.hosts.borrow_mut();
        let [source, _] = hosts.both()?;
        let vm = vm_name(case, verify);
        let ordered_tsc = surroundings::tsc();
        source.done(&format!("vm start {vm}"))?;
        let found = source.attach(&vm).and_then(|serial| Ok((serial, source.machine(&vm)?)));
        let (serial, machine) = match found {
            Ok(found) => found,
            Err(error) => {
                // The first error is the one to show.
                let _ = source.done(&format!("vm kill {vm}"));
                return Err(error);
            }
        };
        Ok(Box::new(Running { hosts, verify, vm, ordered_tsc, serial: Some(serial), machine }))
    }

    fn give_up(&mut self) {
        self.hosts.borrow_mut().give_up();
    }
}

struct Running<'a, H> {
    hosts: RefMut<'a, H>,
    verify: Verify,
    vm: String,
    ordered_tsc: u64,
    serial: Option<Conversation>,
    machine: Option<u32>,
}

impl<H: Hosts> Guest for Running<'_, H> {
    fn ordered_tsc(&self) -> u64 {
        self.ordered_tsc
    }

    fn serial(&mut self) -> Result<&mut Conversation> {
        let lost = || LabError::Input(format!("nobody listens to {}", self.vm));
        self.serial.as_mut().ok_or_else(lost)
    }

    fn machine(&self) -> Option<u32> {
        self.machine
    }

    fn workers(&mut self) -> Result<Vec<u32>> {
        Ok(self.hosts.both()?.iter().flat_map(|host| host.workers()).collect())
    }

    fn prepare_move(&mut self) -> Result<()> {
        // The other end is made within the move.
        Ok(())
    }

    fn migrate(&mut self) -> Result<Moved> {
        self.serial = None;
        let [source, destination] = self.hosts.both()?;
        source.ready()?;
        let ordered = Instant::now();
        let said = source.done(&format!("vm migrate {} {} --json", self.vm, destination.name()))?;
        let whole = ordered.elapsed();
        let receipt: Receipt = serde_json::from_str(&said)
            .map_err(|error| LabError::Input(format!("the receipt is not understood: {error}\n{said}")))?;
        if receipt.verdict != Verdict::Moved {
            return Err(LabError::Input(format!("Godwit did not move its guest: {}", receipt.reason)));
        }
        if receipt.audit.different_pages > 0 {
            return Err(LabError::Input(format!("the audit found {} pages different", receipt.audit.different_pages)));
        }
        if !is_verified(&receipt, self.verify) {
            return Err(LabError::Input(format!("the move was not verified by {}:\n{said}", self.verify)));
        }
        self.serial = Some(destination.attach(&self.vm)?);
        self.machine = destination.machine(&self.vm)?;
        Ok(moved(&receipt, whole))
    }

    fn end(self: Box<Self>) -> Result<()> {
        let Self { mut hosts, vm, serial, .. } = *self;
        drop(serial);
        let kill = format!("vm kill {vm}");
        let killed = hosts.both()?.into_iter().map(|host| u8::from(host.done(&kill).is_ok())).sum::<u8>();
        if killed == 1 { Ok(()) } else { Err(LabError::Input(format!("{vm} ran on {killed} hosts"))) }
    }
}

/// Asks a console for a VM's serial port, which it is after this; or gives what the console says against it.
pub(super) fn attach(console: &mut Conversation, vm: &str) -> Result<Found<()>> {
    console.type_line(&format!("vm console {vm}"))?;
    let answer = console.line("the VM's console", ANSWER_BOUND, |line| {
        let answers = line.contains("Attached. Ctrl-]") || line.contains("cause:");
        answers.then(|| line.to_owned())
    })?;
    Ok(if answer.contains("Attached") { Ok(()) } else { Err(answer) })
}

/// What comes after the resume, audit and release, is no part of the time until the guest runs there.
fn moved(receipt: &Receipt, whole: Duration) -> Moved {
    let after = |name: &str| ["audit", "release"].contains(&name);
    let after: u64 = receipt.phases.iter().filter(|phase| after(&phase.name)).map(|phase| phase.us).sum();
    Moved {
        runs_there: whole.saturating_sub(Duration::from_micros(after)),
        whole,
        sent_bytes: receipt.sent_bytes,
        stun: Duration::from_micros(receipt.stun.total_us),
    }
}

/// Whether a move was verified to this depth and no other, as far as its receipt tells.
fn is_verified(receipt: &Receipt, verify: Verify) -> bool {
    receipt.audit.done == (verify == Verify::Audit) && (receipt.stun.verify_us > 0) == (verify == Verify::Full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::godwit::vm::DEPTHS;

    const RECEIPT: &str = r#"{"id":"1","vm":"w","source":"host-a","destination":"host-b","verdict":"moved","reason":"","epoch":2,
            "started_unix_s":0,"total_us":0,"memory_bytes":0,"sent_bytes":7,"zero_pages":0,"compression_saved_bytes":0,
            "throughput_bytes_per_s":0,"dirty_pages_per_s":0,"clock_step_us":0,"predicted_stun_us":0,
            "stun":{"stop_us":0,"last_pages_us":0,"state_us":0,"verify_us":0,"lease_us":0,"resume_us":0,"announce_us":0,"total_us":9000},
            "audit":{"done":true,"compared_pages":1,"rewritten_pages":0,"different_pages":0},
            "phases":[{"name":"pre-copy","us":500},{"name":"audit","us":200000},{"name":"release","us":100000}],"rounds":[]}"#;

    #[test]
    fn what_follows_the_resume_does_not_count_as_time_until_the_guest_runs_there() {
        let moved = moved(&serde_json::from_str(RECEIPT).unwrap(), Duration::from_secs(1));
        assert_eq!((moved.runs_there, moved.whole), (Duration::from_millis(700), Duration::from_secs(1)));
        assert_eq!((moved.sent_bytes, moved.stun), (7, Duration::from_millis(9)));
    }

    #[test]
    fn a_move_that_was_verified_to_another_depth_does_not_count() {
        let audited: Receipt = serde_json::from_str(RECEIPT).unwrap();
        let mut compared = audited.clone();
        compared.audit.done = false;
        let mut hashed = compared.clone();
        hashed.stun.verify_us = 1;
        for (receipt, depth) in [(audited, Verify::Audit), (compared, Verify::Transfer), (hashed, Verify::Full)] {
            assert_eq!(DEPTHS.map(|verify| is_verified(&receipt, verify)), DEPTHS.map(|verify| verify == depth));
        }
    }
}
