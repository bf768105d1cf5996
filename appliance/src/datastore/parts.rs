//! Which files of a folder are its own, and which lie elsewhere on the datastore and are only linked from it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

use super::beneath::Beneath;
use super::bounded::DatastoreError;
use super::store::Datastore;

/// A file by its path in a folder, open for reading.
#[derive(Debug)]
pub struct Part {
    /// The file.
    pub file: File,
    /// Its size, bytes.
    pub size: u64,
    /// What of it has room on the datastore, bytes: the rest are holes.
    pub allocated: u64,
    /// The link by which it lies elsewhere; none where it is the folder's own.
    pub link: Option<Link>,
}

/// A link in a folder that leads out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its path in the folder: that of the file, or of a folder above it.
    pub path: String,
    /// Where it leads.
    pub target: PathBuf,
}

impl Datastore {
    /// Opens a file of a folder. That of a folder which is a link itself is its own: from another place, what it links to would
    /// not be there.
    ///
    /// # Errors
    /// It is not there or not readable.
    pub fn part(&self, folder: &str, file: &str) -> Result<Part, DatastoreError> {
        let file = file.to_owned();
        self.run(folder, move |datastore, folder| {
            let opened = open(datastore, &folder.join(&file))?;
            let about = opened.metadata()?;
            let (size, allocated) = (about.len(), about.blocks().saturating_mul(512).min(about.len()));
            Ok(Part { file: opened, size, allocated, link: link(datastore, folder, Path::new(&file))? })
        })
    }

    /// Whether a path leads to this very file.
    ///
    /// # Errors
    /// Nothing is there, or it is not readable.
    pub fn is_at(&self, path: &Path, file: &File) -> Result<bool, DatastoreError> {
        let (path, of) = (path.to_owned(), file.try_clone()?);
        self.run("", move |datastore, _| {
            let (there, this) = (open(datastore, &path)?.metadata()?, of.metadata()?);
            Ok((there.dev(), there.ino()) == (this.dev(), this.ino()))
        })
    }
}

fn open(datastore: &Beneath, path: &Path) -> Result<File, DatastoreError> {
    // A pipe in the place of a file would be waited for.
    let file = File::from(datastore.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file").into()) }
}

fn link(datastore: &Beneath, folder: &Path, file: &Path) -> Result<Option<Link>, DatastoreError> {
    if datastore.link_target(folder)?.is_some() {
        return Ok(None);
    }
    let own = datastore.within(folder)?;
    let leads_out = |path: &Path| match own.open(path, OFlags::PATH) {
        Err(DatastoreError::LeadsOut) => Ok(true),
        opened => opened.map(|_| false),
    };
    if !leads_out(file)? {
        return Ok(None);
    }
    let mut path = PathBuf::new();
    for part in file.components() {
        path.push(part);
        if leads_out(&path)? {
            // A link to another link, which leads out, is no use without that one: the file itself is copied.
            let target = own.link_target(&path)?.filter(|target| escapes(&path, target));
            return Ok(target.map(|target| Link { path: path.to_string_lossy().into_owned(), target }));
        }
    }
    Ok(None)
}

/// Whether the target of a link at `path` names a place outside of the folder that the path begins in.
fn escapes(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() as i64 - 1;
    target.components().any(|part| {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => return true,
        }
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::store::tests::at;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_link_leads_to_is_the_folders_own_only_if_it_lies_in_it() {
        let folder = std::env::temp_dir().join(format!("godwit-parts-{}", std::process::id()));
        fs::create_dir_all(folder.join("vms/web/disks")).expect("made");
        fs::create_dir_all(folder.join("images/old")).expect("made");
        fs::write(folder.join("vms/web/disks/root.img"), "root").expect("written");
        fs::write(folder.join("images/old/kernel"), "kernel").expect("written");
        symlink("disks/root.img", folder.join("vms/web/root.img")).expect("linked");
        symlink("../../images", folder.join("vms/web/shared")).expect("linked");
        symlink("../../images/old/kernel", folder.join("vms/web/kernel")).expect("linked");
        symlink("/etc/passwd", folder.join("vms/web/away")).expect("linked");
        symlink("web", folder.join("vms/same")).expect("linked");
        let datastore = at(&folder);
        let link = |of: &str, file: &str| datastore.part(of, file).expect("opened").link;
        let leads = |path: &str, target: &str| Some(Link { path: path.to_owned(), target: target.into() });
        assert_eq!(link("vms/web", "disks/root.img"), None);
        assert_eq!(link("vms/web", "root.img"), None);
        assert_eq!(link("vms/web", "kernel"), leads("kernel", "../../images/old/kernel"));
        assert_eq!(link("vms/web", "shared/old/kernel"), leads("shared", "../../images"));
        assert_eq!(link("vms/same", "kernel"), None, "its folder is a link itself");
        assert!(matches!(datastore.part("vms/web", "away"), Err(DatastoreError::LeadsOut)));
        assert!(datastore.part("vms/web", "disks").is_err() && datastore.part("vms/web", "gone").is_err());
        let kernel = datastore.part("vms/web", "kernel").expect("opened");
        assert_eq!(kernel.size, 6);
        assert!(datastore.is_at(Path::new("vms/web/shared/old/kernel"), &kernel.file).expect("looked"));
        assert!(!datastore.is_at(Path::new("vms/web/root.img"), &kernel.file).expect("looked"));
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_link_to_another_link_within_the_folder_does_not_lead_out_by_itself() {
        let leads = |path: &str, target: &str| escapes(Path::new(path), Path::new(target));
        assert!(
            leads("kernel", "../../images/kernel") && leads("a/kernel", "../../kernel") && leads("kernel", "/kernel")
        );
        assert!(!leads("kernel", "k2") && !leads("a/kernel", "../k2") && !leads("a/kernel", "./b/../k2"));
    }
}
