//! Copies one file on a datastore into another there, a bounded piece at a time. The file system is asked to copy by itself
//! (copy_file_range(2)): an NFS 4.2 server then does it without the bytes passing this host. Where it does not, they are read
//! and written here, past the page cache. Holes stay holes either way, and where they pass this host, so do blocks of zeros.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, SeekFrom, copy_file_range, fcntl_getfl, fcntl_setfl, seek};
use rustix::io::Errno;

/// Pieces begin and end at multiples of this: what O_DIRECT wants of offsets, lengths and buffers.
const ALIGN: u64 = 4096;
/// What is read at once where bytes pass this host: a client asks for it in several requests at a time.
const CHUNK: usize = 4 << 20;
/// Bytes that the file system is asked to copy in one call: it cannot be told to stop.
const CALL: usize = 16 << 20;
/// Calls that were interrupted or put off before whoever reads is asked instead.
const AGAIN_MAX: u32 = 100;
/// What is written or left out as a whole where it is zero: a hole that is smaller costs the server more than it saves.
const BLOCK: usize = 64 << 10;

/// Who carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The file system is asked to copy.
    FileSystem,
    /// This host reads and writes.
    ThisHost,
}

/// A file that is being copied.
#[derive(Debug)]
pub struct Copying {
    source: File,
    target: File,
    size: u64,
    at: u64,
    /// The piece under way, as far as it is.
    under_way: Arc<Mutex<Piece>>,
    /// Where bytes pass this host: what they are read into, aligned from its `usize` on.
    buffer: Option<(Vec<u8>, usize)>,
}

/// What a piece of work came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Bytes that the target has of its own now.
    pub copied: u64,
    /// Bytes that are holes there.
    pub holes: u64,
    /// The whole file is copied, and on the disk of the datastore.
    pub is_last: bool,
}

impl Copying {
    /// Copies `source` into `target`, which is empty and open for reading and writing.
    ///
    /// # Errors
    /// The size of the target cannot be set.
    pub fn begin(source: File, target: File) -> io::Result<Self> {
        let size = source.metadata()?.len();
        // Whatever is not written stays a hole.
        // As a file that somebody keeps for himself: the copy is no more open than it.
        let mode = rustix::fs::fstat(&source).map_err(io::Error::from)?.st_mode;
        rustix::fs::fchmod(&target, Mode::from_raw_mode(mode & 0o777)).map_err(io::Error::from)?;
        target.set_len(size)?;
        Ok(Self { source, target, size, at: 0, under_way: Arc::default(), buffer: None })
    }

    /// The piece under way, as far as it is, for who waits for it.
    pub fn under_way(&self) -> Arc<Mutex<Piece>> {
        Arc::clone(&self.under_way)
    }

