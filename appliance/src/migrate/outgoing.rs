//! Carries out what a source wants.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::receipt::Verdict;
use model::units;
use model::vm_config::{Verify, VmConfig};
use netstack::probe::Probe;
use netstack::{CloseReason, ConnectionId, SendError};
use protocol::checks::facts::{HostFacts, LinkFacts, NicFacts, VmFacts};
use protocol::checks::{Severity, blockers, refusal, slot};
use protocol::convergence::{Costs, Policy};
use protocol::pages::{PAGE_BYTES, PageSet};
use protocol::session::{LeaseAnswer, LeaseAsk, Outcome, PhaseName, RightToRun};
use protocol::source::{Effect, Input, Plan, Source, Stopped};
use protocol::time::Duration;
use protocol::wire::message::{Offer, RunState};
use protocol::wire::{MigrationId, ValidatedOffer};

use super::clock::Clock;
use super::compression::Compressor;
use super::defect::{defect, monitor_gone};
use super::desk::{Desk, Wire};
use super::dirty_pages::DirtyPages;
use super::forecast::in_words;
use super::lease::{self, Question};
use super::measured::measured;
use super::memory::GuestRam;
use super::monitor::{self, Monitor, Purpose};
use super::pace::Pace;
use super::records::{Sending, SendingError, Step};
use crate::api::lease::VmOnDatastore;
use crate::api::migrate::{BandwidthMax, Ended, FromMigrate, Outgoing, Peer, VmHere};
use crate::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
use crate::migrate::progress::{shown, slowed_vcpus};
use crate::wall_clock;

/// What the state of a VM is expected to take, bytes: the vCPUs' and the devices'.
const STATE_BYTES_A_CPU: u64 = 32 << 10;
const STATE_BYTES_OF_DEVICES: u64 = 128 << 10;
/// What hashing a page is expected to take on both sides together, nanoseconds.
const HASHING_NS_A_PAGE: u64 = 2_000;

/// A VM that is being moved away.
#[derive(Debug)]
pub struct Departure {
    /// What the control plane asked for.
    pub order: Outgoing,
    /// Where to.
    pub peer: Peer,
    /// The connection, once one was begun.
    pub connection: Option<ConnectionId>,
    own_identity: [u8; 16],
    config: VmConfig,
    ram: Arc<GuestRam>,
    dirty: Option<DirtyPages>,
    monitor: Monitor,
    source: Option<Source>,
    /// The MTU of the peer's migration NIC, once it is connected.
    peer_mtu: u16,
    /// The measurement of the link, while it goes on.
    probe: Option<Probe>,
    sending: VecDeque<Sending>,
    /// How far each vCPU is slowed, percent, by the monitor's last word.
    slowed: Vec<u8>,
    /// How fast it may be sent while the guest runs.
    pace: Option<Pace>,
    compressor: Compressor,
    questions: Vec<Question>,
    /// What allows the VM to go on here, until it is asked once more.
    right: Option<RightToRun>,
    /// The question whether it still may, when it has its disks.
    assurance: Option<Question>,
    /// The epoch in which the VM goes on here, 0 before it does.
    goes_on_in: u64,
    /// The phase that the log tells of.
    pub phase: Option<PhaseName>,
    began: Instant,
    /// What came with the order, when the move is over for now because its destination had no slot for it.
    pub put_back: Option<Vec<OwnedFd>>,
    ended: bool,
    /// Why it came to nothing.
    pub why: Option<String>,
}

impl Departure {
    /// Takes an order.
    ///
    /// # Errors
    /// What came with it cannot be used.
    pub fn new(order: Outgoing, peer: Peer, own_identity: [u8; 16], beside: Vec<OwnedFd>) -> Result<Self, Reason> {
        let [monitor, memory]: [OwnedFd; 2] = beside
            .try_into()
            .map_err(|_| defect("the monitor and the memory of the VM did not come with the order"))?;
        let ram = GuestRam::over(memory, order.vm.spec.memory_bytes).map_err(|error| defect(error.to_string()))?;
        let bound = order.wish.bandwidth_max.map(BandwidthMax::bytes_per_s);
        let config = VmConfig::parse("vm.toml", &order.vm.config).map_err(|errors| {
            defect(errors.first().map_or_else(|| "the vm.toml cannot be read".to_owned(), ToString::to_string))
        })?;
        Ok(Self {
            order,
            peer,
            connection: None,
            own_identity,
            config,
            ram: Arc::new(ram),
            dirty: None,
            monitor: Monitor::over(monitor),
            source: None,
            peer_mtu: 0,
            probe: None,
            sending: VecDeque::new(),
            slowed: Vec::new(),
            pace: bound.map(|bytes_per_s| Pace::new(Instant::now(), bytes_per_s)),
            compressor: Compressor::default(),
            questions: Vec::new(),
            right: None,
            assurance: None,
            goes_on_in: 0,
            phase: None,
            began: Instant::now(),
            put_back: None,
            ended: false,
            why: None,
        })
    }

