//! Carries out what a source wants.

use protocol::pages::Window;
use protocol::session::{LeaseAsk, RightToRun};
use protocol::source::{Batch, Effect, Input, PagesSent, Stopped};
use protocol::time::Duration;
use protocol::wire::RecordHeader;

use super::engine::Engine;
use super::event::Event;
use super::guest::{self, Life};
use super::host::Side;
use super::invariants::{Kept, broken};
use super::operator::heard;
use super::world::World;

/// Effects of a source that take a moment.
#[derive(Debug)]
pub(super) enum SourceDoing {
    Read(Batch),
    Stun,
    /// Make sure of the right to let the guest go on, and do it.
    Resume(RightToRun),
    /// The same question once more.
    AskAgain(LeaseAsk),
    /// Let it go on.
    GoOn,
    Release,
}

impl World {
    pub(super) fn source_hears(&mut self, generation: u64, input: Input) -> Kept {
        let now = self.queue.now();
        let host = self.host(Side::Source);
        if host.generation != generation {
            return Ok(());
        }
        if let Engine::Source(source) = &mut host.engine {
            source.handle_input(now, input);
        }
        self.engine_goes_on(Side::Source)
    }

    pub(super) fn source_effects(&mut self) -> Kept {
        loop {
            let Engine::Source(source) = &mut self.hosts[0].engine else { return Ok(()) };
            let Some(effect) = source.poll_effect() else { return Ok(()) };
            self.source_effect(effect)?;
        }
    }

    fn source_effect(&mut self, effect: Effect) -> Kept {
        match effect {
            Effect::SendControl(bytes) => self.send_control(Side::Source, bytes),
            Effect::MeasureLink => {
                let after = self.rng.latency(Duration::from_millis(100), Duration::from_millis(600));
                let generation = self.host(Side::Source).generation;
                self.queue.after(after, Event::SourceHears(generation, Box::new(Input::LinkMeasured(self.setup.link))));
            }
            // The uplinks of all hosts are one network. That takes no chance: a seed stays what it was.
            Effect::ProbeUplinks => self.answer_source_at_once(Input::UplinksOpen),
            Effect::HearUplinks => self.answer_source_at_once(Input::UplinksHeard(Some(vec![heard()]))),
            Effect::StartDirtyLog => {
                self.host(Side::Source).vmm.iter_mut().for_each(guest::Vmm::start_log);
                let after = self.rng.latency(Duration::from_micros(50), Duration::from_millis(200));
                let generation = self.host(Side::Source).generation;
                let answer = Box::new(Input::DirtyLogStarted(Ok(())));
                self.queue.after(after, Event::SourceHears(generation, answer));
            }
            Effect::SendPages(batch) => self.source_will(SourceDoing::Read(batch)),
            Effect::HarvestDirty => {
                let dirty = self.host(Side::Source).vmm.as_mut().map(guest::Vmm::harvest);
                if let Some(dirty) = dirty {
                    self.answer_source(Input::DirtyHarvested(Ok(dirty)));
                }
            }
            Effect::StunGuest => {
                let stop = if self.stuns == 0 { self.setup.first_stop } else { self.setup.stop };
                self.source_will_after(stop, SourceDoing::Stun);
            }
            Effect::HashRange { first, count } => {
                let hashes = self.hashes(Side::Source, first, count);
                let (after, generation) = (self.short() + self.setup.hashing, self.host(Side::Source).generation);
                self.queue.after(after, Event::SourceHears(generation, Box::new(Input::RangeHashed { first, hashes })));
            }
            Effect::ResumeGuest(right) => {
                // The monitor takes the disks first.
                let after = self.rng.latency(Duration::from_micros(50), Duration::from_millis(500));
                self.source_will_after(after, SourceDoing::Resume(right));
            }
            Effect::Throttle { percent } => self.host(Side::Source).throttle = percent,
            Effect::StopDirtyLog => self.host(Side::Source).vmm.iter_mut().for_each(|vmm| vmm.log = false),
            Effect::Lease(ask) => self.engine_asks(Side::Source, ask)?,
            Effect::ReleaseMemory => self.source_will(SourceDoing::Release),
            Effect::Report(_) => {}
            Effect::Finish(outcome) => self.finished(Side::Source, *outcome)?,
        }
        Ok(())
    }

    pub(super) fn source_will_go_on(&mut self) {
        self.source_will(SourceDoing::GoOn);
    }

    pub(super) fn source_will_ask_again(&mut self, ask: LeaseAsk) {
        self.source_will_after(Duration::from_millis(500), SourceDoing::AskAgain(ask));
    }

    pub(super) fn answer_source(&mut self, input: Input) {
        let (after, generation) = (self.short(), self.host(Side::Source).generation);
        self.queue.after(after, Event::SourceHears(generation, Box::new(input)));
    }

    fn answer_source_at_once(&mut self, input: Input) {
        let generation = self.host(Side::Source).generation;
        self.queue.after(Duration::ZERO, Event::SourceHears(generation, Box::new(input)));
    }

