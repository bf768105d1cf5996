//! The copying itself: one bounded piece after the other, each short enough that Ctrl-C is heard and a server that goes away is
//! seen in time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::host_config::{DatastoreKind, NfsVersion};
use model::units::Bytes;

use crate::api::host::{ClonedFile, CopiedBy};
use crate::datastore::copying::{Carrier, Copying, Piece};
use crate::datastore::unfinished::Unfinished;
use crate::datastore::{Datastore, DatastoreError, server_copy};
use crate::host::caller::Caller;
use crate::host::clone::hold::HeldLease;
use crate::host::clone::plan::{Plan, Planned};
use crate::host::control_plane::ControlPlane;

/// The first piece, bytes, and the least.
const PIECE_MIN: u64 = 1 << 20;
/// The largest piece, bytes.
const PIECE_MAX: u64 = 256 << 20;
/// A piece ends after this time, or with its first extent. One that takes less is followed by a larger one, one that takes more than
/// twice this by a smaller one: a request may take 40 times as long before the datastore counts as away
/// (`datastore.request_ms_max`).
const PIECE_TIME: Duration = Duration::from_millis(250);
/// Pause between two lines of progress while a piece is under way: a slow server takes seconds for one.
const TELL: Duration = Duration::from_secs(1);
/// Pause between two looks whether the leases are still held.
const LOOK_AT_LEASES: Duration = Duration::from_secs(2);

/// What was copied.
#[derive(Debug, Default)]
pub struct Carried {
    /// The files.
    pub files: Vec<ClonedFile>,
    /// Bytes that were copied.
    pub copied: u64,
    /// Bytes that are holes.
    pub holes: u64,
    /// Who copied.
    pub by: Option<CopiedBy>,
}

/// Copies the files of a plan; each look at whether it may go on comes between two pieces.
pub struct Carry<'a> {
    plane: &'a ControlPlane,
    datastore: &'a Arc<Datastore>,
    caller: &'a Caller<'a>,
    leases: &'a [HeldLease<'a>],
    /// What is typed to begin anew.
    again: String,
    carrier: Carrier,
    piece: u64,
    total: u64,
    began: Instant,
    looked: Instant,
    carried: Carried,
}

