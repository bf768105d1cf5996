//! VMs as the nested tests see them: what each host says of one, where its monitor process really is, and the ways to
//! bring one into a known place.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::console::SerialLine;
use crate::error::{LabError, Result};
use crate::guests::{self, Example, Hearing, Talker};
use crate::tests::nested::bench::{Bench, expect};
use crate::wait;

/// A guest of an emulated host, on a machine that does other things too, takes its time to boot.
const GUEST_BOUND: Duration = Duration::from_secs(300);
/// How long a state may take to come about.
const STATE_BOUND: Duration = Duration::from_secs(180);
/// Journal records that a client wants to hear of before a test goes on.
const RECORDS: usize = 20;
/// Leaves a VM's console.
const CTRL_CLOSE_BRACKET: u8 = 0x1d;
/// How long a move of an example VM may take.
pub(super) const MOVE_BOUND: Duration = Duration::from_secs(300);

pub(super) const HOSTS: [&str; 2] = ["host-a", "host-b"];

/// From where to where a VM moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) source: &'static str,
    pub(super) destination: &'static str,
}

impl Bench {
    /// What a host says of a VM: `running`, `stopped`, `elsewhere host-b`, ...
    pub(super) fn state(&self, host: &str, vm: &str) -> Result<String> {
        let said = self.done(host, "vm list --json")?;
        let rows: Value = serde_json::from_str(&said).map_err(|error| LabError::Input(format!("{error}: {said}")))?;
        let row = rows.as_array().into_iter().flatten().find(|row| row.get("name").and_then(Value::as_str) == Some(vm));
        let state = row.and_then(|row| row.get("state"));
        state.map(state_text).ok_or_else(|| LabError::Input(format!("{host} lists no VM {vm}: {said}")))
    }

    /// Waits until a host says that a VM is in this state.
    pub(super) fn wait_for_state(&self, host: &str, vm: &str, wanted: &str) -> Result<()> {
        let look = || {
            let state = self.state(host, vm)?;
            Ok(if state == wanted { Ok(()) } else { Err(format!("it is {state}")) })
        };
        wait::until(&format!("{host} to call {vm} {wanted}"), STATE_BOUND, look)
    }

