//! A datastore as the control plane works with it: small files read and replaced whole, disks opened, its state told.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use model::diagnosis::Reason;
use model::host_config::{self, DatastoreKind, NfsVersion};
use model::names::DatastoreName;
use model::units::Bytes;
use rustix::fs::OFlags;

use super::beneath::Beneath;
use super::bounded::{Bounded, DatastoreError};
use super::keeper::{SCARCE, State, Unwritable, keep};
use super::{server_lease, trouble};
use crate::api::host::DatastoreRow;
use crate::journal;

/// A datastore that answers is heard of at least so often, because it is looked at.
const HEARD_OF: Duration = Duration::from_secs(5);

/// One datastore.
#[derive(Debug)]
pub struct Datastore {
    name: DatastoreName,
    kind: DatastoreKind,
    root: PathBuf,
    bounded: Bounded,
    /// The file by which this host tries whether it can write there.
    tried: String,
    /// The folder of this host there, in which it writes what is then put into its place.
    own_folder: String,
    /// What an earlier process was writing there when it died was removed.
    swept: AtomicBool,
    state: Mutex<State>,
    /// When it answered last.
    last_answer: Mutex<Option<Instant>>,
    /// Why the lease area cannot be written there, if the storage refuses that.
    lease_refusal: Mutex<Option<Unwritable>>,
    /// Somebody could not write there, and it was not tried since.
    doubted: AtomicBool,
    /// How the lease area there is damaged, if it is.
    lease_damage: Mutex<Option<Reason>>,
}

/// All datastores of a host.
#[derive(Debug, Default)]
pub struct Datastores {
    all: Vec<Arc<Datastore>>,
}

