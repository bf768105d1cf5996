//! The control plane's connection to the migration engine (the migrate role): one connection, messages both ways,
//! made again when the engine is restarted.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::channel::{Channel, ChannelError};
use crate::api::host::MigrationNicDetail;
use crate::api::migrate::{FromMigrate, MigrationId, MigrationProgress, ToMigrate};
use crate::api::paths::RunDir;

/// Pause between two attempts to reach the engine.
const RETRY: Duration = Duration::from_millis(300);
/// Pause between two attempts to bring up a stack that did not come up: its NIC may appear late.
const STACK_RETRY: Duration = Duration::from_secs(3);
/// How long an answer about the NIC is waited for.
const NIC_BOUND: Duration = Duration::from_secs(3);

/// How long the engine of a stack that was up may take to be there again.
const RESTART_BOUND: Duration = Duration::from_secs(15);

type EngineChannel = Channel<ToMigrate, FromMigrate>;

/// The engine as the control plane reaches it.
#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    shared: Mutex<Shared>,
}

/// Who listens to what the engine says of a migration.
#[derive(Debug)]
pub struct Listening {
    id: MigrationId,
    number: u64,
    /// What it says.
    pub said: Receiver<FromMigrate>,
}

/// The migration stack as the engine last told of it.
#[derive(Debug, Default)]
enum Stack {
    /// The engine was not reached yet.
    #[default]
    Unknown,
    /// The engine is away.
    Away(String),
    /// The engine was told to bring it up and has not answered yet.
    Coming,
    /// It is up.
    Up,
    /// It did not come up; it is tried again.
    Down(String),
}

#[derive(Debug, Default)]
struct Shared {
    channel: Option<Arc<EngineChannel>>,
    stack: Stack,
    /// When a stack that was up went away with its engine.
    away_since: Option<Instant>,
    listeners: BTreeMap<MigrationId, (u64, Sender<FromMigrate>)>,
    listened: u64,
    progress: BTreeMap<MigrationId, MigrationProgress>,
    public_key: Option<String>,
    nic_waiters: Vec<Sender<Box<MigrationNicDetail>>>,
}

