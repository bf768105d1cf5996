//! Does a keeper's I/O, a few threads for each lane. A thread that the storage holds in the kernel is left to itself and
//! another takes the next I/O; its late answer is heard by nobody. What was not begun by its deadline is never begun:
//! its keeper has called it failed by then, and counts on it not to reach the disk much later.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::lease::identity::AreaId;
use protocol::lease::keeper::{Access, Io, IoId, IoResult, Lane};

use crate::datastore::plain;
use crate::lease::area;

/// Alignment that O_DIRECT asks for at most.
const ALIGNMENT: usize = 4096;

/// Bytes at an address that O_DIRECT accepts.
#[derive(Debug)]
pub struct Aligned {
    space: Vec<u8>,
    from: usize,
    length: usize,
}

impl Aligned {
    /// So many bytes of zeros.
    pub fn new(length: usize) -> Self {
        let space = vec![0; length + ALIGNMENT];
        let from = space.as_ptr().align_offset(ALIGNMENT);
        Self { space, from, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.space[self.from..self.from + self.length]
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.from..self.from + self.length]
    }
}

/// Called when an I/O ended, on another thread.
pub type Ended = Box<dyn FnOnce(IoId, IoResult) + Send>;

struct Job {
    io: Io,
    begin_by: Instant,
    ended: Ended,
}

/// The threads of one lane and what waits for them.
#[derive(Default)]
struct Pool {
    state: Mutex<PoolState>,
    changed: Condvar,
}

#[derive(Default)]
struct PoolState {
    waiting: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

/// The lanes of one lease area.
pub struct Lanes {
    path: PathBuf,
    area: AreaId,
    found: Arc<Found>,
    pools: BTreeMap<Lane, Arc<Pool>>,
}

/// What the storage said of the area last.
#[derive(Debug, Default)]
struct Found {
    /// Another area, or none, lies in its place.
    gone: AtomicBool,
    /// What lies there has no header of an area. Who opened it before goes on, and nobody else can.
    damaged: AtomicBool,
    /// The error number with which it refused to be opened, 0 where it does not.
    not_opened: AtomicI32,
    /// The same of a write. Apart, because a full storage lets itself be opened all the same.
    not_written: AtomicI32,
}

impl Found {
    fn note_damage(&self, damaged: bool) {
        if self.damaged.swap(damaged, Ordering::Relaxed) != damaged {
            let now = if damaged { "cannot" } else { "can" };
            log::warn!("the header of the lease area {now} be read");
        }
    }

    fn opened(&self) {
        self.not_opened.store(0, Ordering::Relaxed);
    }

    fn written(&self) {
        // By a file that may have been opened before another thread was refused: what takes a write is well.
        self.opened();
        self.not_written.store(0, Ordering::Relaxed);
    }