impl Datastores {
    /// Begins to keep the configured datastores of the host `own`, mounted below `folder`, each on a thread of its own.
    pub fn start(configured: &[host_config::Datastore], folder: &Path, own: &str) -> Self {
        let mut all = Vec::new();
        for configured in configured {
            let datastore = Arc::new(Datastore::new(configured, folder, own));
            let kept = Arc::clone(&datastore);
            let keeper =
                std::thread::Builder::new().name(format!("keep-{}", datastore.name)).spawn(move || keep(&kept));
            if let Err(error) = keeper {
                datastore.refused(Reason::new(format!("no thread can be made: {error}"), "host reboot"));
            }
            all.push(datastore);
        }
        Self { all }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Datastore>> {
        self.all.clone()
    }

    /// The one of this name.
    pub fn get(&self, name: &DatastoreName) -> Option<Arc<Datastore>> {
        self.all.iter().find(|datastore| datastore.name == *name).cloned()
    }
}

impl Datastore {
    /// One of the host `own` that nobody has tried yet, below `folder` once it is mounted.
    pub(crate) fn new(configured: &host_config::Datastore, folder: &Path, own: &str) -> Self {
        let host_config::Datastore { name, kind } = configured;
        let root = match kind {
            DatastoreKind::Directory { path } => PathBuf::from(path),
            DatastoreKind::Nfs { .. } => folder.join(name.as_str()),
        };
        Self {
            name: name.clone(),
            kind: kind.clone(),
            bounded: Bounded::new(root.clone()),
            root,
            tried: format!("godwit/tried-{own}"),
            own_folder: format!("hosts/{own}"),
            swept: AtomicBool::new(false),
            state: Mutex::new(State::Mounting(None)),
            last_answer: Mutex::default(),
            lease_refusal: Mutex::default(),
            doubted: AtomicBool::new(false),
            lease_damage: Mutex::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &DatastoreName {
        &self.name
    }

    /// What it is.
    pub fn kind(&self) -> &DatastoreKind {
        &self.kind
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How long a request to it is waited for, unless its caller waits for less.
    pub fn request_bound(&self) -> Duration {
        self.bounded.bound()
    }

    pub(super) fn bounded(&self) -> &Bounded {
        &self.bounded
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn refused(&self, reason: Reason) {
        let mut state = self.lock();
        let told = match &*state {
            State::Mounting(Some(told)) | State::Lost { why: told, .. } => Some(told),
            State::Mounting(None) | State::Available { .. } => None,
        };
        // It is tried again and again: what is known already is not told again.
        if told != Some(&reason) {
            log::warn!("datastore {}: {}", self.name, reason.cause);
        }
        *state = match &*state {
            State::Lost { since, .. } => State::Lost { since: *since, why: reason },
            _ => State::Mounting(Some(reason)),
        };
    }

    pub(super) fn answered(&self, size: Bytes, free: Bytes) {
        self.note_answer();
        let mut state = self.lock();
        if !matches!(&*state, State::Available { .. }) {
            // What was to be expected at boot is no news.
            let target = if matches!(&*state, State::Mounting(None)) { module_path!() } else { journal::NEWS };
            log::info!(target: target, "datastore {} is available", self.name);
        }
        let unwritable = match &mut *state {
            State::Available { unwritable, .. } => unwritable.take(),
            _ => None,
        };
        *state = State::Available { size, free, unwritable };
    }

    /// Writes a small file, as a VM, a lease and this host's own record will want to. A datastore that does not answer
    /// meanwhile is found by who watches it.
    pub(super) fn try_to_write(&self) {
        if !self.swept.load(Ordering::Relaxed) {
            let swept = self.run(&self.own_folder, |datastore, drafts| datastore.sweep(drafts));
            // It is tried again with the next look; who cannot write is told of below.
            self.swept.store(swept.is_ok(), Ordering::Relaxed);
        }
        let written = self.make_folder("godwit").and_then(|()| self.replace(&self.tried, &[0; 4096]));
        let found = match written {
            Ok(()) => None,
            Err(DatastoreError::NoAnswer(_) | DatastoreError::Hanging(_) | DatastoreError::NotMounted) => return,
            Err(error) => Some(self.why_unwritable(&error)),
        };
        self.note_writing(|state, _| {
            if let State::Available { unwritable, .. } = state {
                *unwritable = found;
            }
        });
    }

    /// Takes note of the error number with which the storage refuses the lease area, if it does: that file may be another user's where the
    /// rest is not, and it is written every second.
    pub fn lease_refused(&self, errno: Option<i32>) {
        let refusal = errno.map(|errno| self.why_unwritable(&refused_with(errno)));
        self.note_writing(|_, lease| *lease = refusal);
    }

    /// Takes note of how the lease area is damaged, if it is, and tells a change of that.
    pub fn lease_damaged(&self, damage: Option<Reason>) {
        let mut known = self.lease_damage.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*known, &damage) {
            (before, Some(now)) if before.as_ref() != Some(now) => {
                log::error!("{}", now.cause)
            }
            (Some(_), None) => {
                log::info!(target: journal::NEWS, "the lease area of datastore {} can be read again", self.name)
            }
            _ => {}
        }
        *known = damage;
    }

    /// How the lease area there is damaged, as far as is known: no VM can be started or moved by it.
    pub fn lease_damage(&self) -> Option<Reason> {
        self.lease_damage.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| self.available())
    }

    /// What an error number of its storage means, and what mends it.
    pub fn refusal(&self, errno: i32) -> Reason {
        self.why_unwritable(&refused_with(errno)).reason
    }

    fn why_unwritable(&self, error: &DatastoreError) -> Unwritable {
        Unwritable { state: trouble::state(error), reason: trouble::reason(&self.place(), error) }
    }

    /// Somebody could not write there: that is tried at the next look.
    pub fn doubt_writing(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// Whether somebody could not write there since this was asked last.
    pub(super) fn take_doubt(&self) -> bool {
        self.doubted.swap(false, Ordering::Relaxed)
    }

    /// Changes what is known of writing there, and tells a change of the whole.
    fn note_writing(&self, change: impl FnOnce(&mut State, &mut Option<Unwritable>)) {
        let mut state = self.lock();
        let mut lease = self.lease_refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let before = unwritable(&state, &lease);
        change(&mut state, &mut lease);
        match (before, unwritable(&state, &lease)) {
            (before, Some(now)) if before.as_ref() != Some(&now) => {
                log::error!("datastore {}: {}", self.name, now.reason.cause);
            }
            (Some(_), None) if matches!(&*state, State::Available { .. }) => {
                log::info!(target: journal::NEWS, "datastore {} can be written again", self.name);
            }
            _ => {}
        }
    }

    /// Why nothing can be written there, or not what a VM needs, as far as is known.
    fn unwritable(&self) -> Option<Unwritable> {
        let state = self.lock();
        let lease = self.lease_refusal.lock().unwrap_or_else(PoisonError::into_inner);
        unwritable(&state, &lease)
    }

    /// Why a VM that runs from it may not be able to write, as far as is known.
    pub fn refuses_writes(&self) -> Option<Reason> {
        self.unwritable().map(|unwritable| unwritable.reason)
    }

    /// Whether it answered when it was last looked at, and took what was written there last.
    pub fn writable(&self) -> bool {
        self.available() && self.unwritable().is_none()
    }

    pub(super) fn lost(&self, why: Reason) {
        let since = self.last_answer().unwrap_or_else(Instant::now);
        let mut state = self.lock();
        if !matches!(&*state, State::Lost { .. }) {
            log::error!("datastore {} is lost: {}", self.name, why.cause);
        }
        *state = State::Lost { since, why };
    }

    fn last_answer(&self) -> Option<Instant> {
        *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_answer(&self) {
        *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Takes note of a request that began then and was not answered within the bound: where none was since, the datastore is lost until
    /// who watches it is answered, and nobody else waits for it.
    fn note_silence<T>(&self, began: Instant, outcome: &Result<T, DatastoreError>) {
        // Who waits for less says nothing of the datastore.
        let Err(error @ DatastoreError::NoAnswer(bound)) = outcome else { return };
        let silent = self.last_answer().is_none_or(|at| at < began);
        if *bound >= self.bounded.bound() && silent && self.available() {
            self.lost(trouble::reason(&self.place(), error));
        }
    }

    /// This host lost its lease there because it could not renew it. Where nothing else was answered meanwhile either, the datastore is
    /// lost too: requests that hang would tell so only seconds later.
    pub fn lease_lost(&self) {
        let Some(silent) = self.last_answer().map(|at| at.elapsed()).filter(|silent| *silent >= HEARD_OF) else {
            return;
        };
        if self.available() {
            let silent = silent.as_secs();
            let why = format!("it had not answered for {silent} s when this host lost its lease there");
            self.lost(Reason::new(why, trouble::LOOK_AT_IT));
        }
    }

    /// Whether it answered when it was last looked at, and no request waited in vain since.
    pub fn available(&self) -> bool {
        matches!(&*self.lock(), State::Available { .. })
    }

    /// Why it cannot be asked, where that is known; `None` of one that answers.
    pub fn away(&self) -> Option<String> {
        let name = &self.name;
        match &*self.lock() {
            State::Available { .. } => None,
            State::Mounting(None) => Some(format!("datastore {name} is not mounted yet")),
            State::Mounting(Some(why)) => Some(format!("datastore {name} is not there: {}", why.cause)),
            State::Lost { since, .. } => {
                Some(format!("datastore {name} does not answer: lost for {} s", since.elapsed().as_secs()))
            }
        }
    }

    /// It in a list.
    pub fn row(&self) -> DatastoreRow {
        let unwritable = self.unwritable();
        let (state, size, free) = match &*self.lock() {
            State::Mounting(None) => ("mounting".to_owned(), Bytes(0), Bytes(0)),
            State::Mounting(Some(_)) => ("not there".to_owned(), Bytes(0), Bytes(0)),
            State::Available { size, free, .. } => {
                (unwritable.map_or("available", |unwritable| unwritable.state).to_owned(), *size, *free)
            }
            State::Lost { since, .. } => (format!("lost for {} s", since.elapsed().as_secs()), Bytes(0), Bytes(0)),
        };
        let kind = match &self.kind {
            DatastoreKind::Nfs { version, .. } => format!("nfs {version}"),
            DatastoreKind::Directory { .. } => "directory".to_owned(),
        };
        DatastoreRow { name: self.name.clone(), kind, state, size, free, place: self.place() }
    }

    /// What it is mounted from.
    pub(super) fn place(&self) -> String {
        match &self.kind {
            DatastoreKind::Nfs { server, export, .. } => format!("{server}:{export}"),
            DatastoreKind::Directory { path } => path.clone(),
        }
    }

    /// What is wrong with it.
    pub fn problems(&self) -> Vec<Reason> {
        if let Some(unwritable) = self.unwritable() {
            return vec![unwritable.reason];
        }
        if let Some(damage) = self.lease_damage() {
            return vec![damage];
        }
        match &*self.lock() {
            State::Mounting(Some(reason)) | State::Lost { why: reason, .. } => vec![reason.clone()],
            State::Available { .. } => self.server_lease_s().and_then(server_lease::too_short).into_iter().collect(),
            State::Mounting(None) => Vec::new(),
        }
    }

    /// What is to be known of it although nothing is wrong.
    pub fn warnings(&self) -> Vec<Reason> {
        let warning = match &self.kind {
            DatastoreKind::Nfs { version: NfsVersion::V3, .. } => Some(server_lease::none(&self.name)),
            DatastoreKind::Nfs { .. } | DatastoreKind::Directory { .. } => None,
        };
        let full = match &*self.lock() {
            State::Available { size, free, .. } if *free < SCARCE && size.0 > 0 => {
                let cause =
                    format!("{} has no room left: VMs get errors where they write what has none yet", self.place());
                Some(Reason::new(cause, "make room on the server; datastore list tells how much there is"))
            }
            _ => None,
        };
        warning.into_iter().chain(full).collect()
    }

    /// Seconds that its server keeps the locks of a host that it does not hear of, where it tells.
    pub fn server_lease_s(&self) -> Option<u64> {
        server_lease::server_lease_s(&self.root)
    }

    /// Its server, where that keeps locks and the like for the hosts by what they are called ([`super::nfs_client`]).
    pub fn keeper_of_locks(&self) -> Option<SocketAddr> {
        match self.kind {
            DatastoreKind::Nfs { server, port, version: NfsVersion::V4_1 | NfsVersion::V4_2, .. } => {
                Some((server, port).into())
            }
            DatastoreKind::Nfs { version: NfsVersion::V3, .. } | DatastoreKind::Directory { .. } => None,
        }
    }

    /// Runs an operation on a path below the root, which it cannot leave, unless the datastore was never there: its folder
    /// would then be this host's own memory.
    pub(super) fn run<T: Send + 'static>(
        &self,
        path: &str,
        operation: impl FnOnce(&Beneath, &Path) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        self.run_within(self.bounded.bound(), path, operation)
    }

    /// The same, and waits up to `bound`.
    fn run_within<T: Send + 'static>(
        &self,
        bound: Duration,
        path: &str,
        operation: impl FnOnce(&Beneath, &Path) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        if matches!(&*self.lock(), State::Mounting(_)) {
            return Err(DatastoreError::NotMounted);
        }
        let path = PathBuf::from(path);
        let is_mounted = matches!(self.kind, DatastoreKind::Nfs { .. });
        let began = Instant::now();
        let outcome = self.bounded.run_within(bound, move |root| {
            let datastore = Beneath::of(root)?;
            // What was unmounted leaves the folder beneath, which is this host's own memory and has no VMs.
            if is_mounted && root.parent().is_some_and(|own| datastore.is_on_that_of(own).unwrap_or(false)) {
                return Err(DatastoreError::NotMounted);
            }
            operation(&datastore, &path)
        });
        match &outcome {
            Ok(_) => self.note_answer(),
            Err(error) if error.is_missing() => self.note_answer(),
            Err(_) => self.note_silence(began, &outcome),
        }
        outcome
    }

    /// Runs an operation on files of the datastore that are open already.
    ///
    /// # Errors
    /// The operation's own, or that it did not end in time; it may then still take effect.
    pub fn with_open<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let began = Instant::now();
        let outcome = self.bounded.run(|_| operation());
        self.note_silence(began, &outcome);
        outcome
    }

    /// The same, and calls `meanwhile` again and again after each `pause` of the wait.
    ///
    /// # Errors
    /// As of [`Datastore::with_open`].
    pub fn with_open_watched<T: Send + 'static>(
        &self,
        pause: Duration,
        meanwhile: impl FnMut(),
        operation: impl FnOnce() -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let began = Instant::now();
        let outcome = self.bounded.run_watched(pause, meanwhile, |_| operation());
        self.note_silence(began, &outcome);
        outcome
    }

    /// Closes files of the datastore, on a thread of its own: a server that is away holds up whoever closes a file of it, and they
    /// are closed when it answers.
    pub fn close<T: Send + 'static>(&self, files: T) {
        let _ = self.with_open(move || {
            drop(files);
            Ok(())
        });
    }