    /// Whether nothing more is to be done.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether the destination has a slot for it.
    pub fn is_in(&self) -> bool {
        !self.is_before_offer() && self.phase != Some(PhaseName::Offer)
    }

    /// Whether the path to its destination may be measured for it now: one that does not answer keeps nobody else from it for longer than it may be
    /// silent.
    pub fn has_the_path(&self) -> bool {
        self.is_before_offer() && self.began.elapsed().as_millis() < u128::from(limits::MIGRATION_IDLE_MS)
    }

    fn is_before_offer(&self) -> bool {
        matches!(self.phase, None | Some(PhaseName::Hello | PhaseName::Probe))
    }

    /// The connection is there, to a NIC of this MTU.
    pub fn connected(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, peer_mtu: u16) {
        self.peer_mtu = peer_mtu;
        match self.plan(wire.nic()) {
            Ok(plan) => {
                self.source = Some(Source::new(desk.clock.of(now), plan));
                self.go_on(now, desk, wire);
            }
            Err(reason) => self.refuse(desk, reason),
        }
    }

    fn plan(&self, nic: NicFacts) -> Result<Plan, Reason> {
        let vm = &self.order.vm;
        let migration = &self.config.migration;
        let stun_max = Duration::from_millis(u64::from(migration.stun_ms_max));
        let machine = postcard::to_stdvec(vm).map_err(|error| defect(error.to_string()))?;
        let state_bytes = STATE_BYTES_OF_DEVICES + STATE_BYTES_A_CPU * u64::from(vm.spec.cpus);
        let mut costs = Costs::expected(vm.spec.cpus);
        if migration.verify == Verify::Full {
            costs.hashing = Duration::from_nanos(HASHING_NS_A_PAGE * self.ram.pages());
        }
        let offer = Offer {
            vm: VmFacts::of(&self.config, &vm.datastore),
            config_text: vm.config.clone(),
            machine,
            source: HostFacts { nic, ..(*self.order.facts).clone() },
            link: LinkFacts::default(),
            run_state: self.run_state(),
            epoch: vm.epoch,
            state_bytes,
            stun_us_max: stun_max.micros(),
            verify: migration.verify,
            check_only: self.order.wish.check_only,
            force_link: self.order.wish.force_link,
            probe: self.order.probe.clone(),
        };
        let offer = ValidatedOffer::new(offer).map_err(|error| defect(format!("the VM cannot be offered: {error}")))?;
        Ok(Plan {
            migration: MigrationId(self.order.id),
            destination: self.order.destination.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            costs,
            touched_pages: self.ram.touched_pages(),
            policy: Policy {
                stun_max,
                throttle: true,
                no_convergence: self.order.wish.no_convergence,
                bounded: self.pace.is_some(),
            },
            offer,
            started_unix_s: wall_clock::unix_s(),
        })
    }

    /// Ends before the machine exists.
    pub fn refuse(&mut self, desk: &mut Desk<'_>, reason: Reason) {
        let vm = &self.order.vm;
        let doing = if vm.paused { "paused" } else { "running" };
        let failure = Diagnosis::of(format!("VM {} was not migrated", vm.name), vec![reason])
            .vm_now(format!("it is still {doing} on {}", self.order.facts.host));
        self.ended = true;
        let ended = Ended { failure: Some(failure), ..Ended::nothing_moved(self.order.id, vm.epoch) };
        desk.tell(FromMigrate::Ended(Box::new(ended)));
    }

    /// Tells the machine something, and does what it wants.
    pub fn hear(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, input: Input) {
        if let Some(source) = &mut self.source {
            source.handle_input(desk.clock.of(now), input);
        }
        self.go_on(now, desk, wire);
    }

