//! Opens what lies below a folder, and nothing else: a server may put a link into a datastore, and one that leads out would
//! have this host read, or hand a guest, a file of its own.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::bounded::DatastoreError;
use crate::boot_id::boot_id;

/// Tries of an open whose path was changed by another host meanwhile (openat2(2), EAGAIN).
const TRIES: usize = 16;
/// How the names of files begin that are being written.
const DRAFT: &str = "new-";
/// Files that were replaced by this process.
static REPLACED: AtomicU64 = AtomicU64::new(0);

/// A folder that no path leads out of.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
}

/// A name in a folder, and what it is.
#[derive(Debug)]
pub struct Entry {
    /// Its name, as the server has it.
    pub name: Vec<u8>,
    /// Whether it is a folder, or a link to one. So is called a link that leads out too: whoever goes there is told why not.
    pub is_folder: bool,
}

impl Beneath {
    /// What lies below `root`, which may be a link itself: this host's own configuration names it.
    ///
    /// # Errors
    /// It is no folder, or not there.
    pub fn of(root: &Path) -> Result<Self, DatastoreError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(root, flags, Mode::empty()).map_err(io::Error::from)? })
    }

    /// Whether it is on the filesystem that `folder`, one of this host's own, is on. Nothing is asked of a server.
    ///
    /// # Errors
    /// As statx(2).
    pub fn is_on_that_of(&self, folder: &Path) -> Result<bool, DatastoreError> {
        let device = |fd: &OwnedFd| {
            let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
            let found = rustix::fs::statx(fd, c"", flags, StatxFlags::empty()).map_err(io::Error::from)?;
            Ok::<_, io::Error>((found.stx_dev_major, found.stx_dev_minor))
        };
        Ok(device(&self.root)? == device(&Self::of(folder)?.root)?)
    }

    /// Opens a file or folder.
    ///
    /// # Errors
    /// [`DatastoreError::LeadsOut`], or as open(2).
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, DatastoreError> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            tries += 1;
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => {}
                Err(Errno::XDEV) => return Err(DatastoreError::LeadsOut),
                opened => return Ok(opened.map_err(io::Error::from)?),
            }
        }
    }

    fn folder(&self, path: &Path) -> Result<OwnedFd, DatastoreError> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// What lies below a folder of this one, and not beside it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn within(&self, path: &Path) -> Result<Self, DatastoreError> {
        Ok(Self { root: self.folder(path)? })
    }

    /// Where a link leads; `None` of what is no link.
    ///
    /// # Errors
    /// As [`Self::open`], or it is not there.
    pub fn link_target(&self, path: &Path) -> Result<Option<PathBuf>, DatastoreError> {
        match rustix::fs::readlinkat(self.folder(above(path))?, name_in(path)?, Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes())))),
            // readlinkat(2): it is no symbolic link.
            Err(Errno::INVAL) => Ok(None),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Makes a link where nothing is.
    ///
    /// # Errors
    /// As [`Self::open`] and symlink(2).
    pub fn make_link(&self, path: &Path, target: &Path) -> Result<(), DatastoreError> {
        let above = self.folder(above(path))?;
        Ok(rustix::fs::symlinkat(target, above, name_in(path)?).map_err(io::Error::from)?)
    }

    /// Makes a file where nothing is, and opens it for reading and writing.
    ///
    /// # Errors
    /// As [`Self::open`], or something is there.
    pub fn make_file(&self, path: &Path) -> Result<File, DatastoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(self.folder(above(path))?, name_in(path)?, flags, Mode::from_raw_mode(0o666));
        Ok(File::from(made.map_err(io::Error::from)?))
    }

    /// Makes a folder where nothing is.
    ///
    /// # Errors
    /// As [`Self::open`], or something is there.
    pub fn make_new_folder(&self, path: &Path) -> Result<(), DatastoreError> {
        let above = self.folder(above(path))?;
        Ok(rustix::fs::mkdirat(above, name_in(path)?, Mode::from_raw_mode(0o777)).map_err(io::Error::from)?)
    }

    /// Has the server keep what is in a folder: its entries, and those of the folders below it.
    ///
    /// # Errors
    /// As [`Self::open`] and fsync(2).
    pub fn sync_folders(&self, path: &Path) -> Result<(), DatastoreError> {
        for entry in self.entries(path)?.iter().filter(|entry| entry.is_folder) {
            let below = path.join(OsStr::from_bytes(&entry.name));
            if self.link_target(&below)?.is_none() {
                self.sync_folders(&below)?;
            }
        }
        Ok(rustix::fs::fsync(self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?).map_err(io::Error::from)?)
    }

    /// Makes a folder, and those above it, if it is not there.
    ///
    /// # Errors
    /// As [`Self::open`] and mkdir(2).
    pub fn make_folder(&self, path: &Path) -> Result<(), DatastoreError> {
        let mut made = PathBuf::new();
        for part in path.components().filter(|part| *part != Component::CurDir) {
            let above = self.folder(&made)?;
            made.push(part);
            match self.folder(&made) {
                Err(error) if error.is_missing() => {}
                there => {
                    there?;
                    continue;
                }
            }
            match rustix::fs::mkdirat(&above, part.as_os_str(), Mode::from_raw_mode(0o777)) {
                // Another host made it meanwhile, or a link to nothing is in its place.
                Err(Errno::EXIST) => drop(self.folder(&made)?),
                done => done.map_err(io::Error::from)?,
            }
        }
        Ok(())
    }

    /// Puts a file in the place of what was there: `write` fills a new one in the folder `drafts`, which nobody but this host writes in,
    /// so that what one who died left there can be told from what another is writing ([`Self::sweep`]).
    ///
    /// # Errors
    /// As [`Self::open`], or the datastore does not take it.
    pub fn replace(
        &self,
        path: &Path,
        drafts: &Path,
        write: impl Fn(&mut File) -> io::Result<()>,
    ) -> Result<(), DatastoreError> {
        let name = name_in(path)?;
        let folder = File::from(self.open(above(path), OFlags::RDONLY | OFlags::DIRECTORY)?);
        let drafts = match self.folder(drafts) {
            Err(error) if error.is_missing() => {
                self.make_folder(drafts)?;
                self.folder(drafts)?
            }
            there => there?,
        };
        // Two that replace one file at once have a new one each.
        let fresh = format!("{DRAFT}{}-{}", writer(), REPLACED.fetch_add(1, Ordering::Relaxed));
        let put = |from: BorrowedFd<'_>| {
            // Removed and made new, and never opened as it lies there: it might be a link.
            match rustix::fs::unlinkat(from, &fresh, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                removed => removed?,
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(from, &fresh, flags, Mode::from_raw_mode(0o666))?);
            let placed = write(&mut file)
                .and_then(|()| rustix::fs::renameat(from, &fresh, &folder, name).map_err(io::Error::from));
            if placed.is_err() {
                // The error is what counts; what cannot be removed either is swept later.
                let _ = rustix::fs::unlinkat(from, &fresh, AtFlags::empty());
            }
            placed
        };
        match put(drafts.as_fd()) {
            // Another file system is mounted there on the server: it is written where it is to be.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => put(folder.as_fd())?,
            placed => placed?,
        }
        Ok(folder.sync_all()?)
    }

    /// Removes what processes of this host that are no more were writing in its folder for [`Self::replace`].
    ///
    /// # Errors
    /// As [`Self::open`], or the datastore does not take it.
    pub fn sweep(&self, drafts: &Path) -> Result<(), DatastoreError> {
        let own = format!("{DRAFT}{}-", writer());
        for Entry { name, .. } in self.entries(drafts)? {
            if name.starts_with(DRAFT.as_bytes()) && !name.starts_with(own.as_bytes()) {
                match rustix::fs::unlinkat(self.folder(drafts)?, OsStr::from_bytes(&name), AtFlags::empty()) {
                    Err(Errno::NOENT) => {}
                    removed => removed.map_err(io::Error::from)?,
                }
            }
        }
        Ok(())
    }

    /// What is in a folder; nothing where there is no such folder.
    ///
    /// # Errors
    /// As [`Self::open`], or the datastore does not answer.
    pub fn entries(&self, path: &Path) -> Result<Vec<Entry>, DatastoreError> {
        let folder = match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(DatastoreError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut entries = Vec::new();
        for entry in Dir::read_from(folder.as_fd()).map_err(io::Error::from)? {
            let entry = entry.map_err(io::Error::from)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let is_folder = match entry.file_type() {
                FileType::Directory => true,
                // Not every file system says what it is.
                FileType::Symlink | FileType::Unknown => {
                    matches!(self.folder(&path.join(OsStr::from_bytes(name))), Ok(_) | Err(DatastoreError::LeadsOut))
                }
                _ => false,
            };
            entries.push(Entry { name: name.to_owned(), is_folder });
        }
        Ok(entries)
    }
}

/// Tells this process from those before it: a host's roles may have the same process ids in each boot.
fn writer() -> &'static str {
    static WRITER: LazyLock<String> = LazyLock::new(|| format!("{:032x}-{}", boot_id(), std::process::id()));
    &WRITER
}

/// The folder that a path is in.
fn above(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// The name that a path has there.
fn name_in(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