    /// The hosts on which a monitor process of the VM exists, whatever the consoles say.
    pub(super) fn monitors(&self, vm: &str) -> Result<Vec<&'static str>> {
        let mut found = Vec::new();
        for host in HOSTS {
            if !self.fleet.machine(host)?.process().runs() {
                continue;
            }
            let processes = self.fleet.order(host, "processes")?.output;
            if processes.lines().any(|line| line.ends_with(&format!(" vmm {vm}"))) {
                found.push(host);
            }
        }
        Ok(found)
    }

    /// Waits until exactly one host has a monitor of the VM and calls it running, and every host agrees; gives that host.
    pub(super) fn settled_on(&self, vm: &str) -> Result<&'static str> {
        wait::until(&format!("{vm} to run on exactly one host"), STATE_BOUND, || {
            Ok(self.agreed(vm)?.and_then(|host| host.ok_or_else(|| "it runs nowhere".to_owned())))
        })
    }

    /// The same, or until no host has a monitor and every host calls it stopped.
    pub(super) fn settled_anywhere(&self, vm: &str) -> Result<Option<&'static str>> {
        wait::until(&format!("{vm} to run on exactly one host or on none"), STATE_BOUND, || self.agreed(vm))
    }

    /// Where the VM runs, if all that is seen of it agrees; otherwise what is seen.
    fn agreed(&self, vm: &str) -> Result<std::result::Result<Option<&'static str>, String>> {
        let monitors = self.monitors(vm)?;
        let states = HOSTS.map(|host| self.state(host, vm).unwrap_or_else(|error| error.to_string()));
        let seen = format!("monitors on {monitors:?}; host-a says {}, host-b says {}", states[0], states[1]);
        let wanted = |other: &str| match monitors[..] {
            [] => Some("stopped".to_owned()),
            [host] if host == other => Some("running".to_owned()),
            [host] => Some(format!("elsewhere {host}")),
            _ => None,
        };
        let agree = HOSTS.iter().zip(&states).all(|(host, state)| wanted(host).as_ref() == Some(state));
        Ok(if agree { Ok(monitors.first().copied()) } else { Err(seen) })
    }

    /// Sees to it that the VM runs on this host.
    pub(super) fn bring(&self, vm: &str, host: &str) -> Result<()> {
        if self.monitors(vm)?.is_empty() {
            self.done(host, &format!("vm start {vm}"))?;
        } else {
            let source = self.settled_on(vm)?;
            if source != host {
                self.move_vm(vm, source, host)?;
            }
        }
        expect(self.settled_on(vm)? == host, || format!("{vm} does not run on {host}"))
    }

    /// Sees to it that the VM runs; gives the way of a move to the other host. A test that works from either is not to pay for a move first.
    pub(super) fn way(&self, vm: &str) -> Result<Way> {
        if self.monitors(vm)?.is_empty() {
            self.done(HOSTS[0], &format!("vm start {vm}"))?;
        }
        let source = self.settled_on(vm)?;
        let destination = if source == HOSTS[0] { HOSTS[1] } else { HOSTS[0] };
        Ok(Way { source, destination })
    }

    /// Sees to it that the VM runs nowhere.
    pub(super) fn end(&self, vm: &str) -> Result<()> {
        for host in self.monitors(vm)? {
            self.done(host, &format!("vm kill {vm}"))?;
        }
        for host in HOSTS {
            self.wait_for_state(host, vm, "stopped")?;
        }
        Ok(())
    }

    /// Waits until nothing speaks against a move; gives what the check said.
    pub(super) fn can_move(&self, vm: &str, from: &str, to: &str) -> Result<String> {
        let command = format!("vm migrate {vm} {to} --check");
        self.succeeds_in_the_end(&format!("{vm} to be movable to {to}"), from, &command)
    }

    /// Waits until a host that has to wait for another's lease to expire has started a VM; gives what it said.
    pub(super) fn start_in_the_end(&self, vm: &str, host: &str) -> Result<String> {
        self.succeeds_in_the_end(&format!("{host} to start {vm}"), host, &format!("vm start {vm}"))
    }

    /// Types a command until it succeeds; gives its output.
    fn succeeds_in_the_end(&self, waiting_for: &str, host: &str, command: &str) -> Result<String> {
        let look = || {
            let answer = self.exec(host, command)?;
            Ok(if answer.status == 0 { Ok(answer.output) } else { Err(answer.output) })
        };
        wait::until(waiting_for, STATE_BOUND, look)
    }

    /// Moves a VM; gives the receipt as the console prints it in JSON.
    pub(super) fn move_vm(&self, vm: &str, from: &str, to: &str) -> Result<Value> {
        let command = format!("vm migrate {vm} {to} --json");
        let answer = self.fleet.exec(from, &command, MOVE_BOUND)?;
        if answer.status != 0 {
            return Err(self.unexpected(from, &command, &answer));
        }
        serde_json::from_str(&answer.output).map_err(|error| LabError::Input(format!("{error}: {}", answer.output)))
    }

    /// The phase that a host's migration role told of last.
    pub(super) fn phase_on(&self, host: &str) -> Result<String> {
        let log = self.fleet.order(host, "show /run/godwit/log/migrate.log")?.output;
        let told = log.lines().rev().filter_map(|line| line.split_once("migration ")?.1.split_once(": "));
        // What else is told of a migration is more than a word.
        let phase = told.map(|(_, told)| told).find(|told| !told.contains(' '));
        Ok(phase.unwrap_or_default().to_owned())
    }

    /// What a witness that runs on a host tells of itself from now on, when it has looked at all its memory once.
    pub(super) fn witness_of_all(&self, vm: &str, host: &str) -> Result<String> {
        self.ask_witness(vm, host, |line| {
            line.send(b"v\r")?;
            line.read_until("witness: audit ", GUEST_BOUND)?;
            // The record that follows: its beginning may have come in with this.
            line.forget_through("witness: audit ");
            line.read_until("lost_lines=", GUEST_BOUND)
        })
    }

    /// What a witness that runs on a host finds of its journal, all of which it flushes and reads back.
    pub(super) fn witness_of_journal(&self, vm: &str, host: &str) -> Result<String> {
        self.ask_witness(vm, host, |line| {
            line.send(b"j\r")?;
            line.read_until("witness: journal audit ", GUEST_BOUND)?;
            line.forget_through("witness: journal audit ");
            line.read_until("unanswered=", GUEST_BOUND)?;
            line.read_until("\n", GUEST_BOUND)
        })
    }

    /// Asks a witness on its console, which is left when it has answered.
    fn ask_witness<T>(&self, vm: &str, host: &str, ask: impl FnOnce(&mut SerialLine) -> Result<T>) -> Result<T> {
        let mut line = SerialLine::open(&self.fleet.machine(host)?)?;
        line.send(format!("vm console {vm}\r").as_bytes())?;
        line.read_until("witness: t=", GUEST_BOUND)?;
        line.forget();
        let said = ask(&mut line)?;
        line.forget();
        line.send(&[CTRL_CLOSE_BRACKET])?;
        // What is typed before the console is back is lost.
        line.read_until(&format!("{host}> "), GUEST_BOUND)?;
        Ok(said)
    }

    /// A client that talks to the VM.
    pub(super) fn talk(&self, vm: &str) -> Result<Talker> {
        Talker::start(self.fleet.wires(), address(vm)?, GUEST_BOUND)
    }

    /// Lets a client and its guest talk on until the guest has acknowledged some more records.
    pub(super) fn listen(&self, talker: &Talker) -> Result<()> {
        talker.hear_more(RECORDS, GUEST_BOUND)
    }

    /// Lets a client and its guest talk on, ends the client, and holds what it heard against the VM's journal.
    pub(super) fn judge(&self, talker: Talker, vm: &str) -> Result<()> {
        self.listen(&talker)?;
        let heard = talker.stop()?;
        let records = self.nothing_is_lost(&heard, vm)?;
        expect(heard.acknowledged.len() > 10, || {
            format!("only {} records were acknowledged", heard.acknowledged.len())
        })?;
        println!(
            "  {} answers, longest wait {:.0} ms, guest's own longest gap {:.0} ms, {records} records",
            heard.ticks,
            heard.longest_silence.as_secs_f64() * 1e3,
            heard.guest_gap.as_secs_f64() * 1e3,
        );
        Ok(())
    }

    /// Holds what a client heard against the VM's journal; gives the number of records there.
    pub(super) fn nothing_is_lost(&self, heard: &Hearing, vm: &str) -> Result<u64> {
        let audit = guests::audit_journal(&*self.fleet.server(), vm)?;
        let faults = heard.compare(&audit);
        expect(faults.is_empty(), || faults.join("; "))?;
        Ok(audit.records)
    }

    /// Puts a load on the VM's memory: so many MiB, of which so many pages a second are rewritten.
    pub(super) fn load_memory(&self, vm: &str, (mebibytes, pages_per_second): (u32, u32)) -> Result<()> {
        guests::set_memory_load(self.fleet.wires(), address(vm)?, mebibytes, pages_per_second)
    }

    /// Judges the memory under load, and takes the load away.
    pub(super) fn judge_memory(&self, vm: &str) -> Result<()> {
        let memory = guests::memory_report(self.fleet.wires(), address(vm)?)?;
        expect(memory.damaged == 0, || format!("{} of the guest's pages were damaged", memory.damaged))?;
        expect(memory.writes > 0, || "the guest's memory was under no load".into())?;
        self.load_memory(vm, (0, 0))
    }
}

/// The address of an example VM.
pub(super) fn address(vm: &str) -> Result<Ipv4Addr> {
    let address = Example::named(vm).and_then(|example| example.address);
    address.map(Ipv4Addr::from).ok_or_else(|| LabError::Input(format!("the VM {vm} has no address")))
}

/// `"running"` or `{"elsewhere": "host-b"}` as words.
fn state_text(state: &Value) -> String {
    match state {
        Value::String(word) => word.clone(),
        Value::Object(map) => {
            map.iter().map(|(word, of)| format!("{word} {}", of.as_str().unwrap_or_default())).collect()
        }
        other => other.to_string(),
    }
}