    /// The connection is gone.
    pub fn lost(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, reason: &CloseReason) {
        let cause = reason.to_string();
        if self.source.is_none() && !self.ended {
            if matches!(reason, CloseReason::Busy { .. }) && self.waits_again() {
                return;
            }
            let hint = format!("network migration-nic; on {}: network migration-nic", self.order.destination);
            return self.refuse(desk, Reason::new(cause, hint));
        }
        self.sending.clear();
        self.hear(now, desk, wire, Input::LinkDown { cause });
    }

    /// A person gives it up.
    pub fn cancel(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        if self.source.is_none() && !self.ended {
            return self.refuse(desk, Reason::new("it was cancelled before it began", "vm migrate starts it again"));
        }
        self.hear(now, desk, wire, Input::Cancel);
    }

    /// When [`Self::wake`] is to be called.
    pub fn deadline(&self, now: Instant, clock: Clock) -> Option<Instant> {
        let source = self.source.as_ref()?.poll_timeout().map(|at| clock.back(at));
        let probe = self.probe.as_ref().map(|probe| probe.deadline(now));
        // A pace that is free waits for room on the wire, and that is told.
        let paced = self.pace.filter(|pace| !self.sending.is_empty() && !pace.is_free(now)).map(|pace| pace.free_at());
        [source, probe, paced].into_iter().flatten().min()
    }

    /// A deadline may have passed.
    pub fn wake(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        if let Some(source) = &mut self.source {
            let at = desk.clock.of(now);
            match wire.own_silence(now, at, source.lost_at()) {
                Some(cause) => source.handle_input(at, Input::LinkDown { cause }),
                None => source.handle_timeout(at),
            }
        }
        self.go_on(now, desk, wire);
    }