    /// The room that this host may fill, asked anew.
    ///
    /// # Errors
    /// The datastore does not answer.
    pub fn room(&self) -> Result<Bytes, DatastoreError> {
        self.run("", |datastore, path| {
            let room = rustix::fs::fstatvfs(datastore.open(path, OFlags::PATH)?).map_err(io::Error::from)?;
            Ok(Bytes(room.f_bavail.saturating_mul(room.f_frsize)))
        })
    }

    /// Reads a small text whole.
    ///
    /// # Errors
    /// It is not there, larger than `max` bytes, or not text.
    pub fn read_text(&self, path: &str, max: u64) -> Result<String, DatastoreError> {
        self.read_text_within(self.bounded.bound(), path, max)
    }

    /// The same, and waits up to `bound`.
    ///
    /// # Errors
    /// As of [`Datastore::read_text`].
    pub fn read_text_within(&self, bound: Duration, path: &str, max: u64) -> Result<String, DatastoreError> {
        let bytes = self.run_within(bound, path, start_of(max + 1))?;
        if bytes.len() as u64 > max {
            return Err(DatastoreError::TooLarge(max));
        }
        String::from_utf8(bytes).map_err(|_| DatastoreError::NotText)
    }

    /// Reads the first `max` bytes of a file, or all if it has fewer.
    ///
    /// # Errors
    /// It is not there or not readable.
    pub fn read_start(&self, path: &str, max: u64) -> Result<Vec<u8>, DatastoreError> {
        self.run(path, start_of(max))
    }