impl<'a> Carry<'a> {
    /// Copies nothing yet; goes on only while these leases are held. `again` is what is typed to begin anew.
    pub fn new(
        plane: &'a ControlPlane,
        datastore: &'a Arc<Datastore>,
        caller: &'a Caller<'a>,
        leases: &'a [HeldLease<'a>],
        again: String,
    ) -> Self {
        let (now, carrier) = (Instant::now(), first_carrier(datastore.kind()));
        let (piece, carried) = (PIECE_MIN, Carried::default());
        Self { plane, datastore, caller, leases, again, carrier, piece, total: 0, began: now, looked: now, carried }
    }

    /// Copies all files of a plan.
    ///
    /// # Errors
    /// Why it ended before.
    pub fn all(mut self, plan: &Plan, folder: &Unfinished) -> Result<Carried, Reason> {
        self.total = plan.size();
        self.tell(&Piece::default());
        let mut links = Vec::new();
        for file in &plan.files {
            let Some(link) = &file.shared else {
                self.file(file, folder)?;
                continue;
            };
            if !links.contains(&&link.path) {
                let made = folder.link(&link.path, &link.target);
                made.map_err(|error| refused(self.datastore, &link.path, &error))?;
                links.push(&link.path);
            }
            let there = self.datastore.is_at(&folder.path().join(file.path.as_str()), &file.file);
            if !there.map_err(|error| refused(self.datastore, &link.path, &error))? {
                let cause = format!("{} lies elsewhere, and the clone's link would lead to another file", file.path);
                return Err(Reason::new(cause, "put the file itself into the VM's folder"));
            }
            let (file, size) = (file.path.to_string(), Bytes(file.size));
            self.carried.files.push(ClonedFile { file, size, copied: None });
        }
        Ok(self.carried)
    }

    fn file(&mut self, planned: &Planned, folder: &Unfinished) -> Result<(), Reason> {
        let path = planned.path.as_str();
        let refused = |error: DatastoreError| refused(self.datastore, path, &error);
        let target = folder.make_file(path).map_err(refused)?;
        let source = planned.file.try_clone().map_err(|error| refused(error.into()))?;
        let mut copying = Some(self.datastore.with_open(move || Ok(Copying::begin(source, target)?)).map_err(refused)?);
        let mut copied = 0;
        while let Some(under_way) = copying.take() {
            if let Err(end) = self.may_go_on() {
                self.datastore.close(under_way);
                return Err(end);
            }
            let (rest, piece) = self.piece(under_way).map_err(|error| self::refused(self.datastore, path, &error))?;
            (copying, copied) = (rest, copied + piece.copied);
            self.carried.copied += piece.copied;
            self.carried.holes += piece.holes;
            self.tell(&Piece::default());
        }
        let (file, size) = (path.to_owned(), Bytes(planned.size));
        self.carried.files.push(ClonedFile { file, size, copied: Some(Bytes(copied)) });
        Ok(())
    }

    /// Copies one piece. What is left to do comes back, unless it was the last.
    fn piece(&mut self, mut copying: Copying) -> Result<(Option<Copying>, Piece), DatastoreError> {
        let (most, mut carrier, made_before) = (self.piece, self.carrier, self.copies_made());
        let (began, under_way) = (Instant::now(), copying.under_way());
        let tell = || self.tell(&under_way.lock().unwrap_or_else(PoisonError::into_inner));
        let (rest, piece, carrier) = self.datastore.with_open_watched(TELL, tell, move || {
            let piece = copying.next(most, PIECE_TIME, &mut carrier)?;
            // The last is closed here, and not by who must not be held up.
            Ok(((!piece.is_last).then_some(copying), piece, carrier))
        })?;
        self.carrier = carrier;
        self.piece = next_size(most, piece.copied, began.elapsed());
        if piece.copied > 0 {
            self.note_who(made_before);
        }
        Ok((rest, piece))
    }

    fn copies_made(&self) -> Option<u64> {
        (self.carrier == Carrier::FileSystem).then(|| server_copy::copies_made(self.datastore.root())).flatten()
    }

    /// Takes note of who copied the last piece. A server that did not, although it was asked, is not asked again: the kernel
    /// carried the piece in its place, through its cache, and zeros with it.
    fn note_who(&mut self, made_before: Option<u64>) {
        let by = match (self.carrier, self.datastore.kind()) {
            (Carrier::ThisHost, _) => CopiedBy::ThisHost,
            (Carrier::FileSystem, DatastoreKind::Directory { .. }) => CopiedBy::Kernel,
            (Carrier::FileSystem, _) if self.copies_made() > made_before => CopiedBy::Server,
            (Carrier::FileSystem, _) => {
                self.carrier = Carrier::ThisHost;
                CopiedBy::ThisHost
            }
        };
        self.carried.by = Some(by);
    }

    fn may_go_on(&mut self) -> Result<(), Reason> {
        if self.caller.cancelled() {
            let hint = format!("{} starts it anew", self.again);
            return Err(Reason::new("it was cancelled; what was copied is removed", hint));
        }
        if let Some(ending) = host_ends(self.plane) {
            return Err(ending);
        }
        if self.looked.elapsed() >= LOOK_AT_LEASES {
            self.looked = Instant::now();
            if let Some(lost) = self.leases.iter().find_map(HeldLease::is_lost) {
                return Err(lost);
            }
        }
        Ok(())
    }

    /// Tells how far it is, with what the piece under way has come to.
    fn tell(&self, under_way: &Piece) {
        let copied = self.carried.copied + under_way.copied;
        let passed = copied + self.carried.holes + under_way.holes;
        let line = told(passed, self.total, copied, self.began.elapsed(), self.carried.by);
        self.caller.progress(&line, Some(thousandths(passed, self.total)));
    }
}

/// Who is tried first: a version of NFS that knows no copies on the server is not asked for one.
fn first_carrier(kind: &DatastoreKind) -> Carrier {
    match kind {
        DatastoreKind::Directory { .. } | DatastoreKind::Nfs { version: NfsVersion::V4_2, .. } => Carrier::FileSystem,
        DatastoreKind::Nfs { .. } => Carrier::ThisHost,
    }
}