    fn show(&self, piece: &Piece) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = *piece;
    }

    /// Copies the next piece: extents and holes until `most` bytes were carried or `time` has passed, but at least one extent, or as
    /// much of it. Has the datastore keep it. `carrier` becomes [`Carrier::ThisHost`] where the file system turns out not to copy.
    ///
    /// # Errors
    /// What reads, copies or writes fails; the file became smaller meanwhile.
    pub fn next(&mut self, most: u64, time: Duration, carrier: &mut Carrier) -> io::Result<Piece> {
        let began = Instant::now();
        let mut piece = Piece::default();
        self.show(&piece);
        let mut left = most.max(ALIGN) / ALIGN * ALIGN;
        while self.at < self.size && left > 0 && (piece == Piece::default() || began.elapsed() < time) {
            left -= self.extent(left, began.checked_add(time), carrier, &mut piece)?;
        }
        piece.is_last = self.at == self.size;
        if piece.is_last {
            // What was written in whole blocks may end behind the end of the file.
            self.target.set_len(self.size)?;
            self.target.sync_all()?;
        } else if piece.copied > 0 {
            self.target.sync_data()?;
        }
        Ok(piece)
    }

    /// Passes the next hole, and carries at most `most` bytes of what follows it, or a chunk where it is `late` already; how many.
    fn extent(
        &mut self,
        most: u64,
        late: Option<Instant>,
        carrier: &mut Carrier,
        piece: &mut Piece,
    ) -> io::Result<u64> {
        let data = next_data(&self.source, self.at, self.size)?;
        piece.holes += data.start - self.at;
        self.at = data.start;
        self.show(piece);
        let end = data.end.min(data.start.saturating_add(most));
        if *carrier == Carrier::FileSystem && !self.ask_to_copy(end, late, piece)? {
            *carrier = Carrier::ThisHost;
        }
        if *carrier == Carrier::ThisHost && self.at < end {
            self.carry(end, late, piece)?;
        }
        Ok(self.at - data.start)
    }

    /// Asks the file system to copy up to `end`, or until it is `late`. Whether it does such a thing.
    fn ask_to_copy(&mut self, end: u64, late: Option<Instant>, piece: &mut Piece) -> io::Result<bool> {
        let (begun, mut again) = (self.at, 0);
        while self.at < end && (self.at == begun || !is_over(late)) {
            let (mut from, mut to) = (self.at, self.at);
            let most = usize::try_from(end - self.at).unwrap_or(CALL).min(CALL);
            match copy_file_range(&self.source, Some(&mut from), &self.target, Some(&mut to), most) {
                Ok(0) => return Err(shrank()),
                Ok(copied) => {
                    self.at += copied as u64;
                    piece.copied += copied as u64;
                    self.show(piece);
                }
                Err(Errno::INTR | Errno::AGAIN) if again < AGAIN_MAX => again += 1,
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::STALE)) => return Err(error.into()),
                // It does no such thing, whatever a server calls that. If it can do nothing at all, who reads is told.
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads and writes up to `end`, or until it is `late`, and leaves blocks of zeros out.
    fn carry(&mut self, end: u64, late: Option<Instant>, piece: &mut Piece) -> io::Result<()> {
        // A file system may have copied up to anywhere before it said that it does not.
        let mut at = self.at / ALIGN * ALIGN;
        piece.copied -= (self.at - at).min(piece.copied);
        let (mut buffer, from) = match self.buffer.take() {
            Some(buffer) => buffer,
            None => {
                past_the_cache(&self.source)?;
                past_the_cache(&self.target)?;
                let buffer = vec![0; CHUNK + ALIGN as usize];
                let from = buffer.as_ptr().align_offset(ALIGN as usize);
                (buffer, from)
            }
        };
        let begun = at;
        while at < end && (at == begun || !is_over(late)) {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let chunk = &mut buffer[from..from + wanted.next_multiple_of(ALIGN as usize)];
            if read(&self.source, chunk, at)? < wanted {
                return Err(shrank());
            }
            for block in filled(chunk) {
                self.target.write_all_at(&chunk[block.clone()], at + block.start as u64)?;
                piece.copied += (block.end.min(wanted) - block.start) as u64;
            }
            let written: usize = filled(chunk).map(|block| block.end.min(wanted) - block.start).sum();
            piece.holes += (wanted - written) as u64;
            at += wanted as u64;
            self.show(piece);
        }
        self.at = at;
        self.buffer = Some((buffer, from));
        Ok(())
    }
}

/// Whether the time of a piece is over, if it has an end.
fn is_over(late: Option<Instant>) -> bool {
    late.is_some_and(|late| Instant::now() >= late)
}

fn shrank() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file became smaller while it was copied")
}

/// Where the next bytes of a file are that are no hole, in whole blocks, at or after `at`; nothing at its end where there are
/// none. A file system that knows of no holes has one piece of data.
fn next_data(file: &File, at: u64, size: u64) -> io::Result<Range<u64>> {
    let data = match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.min(size),
        // lseek(2): there is none up to the end, wherever that is by now.
        Err(Errno::NXIO) if file.metadata()?.len() < size => return Err(shrank()),
        Err(Errno::NXIO) => return Ok(size..size),
        Err(_) => return Ok(at..size),
    };
    Ok(blocks(at, data, seek(file, SeekFrom::Hole(data)).unwrap_or(size), size))
}

/// The whole blocks, at or after `at`, of data that was told to lie in `data..hole`. File systems with smaller blocks tell of holes
/// within one, and a server may tell what it likes: what makes no sense is data to the end.
fn blocks(at: u64, data: u64, hole: u64, size: u64) -> Range<u64> {
    let start = (data.min(size) / ALIGN * ALIGN).max(at);
    let end = if hole > data { hole.next_multiple_of(ALIGN).min(size) } else { size };
    start..end.max(start)
}

/// Reads and writes of a file go to its server from now on, where its file system can do that.
fn past_the_cache(file: &File) -> io::Result<()> {
    match fcntl_setfl(file, fcntl_getfl(file)? | OFlags::DIRECT) {
        Err(Errno::INVAL) => Ok(()),
        set => Ok(set?),
    }
}