    fn refusal(&self) -> Option<i32> {
        [&self.not_opened, &self.not_written]
            .map(|errno| errno.load(Ordering::Relaxed))
            .into_iter()
            .find(|errno| *errno != 0)
    }
}

/// Keeps the error number of an answer, if it is a refusal.
fn note_refusal(errno: &AtomicI32, error: &std::io::Error) {
    if let Some(refused) = refusal(error) {
        errno.store(refused, Ordering::Relaxed);
    }
}

/// The error number of an answer by which storage refuses to be written, until somebody changes something there: not that of one that is
/// away, or fails.
pub fn refusal(error: &std::io::Error) -> Option<i32> {
    let refuses = matches!(
        error.kind(),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied | ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    );
    error.raw_os_error().filter(|_| refuses)
}

/// Threads of a lane: as many as may hang in the kernel before nothing more is tried.
fn threads_max(lane: Lane) -> usize {
    match lane {
        Lane::Renewal | Lane::Watch => 4,
        Lane::Work => 8,
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none when the lanes are gone.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        state.idle += 1;
        let job = loop {
            if state.closed {
                break None;
            }
            if let Some(job) = state.waiting.pop_front() {
                break Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.idle -= 1;
        job
    }
}

impl Lanes {
    /// Lanes to `area`, which lies at this path. Each thread opens it for itself, because opening may hang as well.
    pub fn new(path: PathBuf, area: AreaId) -> Self {
        Self { path, area, found: Arc::default(), pools: BTreeMap::new() }
    }

    /// Whether another area, or none, was found in its place when it was opened last.
    pub fn area_is_gone(&self) -> bool {
        self.found.gone.load(Ordering::Relaxed)
    }

    /// Whether its header could not be read when it was opened or looked at last.
    pub fn area_is_damaged(&self) -> bool {
        self.found.damaged.load(Ordering::Relaxed)
    }

    /// The error number with which the storage refused to be opened or written last, unless it let itself be opened, or took a write,
    /// since.
    pub fn refusal(&self) -> Option<i32> {
        self.found.refusal()
    }

    /// Begins an I/O, not later than `begin_by`.
    pub fn begin(&mut self, io: Io, begin_by: Instant, ended: Ended) {
        let lane = io.lane;
        let pool = Arc::clone(self.pools.entry(lane).or_default());
        let mut state = pool.state();
        state.waiting.push_back(Job { io, begin_by, ended });
        let wants_thread = state.waiting.len() > state.idle && state.threads < threads_max(lane);
        state.threads += usize::from(wants_thread);
        drop(state);
        pool.changed.notify_one();
        if wants_thread {
            let (path, area, own) = (self.path.clone(), self.area, Arc::clone(&pool));
            let found = Arc::clone(&self.found);
            let name = format!("lease-{lane:?}").to_lowercase();
            let started = std::thread::Builder::new().name(name).spawn(move || work(&own, &path, area, &found));
            if let Err(error) = started {
                pool.state().threads -= 1;
                log::error!("no thread for lease I/O: {error}");
            }
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for pool in self.pools.values() {
            pool.state().closed = true;
            pool.changed.notify_all();
        }
    }
}

fn work(pool: &Pool, path: &Path, area: AreaId, found: &Found) {
    let mut file = None;
    while let Some(Job { io, begin_by, ended }) = pool.next() {
        // What follows may still be held up between this look at the clock and the disk; the fences of DESIGN.md,
        // section 7, are there for a host that stops just here.
        let result = if Instant::now() >= begin_by {
            IoResult::Failed
        } else {
            if file.is_none() {
                file = open(path, area, found);
            }
            carry_out(&mut file, io.access, found)
        };
        // Before it is said to have ended: a thread that is still at work then would have another begun, which may be unable to open it.
        if let (Lane::Watch, IoResult::Read(_), Some(file)) = (io.lane, &result, &file) {
            look_at_header(file, found);
        }
        ended(io.id, result);
    }
}

/// Looks whether an area that is open could be opened now. That it cannot be read says nothing: it may be away.
fn look_at_header(file: &File, found: &Found) {
    match area::read_header(file) {
        Ok(_) => found.note_damage(false),
        Err(error) if area::is_damage(&error) => found.note_damage(true),
        Err(_) => {}
    }
}

/// Opens the area; no other that lies in its place.
fn open(path: &Path, area: AreaId, found: &Found) -> Option<File> {
    let opened = area::open(path);
    let is_gone = match &opened {
        Ok((_, there)) => there.id != area,
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    found.gone.store(is_gone, Ordering::Relaxed);
    let refused = match opened {
        Ok((file, _)) if !is_gone => {
            found.note_damage(false);
            found.opened();
            return Some(file);
        }
        Ok(_) => std::io::Error::other("another lease area lies in its place"),
        Err(error) if area::is_damage(&error) => {
            // It is met with each I/O, and told once.
            found.note_damage(true);
            return None;
        }
        Err(error) => error,
    };
    note_refusal(&found.not_opened, &refused);
    failed("opening", 0, &refused);
    None
}

fn carry_out(opened: &mut Option<File>, access: Access, found: &Found) -> IoResult {
    let Some(file) = opened else { return IoResult::Failed };
    let (what, offset, outcome) = match access {
        Access::Read { offset, bytes } => {
            let mut buffer = Aligned::new(bytes);
            let read = file.read_exact_at(buffer.bytes_mut(), offset);
            ("read", offset, read.map(|()| IoResult::Read(buffer.bytes().to_vec())))
        }
        Access::Write { offset, data } => {
            let mut buffer = Aligned::new(data.len());
            buffer.bytes_mut().copy_from_slice(&data);
            let written = file.write_all_at(buffer.bytes(), offset);
            match &written {
                Ok(()) => found.written(),
                Err(error) => note_refusal(&found.not_written, error),
            }
            ("write", offset, written.map(|()| IoResult::Written))
        }
    };
    outcome.unwrap_or_else(|error| {
        // A stale handle, for instance, is mended by opening again.
        *opened = None;
        failed(what, offset, &error)
    })
}

fn failed(what: &str, offset: u64, error: &std::io::Error) -> IoResult {
    log::warn!("{what} of the lease area at {offset}: {}", plain(error));
    IoResult::Failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const BOUND: Duration = Duration::from_secs(60);

    fn area_in(folder: &Path) -> (PathBuf, AreaId) {
        std::fs::create_dir_all(folder).expect("made");
        let path = folder.join("lease");
        let (_, area) = area::open_or_make(&path, "host-a").expect("an area");
        (path, area.id)
    }

    fn io(id: u64, access: Access) -> Io {
        Io { id: IoId(id), lane: Lane::Work, access }
    }

    #[test]
    fn a_write_that_was_not_begun_in_time_never_reaches_the_disk() {
        let folder = std::env::temp_dir().join(format!("godwit-lane-late-{}", std::process::id()));
        let (path, area) = area_in(&folder);
        let mut lanes = Lanes::new(path, area);
        let (told, tells) = channel();
        let tell = |told: &std::sync::mpsc::Sender<IoResult>| -> Ended {
            let told = told.clone();
            Box::new(move |_, result| told.send(result).expect("heard"))
        };
        let write = Access::Write { offset: 8_192, data: vec![7; 4_096] };
        lanes.begin(io(1, write), Instant::now(), tell(&told));
        assert_eq!(tells.recv_timeout(BOUND).expect("ended"), IoResult::Failed);
        lanes.begin(io(2, Access::Read { offset: 8_192, bytes: 4_096 }), Instant::now() + BOUND, tell(&told));
        assert_eq!(tells.recv_timeout(BOUND).expect("ended"), IoResult::Read(vec![0; 4_096]));
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_refusal_is_over_when_the_storage_does_what_it_refused_and_a_read_says_nothing_of_it() {
        let folder = std::env::temp_dir().join(format!("godwit-lane-refusal-{}", std::process::id()));
        let (path, area) = area_in(&folder);
        let found = Found::default();
        let [read_only, full] = [rustix::io::Errno::ROFS, rustix::io::Errno::NOSPC].map(|errno| errno.raw_os_error());
        note_refusal(&found.not_opened, &std::io::Error::from_raw_os_error(read_only));
        assert_eq!(found.refusal(), Some(read_only));
        let mut file = open(&path, area, &found);
        assert_eq!(found.refusal(), None, "who only looks sees that it is over");
        note_refusal(&found.not_written, &std::io::Error::from_raw_os_error(full));
        // A failed write has the file opened anew.
        file = file.and_then(|_| open(&path, area, &found));
        let read = Access::Read { offset: 8_192, bytes: 4_096 };
        assert_eq!(carry_out(&mut file, read, &found), IoResult::Read(vec![0; 4_096]));
        assert_eq!(found.refusal(), Some(full), "a full storage is opened and read as ever");
        note_refusal(&found.not_opened, &std::io::Error::from_raw_os_error(read_only));
        let write = Access::Write { offset: 8_192, data: vec![7; 4_096] };
        assert_eq!(carry_out(&mut file, write, &found), IoResult::Written);
        assert_eq!(found.refusal(), None);
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_header_that_is_damaged_is_seen_by_who_has_the_area_open_and_that_it_is_whole_again_too() {
        let folder = std::env::temp_dir().join(format!("godwit-lane-header-{}", std::process::id()));
        let (path, area) = area_in(&folder);
        let header = std::fs::read(&path).expect("read")[..4_096].to_vec();
        let found = Found::default();
        let opened = open(&path, area, &found).expect("it is sound");
        let is_damaged = || {
            look_at_header(&opened, &found);
            found.damaged.load(Ordering::Relaxed)
        };
        assert!(!is_damaged());
        let file = File::options().write(true).open(&path).expect("it is there");
        file.write_all_at(&[0xA5; 4_096], 0).expect("written");
        assert!(is_damaged());
        assert!(open(&path, area, &found).is_none(), "nobody else can open it");
        file.write_all_at(&header, 0).expect("written");
        assert!(!is_damaged());
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn an_area_that_was_exchanged_is_not_written() {
        let folder = std::env::temp_dir().join(format!("godwit-lane-other-{}", std::process::id()));
        let (path, area) = area_in(&folder);
        std::fs::remove_file(&path).expect("removed");
        area::open_or_make(&path, "host-b").expect("another area");
        let mut lanes = Lanes::new(path, area);
        let (told, tells) = channel();
        let write = Access::Write { offset: 8_192, data: vec![7; 4_096] };
        let ended: Ended = Box::new(move |_, result| told.send(result).expect("heard"));
        assert!(!lanes.area_is_gone(), "nobody looked");
        lanes.begin(io(1, write), Instant::now() + BOUND, ended);
        assert_eq!(tells.recv_timeout(BOUND).expect("ended"), IoResult::Failed);
        assert!(lanes.area_is_gone());
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
