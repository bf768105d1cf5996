//! A folder that is made under a hidden name and gets its own when it is whole: whoever lists the folders sees all of it or
//! nothing. What a host leaves that dies meanwhile is known by its name, and can be removed.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::beneath::Beneath;
use super::bounded::DatastoreError;
use super::store::Datastore;

/// How the names of unfinished folders begin: hidden, so that no list of folders has them.
const PREFIX: &str = ".clone-";
/// Hex digits of the number that ends such a name.
const NUMBER_DIGITS: usize = 16;
/// Folders in each other that are removed: more than a path has that is made here.
const DEPTH_MAX: usize = 130;
/// Entries of a left folder that are removed, each with a request of its own, before it is given up.
const REMOVALS_MAX: usize = 4096;

/// An unfinished folder.
#[derive(Debug)]
pub struct Unfinished {
    datastore: Arc<Datastore>,
    parent: PathBuf,
    name: String,
    hidden: String,
}

/// An unfinished folder that lies on a datastore; somebody may be at work on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its hidden name.
    pub hidden: String,
    /// The name that it would have got.
    pub name: String,
}

impl Unfinished {
    /// Makes the folder that will be `name` in `parent`. `number` is one that no other attempt has: whoever comes too late to
    /// give a folder its name must not take another's for its own.
    ///
    /// # Errors
    /// The datastore does not take it.
    pub fn begin(datastore: &Arc<Datastore>, parent: &str, name: &str, number: u64) -> Result<Self, DatastoreError> {
        let hidden = format!("{PREFIX}{name}-{number:0width$x}", width = NUMBER_DIGITS);
        let folder = Path::new(parent).join(&hidden);
        datastore.run(parent, move |datastore, _| datastore.make_new_folder(&folder))?;
        Ok(Self { datastore: Arc::clone(datastore), parent: parent.into(), name: name.to_owned(), hidden })
    }

    /// Its place for now, from the root of the datastore.
    pub fn path(&self) -> PathBuf {
        self.parent.join(&self.hidden)
    }

    /// Runs an operation within it.
    fn run<T: Send + 'static>(
        &self,
        path: &str,
        operation: impl FnOnce(&Beneath, &Path) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let folder = self.path();
        self.datastore.run(path, move |datastore, path| operation(&datastore.within(&folder)?, path))
    }

    /// Makes a file in it, and the folders that it is in.
    ///
    /// # Errors
    /// The datastore does not take it, or it is there.
    pub fn make_file(&self, path: &str) -> Result<File, DatastoreError> {
        self.run(path, |folder, path| {
            folder.make_folder(path.parent().unwrap_or(Path::new("")))?;
            folder.make_file(path)
        })
    }

    /// Makes a small file in it that holds `bytes`.
    ///
    /// # Errors
    /// As [`Self::make_file`].
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<(), DatastoreError> {
        let bytes = bytes.to_vec();
        self.run(path, move |folder, path| {
            let mut file = folder.make_file(path)?;
            file.write_all(&bytes)?;
            Ok(file.sync_all()?)
        })
    }

    /// Makes a link in it, and the folders that it is in.
    ///
    /// # Errors
    /// As [`Self::make_file`].
    pub fn link(&self, path: &str, target: &Path) -> Result<(), DatastoreError> {
        let target = target.to_owned();
        self.run(path, move |folder, path| {
            folder.make_folder(path.parent().unwrap_or(Path::new("")))?;
            folder.make_link(path, &target)
        })
    }

    /// Gives it its name, when all that is in it is on the datastore.
    ///
    /// # Errors
    /// Something has that name ([`io::ErrorKind::AlreadyExists`]), or the datastore does not take it: then it is unfinished as
    /// it was.
    pub fn finish(&self) -> Result<(), DatastoreError> {
        let (hidden, name) = (self.path(), self.name.clone());
        let parent = self.parent.to_str().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.datastore.run(parent, move |datastore, parent| {
            datastore.sync_folders(&hidden)?;
            let folder = datastore.open(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rename(&folder, hidden.file_name().unwrap_or_default().as_ref(), Path::new(&name))?;
            Ok(rustix::fs::fsync(folder).map_err(io::Error::from)?)
        })
    }

    /// Removes it. All files of it that this host has open are to be closed before.
    ///
    /// # Errors
    /// The datastore does not remove it.
    pub fn remove(self) -> Result<(), DatastoreError> {
        remove(&self.datastore, &self.path())
    }
}