impl Engine {
    /// The engine of this host; it is reached when [`Engine::keep`] runs.
    pub fn new(run_dir: &RunDir) -> Self {
        Self { socket: run_dir.socket("migrate"), shared: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to the engine.
    ///
    /// # Errors
    /// It is away.
    pub fn tell(&self, message: &ToMigrate, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let channel = self.lock().channel.clone().ok_or(ChannelError::Closed)?;
        channel.send(message, descriptors)
    }

    /// Everything that the engine says of a migration from now on.
    pub fn listen(&self, id: MigrationId) -> Listening {
        let (sender, said) = channel();
        let mut shared = self.lock();
        shared.listened += 1;
        let number = shared.listened;
        shared.listeners.insert(id, (number, sender));
        Listening { id, number, said }
    }

    /// Nothing more is wanted by who listened so. Another may listen to the same migration by now: one that found no slot
    /// here comes again.
    pub fn forget(&self, listening: &Listening) {
        let (mut shared, id) = (self.lock(), &listening.id);
        if shared.listeners.get(id).is_some_and(|(number, _)| *number == listening.number) {
            shared.listeners.remove(id);
            shared.progress.remove(id);
        }
    }

    /// How far the migrations under way are.
    pub fn progress(&self) -> Vec<MigrationProgress> {
        self.lock().progress.values().cloned().collect()
    }

    /// Why the migration stack is not up, where it is not.
    pub fn trouble(&self) -> Option<String> {
        match &self.lock().stack {
            Stack::Unknown => Some("the migrate role was not reached yet".to_owned()),
            Stack::Away(why) => Some(format!("the migrate role does not run: {why}")),
            Stack::Coming => Some("it is coming up".to_owned()),
            Stack::Up => None,
            Stack::Down(why) => Some(format!("{why}; it is tried again")),
        }
    }

    /// Whether other hosts may count on the stack: it is up, or its engine is being restarted. An engine that comes back is the
    /// same to them, and one that they had forgotten meanwhile would be refused until they hear of it again.
    pub fn is_to_be_found(&self) -> bool {
        let shared = self.lock();
        match &shared.stack {
            Stack::Up => true,
            Stack::Away(_) | Stack::Coming => shared.away_since.is_some_and(|since| since.elapsed() < RESTART_BOUND),
            Stack::Unknown | Stack::Down(_) => false,
        }
    }

    /// Has a stack that did not come up tried again, for ever; `configure` gives the message that asks for it.
    pub fn keep_stack_up(&self, configure: impl Fn() -> Option<ToMigrate>) {
        loop {
            std::thread::sleep(STACK_RETRY);
            if matches!(self.lock().stack, Stack::Down(_))
                && let Some(message) = configure()
            {
                // If the engine is away, it is greeted with the same when it is back.
                let _ = self.tell(&message, &[]);
            }
        }
    }

    /// The migration NIC as the engine knows it.
    pub fn nic(&self) -> Option<Box<MigrationNicDetail>> {
        let (sender, receiver) = channel();
        self.lock().nic_waiters.push(sender);
        self.tell(&ToMigrate::Nic, &[]).ok()?;
        receiver.recv_timeout(NIC_BOUND).ok()
    }

    /// The public key by which the engine is known, hex, once its stack was up: that of this boot.
    pub fn public_key(&self) -> Option<String> {
        if let Some(known) = self.lock().public_key.clone() {
            return Some(known);
        }
        let key = self.nic()?.public_key;
        self.lock().public_key = Some(key.clone()).filter(|key| !key.is_empty());
        Some(key).filter(|key| !key.is_empty())
    }

    /// Reaches the engine, again and again, and passes on what it says; `greet` is said first on each connection, and
    /// `incoming` gets what concerns no migration that is listened to.
    pub fn keep(&self, greet: impl Fn() -> Vec<ToMigrate>, incoming: impl Fn(FromMigrate)) {
        loop {
            match EngineChannel::connect(&self.socket) {
                Ok(channel) => self.serve(Arc::new(channel), &greet, &incoming),
                Err(error) => self.away(&error.to_string()),
            }
            std::thread::sleep(RETRY);
        }
    }

    fn serve(&self, channel: Arc<EngineChannel>, greet: &impl Fn() -> Vec<ToMigrate>, incoming: &impl Fn(FromMigrate)) {
        for message in greet() {
            if let Err(error) = channel.send(&message, &[]) {
                return self.away(&error.to_string());
            }
        }
        {
            let mut shared = self.lock();
            shared.channel = Some(Arc::clone(&channel));
            shared.stack = Stack::Coming;
        }
        loop {
            match channel.receive() {
                Ok((message, _)) => {
                    if let Some(message) = self.take(message) {
                        incoming(message);
                    }
                }
                Err(error) => return self.away(&error.to_string()),
            }
        }
    }

    /// The engine went away: who waits for a migration learns it by the end of its receiver.
    fn away(&self, why: &str) {
        let mut shared = self.lock();
        if shared.channel.take().is_some() {
            log::error!("the migration engine went away: {why}");
        }
        if matches!(shared.stack, Stack::Up) {
            shared.away_since = Some(Instant::now());
        }
        shared.stack = Stack::Away(why.to_owned());
        shared.listeners.clear();
        shared.progress.clear();
        shared.nic_waiters.clear();
    }

    /// Keeps what the engine says of itself, hands on what is listened to, and returns the rest.
    fn take(&self, message: FromMigrate) -> Option<FromMigrate> {
        let mut shared = self.lock();
        let id = match &message {
            FromMigrate::Configured(outcome) => {
                shared.stack = outcome.clone().err().map_or(Stack::Up, Stack::Down);
                return None;
            }
            FromMigrate::Nic(nic) => {
                for waiter in shared.nic_waiters.drain(..) {
                    // Who waited may have given up.
                    let _ = waiter.send(nic.clone());
                }
                return None;
            }
            FromMigrate::Progress(progress) => {
                shared.progress.insert(progress.id, progress.clone());
                progress.id
            }
            // One that found no slot here comes again, while who served it before may still listen.
            FromMigrate::Incoming(_) | FromMigrate::News { .. } => return Some(message),
            FromMigrate::Pinged(id, _) => {
                shared.progress.remove(id);
                *id
            }
            FromMigrate::OpenDisks(id, _)
            | FromMigrate::Resumed { id, .. }
            | FromMigrate::Release(id)
            | FromMigrate::ProbeUplinks(id, _)
            | FromMigrate::HearUplinks(id)
            | FromMigrate::Unknown(id) => *id,
            FromMigrate::Ended(ended) => {
                shared.progress.remove(&ended.id);
                ended.id
            }
        };
        match shared.listeners.get(&id) {
            Some((_, listener)) => listener.send(message).err().map(|unsent| unsent.0),
            None => Some(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listened_before_takes_nothing_from_who_listens_now() {
        let engine = Engine::new(&RunDir::at("/nowhere"));
        let (first, second) = (engine.listen(1), engine.listen(1));
        engine.forget(&first);
        assert!(engine.take(FromMigrate::Unknown(1)).is_none());
        assert!(matches!(second.said.try_recv(), Ok(FromMigrate::Unknown(1))));
        engine.forget(&second);
        assert!(engine.take(FromMigrate::Unknown(1)).is_some());
    }

    #[test]
    fn a_stack_whose_engine_is_restarted_is_still_to_be_found_and_one_that_never_came_up_is_not() {
        let engine = Engine::new(&RunDir::at("/nowhere"));
        assert!(!engine.is_to_be_found(), "it was not reached yet");
        engine.away("it is not there");
        assert!(!engine.is_to_be_found(), "it was never up");
        engine.take(FromMigrate::Configured(Ok(())));
        assert!(engine.is_to_be_found());
        engine.away("it was killed");
        assert!(engine.is_to_be_found(), "it is being restarted");
        engine.take(FromMigrate::Configured(Err("its NIC is gone".to_owned())));
        assert!(!engine.is_to_be_found(), "it came back without its NIC");
    }
}
