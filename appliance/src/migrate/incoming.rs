//! Carries out what a destination wants.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use model::diagnosis::Reason;
use netstack::ConnectionId;
use protocol::checks::Finding;
use protocol::checks::facts::HostFacts;
use protocol::checks::physical_network::Found;
use protocol::destination::{Destination, Effect, Input, Phase, Progress, Welcome};
use protocol::pages::PageSet;
use protocol::session::{LeaseAsk, Outcome, PhaseName, RightToRun};
use protocol::wire::message::{Rehearsal, RunState};
use protocol::wire::{self, ValidatedOffer};

use super::clock::Clock;
use super::defect::{defect, monitor_gone};
use super::desk::{Desk, Wire};
use super::dirty_pages::DirtyPages;
use super::lease::Question;
use super::memory::GuestRam;
use super::monitor::{self, Monitor, Purpose};
use super::storer::{Filling, Stored};
use crate::api::lease::VmOnDatastore;
use crate::api::migrate::{Ended, FromMigrate, Incoming, MigrationId, MigrationProgress, Own, Peer, VmHere, VmToMove};
use crate::api::vmm::{GuestClock, VmmAnswer, VmmRequest, VmmStatus};
use crate::wall_clock;

/// A VM that is about to come.
#[derive(Debug)]
pub struct Arrival {
    /// The connection that it comes by.
    pub connection: ConnectionId,
    peer: Peer,
    own: Own,
    destination: Destination,
    vm: Option<VmToMove>,
    /// How many slots were free for it.
    slots_free: u16,
    facts: Option<Box<HostFacts>>,
    /// What was heard on the uplinks that the source probes.
    uplinks: Option<Vec<Found>>,
    /// The control plane's word, while the checks wait for it or after.
    verdict: Option<Result<(), Vec<Reason>>>,
    guest: Option<Guest>,
    /// How long its pieces of the stun will take.
    rehearsal: Rehearsal,
    questions: Vec<Question>,
    told_host: bool,
    /// The phase that the log tells of.
    phase: Option<PhaseName>,
    /// The epoch in which the VM is this host's, once it is.
    epoch: u64,
    ended: bool,
    /// Why it came to nothing.
    pub why: Option<String>,
}

/// What the control plane built.
#[derive(Debug)]
struct Guest {
    monitor: Monitor,
    ram: Arc<GuestRam>,
    filling: Filling,
    dirty: Option<DirtyPages>,
    /// The first harvest only takes the marks that a fresh log begins with.
    primed: bool,
}

impl Arrival {
    /// A peer connected.
    pub fn new(now: Instant, clock: Clock, connection: ConnectionId, peer: Peer, own: Own) -> Self {
        let welcome = Welcome {
            here: own.name.clone(),
            peer: peer.name.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_s: wall_clock::unix_s(),
        };
        Self {
            connection,
            peer,
            own,
            destination: Destination::new(clock.of(now), welcome),
            vm: None,
            slots_free: 0,
            facts: None,
            uplinks: None,
            verdict: None,
            guest: None,
            rehearsal: Rehearsal::default(),
            questions: Vec::new(),
            told_host: false,
            phase: None,
            epoch: 0,
            ended: false,
            why: None,
        }
    }

    /// Whether nothing more is to be done.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether the VM has come to run here: what follows is the audit.
    pub fn is_here(&self) -> bool {
        matches!(self.destination.phase(), Some(Phase::Settling(_)))
    }

    /// Which migration it is, once it is known; 0 before.
    pub fn id(&self) -> MigrationId {
        self.destination.migration().0
    }

    /// Tells the machine something, and does what it wants.
    pub fn hear(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, input: Input) {
        self.destination.handle_input(desk.clock.of(now), input);
        self.go_on(now, desk, wire);
    }

    /// When [`Self::wake`] is to be called.
    pub fn deadline(&self, clock: Clock) -> Option<Instant> {
        self.destination.poll_timeout().map(|at| clock.back(at))
    }

