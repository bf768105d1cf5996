//! File operations with a deadline. Each runs on a thread of its own, because a server that does not answer holds its
//! thread in the kernel for as long as it likes; the caller goes on after the bound.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use model::limits;

/// Operations that may hang at once before further ones are refused without a try.
const HANGING_MAX: usize = 16;

/// Why a file operation on a datastore failed.
#[derive(Debug, thiserror::Error)]
pub enum DatastoreError {
    /// The operation did not end in time.
    #[error("the datastore did not answer within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    /// So many operations hang that no further one is tried.
    #[error("the datastore does not answer: {0} earlier requests still wait for it")]
    Hanging(usize),
    /// It is not mounted.
    #[error("the datastore is not available")]
    NotMounted,
    /// The file is larger than it may be.
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
    /// The file is not text.
    #[error("the file is not UTF-8 text")]
    NotText,
    /// A link in the path leads to where the datastore is not: into this host's own files.
    #[error("a link in its path leads out of the datastore")]
    LeadsOut,
    /// The operation failed.
    #[error("{}", plain(.0))]
    Io(#[from] io::Error),
}

impl DatastoreError {
    /// Whether nothing was answered.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::Hanging(_) | Self::NotMounted)
    }

    /// Whether the answer was that there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }

    /// What mends it at the server, where that is known.
    pub fn mend(&self) -> Option<&'static str> {
        let Self::Io(error) = self else { return None };
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("make room there"),
            io::ErrorKind::ReadOnlyFilesystem => Some("let the server export it for writing (rw)"),
            io::ErrorKind::PermissionDenied => Some("let the server permit it to this host (no_root_squash)"),
            _ => None,
        }
    }
}

/// The kernel's own word for a wait that was broken off (ERESTARTSYS, include/linux/errno.h): it is not meant for processes,
/// and its NFS client gives it all the same where requests were ended.
const BROKEN_OFF: i32 = 512;

/// The kernel's errors in the words of a datastore.
pub fn plain(error: &io::Error) -> String {
    if error.raw_os_error() == Some(BROKEN_OFF) {
        return "the requests to the server were ended, as they are when this host cannot renew its lease".to_owned();
    }
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "the server does not permit it (root squash, or the file's owner)".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => "the export is read-only".to_owned(),
        io::ErrorKind::StorageFull => "the datastore is full".to_owned(),
        io::ErrorKind::StaleNetworkFileHandle => "the server does not know the file any more (stale handle)".to_owned(),
        _ => error.to_string(),
    }
}

/// Runs operations below one folder.
#[derive(Clone, Debug)]
pub struct Bounded {
    root: Arc<PathBuf>,
    hanging: Arc<AtomicUsize>,
    hanging_max: usize,
    bound: Duration,
}

impl Bounded {
    /// Operations below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self::waiting(root, Duration::from_millis(limits::DATASTORE_REQUEST_MS_MAX))
    }

    /// Operations below `root`, each of which is waited for so long.
    pub(super) fn waiting(root: PathBuf, bound: Duration) -> Self {
        Self { root: Arc::new(root), hanging: Arc::default(), hanging_max: HANGING_MAX, bound }
    }

    /// The same for who watches the datastore: a place is kept for it. Others that hang in one file are no sign that it does not answer.
    pub(super) fn for_its_keeper(&self) -> Self {
        Self { hanging_max: HANGING_MAX + 1, ..self.clone() }
    }

    /// How long an operation is waited for.
    pub fn bound(&self) -> Duration {
        self.bound
    }

    /// Runs `operation` with the datastore's root and waits for it up to the bound of a request.
    ///
    /// # Errors
    /// The operation's own, or that it did not end in time; it may then still take effect.
    pub fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&std::path::Path) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        self.run_within(self.bound, operation)
    }

    /// The same, and waits for it up to `bound`.
    ///
    /// # Errors
    /// As of [`Bounded::run`].
    pub fn run_within<T: Send + 'static>(
        &self,
        bound: Duration,
        operation: impl FnOnce(&std::path::Path) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        self.wait_for(bound, Duration::MAX, || {}, operation)
    }

    /// As [`Bounded::run`], and calls `meanwhile` again and again after each `pause` of the wait.
    ///
    /// # Errors
    /// As of [`Bounded::run`].
    pub fn run_watched<T: Send + 'static>(
        &self,
        pause: Duration,
        meanwhile: impl FnMut(),
        operation: impl FnOnce(&std::path::Path) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        self.wait_for(self.bound, pause, meanwhile, operation)
    }

    fn wait_for<T: Send + 'static>(
        &self,
        bound: Duration,
        pause: Duration,
        mut meanwhile: impl FnMut(),
        operation: impl FnOnce(&std::path::Path) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let earlier = self.hanging.fetch_add(1, Ordering::Relaxed);
        if earlier >= self.hanging_max {
            self.hanging.fetch_sub(1, Ordering::Relaxed);
            return Err(DatastoreError::Hanging(earlier));
        }
        let (answer, answered) = sync_channel(1);
        let (root, hanging) = (Arc::clone(&self.root), Arc::clone(&self.hanging));
        let started = std::thread::Builder::new().name("datastore".to_owned()).spawn(move || {
            // Nobody listens any more when the bound has passed.
            let _ = answer.send(operation(&root));
            hanging.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = started {
            self.hanging.fetch_sub(1, Ordering::Relaxed);
            return Err(error.into());
        }
        let deadline = Instant::now() + bound;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match answered.recv_timeout(left.min(pause)) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    return Err(DatastoreError::NoAnswer(bound));
                }
                Err(RecvTimeoutError::Timeout) => meanwhile(),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the operation panicked").into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_were_ended_are_told_in_words_and_not_in_the_kernels_own_number() {
        let told = DatastoreError::from(io::Error::from_raw_os_error(512)).to_string();
        assert!(told.starts_with("the requests to the server were ended") && !told.contains("512"), "{told}");
    }

    #[test]
    fn who_waits_for_an_operation_can_tell_meanwhile_how_far_it_is() {
        let bounded = Bounded::new(PathBuf::from("/"));
        let (told, hears) = sync_channel(100);
        // It ends when it heard three times that it is waited for.
        let operation = move |_: &std::path::Path| Ok((0..3).filter(|_| hears.recv().is_ok()).count());
        let tell = || {
            let _ = told.try_send(());
        };
        let ended = bounded.run_watched(Duration::from_millis(5), tell, operation);
        assert_eq!(ended.expect("it ends"), 3);
    }

    #[test]
    fn operations_that_hang_do_not_gather_without_end() {
        let bounded = Bounded::new(PathBuf::from("/"));
        bounded.hanging.store(HANGING_MAX, Ordering::Relaxed);
        assert!(matches!(bounded.run(|_| Ok(())), Err(DatastoreError::Hanging(_))));
        bounded.hanging.store(0, Ordering::Relaxed);
        assert!(bounded.run(|_| Ok(())).is_ok());
    }
}