    /// When a file was last written, by the clock of the datastore's server.
    ///
    /// # Errors
    /// It is not there or not readable.
    pub fn modified(&self, path: &str) -> Result<SystemTime, DatastoreError> {
        self.run(path, |datastore, path| {
            Ok(File::from(datastore.open(path, OFlags::RDONLY)?).metadata()?.modified()?)
        })
    }

    /// Puts a small file in the place of what was there: after a crash it is the old one or the new one, whole.
    ///
    /// # Errors
    /// The datastore does not take it.
    pub fn replace(&self, path: &str, bytes: &[u8]) -> Result<(), DatastoreError> {
        let bytes = bytes.to_vec();
        let drafts = PathBuf::from(&self.own_folder);
        self.run(path, move |datastore, path| {
            datastore.replace(path, &drafts, |file| {
                file.write_all(&bytes)?;
                file.sync_all()
            })
        })
    }

    /// Makes a folder, and those above it, if it is not there.
    ///
    /// # Errors
    /// The datastore does not take it.
    pub fn make_folder(&self, path: &str) -> Result<(), DatastoreError> {
        self.run(path, |datastore, path| datastore.make_folder(path))
    }

    /// The names in a folder, sorted; none where there is no such folder.
    ///
    /// # Errors
    /// The datastore does not answer.
    pub fn list(&self, path: &str) -> Result<Vec<String>, DatastoreError> {
        self.run(path, |datastore, path| {
            let names = datastore.entries(path)?.into_iter().filter_map(|entry| String::from_utf8(entry.name).ok());
            Ok(sorted(names.collect()))
        })
    }

