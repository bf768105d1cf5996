//! Serves the serial line between two steps of work: takes commands, gives records.

use core::sync::atomic::Ordering::{Acquire, Relaxed};

use heapless::String;

use crate::boot::power::Power;
use crate::report::command::{COMMAND_MAX, Command};
use crate::report::record::{Record, line};
use crate::report::serial::Serial;
use crate::report::settings::{Settings, pages};
use crate::ring0::descriptors::CPUS_MAX;
use crate::ring0::gate;
use crate::ring0::stubs::{IPIS, TICKS, Ticks};
use crate::witness::clock::{KvmClocks, Tsc};
use crate::witness::echo::server::Server;
use crate::witness::journal::keeper::Keeper;
use crate::witness::memory::Memory;
use crate::witness::tally::Tally;
use crate::witness::worker::{Common, Worker};

/// What the desk knows of the machine.
pub struct Machine<'a> {
    /// The pages.
    pub memory: &'a Memory,
    /// Orders and findings.
    pub common: &'a Common,
    /// One for each CPU at work.
    pub tallies: &'a [Tally],
    /// Kvmclock.
    pub clocks: &'a KvmClocks<CPUS_MAX>,
    /// How to power off and reset.
    pub power: Power,
    /// Frequency of the TSC.
    pub tsc_hz: u64,
    /// TSC at the first instruction.
    pub first_tsc: u64,
}

/// The desk.
pub struct Desk<'a> {
    machine: Machine<'a>,
    serial: &'a mut Serial,
    settings: Settings,
    input: String<COMMAND_MAX>,
    overlong: bool,
    listened: u64,
    reported: u64,
    before: Record,
    ready: bool,
    audit: Option<u64>,
    /// Kvmclock at the latest look, in nanoseconds.
    clock_now: u64,
    devices: Devices,
}

/// What the desk keeps at work besides.
pub struct Devices {
    /// The journal.
    pub journal: Option<Keeper>,
    /// The echo.
    pub echo: Option<Server>,
}

impl<'a> Desk<'a> {
    /// A desk for `machine`, whose first record is due a period after `now`.
    pub fn new(machine: Machine<'a>, serial: &'a mut Serial, settings: Settings, devices: Devices, now: u64) -> Self {
        Self {
            machine,
            serial,
            settings,
            input: String::new(),
            overlong: false,
            listened: now,
            reported: now,
            before: Record::default(),
            ready: false,
            audit: None,
            clock_now: 0,
            devices,
        }
    }

    /// Serves the line when kvmclock said `clock_now` nanoseconds, looking at the TSC by `worker` wherever that takes exits
    /// of the hypervisor. True if nothing waits to be sent.
    pub fn serve(&mut self, worker: &mut Worker<Tsc>, clock_now: u64) -> bool {
        self.clock_now = clock_now;
        self.serial.send(|| worker.look());
        let now = worker.now();
        // Listening costs an exit: 200 times a second is enough for a person and for a test.
        if now.wrapping_sub(self.listened) > self.machine.tsc_hz / 200 {
            self.listened = now;
            while let Some(byte) = self.serial.receive() {
                self.hear(byte, now);
                worker.look();
            }
            worker.look();
            if self.machine.power.pressed() {
                self.end(Command::PowerOff, "power button", now);
            }
        }
        if let Some(damage) = self.machine.common.damages.take() {
            self.serial.put(&line(format_args!("{damage}")));
        }
        self.keep_journal(worker);
        if let Some(echo) = &mut self.devices.echo {
            echo.step(worker.now(), || worker.look());
        }
        self.announce(now);
        let period = self.settings.report_ms.saturating_mul(self.machine.tsc_hz / 1000);
        if period > 0 && now.saturating_sub(self.reported) >= period {
            self.report("", now);
        }
        self.serial.is_empty()
    }

    /// A step of the journal, and what there is to tell of it.
    fn keep_journal(&mut self, worker: &mut Worker<Tsc>) {
        let Some(journal) = &mut self.devices.journal else { return };
        journal.step(worker.now(), || worker.look());
        if let Some(start) = journal.take_start() {
            self.serial.put(&line(format_args!("{start}")));
        }
        while let Some(damage) = journal.take_damage() {
            self.serial.put(&line(format_args!("{damage}")));
        }
        if let Some(audit) = journal.take_audit() {
            self.serial.put(&line(format_args!("{audit}")));
        }
    }

    fn hear(&mut self, byte: u8, now: u64) {
        match byte {
            b'\r' | b'\n' => {
                let text = core::mem::take(&mut self.input);
                let overlong = core::mem::take(&mut self.overlong);
                if overlong {
                    self.serial.put(&line(format_args!("error command longer than {COMMAND_MAX} bytes")));
                } else if let Some(command) = Command::parse(&text) {
                    self.obey(command, &text, now);
                } else if !text.trim().is_empty() {
                    self.serial.put(&line(format_args!("error unknown command {text}")));
                }
            }
            b' '..=b'~' => self.overlong |= self.input.push(char::from(byte)).is_err(),
            _ => {}
        }
    }

