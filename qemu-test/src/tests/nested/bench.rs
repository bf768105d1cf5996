//! What a nested test works with.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::console::Answer;
use crate::error::{Doing, LabError, Result};
use crate::fleet::{self, Fleet};
use crate::guests;
use crate::home::Home;
use crate::image::Image;
use crate::machine::{HostSpec, Machine};
use crate::servers::Make;
use crate::tests::nested::guest::HOSTS;
use crate::wait;

/// How long a console command may take unless a test says otherwise.
const COMMAND_BOUND: Duration = Duration::from_secs(120);

/// How long a host may take to be well again: its last life has to expire, and what it wrote to settle.
const COME_BACK_BOUND: Duration = Duration::from_secs(180);

/// How long a host may take to find out what is wrong with a datastore.
const SAY_BOUND: Duration = Duration::from_secs(60);

/// A fleet of two hosts with the example VMs, and the image they booted.
pub(super) struct Bench {
    pub(super) home: Home,
    pub(super) image: Image,
    pub(super) fleet: Fleet,
}

impl Bench {
    /// Ends what an earlier run left and boots two hosts.
    pub(super) fn up(home: &Home, server: Make, image: Image) -> Result<Self> {
        Self::up_with(home, server, image, guests::place_all)
    }

    /// The same, with what `place` puts on the datastore.
    pub(super) fn up_with(
        home: &Home,
        server: Make,
        image: Image,
        place: impl FnOnce(&Home, &Path) -> Result<()>,
    ) -> Result<Self> {
        let _held = fleet::hold(home)?;
        Fleet::down(home)?;
        let hosts = vec![HostSpec::usual(1), HostSpec::usual(2)];
        let fleet = Fleet::up(home, server, hosts, |store| place(home, store))?;
        Ok(Self { home: home.clone(), image, fleet })
    }

    /// Types a command on a host.
    pub(super) fn exec(&self, host: &str, command: &str) -> Result<Answer> {
        self.fleet.exec(host, command, COMMAND_BOUND)
    }

    /// Types a command that must succeed; gives its output.
    pub(super) fn done(&self, host: &str, command: &str) -> Result<String> {
        let answer = self.exec(host, command)?;
        if answer.status == 0 {
            return Ok(answer.output);
        }
        Err(self.unexpected(host, command, &answer))
    }

    /// Waits until nothing is wrong with a host any more: it has its datastore and its lease there again.
    pub(super) fn comes_back(&self, host: &str) -> Result<()> {
        wait::until(&format!("{host} to have its datastore and its lease again"), COME_BACK_BOUND, || {
            let said = self.exec(host, "host check")?;
            Ok(if said.status == 0 { Ok(()) } else { Err(said.output) })
        })
    }

    /// Waits until a command says something, whether it succeeds or not.
    pub(super) fn says_in_the_end(&self, host: &str, command: &str, what: &str) -> Result<()> {
        wait::until(&format!("`{command}` on {host} to say: {what}"), SAY_BOUND, || {
            let said = self.exec(host, command)?.output;
            Ok(if says(&said, what) { Ok(()) } else { Err(said) })
        })
    }

    /// All that a host's serial line said since it booted. QEMU keeps a character twice that the line did not take at once,
    /// so this is to be read with [`says`].
    pub(super) fn serial_log(&self, host: &str) -> Result<String> {
        let log = self.fleet.machine(host)?.serial_log();
        Ok(String::from_utf8_lossy(&fs::read(&log).at("reading", &log)?).into_owned())
    }

    /// An error that shows what a command gave instead of what was promised.
    pub(super) fn unexpected(&self, host: &str, command: &str, answer: &Answer) -> LabError {
        LabError::Host {
            host: host.into(),
            what: format!("`{command}` ended with status {} and said:\n{}", answer.status, answer.output),
        }
    }

    /// Prints the last that each host wrote into its logs, for whoever has to understand a failure.
    pub(super) fn show_logs(&self) {
        for host in HOSTS {
            for command in ["vm list", "log show"] {
                match self.exec(host, command) {
                    Ok(answer) => println!("{host}: {command}\n{}", answer.output),
                    Err(error) => println!("{host}: {command}: {error}"),
                }
            }
        }
    }

    /// Boots one more host for the time of `work`.
    pub(super) fn with_host<T>(
        &mut self,
        spec: HostSpec,
        work: impl FnOnce(&Self, &Machine) -> Result<T>,
    ) -> Result<T> {
        self.with_hosts(vec![spec], |bench, machines| work(bench, &machines[0]))
    }

    /// Boots more hosts at once for the time of `work`.
    pub(super) fn with_hosts<T>(
        &mut self,
        specs: Vec<HostSpec>,
        work: impl FnOnce(&Self, &[Machine]) -> Result<T>,
    ) -> Result<T> {
        let mut machines = Vec::new();
        let added =
            specs.into_iter().try_for_each(|spec| self.fleet.add_host(spec).map(|machine| machines.push(machine)));
        let outcome = added.and_then(|()| self.fleet.boot(&machines)).and_then(|()| work(self, &machines));
        for machine in &machines {
            self.fleet.remove_host(machine)?;
        }
        outcome
    }
}

/// Whether a text says something, doubled characters aside.
pub(super) fn says(text: &str, what: &str) -> bool {
    let single = |text: &str| {
        let mut characters: Vec<char> = text.chars().collect();
        characters.dedup();
        String::from_iter(characters)
    };
    single(text).contains(&single(what))
}

/// What must be so.
pub(super) fn expect(held: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if held { Ok(()) } else { Err(LabError::Input(otherwise())) }
}