/// Reads until the buffer is full or the file ends, and fills the rest with zeros. How much was read.
fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Past the cache nothing can be read from where a file ended.
        if read % ALIGN as usize != 0 {
            break;
        }
    }
    buffer[read..].fill(0);
    Ok(read)
}

/// The runs of blocks that are not all zero.
fn filled(chunk: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let is_zero = move |at: usize| chunk[at..chunk.len().min(at + BLOCK)].iter().all(|byte| *byte == 0);
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < chunk.len() && is_zero(at) {
            at += BLOCK;
        }
        let start = at;
        while at < chunk.len() && !is_zero(at) {
            at += BLOCK;
        }
        (start < chunk.len()).then(|| start..at.min(chunk.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;

    const FOR_EVER: Duration = Duration::MAX;

    /// A folder, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn of(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("godwit-copy-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("made");
            Self(folder)
        }

        fn file(&self, name: &str) -> File {
            let mut options = File::options();
            options.read(true).write(true).create(true).open(self.0.join(name)).expect("made")
        }

        /// Copies a file; what it came to, who carried it, and the copy.
        fn copy(&self, source: &str, most: u64, mut carrier: Carrier) -> (Piece, Carrier, Vec<u8>) {
            let target = format!("{source}.copy-{most}-{carrier:?}");
            let mut copying = Copying::begin(self.file(source), self.file(&target)).expect("begun");
            let mut all = Piece::default();
            while !all.is_last {
                let piece = copying.next(most, FOR_EVER, &mut carrier).expect("copied");
                assert!(piece.copied <= most.max(ALIGN), "a step is bounded: {piece:?}");
                let seen = *copying.under_way().lock().expect("nobody panicked");
                assert_eq!(Piece { is_last: piece.is_last, ..seen }, piece, "who waits for it sees all of it come");
                let (copied, holes) = (all.copied + piece.copied, all.holes + piece.holes);
                all = Piece { copied, holes, ..piece };
            }
            (all, carrier, std::fs::read(self.0.join(target)).expect("read"))
        }

        fn blocks(&self, name: &str) -> u64 {
            std::fs::metadata(self.0.join(name)).expect("there").blocks()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Some bytes, a hole, zeros that are written, bytes up to an end that is no whole sector.
    fn sparse(folder: &Folder) -> Vec<u8> {
        let file = folder.file("disk.img");
        let bytes =
            |seed: u32, count: u32| (0..count).map(|n| (n.wrapping_mul(seed) >> 7) as u8 | 1).collect::<Vec<u8>>();
        file.write_all_at(&bytes(7, 300_000), 0).expect("written");
        file.write_all_at(&vec![0; 2 << 20], 24 << 20).expect("written");
        file.write_all_at(&bytes(13, 100_001), 30 << 20).expect("written");
        file.sync_all().expect("synced");
        std::fs::read(folder.0.join("disk.img")).expect("read")
    }

    #[test]
    fn what_file_systems_and_servers_tell_of_holes_always_leads_on() {
        const SIZE: u64 = 10 * ALIGN;
        // Blocks of 1 KiB: the data begins, and ends, within one of ours.
        assert_eq!(blocks(0, 1024, 2048, SIZE), 0..ALIGN);
        assert_eq!(blocks(ALIGN, ALIGN + 1024, 3 * ALIGN + 1, SIZE), ALIGN..4 * ALIGN);
        for (data, hole) in
            [(0, 0), (2 * ALIGN, 0), (2 * ALIGN, ALIGN), (SIZE - 1, SIZE - 1), (SIZE, SIZE), (u64::MAX, 1)]
        {
            for at in [0, ALIGN, 9 * ALIGN] {
                let told = blocks(at, data.max(at), hole, SIZE);
                assert!(told.start >= at && told.end > at && told.end <= SIZE, "{at} {data} {hole}: {told:?}");
            }
        }
    }

    #[test]
    fn a_copy_has_the_bytes_and_the_holes_of_the_file_whoever_carries_it_in_pieces_of_any_size() {
        let folder = Folder::of("copying");
        let whole = sparse(&folder);
        for carrier in [Carrier::FileSystem, Carrier::ThisHost] {
            for most in [1, 64 << 10, 1 << 20, u64::MAX / 2] {
                let (came_to, _, copy) = folder.copy("disk.img", most, carrier);
                assert!(copy == whole, "{carrier:?}, {most}: the bytes differ");
                assert_eq!(came_to.copied + came_to.holes, whole.len() as u64, "{carrier:?}, {most}: {came_to:?}");
                let allocated = folder.blocks(&format!("disk.img.copy-{most}-{carrier:?}"));
                assert!(allocated <= folder.blocks("disk.img"), "{carrier:?}, {most}: {allocated} sectors");
            }
        }
    }

    #[test]
    fn zeros_that_pass_this_host_become_holes() {
        let folder = Folder::of("zeros");
        let whole = sparse(&folder);
        let (came_to, _, copy) = folder.copy("disk.img", 64 << 20, Carrier::ThisHost);
        assert!(copy == whole);
        let data = 300_000_u64.next_multiple_of(BLOCK as u64) + 100_001;
        assert!(came_to.copied <= data, "{came_to:?}");
        let sectors = folder.blocks("disk.img.copy-67108864-ThisHost");
        assert!(sectors * 512 < 1 << 20, "{sectors} sectors");
    }

    #[test]
    fn files_without_data_or_without_anything_are_copied_too() {
        let folder = Folder::of("empty");
        folder.file("hole").set_len((10 << 20) + 5).expect("sized");
        for carrier in [Carrier::FileSystem, Carrier::ThisHost] {
            let (came_to, _, copy) = folder.copy("hole", 1 << 20, carrier);
            assert_eq!(came_to, Piece { copied: 0, holes: (10 << 20) + 5, is_last: true });
            assert!(copy.len() == (10 << 20) + 5 && copy.iter().all(|byte| *byte == 0));
            folder.file("nothing");
            assert_eq!(folder.copy("nothing", 1 << 20, carrier).0, Piece { is_last: true, ..Piece::default() });
        }
    }

    #[test]
    fn a_piece_has_many_extents_and_ends_with_its_bytes_or_its_time() {
        let folder = Folder::of("extents");
        let file = folder.file("disk.img");
        for n in 0..100 {
            file.write_all_at(&[7; 4096], n << 20).expect("written");
        }
        file.sync_all().expect("synced");
        for carrier in [Carrier::FileSystem, Carrier::ThisHost] {
            let copied = |most, time| {
                let mut copying = Copying::begin(folder.file("disk.img"), folder.file("copy")).expect("begun");
                copying.next(most, time, &mut { carrier }).expect("copied").copied
            };
            let extent = copied(4096, FOR_EVER);
            assert!(copied(10 * 4096, FOR_EVER) == 10 * extent, "{carrier:?}: {extent}");
            assert!(copied(u64::MAX, FOR_EVER) == 100 * extent, "{carrier:?}: {extent}");
            assert_eq!(copied(u64::MAX, Duration::ZERO), extent, "{carrier:?}");
        }
    }

    #[test]
    fn a_file_system_that_does_not_copy_leaves_it_to_this_host() {
        let folder = Folder::of("across");
        let whole = sparse(&folder);
        // Another file system is the one thing that no kernel copies to.
        let target = rustix::fs::memfd_create("copy", rustix::fs::MemfdFlags::CLOEXEC).expect("made");
        let target = File::from(target);
        let mut copying = Copying::begin(folder.file("disk.img"), target.try_clone().expect("cloned")).expect("begun");
        let mut carrier = Carrier::FileSystem;
        while !copying.next(1 << 20, FOR_EVER, &mut carrier).expect("copied").is_last {}
        assert_eq!(carrier, Carrier::ThisHost);
        let mut copy = vec![0; whole.len()];
        target.read_exact_at(&mut copy, 0).expect("read");
        assert!(copy == whole);
    }

    #[test]
    fn a_file_that_becomes_smaller_is_an_error_and_not_a_copy() {
        for carrier in [Carrier::FileSystem, Carrier::ThisHost] {
            let folder = Folder::of(&format!("shrinks-{carrier:?}"));
            let file = folder.file("disk.img");
            file.write_all_at(&[7; 1 << 20], 0).expect("written");
            let mut copying = Copying::begin(folder.file("disk.img"), folder.file("copy")).expect("begun");
            let mut carrier = carrier;
            assert!(!copying.next(4096, FOR_EVER, &mut carrier).expect("copied").is_last);
            file.set_len(8192).expect("cut");
            let mut end = Ok(Piece::default());
            while let Ok(Piece { is_last: false, .. }) = end {
                end = copying.next(1 << 20, FOR_EVER, &mut carrier);
            }
            assert!(end.is_err(), "{end:?}");
        }
    }
}