    fn obey(&mut self, command: Command, text: &str, now: u64) {
        let orders = &self.machine.common.orders;
        match command {
            Command::Report => return self.report("", now),
            Command::ResetGap => {
                self.machine.tallies.iter().for_each(|tally| tally.gap.reset());
                self.ticks().for_each(|ticks| ticks.gap.store(0, Relaxed));
            }
            Command::Dirty => orders.set_rate(self.settings.rate),
            Command::Idle => orders.set_rate(0),
            Command::VerifyAll => self.audit = Some(orders.start_audit()),
            Command::Verify(verify) => orders.set_verify(verify),
            Command::Rate(rate) => {
                self.settings.rate = rate;
                orders.set_rate(rate);
            }
            Command::Scan(rate) => orders.set_scan(rate),
            Command::Set(bytes) => orders.set_set(pages(bytes)),
            Command::Pattern(pattern) => orders.set_pattern(pattern),
            Command::ReportEvery(milliseconds) => {
                self.settings.report_ms = milliseconds;
                self.reported = now;
            }
            Command::Nap(nap) => orders.set_nap(nap),
            Command::Journal | Command::JournalRate(_) => match (&mut self.devices.journal, command) {
                (Some(journal), Command::JournalRate(rate)) => journal.set_rate(rate, now),
                (Some(journal), _) => journal.audit(now),
                (None, _) => {
                    self.serial.put(&line(format_args!("error no journal: it wants a disk and the word journal=N")));
                    return;
                }
            },
            Command::Poke { page, .. } if page >= self.machine.memory.pages() => {
                self.serial.put(&line(format_args!("error no page {page} of {}", self.machine.memory.pages())));
                return;
            }
            Command::Poke { page, bit } => self.machine.memory.poke(page, bit),
            Command::PowerOff | Command::Reboot | Command::TripleFault | Command::Hang => self.end(command, text, now),
        }
        self.serial.put(&line(format_args!("ok {}", text.trim())));
    }

    fn end(&mut self, command: Command, text: &str, now: u64) -> ! {
        self.report("", now);
        self.serial.put(&line(format_args!("ok {}", text.trim())));
        self.serial.flush();
        match command {
            Command::PowerOff => self.machine.power.off(),
            Command::Reboot => self.machine.power.reset(),
            Command::TripleFault => gate::triple_fault(),
            _ => gate::hang(),
        }
        self.serial.put(&line(format_args!("error {} had no effect", text.trim())));
        self.serial.flush();
        gate::hang()
    }

    /// Says once that all pages are filled, and what an audit found.
    fn announce(&mut self, now: u64) {
        let tallies = self.machine.tallies;
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
        if !self.ready && sum(|tally| tally.filled.load(Relaxed)) == self.machine.memory.pages() {
            self.ready = true;
            self.report("ready ", now);
        }
        if let Some(number) = self.audit
            && tallies.iter().all(|tally| tally.audited.load(Acquire) == number)
        {
            self.audit = None;
            self.serial.put(&line(format_args!(
                "audit pages={} bad={} versions={} versions_due={}",
                self.machine.memory.pages(),
                sum(|tally| tally.bad.load(Relaxed)),
                sum(|tally| tally.versions.load(Relaxed)),
                sum(|tally| tally.versions_due.load(Relaxed)),
            )));
        }
    }

    fn report(&mut self, kind: &str, now: u64) {
        let record = self.record(now);
        self.serial.put(&line(format_args!("{kind}{record}")));
        self.before = record;
        self.reported = now;
    }

    fn ticks(&self) -> impl Iterator<Item = &'static Ticks> {
        TICKS.iter().take(self.machine.tallies.len())
    }

    fn record(&self, now: u64) -> Record {
        let machine = &self.machine;
        let microseconds = |cycles: u64| (u128::from(cycles) * 1_000_000 / u128::from(machine.tsc_hz)) as u64;
        let sum = |of: fn(&Tally) -> u64| machine.tallies.iter().map(of).sum::<u64>();
        let (dirtied, verified) = (sum(|tally| tally.dirtied.load(Relaxed)), sum(|tally| tally.verified.load(Relaxed)));
        let gaps = machine.tallies.iter().map(|tally| tally.gap.take());
        let (gap, gap_max) = gaps.fold((0, 0), |longest, gap| (gap.0.max(longest.0), gap.1.max(longest.1)));
        let taken = IPIS.iter().take(machine.tallies.len()).map(|ipis| ipis.count.load(Relaxed));
        let [ipis_lost, ipis_extra] = crate::witness::ipi::faults();
        let passed_us = microseconds(now.saturating_sub(self.reported)).max(1);
        Record {
            t_ms: microseconds(now.saturating_sub(machine.first_tsc)) / 1000,
            cpus: machine.tallies.len() as u64,
            pages: machine.memory.pages(),
            filled: sum(|tally| tally.filled.load(Relaxed)),
            verified,
            passes: machine.tallies.iter().map(|tally| tally.passes.load(Relaxed)).min().unwrap_or(0),
            dirtied,
            dirty_rate: (dirtied - self.before.dirtied) * 1_000_000 / passed_us,
            verify_mbs: (verified - self.before.verified) * 4096 / passed_us,
            bad: sum(|tally| tally.bad.load(Relaxed)),
            gap_us: microseconds(gap),
            gap_max_us: microseconds(gap_max),
            tsc_back: machine.common.tsc.backs(),
            clock_back: machine.clocks.backs(),
            timer_back: crate::witness::timer::backs(),
            clock_ms: self.clock_now / 1_000_000,
            ticks: self.ticks().map(|ticks| ticks.count.load(Relaxed)).sum(),
            tick_gap_us: microseconds(self.ticks().map(|ticks| ticks.gap.swap(0, Relaxed)).max().unwrap_or(0)),
            registers_bad: crate::witness::cpu::registers_bad(),
            register_last: crate::witness::cpu::register_last(),
            ipis: taken.min().unwrap_or(0),
            ipis_lost,
            ipis_extra,
            lost_lines: self.serial.lost_lines(),
            journal: self.devices.journal.as_ref().map(|journal| (journal.counts(), journal.wait_ms(now))),
            echo: self.devices.echo.as_ref().map(Server::answered),
        }
    }
}