    fn source_will(&mut self, doing: SourceDoing) {
        let after = self.short();
        self.source_will_after(after, doing);
    }

    fn source_will_after(&mut self, after: Duration, doing: SourceDoing) {
        let generation = self.host(Side::Source).generation;
        self.queue.after(after, Event::SourceDoes(generation, doing));
    }

    /// A VMM that is asked does it, even if the process that asked has ended since; only the answer is lost.
    pub(super) fn source_does(&mut self, generation: u64, doing: SourceDoing) -> Kept {
        let alive = self.host(Side::Source).generation == generation;
        match doing {
            SourceDoing::Read(batch) if alive => {
                let answer = self.send_pages(batch.id, batch.round, &batch.windows);
                if let Some(answer) = answer {
                    self.answer_source(Input::PagesSent(answer));
                }
            }
            SourceDoing::Read(_) => {}
            SourceDoing::Stun => self.stun(alive)?,
            // It is the engine that takes step after step.
            SourceDoing::Resume(_) | SourceDoing::AskAgain(_) if !alive => {}
            SourceDoing::Resume(right) => self.source_asks_to_be_assured(generation, right.assurance())?,
            SourceDoing::AskAgain(ask) => self.source_asks_to_be_assured(generation, ask)?,
            SourceDoing::GoOn => {
                if let Some(vmm) = &mut self.host(Side::Source).vmm {
                    vmm.life = Life::Running;
                    self.guest_is_let_go(Side::Source)?;
                    if alive {
                        self.answer_source(Input::GuestResumed(Ok(())));
                    }
                }
            }
            SourceDoing::Release => {
                let host = self.host(Side::Source);
                if host.runs_the_vm() {
                    return broken("nothing_is_lost", "a running guest was released");
                }
                host.vmm = None;
                if alive {
                    self.answer_source(Input::MemoryReleased);
                }
            }
        }
        Ok(())
    }

    fn stun(&mut self, alive: bool) -> Kept {
        if self.hosts[0].vmm.is_none() {
            return Ok(());
        }
        self.stuns += 1;
        // Draining the devices writes to the guest's memory.
        self.guest_writes_page(Side::Source, guest::place(self.stuns));
        let now = self.queue.now();
        let Some(vmm) = &mut self.hosts[0].vmm else { return Ok(()) };
        vmm.life = Life::Stunned;
        let (run_state, clock_ns, state) = (vmm.run_state, vmm.clock_ns(now), vmm.state(now));
        let stopped = Stopped { run_state, stop_us: 1000, save_us: 500, clock_ns, state };
        if alive {
            self.answer_source(Input::GuestStunned(Ok(stopped)));
            return Ok(());
        }
        // It had begun when its asker died: what the host role asks of the VMM then is done behind it. One that had not begun is not done.
        self.host_takes_up(Side::Source, Duration::ZERO)
    }

    /// Reads the pages as they are now and sends them as records. Windows of nothing but zeros become one record.
    fn send_pages(&mut self, batch: u32, round: u16, windows: &[Window]) -> Option<PagesSent> {
        let mut sent = PagesSent { batch, hashes: Vec::new(), zero_pages: 0, bytes: 0, saved_bytes: 0 };
        let mut zeros: Option<(u64, u32)> = None;
        let mut records = Vec::new();
        let migration = self.migration;
        let vmm = self.hosts[0].vmm.as_ref()?;
        for window in windows {
            let versions: Vec<u64> = window.iter().map(|page| vmm.pages[page as usize]).collect();
            let hashes: Vec<_> = versions.iter().map(|version| guest::hash(*version)).collect();
            sent.hashes.extend(&hashes);
            sent.zero_pages += versions.iter().filter(|version| **version == 0).count() as u64;
            let all_zero = window.pages == u64::MAX && versions.iter().all(|version| *version == 0);
            if all_zero {
                match &mut zeros {
                    Some((first, count)) if *first + u64::from(*count) == window.first => *count += 64,
                    _ => {
                        records.extend(zeros.take().map(|(first, count)| {
                            RecordHeader::zeros(migration, round, first, count).encode().to_vec()
                        }));
                        zeros = Some((window.first, 64));
                    }
                }
                continue;
            }
            let zero = window.iter().zip(&versions).filter(|(_, version)| **version == 0);
            let zero = zero.fold(0, |bits, (page, _)| bits | 1 << (page - window.first));
            let header = RecordHeader::window(migration, round, *window, zero, hashes);
            let mut record = header.encode().to_vec();
            versions
                .iter()
                .filter(|version| **version != 0)
                .for_each(|version| record.extend(guest::content(*version)));
            records.push(record);
        }
        records
            .extend(zeros.map(|(first, count)| RecordHeader::zeros(migration, round, first, count).encode().to_vec()));
        for record in records {
            sent.bytes += record.len() as u64;
            let (at, generation) = (self.link.record_arrives(self.queue.now()), self.hosts[1].generation);
            if self.link.carries {
                self.queue.at(at, Event::Record(Side::Destination, generation, record));
            }
        }
        Some(sent)
    }
}