    /// The connections whose other ends may answer: the monitor's first, then one for each question, then that of the assurance.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.monitor.as_fd()];
        all.extend(self.questions.iter().map(AsFd::as_fd));
        all.extend(self.assurance.iter().map(AsFd::as_fd));
        all
    }

    /// One of [`Self::descriptors`] is readable.
    pub fn readable(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, index: usize) {
        let input = match index.checked_sub(1) {
            None => self.monitor_answered(desk),
            Some(question) if question < self.questions.len() => {
                let question = self.questions.remove(question);
                Some(Input::Lease(question.asked(), question.answer()))
            }
            Some(_) => self.assurance.take().and_then(|question| self.assured(question.answer())),
        };
        if let Some(input) = input {
            self.hear(now, desk, wire, input);
        }
    }

    fn monitor_answered(&mut self, desk: &Desk<'_>) -> Option<Input> {
        let (purpose, answer, beside) = match self.monitor.take() {
            Ok(answered) => answered?,
            Err(error) => return Some(Input::GuestGone { cause: monitor_gone(&error) }),
        };
        let done = match &answer {
            VmmAnswer::Failed(why) => Err(Reason::new(why.clone(), "log show vmm")),
            _ => Ok(()),
        };
        Some(match purpose {
            Purpose::StartLog => Input::DirtyLogStarted(done),
            Purpose::Harvest => {
                self.note_slowed(answer);
                Input::DirtyHarvested(done.and_then(|()| self.harvested()))
            }
            Purpose::Stun if matches!(answer, VmmAnswer::Reset) => Input::GuestReset,
            Purpose::Stun => Input::GuestStunned(done.and_then(|()| self.stopped(&answer, beside))),
            Purpose::Look => match answer {
                VmmAnswer::Status(status) if status.life == VmmLife::Running => Input::GuestResumed(Ok(())),
                _ => return self.ask_monitor(VmmRequest::TakeDisks, Vec::new(), Purpose::TakeDisks),
            },
            Purpose::TakeDisks => {
                return done.map_or_else(|why| Some(Input::GuestResumed(Err(why))), |()| self.ask_assurance(desk));
            }
            Purpose::Resume => Input::GuestResumed(done),
            Purpose::Rehearse | Purpose::Restore | Purpose::Nothing => return None,
        })
    }

    fn ask_assurance(&mut self, desk: &Desk<'_>) -> Option<Input> {
        let right = self.right.take()?;
        match self.question(desk, right.assurance()) {
            Ok(question) => {
                self.assurance = Some(question);
                None
            }
            Err(answer) => self.assured(answer),
        }
    }

    fn assured(&mut self, answer: LeaseAnswer) -> Option<Input> {
        match lease::assured(answer) {
            Ok(epoch) => {
                self.goes_on_in = epoch;
                self.ask_monitor(VmmRequest::Resume, Vec::new(), Purpose::Resume)
            }
            Err(reason) => Some(Input::GuestResumed(Err(reason))),
        }
    }

    fn vm(&self) -> VmOnDatastore {
        VmOnDatastore { datastore: self.order.vm.datastore.clone(), vm: self.order.vm.name.clone() }
    }

    /// Tells the log which vCPUs are slowed, each time that others are.
    fn note_slowed(&mut self, answer: VmmAnswer) {
        let VmmAnswer::Harvested { slowed, .. } = answer else { return };
        if slowed != self.slowed {
            let Outgoing { id, vm, .. } = &self.order;
            match slowed_vcpus(&slowed) {
                Some(which) => log::info!("migration {id:016x} of {}: slowed, because they dirty: {which}", vm.name),
                None => log::info!("migration {id:016x} of {}: no vCPU is slowed any more", vm.name),
            }
            self.slowed = slowed;
        }
    }

    fn harvested(&self) -> Result<PageSet, Reason> {
        self.dirty.as_ref().map(DirtyPages::take).ok_or_else(|| defect("there is no dirty log"))
    }

    fn stopped(&self, answer: &VmmAnswer, beside: Vec<OwnedFd>) -> Result<Stopped, Reason> {
        let VmmAnswer::Saved { length, stop_us, save_us, clock } = *answer else {
            return Err(defect("the monitor did not say that it saved the state"));
        };
        let state = monitor::bytes_of(beside, length).map_err(|error| defect(error.to_string()))?;
        Ok(Stopped { run_state: self.run_state(), stop_us, save_us, clock_ns: clock.shows(), state })
    }

    fn run_state(&self) -> RunState {
        if self.order.vm.paused { RunState::Paused } else { RunState::Running }
    }

    /// Ends for now, because the destination has no slot, and takes out what came with the order: nothing was asked of the
    /// monitor yet. False for a check, which wants to hear of it.
    fn waits_again(&mut self) -> bool {
        if self.order.wish.check_only {
            return false;
        }
        let beside = [self.monitor.as_fd(), self.ram.as_fd()];
        match beside.iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<Vec<_>>>() {
            Ok(beside) => {
                self.put_back = Some(beside);
                self.ended = true;
                true
            }
            Err(error) => {
                log::warn!("a move is not tried again: {error}");
                false
            }
        }
    }

    /// Does what the machine wants, and sends what the transport takes. That takes time, in which the round and the stun go
    /// on: the machine is told the time as it is after each step, not as it was before the first.
    pub fn go_on(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        if let Some(report) = self.probe.as_mut().and_then(|probe| probe.advance(wire.stack, now)) {
            self.probe = None;
            if let Some(source) = &mut self.source {
                source.handle_input(desk.clock.of(now), Input::LinkMeasured(measured(&report)));
            }
        }
        loop {
            while let Some(effect) = self.source.as_mut().and_then(Source::poll_effect) {
                if let Some(input) = self.effect(desk, wire, effect)
                    && let Some(source) = &mut self.source
                {
                    source.handle_input(desk.clock.of(Instant::now()), input);
                }
            }
            let Some(input) = self.send(wire) else { return };
            if let Some(source) = &mut self.source {
                source.handle_input(desk.clock.of(Instant::now()), input);
            }
        }
    }

    /// Sends until the transport is full, a batch is done, or the memory fails.
    fn send(&mut self, wire: &mut Wire<'_>) -> Option<Input> {
        let (connection, sending) = (self.connection?, self.sending.front_mut()?);
        let mut pace = self.pace.as_mut().filter(|_| self.phase == Some(PhaseName::PreCopy));
        let estimates = wire.stack.estimates(connection).unwrap_or_default();
        self.compressor.link_carries(estimates.delivery_rate_bytes);
        let stack = std::cell::RefCell::new(wire);
        let buffer = || stack.borrow_mut().stack.buffer(connection);
        let send = |record: Bytes| {
            let (now, bytes) = (Instant::now(), record.len() as u64);
            if pace.as_ref().is_some_and(|pace| !pace.is_free(now)) {
                return Err(SendError::Full);
            }
            stack.borrow_mut().stack.send_record(connection, record)?;
            if let Some(pace) = &mut pace {
                pace.sent(now, bytes);
            }
            Ok(())
        };
        match sending.go_on(&self.ram, &mut self.compressor, buffer, send) {
            Ok(Step::Full) => None,
            Ok(Step::Done(sent)) => {
                self.sending.pop_front();
                Some(Input::PagesSent(sent))
            }
            Err(error) => {
                self.sending.clear();
                match error {
                    // The end of the connection is told by an event of its own.
                    SendingError::Transport(_) => None,
                    SendingError::Memory(why) => {
                        Some(Input::LinkDown { cause: format!("the VM's memory cannot be read: {why}") })
                    }
                }
            }
        }
    }

    fn effect(&mut self, desk: &mut Desk<'_>, wire: &mut Wire<'_>, effect: Effect) -> Option<Input> {
        match effect {
            Effect::SendControl(bytes) => {
                if let Some(connection) = self.connection
                    && let Err(error) = wire.stack.send_control(connection, &bytes)
                {
                    return Some(Input::LinkDown { cause: error.to_string() });
                }
                None
            }
            Effect::MeasureLink => {
                self.probe = self.connection.map(|connection| Probe::new(connection, self.peer_mtu, Instant::now()));
                None
            }
            Effect::ProbeUplinks => {
                desk.tell(FromMigrate::ProbeUplinks(self.order.id, self.order.probe.clone()));
                None
            }
            Effect::HearUplinks => {
                desk.tell(FromMigrate::HearUplinks(self.order.id));
                None
            }
            Effect::StartDirtyLog => self.start_log(),
            Effect::SendPages(batch) => {
                self.sending.push_back(Sending::new(MigrationId(self.order.id), batch));
                None
            }
            Effect::HarvestDirty => self.ask_monitor(VmmRequest::DirtyLogHarvest, Vec::new(), Purpose::Harvest),
            Effect::StunGuest => self.ask_monitor(VmmRequest::Save, Vec::new(), Purpose::Stun),
            Effect::HashRange { first, count } => {
                desk.hasher.ask(self.order.id, &self.ram, first, count);
                None
            }
            Effect::ResumeGuest(right) => self.resume(right),
            Effect::Throttle { percent } => {
                self.ask_monitor(VmmRequest::Throttle { percent }, Vec::new(), Purpose::Nothing)
            }
            Effect::StopDirtyLog => {
                self.dirty.as_ref()?;
                self.ask_monitor(VmmRequest::DirtyLogStop, Vec::new(), Purpose::Nothing)
            }
            Effect::Lease(ask) => self.ask_lease(desk, ask),
            Effect::ReleaseMemory => {
                desk.tell(FromMigrate::Release(self.order.id));
                Some(Input::MemoryReleased)
            }
            Effect::Report(mut progress) => {
                if self.phase != Some(progress.phase) {
                    self.phase = Some(progress.phase);
                    let Outgoing { id, vm, destination, .. } = &self.order;
                    log::info!("migration {id:016x} of {} to {destination}: {}", vm.name, progress.phase);
                }
                if let (Some(note), Some(which)) = (&mut progress.note, slowed_vcpus(&self.slowed)) {
                    *note = format!("{note} ({which})");
                }
                desk.tell(FromMigrate::Progress(shown(self.order.id, &progress)));
                None
            }
            Effect::Finish(outcome) => {
                self.finish(desk, *outcome);
                None
            }
        }
    }

    fn ask_monitor(&mut self, request: VmmRequest, beside: Vec<OwnedFd>, purpose: Purpose) -> Option<Input> {
        let gone = self.monitor.ask(request, beside, purpose).err();
        gone.map(|error| Input::GuestGone { cause: monitor_gone(&error) })
    }

    fn start_log(&mut self) -> Option<Input> {
        match DirtyPages::share(self.ram.pages()) {
            Ok((dirty, memfd)) => {
                self.dirty = Some(dirty);
                let sample = self.order.wish.check_only;
                self.ask_monitor(VmmRequest::DirtyLogStart { sample }, vec![memfd], Purpose::StartLog)
            }
            Err(reason) => Some(Input::DirtyLogStarted(Err(reason))),
        }
    }

    /// The right is what allows it: it exists only where the lease names this host.
    fn resume(&mut self, right: RightToRun) -> Option<Input> {
        self.goes_on_in = right.epoch();
        log::info!("VM {} goes on here in epoch {}", self.order.vm.name, right.epoch());
        if self.run_state() == RunState::Paused {
            return Some(Input::GuestResumed(Ok(())));
        }
        self.right = Some(right);
        // What could not be stunned runs on, and cannot be resumed.
        self.ask_monitor(VmmRequest::Status, Vec::new(), Purpose::Look)
    }

    fn question(&self, desk: &Desk<'_>, ask: LeaseAsk) -> Result<Question, LeaseAnswer> {
        Question::ask(desk.run_dir, ask, self.vm(), self.own_identity, self.order.vm.epoch)
    }

    fn ask_lease(&mut self, desk: &Desk<'_>, ask: LeaseAsk) -> Option<Input> {
        match self.question(desk, ask) {
            Ok(question) => {
                self.questions.push(question);
                None
            }
            Err(answer) => Some(Input::Lease(ask, answer)),
        }
    }

    fn finish(&mut self, desk: &mut Desk<'_>, outcome: Outcome) {
        self.ended = true;
        if slot::is_all_that_is_missing(&outcome.findings) && self.waits_again() {
            return;
        }
        let vm = VmHere::of(&outcome.vm, &self.order.facts.host);
        let blocked = blockers(&outcome.findings).next().is_some();
        // A check that found nothing in the way ends the migration too, but is no failure.
        let checked = self.order.wish.check_only && !blocked && outcome.verdict == Verdict::Cancelled;
        let failure = if blocked {
            refusal(&self.order.vm.name, &self.order.facts.host, &outcome.findings)
        } else if checked {
            None
        } else {
            outcome.diagnosis
        };
        let reasons = failure.iter().flat_map(|failure| &failure.reasons);
        self.why = reasons.map(|reason| reason.cause.clone()).next();
        let epoch = outcome.receipt.as_ref().map_or(self.order.vm.epoch, |receipt| receipt.epoch).max(self.goes_on_in);
        let receipt = if self.order.wish.check_only { None } else { outcome.receipt };
        let findings = outcome.findings;
        for finding in findings.iter().filter(|finding| finding.severity == Severity::Warning) {
            log::warn!("migration {:016x}: {}; {}", self.order.id, finding.reason.cause, finding.reason.hint);
        }
        let (memory, touched) = (self.order.vm.spec.memory_bytes, self.ram.touched_pages() * PAGE_BYTES as u64);
        let link =
            outcome.link.map_or_else(String::new, |link| format!("{link}{}", sent_in(memory, touched, &link.measured)));
        let forecast = outcome.forecast.as_ref().map(in_words);
        let ended = Ended { id: self.order.id, vm, epoch, receipt, failure, findings, link, forecast };
        desk.tell(FromMigrate::Ended(Box::new(ended)));
    }
}