    /// A deadline may have passed.
    pub fn wake(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        let at = desk.clock.of(now);
        match wire.own_silence(now, at, self.destination.lost_at()) {
            Some(cause) => self.destination.handle_input(at, Input::LinkDown { cause }),
            None => self.destination.handle_timeout(at),
        }
        self.go_on(now, desk, wire);
    }

    /// A record arrived.
    pub fn record(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, record: Bytes) {
        let Some(guest) = &mut self.guest else { return };
        match self.destination.admit(desk.clock.of(now), record) {
            Ok(None) => {}
            Ok(Some(record)) => desk.storer.ask(&mut guest.filling, record),
            Err(error) => self.not_understood(now, desk, wire, &error.to_string()),
        }
    }

    /// Bytes of its records that wait to be stored.
    pub fn waiting_bytes(&self) -> usize {
        self.guest.as_ref().map_or(0, |guest| guest.filling.waiting_bytes())
    }

    /// Whether this was stored in its memory.
    pub fn has(&self, stored: &Stored) -> bool {
        self.guest.as_ref().is_some_and(|guest| guest.filling.has(stored))
    }

    /// A record was stored.
    pub fn stored(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, stored: Stored) {
        if let Some(guest) = &mut self.guest {
            guest.filling.note(&stored);
        }
        match stored.pages {
            Ok(pages) => self.hear(now, desk, wire, Input::PagesStored(pages)),
            Err(cause) => self.not_understood(now, desk, wire, &cause),
        }
    }

    fn not_understood(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, cause: &str) {
        let cause = format!("{} cannot be understood: {cause}", self.peer.name);
        self.hear(now, desk, wire, Input::LinkDown { cause });
    }

    /// The control plane's facts.
    pub fn facts(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, facts: Box<HostFacts>) {
        self.facts = Some(facts);
        self.examined(now, desk, wire);
    }

    /// What the control plane heard on the uplinks; its verdict comes next.
    pub fn uplinks_heard(&mut self, found: Option<Vec<Found>>) {
        self.uplinks = found;
    }

    /// The control plane's word: the VM is built, and the datastore will take so long when the guest is to go on.
    pub fn accepted(
        &mut self,
        now: Instant,
        desk: &mut Desk<'_>,
        wire: &mut Wire<'_>,
        beside: Vec<OwnedFd>,
        disks_us: u64,
    ) {
        self.rehearsal.disks_us = disks_us;
        self.verdict = Some(self.take(beside).map_err(|reason| vec![reason]));
        self.examined(now, desk, wire);
    }

    /// The control plane's word: every reason why the VM cannot come.
    pub fn refused(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, reasons: Vec<Reason>) {
        self.verdict = Some(Err(reasons));
        self.examined(now, desk, wire);
    }

    fn take(&mut self, beside: Vec<OwnedFd>) -> Result<(), Reason> {
        let check_only = self.destination.offer().is_some_and(|offer| offer.check_only);
        if beside.is_empty() && (check_only || self.slots_free == 0) {
            return Ok(());
        }
        let [monitor, memory]: [OwnedFd; 2] =
            beside.try_into().map_err(|_| defect("the monitor and the memory of the VM did not come"))?;
        let bytes = self.destination.offer().map_or(0, |offer| offer.vm.memory.0);
        let ram = Arc::new(GuestRam::over(memory, bytes).map_err(|error| defect(error.to_string()))?);
        let filling = Filling::of(Arc::clone(&ram));
        self.guest = Some(Guest { monitor: Monitor::over(monitor), ram, filling, dirty: None, primed: false });
        Ok(())
    }

    fn examined(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        if self.verdict.is_none() {
            return;
        }
        let Some(mut facts) = self.facts.take() else { return };
        (facts.nic, facts.slots_free) = (wire.nic(), self.slots_free);
        let reasons = self.verdict.as_ref().and_then(|verdict| verdict.as_ref().err());
        let findings = reasons.into_iter().flatten().map(|reason| Finding::blocker("destination", reason.clone()));
        let (findings, uplinks) = (findings.collect(), self.uplinks.take());
        self.hear(now, desk, wire, Input::Examined { facts, findings, uplinks });
    }