impl Datastore {
    /// The unfinished folders in a folder.
    ///
    /// # Errors
    /// The datastore does not answer.
    pub fn unfinished(&self, parent: &str) -> Result<Vec<Leftover>, DatastoreError> {
        Ok(self.list(parent)?.into_iter().filter_map(leftover).collect())
    }

    /// Removes an unfinished folder that nobody is at work on any more.
    ///
    /// # Errors
    /// The datastore does not remove it.
    pub fn remove_unfinished(&self, parent: &str, leftover: &Leftover) -> Result<(), DatastoreError> {
        remove(self, &Path::new(parent).join(&leftover.hidden))
    }
}

fn leftover(hidden: String) -> Option<Leftover> {
    let (name, number) = hidden.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let is_number = number.len() == NUMBER_DIGITS && number.bytes().all(|digit| digit.is_ascii_hexdigit());
    // What a clone never made is none: its name would be shown, and typed.
    let is_name = name.parse::<model::names::VmName>().is_ok();
    (is_number && is_name).then(|| Leftover { name: name.to_owned(), hidden: hidden.clone() })
}

/// Renames a folder to a name that nothing has. Where the file system cannot be asked for that (NFS), a folder that is not empty
/// and a file are never replaced by a folder (rename(2)).
fn rename(parent: &OwnedFd, hidden: &Path, name: &Path) -> io::Result<()> {
    let renamed = match rustix::fs::renameat_with(parent, hidden, parent, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rustix::fs::renameat(parent, hidden, parent, name),
        renamed => renamed,
    };
    match renamed {
        Err(Errno::NOTEMPTY | Errno::NOTDIR) => Err(io::ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

/// Removes a folder and what is in it, an entry a request: a server may take its time for each large file.
fn remove(datastore: &Datastore, folder: &Path) -> Result<(), DatastoreError> {
    let (parent, name) =
        (folder.parent().unwrap_or(Path::new("")).to_owned(), PathBuf::from(folder.file_name().unwrap_or_default()));
    for _ in 0..REMOVALS_MAX {
        let (parent, name) = (parent.clone(), name.clone());
        let is_gone = datastore.run("", move |datastore, _| {
            let parent = datastore.open(&parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
            Ok(remove_one(&parent, &name, DEPTH_MAX)?)
        })?;
        if is_gone {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("there is more in {} than was ever made", folder.display())).into())
}

/// Removes one entry of a folder, or the folder if it has none; whether that is gone. No link is followed.
fn remove_one(parent: &OwnedFd, name: &Path, depth: usize) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(true),
        opened => opened?,
    };
    for entry in Dir::read_from(folder.as_fd())? {
        let entry = entry?;
        let inner = entry.file_name();
        if matches!(inner.to_bytes(), b"." | b"..") {
            continue;
        }
        return match rustix::fs::unlinkat(&folder, inner, AtFlags::empty()) {
            Err(Errno::ISDIR) if depth == 0 => Err(io::Error::other("the folders in it are too many in each other")),
            Err(Errno::ISDIR) => {
                remove_one(&folder, Path::new(std::ffi::OsStr::from_bytes(inner.to_bytes())), depth - 1).map(|_| false)
            }
            Err(Errno::NOENT) => Ok(false),
            removed => Ok(removed.map(|()| false)?),
        };
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::store::tests::at;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Place {
        folder: PathBuf,
        datastore: Arc<Datastore>,
    }

    impl Place {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("godwit-unfinished-{name}-{}", std::process::id()));
            fs::create_dir_all(folder.join("vms")).expect("made");
            Self { datastore: at(&folder), folder }
        }

        fn begin(&self, name: &str) -> Unfinished {
            Unfinished::begin(&self.datastore, "vms", name, 7).expect("begun")
        }

        fn entries(&self) -> Vec<String> {
            self.datastore.list("vms").expect("listed")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn a_folder_is_seen_by_nobody_before_it_is_whole_and_then_by_its_name() {
        let place = Place::new("whole");
        let folder = place.begin("web-1");
        folder.write("vm.toml", b"config").expect("written");
        folder.make_file("disks/old/root.img").expect("made").write_all(b"root").expect("written");
        folder.link("disks/kernel", Path::new("../../../images/kernel")).expect("linked");
        assert!(place.datastore.folders("vms").expect("listed").is_empty());
        let left = Leftover { hidden: ".clone-web-1-0000000000000007".to_owned(), name: "web-1".to_owned() };
        assert_eq!(place.datastore.unfinished("vms").expect("listed"), [left]);
        folder.finish().expect("finished");
        assert_eq!(place.entries(), ["web-1"]);
        assert_eq!(place.datastore.read_text("vms/web-1/disks/old/root.img", 10).expect("read"), "root");
    }

    #[test]
    fn a_name_that_something_has_is_never_taken_from_it() {
        let place = Place::new("taken");
        fs::create_dir_all(place.folder.join("vms/web")).expect("made");
        fs::write(place.folder.join("vms/file"), "a file").expect("written");
        fs::write(place.folder.join("vms/web/vm.toml"), "another's").expect("written");
        for name in ["web", "file"] {
            let folder = place.begin(name);
            folder.write("vm.toml", b"mine").expect("written");
            let refused = folder.finish().expect_err("the name is taken");
            assert!(
                matches!(&refused, DatastoreError::Io(error) if error.kind() == io::ErrorKind::AlreadyExists),
                "{refused}"
            );
            folder.remove().expect("removed");
        }
        assert_eq!(place.entries(), ["file", "web"]);
        assert_eq!(place.datastore.read_text("vms/web/vm.toml", 100).expect("read"), "another's");
        // What NFS is asked in the place of it.
        let parent = OwnedFd::from(File::open(place.folder.join("vms")).expect("opened"));
        fs::create_dir(place.folder.join("vms/.mine")).expect("made");
        for name in ["web", "file"] {
            assert!(rustix::fs::renameat(&parent, ".mine", &parent, name).is_err());
        }
    }

    #[test]
    fn what_is_removed_is_the_folder_and_all_in_it_and_nothing_that_it_links_to() {
        let place = Place::new("removed");
        fs::create_dir_all(place.folder.join("images")).expect("made");
        fs::write(place.folder.join("images/kernel"), "kernel").expect("written");
        let folder = place.begin("web");
        for file in ["vm.toml", "a/b/c/disk.img", "a/disk.img"] {
            folder.make_file(file).expect("made");
        }
        for (link, target) in [("a/images", "../../../images"), ("kernel", "../../images/kernel"), ("gone", "nowhere")]
        {
            folder.link(link, Path::new(target)).expect("linked");
        }
        folder.remove().expect("removed");
        assert!(place.entries().is_empty());
        assert_eq!(fs::read_to_string(place.folder.join("images/kernel")).expect("read"), "kernel");
        // A server may put a link in its place.
        symlink("../images", place.folder.join("vms/.clone-web-0000000000000001")).expect("linked");
        let left = place.datastore.unfinished("vms").expect("listed").remove(0);
        place.datastore.remove_unfinished("vms", &left).expect_err("it is no folder");
        assert!(place.folder.join("images/kernel").exists());
    }

    #[test]
    fn only_names_that_a_clone_makes_are_taken_for_unfinished() {
        for name in [
            "web",
            ".clone",
            ".clone-",
            ".clone-web",
            ".clone-web-12",
            ".clone--0000000000000001",
            ".clone-web-000000000000000x",
        ] {
            assert_eq!(leftover(name.to_owned()), None, "{name}");
        }
    }
}