/// How long the first round takes at most, for a person who asks before a move.
fn sent_in(memory: u64, touched: u64, link: &LinkFacts) -> String {
    let Some(bytes_per_s) = link.bandwidth_bytes_per_s.filter(|bytes_per_s| *bytes_per_s > 0) else {
        return String::new();
    };
    let [memory_text, touched_text] = [memory, touched].map(units::Bytes);
    let what = if touched < memory {
        format!("the {touched_text} that it touched of its {memory_text}")
    } else {
        format!("its {memory_text}")
    };
    format!("; {what} of memory take {} s at most", touched.div_ceil(bytes_per_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_before_a_move_is_told_how_long_its_memory_takes_on_the_link() {
        let link = |bandwidth_bytes_per_s| LinkFacts { bandwidth_bytes_per_s, ..LinkFacts::default() };
        let whole = sent_in(256 << 20, 256 << 20, &link(Some(10_000_000)));
        assert_eq!(whole, "; its 256 MiB of memory take 27 s at most");
        let part = sent_in(256 << 20, 64 << 20, &link(Some(10_000_000)));
        assert_eq!(part, "; the 64 MiB that it touched of its 256 MiB of memory take 7 s at most");
        assert_eq!(sent_in(256 << 20, 256 << 20, &link(None)), "");
        assert_eq!(sent_in(256 << 20, 256 << 20, &link(Some(0))), "");
    }
}