    /// The control plane opened the disks.
    pub fn disks_open(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, opened: Result<(), String>) {
        let hint = self.vm.as_ref().map_or_else(String::new, |vm| format!("datastore list; then vm start {}", vm.name));
        self.hear(now, desk, wire, Input::DisksOpened(opened.map_err(|why| Reason::new(why, hint))));
    }

    /// The connections whose other ends may answer: one for each question, then the monitor's.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all: Vec<_> = self.questions.iter().map(AsFd::as_fd).collect();
        all.extend(self.guest.as_ref().map(|guest| guest.monitor.as_fd()));
        all
    }

    /// One of [`Self::descriptors`] is readable.
    pub fn readable(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, index: usize) {
        let input = if index < self.questions.len() {
            let question = self.questions.remove(index);
            Some(Input::Lease(question.asked(), question.answer()))
        } else {
            self.monitor_answered()
        };
        if let Some(input) = input {
            self.hear(now, desk, wire, input);
        }
    }

    fn monitor_answered(&mut self) -> Option<Input> {
        let guest = self.guest.as_mut()?;
        let (purpose, answer) = match guest.monitor.take() {
            Ok(answered) => answered.map(|(purpose, answer, _)| (purpose, answer))?,
            Err(error) => {
                self.guest = None;
                return Some(Input::GuestGone { cause: monitor_gone(&error) });
            }
        };
        let done = match &answer {
            VmmAnswer::Failed(why) => Err(Reason::new(why.clone(), "log show vmm")),
            _ => Ok(()),
        };
        Some(match purpose {
            // The log begins with every page marked: the marks are taken before the guest runs.
            Purpose::StartLog => match done {
                Ok(()) => return self.ask_monitor(VmmRequest::DirtyLogHarvest, Vec::new(), Purpose::Harvest),
                Err(reason) => Input::VmmBuilt(Err(reason)),
            },
            Purpose::Harvest if !guest.primed => {
                guest.primed = true;
                match done.map(|()| guest.take_dirty()) {
                    Ok(_) => return self.rehearse(),
                    Err(reason) => Input::VmmBuilt(Err(reason)),
                }
            }
            Purpose::Rehearse => Input::VmmBuilt(done.map(|()| self.rehearsed(&answer))),
            Purpose::Harvest => Input::DirtyHarvested(done.map(|()| guest.take_dirty())),
            Purpose::Restore => Input::StateLoaded(done),
            Purpose::Resume => match done {
                Ok(()) => return self.look(),
                Err(reason) => Input::GuestResumed(Err(reason)),
            },
            Purpose::Look => Input::GuestResumed(match answer {
                VmmAnswer::Status(VmmStatus { clock: Some(clock), .. }) => Ok(clock.shows()),
                _ => Err(defect("the monitor did not say what the guest's clock shows")),
            }),
            Purpose::Stun | Purpose::TakeDisks | Purpose::Nothing => return None,
        })
    }

    /// Does what the machine wants.
    pub fn go_on(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        while let Some(effect) = self.destination.poll_effect() {
            if let Some(input) = self.effect(desk, wire, effect) {
                self.destination.handle_input(desk.clock.of(now), input);
            }
        }
    }

    fn effect(&mut self, desk: &mut Desk<'_>, wire: &mut Wire<'_>, effect: Effect) -> Option<Input> {
        match effect {
            Effect::SendControl(bytes) => match wire.stack.send_control(self.connection, &bytes) {
                Ok(()) => None,
                Err(error) => Some(Input::LinkDown { cause: error.to_string() }),
            },
            Effect::Examine(offer) => self.examine(desk, &offer),
            // The control plane made the memory with the monitor.
            Effect::Reserve { .. } => {
                let there = self.guest.as_ref().map(|_| ()).ok_or_else(|| defect("the VM was not built"));
                Some(Input::Reserved(there))
            }
            Effect::BuildVmm { dirty_log } => self.prime(dirty_log),
            Effect::Lease(ask) => self.ask_lease(desk, ask),
            Effect::LoadState { state, clock } => {
                let clock = clock.map(|clock| GuestClock::now(clock.at(desk.clock.of(Instant::now()))));
                self.load(&state, clock)
            }
            Effect::HashRange { first, count } => {
                if let Some(guest) = &self.guest {
                    desk.hasher.ask(self.destination.migration().0, &guest.ram, first, count);
                }
                None
            }
            Effect::OpenDisks => {
                if let Some(vm) = &self.vm {
                    desk.tell(FromMigrate::OpenDisks(self.id(), vm.name.clone()));
                }
                None
            }
            Effect::ResumeGuest(right, run_state) => self.resume(&right, run_state),
            Effect::Announce => {
                if let Some(vm) = &self.vm {
                    desk.tell(FromMigrate::Resumed { id: self.id(), vm: vm.name.clone(), epoch: self.epoch });
                }
                None
            }
            Effect::HarvestDirty => self.ask_monitor(VmmRequest::DirtyLogHarvest, Vec::new(), Purpose::Harvest),
            Effect::StopDirtyLog => self.ask_monitor(VmmRequest::DirtyLogStop, Vec::new(), Purpose::Nothing),
            // The control plane ends the monitor when it hears of the end. Nothing is written into the memory from now on.
            Effect::Discard => {
                self.guest = None;
                Some(Input::Discarded)
            }
            Effect::Report(progress) => {
                self.report(desk, &progress);
                None
            }
            Effect::Finish(outcome) => {
                self.finish(desk, *outcome);
                None
            }
        }
    }

    fn examine(&mut self, desk: &mut Desk<'_>, offer: &ValidatedOffer) -> Option<Input> {
        let vm = postcard::from_bytes::<VmToMove>(&offer.machine).ok().filter(|vm| {
            // What is built and what is checked must be one VM.
            vm.name == offer.vm.name && vm.spec.memory_bytes == offer.vm.memory.0 && vm.config == offer.config_text
        });
        let Some(vm) = vm else {
            let cause = format!("what {} says of the VM does not fit together", self.peer.name);
            return Some(Input::LinkDown { cause });
        };
        self.vm = Some(vm.clone());
        self.told_host = true;
        let free = if offer.check_only { desk.slots.free() } else { desk.slots.admit(wire::MigrationId(self.id())) };
        self.slots_free = u16::try_from(free).unwrap_or(u16::MAX);
        // Nothing is built where there is no slot.
        let check_only = offer.check_only || free == 0;
        let (source, probe) = (self.peer.name.clone(), offer.probe.clone());
        let incoming = Incoming { id: self.id(), vm, source, check_only, probe };
        desk.tell(FromMigrate::Incoming(Box::new(incoming)));
        None
    }

    fn ask_monitor(&mut self, request: VmmRequest, beside: Vec<OwnedFd>, purpose: Purpose) -> Option<Input> {
        let gone = self.guest.as_mut()?.monitor.ask(request, beside, purpose).err();
        gone.map(|error| Input::GuestGone { cause: monitor_gone(&error) })
    }

    fn rehearse(&mut self) -> Option<Input> {
        self.ask_monitor(VmmRequest::Rehearse, Vec::new(), Purpose::Rehearse)
    }

    fn rehearsed(&mut self, answer: &VmmAnswer) -> Rehearsal {
        if let VmmAnswer::Rehearsed { us } = answer {
            self.rehearsal.state_us = *us;
        }
        self.rehearsal
    }

    fn prime(&mut self, dirty_log: bool) -> Option<Input> {
        let guest = self.guest.as_mut()?;
        if !dirty_log {
            return self.rehearse();
        }
        match DirtyPages::share(guest.ram.pages()) {
            Ok((dirty, memfd)) => {
                guest.dirty = Some(dirty);
                self.ask_monitor(VmmRequest::DirtyLogStart { sample: false }, vec![memfd], Purpose::StartLog)
            }
            Err(reason) => Some(Input::VmmBuilt(Err(reason))),
        }
    }

    fn load(&mut self, state: &[u8], clock: Option<GuestClock>) -> Option<Input> {
        match monitor::memfd_of("state", state) {
            Ok(memfd) => {
                let request = VmmRequest::Restore { length: state.len() as u64, clock };
                self.ask_monitor(request, vec![memfd], Purpose::Restore)
            }
            Err(error) => Some(Input::StateLoaded(Err(defect(error.to_string())))),
        }
    }

    /// The right is what allows it: it exists only where the lease names this host.
    fn resume(&mut self, right: &RightToRun, run_state: RunState) -> Option<Input> {
        self.epoch = right.epoch();
        log::info!("migration {:016x}: the VM is this host's in epoch {}", self.id(), self.epoch);
        if run_state == RunState::Paused {
            return self.look();
        }
        self.ask_monitor(VmmRequest::ResumeArrived, Vec::new(), Purpose::Resume)
    }

    /// Asks what the guest's clock shows, now that it is as it was.
    fn look(&mut self) -> Option<Input> {
        self.ask_monitor(VmmRequest::Status, Vec::new(), Purpose::Look)
    }

    fn ask_lease(&mut self, desk: &Desk<'_>, ask: LeaseAsk) -> Option<Input> {
        let vm = self.vm.as_ref()?;
        let on = VmOnDatastore { datastore: vm.datastore.clone(), vm: vm.name.clone() };
        match Question::ask(desk.run_dir, ask, on, self.peer.identity, vm.epoch) {
            Ok(question) => {
                self.questions.push(question);
                None
            }
            Err(answer) => Some(Input::Lease(ask, answer)),
        }
    }

    fn report(&mut self, desk: &mut Desk<'_>, progress: &Progress) {
        if self.phase != Some(progress.phase) {
            self.phase = Some(progress.phase);
            log::info!("migration {:016x} from {}: {}", self.id(), self.peer.name, progress.phase);
        }
        let doing = match &progress.note {
            Some(note) => format!("{}: {note}", progress.phase),
            None => progress.phase.to_string(),
        };
        let thousandths = (progress.pages > 0).then(|| progress.pages_arrived * 1000 / progress.pages);
        let thousandths = thousandths.and_then(|value| u16::try_from(value).ok());
        if self.told_host {
            let id = self.id();
            let phase = Some(progress.phase);
            let told = MigrationProgress { id, phase, doing, thousandths };
            desk.tell(FromMigrate::Progress(told));
        }
    }

    fn finish(&mut self, desk: &mut Desk<'_>, outcome: Outcome) {
        self.ended = true;
        if let Some(reason) = outcome.diagnosis.iter().flat_map(|diagnosis| &diagnosis.reasons).next() {
            log::info!("migration {:016x} from {} came to nothing: {}", self.id(), self.peer.name, reason.cause);
            self.why = Some(reason.cause.clone());
        }
        if !self.told_host {
            return;
        }
        let vm = VmHere::of(&outcome.vm, &self.own.name);
        let epoch = outcome.receipt.as_ref().map_or(0, |receipt| receipt.epoch);
        let receipt = outcome.receipt.filter(|_| outcome.writes_receipt);
        let ended = Ended {
            id: self.id(),
            vm,
            epoch,
            receipt,
            failure: outcome.diagnosis,
            findings: Vec::new(),
            link: String::new(),
            forecast: None,
        };
        desk.tell(FromMigrate::Ended(Box::new(ended)));
    }
}

impl Guest {
    fn take_dirty(&self) -> PageSet {
        self.dirty.as_ref().map_or_else(|| PageSet::empty(self.ram.pages()), DirtyPages::take)
    }
}