/// How many bytes the next piece has. One that had little to write tells nothing of how fast the datastore takes it.
fn next_size(size: u64, copied: u64, took: Duration) -> u64 {
    if took < PIECE_TIME && copied >= size / 2 {
        (size * 2).min(PIECE_MAX)
    } else if took > PIECE_TIME * 2 {
        (size / 2).max(PIECE_MIN)
    } else {
        size
    }
}

fn thousandths(passed: u64, total: u64) -> u16 {
    u16::try_from((u128::from(passed) * 1000).checked_div(u128::from(total)).unwrap_or(1000).min(1000)).unwrap_or(1000)
}

/// How far the copying is, holes included; the rate is that of what was copied.
fn told(passed: u64, total: u64, copied: u64, took: Duration, by: Option<CopiedBy>) -> String {
    let rate = u128::from(copied) * 1000 / took.as_millis().max(1);
    let by = match by {
        Some(CopiedBy::Server) => " by the server",
        Some(CopiedBy::Kernel | CopiedBy::ThisHost) => " by this host",
        None => "",
    };
    let (rate, took) = (Bytes(u64::try_from(rate).unwrap_or(u64::MAX)), took.as_secs());
    format!("copying: {} of {}, {rate}/s{by}, {took} s", Bytes(passed), Bytes(total))
}

/// Why nothing goes on, if this host is being shut down.
pub(super) fn host_ends(plane: &ControlPlane) -> Option<Reason> {
    let ends = plane.ending.load(Ordering::Relaxed);
    ends.then(|| Reason::new(format!("{} is being shut down", plane.name()), "use another host: host list"))
}

/// Why a datastore did not do something with a file, and what mends it.
pub(super) fn refused(datastore: &Datastore, subject: &str, error: &DatastoreError) -> Reason {
    let name = datastore.name();
    let hint = match error.mend() {
        Some(mend) => format!("{mend}, then try again; datastore show {name}"),
        None => format!("datastore show {name}; then try again"),
    };
    Reason::new(format!("{subject} on datastore {name}: {error}"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_bytes_and_rate_and_who_copies() {
        let line = told(3 << 30, 40 << 30, 1 << 30, Duration::from_secs(2), Some(CopiedBy::Server));
        assert_eq!(line, "copying: 3 GiB of 40 GiB, 512 MiB/s by the server, 2 s");
        assert_eq!(told(0, 0, 0, Duration::ZERO, None), "copying: 0 B of 0 B, 0 B/s, 0 s");
        assert_eq!((thousandths(3, 40), thousandths(0, 0), thousandths(u64::MAX, u64::MAX)), (75, 1000, 1000));
    }

    #[test]
    fn a_piece_is_short_of_the_bound_of_a_request_on_fast_servers_and_on_slow_ones() {
        for bytes_per_s in [100 << 10, 3 << 20, 110 << 20, 3 << 30] {
            let took = |size: u64| Duration::from_micros(size * 1_000_000 / bytes_per_s);
            let mut size = PIECE_MIN;
            for _ in 0..40 {
                size = next_size(size, size, took(size));
                assert!((PIECE_MIN..=PIECE_MAX).contains(&size));
            }
            let slowest = took(PIECE_MIN).max(PIECE_TIME * 2);
            assert!(took(size) <= slowest, "{bytes_per_s}: {size} bytes take {:?}", took(size));
        }
        // And one that becomes slow gets smaller ones at once.
        assert_eq!(next_size(PIECE_MAX, PIECE_MAX, Duration::from_secs(9)), PIECE_MAX / 2);
        assert_eq!(next_size(PIECE_MIN, PIECE_MIN, Duration::from_secs(9)), PIECE_MIN);
        assert_eq!(next_size(PIECE_MIN, 0, Duration::ZERO), PIECE_MIN, "zeros are read fast and tell nothing");
    }

    #[test]
    fn a_version_of_nfs_that_knows_no_copies_is_not_asked_for_one() {
        let server = std::net::IpAddr::from([192, 0, 2, 1]);
        let nfs = |version| DatastoreKind::Nfs { server, port: 2049, export: "/lab".to_owned(), version };
        assert_eq!(first_carrier(&nfs(NfsVersion::V4_2)), Carrier::FileSystem);
        assert_eq!(first_carrier(&nfs(NfsVersion::V4_1)), Carrier::ThisHost);
        assert_eq!(first_carrier(&nfs(NfsVersion::V3)), Carrier::ThisHost);
    }
}