    /// The names of the folders in a folder that are not hidden, sorted, with `?` for what cannot be shown; none where there
    /// is no such folder.
    ///
    /// # Errors
    /// The datastore does not answer.
    pub fn folders(&self, path: &str) -> Result<Vec<String>, DatastoreError> {
        self.folders_within(self.bounded.bound(), path)
    }

    /// The same, and waits up to `bound`.
    ///
    /// # Errors
    /// As of [`Datastore::folders`].
    pub fn folders_within(&self, bound: Duration, path: &str) -> Result<Vec<String>, DatastoreError> {
        self.run_within(bound, path, |datastore, path| {
            let shown = |c: char| if c.is_control() || c == char::REPLACEMENT_CHARACTER { '?' } else { c };
            let folders = datastore.entries(path)?.into_iter().filter(|entry| entry.is_folder);
            let names =
                folders.map(|entry| String::from_utf8_lossy(&entry.name).chars().map(shown).collect::<String>());
            Ok(sorted(names.filter(|name| !name.starts_with('.')).collect()))
        })
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// It is not there or not readable.
    pub fn open_read(&self, path: &str) -> Result<File, DatastoreError> {
        self.run(path, |datastore, path| {
            let file = File::from(datastore.open(path, OFlags::RDONLY)?);
            if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file").into()) }
        })
    }

    /// Opens a disk past the page cache (O_DIRECT), so that no host holds what another must see.
    ///
    /// # Errors
    /// It is not there or not accessible.
    pub fn open_disk(&self, path: &str, read_only: bool) -> Result<File, DatastoreError> {
        self.run(path, move |datastore, path| {
            let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
            let file = File::from(datastore.open(path, access | OFlags::DIRECT)?);
            if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file").into()) }
        })
    }
}

/// Reads the first `max` bytes of a file, or all if it has fewer.
fn start_of(max: u64) -> impl FnOnce(&Beneath, &Path) -> Result<Vec<u8>, DatastoreError> + Send + 'static {
    move |datastore, path| {
        let mut bytes = Vec::new();
        File::from(datastore.open(path, OFlags::RDONLY)?).take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn refused_with(errno: i32) -> DatastoreError {
    DatastoreError::Io(io::Error::from_raw_os_error(errno))
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// Why nothing can be written to a datastore that answers, or not its lease area.
fn unwritable(state: &State, lease: &Option<Unwritable>) -> Option<Unwritable> {
    let State::Available { unwritable, .. } = state else { return None };
    unwritable.as_ref().or(lease.as_ref()).cloned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    pub(crate) fn at(path: &Path) -> Arc<Datastore> {
        let kind = DatastoreKind::Directory { path: path.to_string_lossy().into_owned() };
        let configured = host_config::Datastore { name: "lab".parse().expect("valid"), kind };
        let datastore = Datastores::start(&[configured], Path::new("/nowhere"), "host-a").all().remove(0);
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        while !datastore.available() && datastore.problems().is_empty() && Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        datastore
    }

    #[test]
    fn a_datastore_that_cannot_be_written_says_why_and_comes_back_by_itself() {
        let folder = std::env::temp_dir().join(format!("godwit-unwritable-{}", std::process::id()));
        let (link, writable) = (folder.join("link"), folder.join("writable"));
        fs::create_dir_all(&writable).expect("made");
        // Nobody makes folders there, root included.
        symlink("/sys", &link).expect("linked");
        let datastore = at(&link);
        let wait = |what: &str, holds: &dyn Fn() -> bool| {
            let deadline = Instant::now() + std::time::Duration::from_secs(60);
            while !holds() {
                assert!(Instant::now() < deadline, "{what}: {:?} {:?}", datastore.row().state, datastore.problems());
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        };
        wait("it is found", &|| datastore.row().state == "cannot be written");
        let told = datastore.problems().remove(0);
        assert!(told.cause.contains("may not use it") && told.hint.contains("no_root_squash"), "{told:?}");
        assert!(datastore.available(), "it can be read");
        fs::remove_file(&link).expect("removed");
        symlink(&writable, &link).expect("linked");
        wait("it is well", &|| datastore.row().state == "available" && datastore.problems().is_empty());
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_replaced_file_is_read_back_whole_and_leaves_nothing_beside_it() {
        let folder = std::env::temp_dir().join(format!("godwit-datastore-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("made");
        let datastore = at(&folder);
        datastore.make_folder("vms/web").expect("made");
        datastore.replace("vms/web/vm.toml", b"one").expect("written");
        datastore.replace("vms/web/vm.toml", b"two").expect("written");
        assert_eq!(datastore.read_text("vms/web/vm.toml", 10).expect("read"), "two");
        assert_eq!(datastore.list("vms/web").expect("listed"), ["vm.toml"]);
        assert!(datastore.list("hosts/host-a").expect("listed").is_empty());
        assert!(matches!(datastore.read_text("vms/web/vm.toml", 2), Err(DatastoreError::TooLarge(2))));
        assert!(datastore.read_text("vms/db/vm.toml", 10).expect_err("missing").is_missing());
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_a_process_was_writing_when_it_died_is_removed_by_the_next() {
        let folder = std::env::temp_dir().join(format!("godwit-datastore-drafts-{}", std::process::id()));
        let own = folder.join("hosts/host-a");
        fs::create_dir_all(&own).expect("made");
        for name in ["new-0123-77-4", "record.toml"] {
            fs::write(own.join(name), "half").expect("written");
        }
        fs::create_dir_all(folder.join("hosts/host-b")).expect("made");
        fs::write(folder.join("hosts/host-b/new-0123-77-4"), "another's").expect("written");
        let datastore = at(&folder);
        let deadline = Instant::now() + Duration::from_secs(60);
        while datastore.list("hosts/host-a").expect("listed") != ["record.toml"] {
            assert!(Instant::now() < deadline, "{:?}", datastore.list("hosts/host-a"));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(datastore.list("hosts/host-b").expect("listed"), ["new-0123-77-4"]);
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_link_that_leads_out_of_the_datastore_is_followed_nowhere() {
        let folder = std::env::temp_dir().join(format!("godwit-datastore-out-{}", std::process::id()));
        let (inside, outside) = (folder.join("datastore"), folder.join("host"));
        fs::create_dir_all(inside.join("vms/web")).expect("made");
        fs::create_dir_all(&outside).expect("made");
        fs::write(outside.join("key"), "secret").expect("written");
        symlink(outside.join("key"), inside.join("vms/web/initrd")).expect("linked");
        symlink("../../../host/key", inside.join("vms/web/disk")).expect("linked");
        symlink(&outside, inside.join("vms/away")).expect("linked");
        symlink("/proc/self/root", inside.join("vms/magic")).expect("linked");
        let datastore = at(&inside);
        let refusals = [
            datastore.read_text("vms/web/initrd", 100).map(drop),
            datastore.read_start("vms/away/key", 100).map(drop),
            datastore.read_start("vms/magic/proc/version", 100).map(drop),
            datastore.open_read("vms/web/initrd").map(drop),
            datastore.open_disk("vms/web/disk", true).map(drop),
            datastore.open_disk("vms/away/key", false).map(drop),
            datastore.list("vms/away").map(drop),
            datastore.make_folder("vms/away"),
            datastore.make_folder("vms/away/receipts"),
            datastore.replace("vms/away/key", b"mine"),
        ];
        for (n, refusal) in refusals.into_iter().enumerate() {
            let told = refusal.map_err(|error| error.to_string());
            assert_eq!(told, Err("a link in its path leads out of the datastore".to_owned()), "{n}");
        }
        // What is to be replaced may be such a link: it goes, and what it led to stays.
        datastore.replace("vms/web/initrd", b"mine").expect("written");
        assert_eq!(datastore.read_text("vms/web/initrd", 100).expect("read"), "mine");
        assert_eq!(fs::read_to_string(outside.join("key")).expect("read"), "secret");
        assert_eq!(fs::read_dir(&outside).expect("listed").count(), 1, "nothing was made outside");
        assert_eq!(
            datastore.folders("vms").expect("listed"),
            ["away", "magic", "web"],
            "who goes there is told why not"
        );
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_link_within_the_datastore_is_followed() {
        let folder = std::env::temp_dir().join(format!("godwit-datastore-in-{}", std::process::id()));
        fs::create_dir_all(folder.join("vms/web")).expect("made");
        fs::create_dir_all(folder.join("images")).expect("made");
        fs::write(folder.join("images/kernel"), "kernel").expect("written");
        symlink("../../images/kernel", folder.join("vms/web/kernel")).expect("linked");
        symlink("web", folder.join("vms/same")).expect("linked");
        symlink("nothing", folder.join("vms/gone")).expect("linked");
        symlink("../images/kernel", folder.join("vms/file")).expect("linked");
        let datastore = at(&folder);
        assert_eq!(datastore.read_text("vms/same/kernel", 100).expect("read"), "kernel");
        assert!(datastore.open_read("vms/web/kernel").is_ok());
        datastore.replace("vms/same/vm.toml", b"one").expect("written");
        assert_eq!(datastore.list("vms/web").expect("listed"), ["kernel", "vm.toml"]);
        assert_eq!(datastore.folders("vms").expect("listed"), ["same", "web"]);
        assert!(datastore.folders("nowhere").expect("listed").is_empty());
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn nothing_is_written_into_the_folder_of_a_datastore_that_is_not_there() {
        let datastore = at(Path::new("/nonexistent/datastore"));
        assert!(!datastore.available());
        assert!(!datastore.problems().is_empty());
        assert!(matches!(datastore.replace("x", b"y"), Err(DatastoreError::NotMounted)));
    }

    /// A datastore in a folder, which nobody looks at, and whose requests are waited for only so long.
    fn unkept(folder: &Path, bound: Duration) -> Datastore {
        fs::create_dir_all(folder).expect("made");
        let kind = DatastoreKind::Directory { path: folder.to_string_lossy().into_owned() };
        let configured = host_config::Datastore { name: "lab".parse().expect("valid"), kind };
        let datastore = Datastore::new(&configured, Path::new("/nowhere"), "host-a");
        Datastore { bounded: Bounded::waiting(folder.to_owned(), bound), ..datastore }
    }

    #[test]
    fn a_datastore_that_left_a_request_unanswered_is_lost_at_once_unless_it_answered_another_meanwhile() {
        let folder = std::env::temp_dir().join(format!("godwit-unanswered-{}", std::process::id()));
        let datastore = unkept(&folder, Duration::from_millis(200));
        let hangs = |bound| {
            let asked = datastore.read_text_within(bound, "hangs", 10);
            assert!(matches!(asked, Err(DatastoreError::NoAnswer(_))), "{asked:?}");
        };
        // What is opened there waits until somebody writes.
        let fifo = folder.join("hangs");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        datastore.answered(Bytes::mib(2), Bytes::mib(1));
        hangs(Duration::from_millis(20));
        assert!(datastore.available(), "who waits for less than a request says nothing of it");

        let meanwhile = datastore.with_open_watched(
            Duration::from_millis(20),
            || assert!(datastore.folders("vms").expect("listed").is_empty()),
            move || {
                File::open(fifo)?;
                Ok(())
            },
        );
        assert!(matches!(meanwhile, Err(DatastoreError::NoAnswer(_))), "{meanwhile:?}");
        assert!(datastore.available(), "it answered another");

        hangs(datastore.bounded.bound());
        assert!(!datastore.available());
        assert!(datastore.row().state.starts_with("lost for"), "{}", datastore.row().state);
        let told = datastore.problems().remove(0);
        assert!(told.cause.contains("did not answer within 200 ms") && told.hint.contains("the cable"), "{told:?}");
        datastore.answered(Bytes::mib(2), Bytes::mib(1));
        assert!(datastore.available() && datastore.problems().is_empty());
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_lease_that_was_lost_makes_its_datastore_lost_where_that_says_nothing_more() {
        let folder = std::env::temp_dir().join(format!("godwit-fenced-{}", std::process::id()));
        let datastore = unkept(&folder, Duration::from_secs(10));
        datastore.answered(Bytes::mib(2), Bytes::mib(1));
        datastore.lease_lost();
        assert!(datastore.available(), "it answers: the lease was lost for another reason");
        let long_ago = Instant::now().checked_sub(Duration::from_secs(8)).expect("the machine is up that long");
        *datastore.last_answer.lock().expect("whole") = Some(long_ago);
        datastore.lease_lost();
        assert!(!datastore.available());
        let told = datastore.problems().remove(0).cause;
        assert!(told.contains("it had not answered for 8 s when this host lost its lease there"), "{told}");
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn the_folder_beneath_a_datastore_that_was_unmounted_is_not_taken_for_it() {
        let folder = std::env::temp_dir().join(format!("godwit-beneath-{}", std::process::id()));
        fs::create_dir_all(folder.join("lab")).expect("made");
        let (server, export) = (std::net::Ipv4Addr::LOCALHOST.into(), "/lab".to_owned());
        let kind = DatastoreKind::Nfs { server, port: 2049, export, version: NfsVersion::V4_2 };
        let configured = host_config::Datastore { name: "lab".parse().expect("valid"), kind };
        let datastore = Datastore::new(&configured, &folder, "host-a");
        datastore.answered(Bytes::mib(2), Bytes::mib(1));
        assert!(matches!(datastore.folders("vms"), Err(DatastoreError::NotMounted)), "it says that it has no VM");
        assert!(matches!(datastore.make_folder("godwit"), Err(DatastoreError::NotMounted)));
        assert_eq!(fs::read_dir(folder.join("lab")).expect("listed").count(), 0);
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_datastore_that_was_never_there_is_not_said_to_be_silent_and_one_without_room_warns() {
        let folder = std::env::temp_dir().join(format!("godwit-away-{}", std::process::id()));
        let datastore = unkept(&folder, Duration::from_secs(10));
        assert_eq!(datastore.away().as_deref(), Some("datastore lab is not mounted yet"));
        datastore.refused(Reason::new("10.0.0.1 does not let this host mount /vms", ""));
        let told = datastore.away().expect("it is not there");
        assert_eq!(told, "datastore lab is not there: 10.0.0.1 does not let this host mount /vms");
        datastore.answered(Bytes::mib(100), Bytes::mib(1));
        assert!(datastore.away().is_none() && datastore.warnings().is_empty());
        datastore.answered(Bytes::mib(100), Bytes(0));
        let told = datastore.warnings().remove(0);
        assert!(told.cause.contains("no room left") && told.hint.contains("make room"), "{told:?}");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
