//! Where the lab keeps its things: everything lies in `target/lab/`, nothing elsewhere.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};
use crate::privilege;

/// The lab's folders.
#[derive(Debug, Clone)]
pub struct Home {
    /// The root of the source tree.
    pub source: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// `target/lab`.
    pub root: PathBuf,
    /// Which fleet: each verb that boots hosts for itself has one of its own, so that none disturbs another.
    pub fleet: String,
}

/// The root of the source tree that this program was built from.
pub fn source_tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

impl Home {
    /// Finds the source tree that this program was built from and makes the folders.
    /// `fleet` names the fleet to work with.
    pub fn open(fleet: &str) -> Result<Self> {
        let source = source_tree();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(&folder).at("resolving", Path::new(&folder))?,
            None => source.join("target"),
        };
        let root = target.join("lab");
        // What root builds must not lie where the caller's own cargo would stumble over it.
        let target = if privilege::came_by_sudo() { root.join("build") } else { target };
        let home = Self { root, source, target, fleet: fleet.into() };
        for folder in [home.cache(), home.image(), home.run()] {
            fs::create_dir_all(&folder).at("creating", &folder)?;
        }
        Ok(home)
    }

    /// What was downloaded or takes long to make, and does not depend on this tree's code.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The appliance's image and its parts.
    pub fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    /// The state of the fleet that is up: sockets, logs, the state file, the datastore.
    pub fn run(&self) -> PathBuf {
        self.root.join(&self.fleet)
    }

    /// The folder that the datastore of this fleet is made from; a server on this machine serves it.
    pub fn datastore(&self) -> PathBuf {
        self.run().join("datastore")
    }

    /// Eight hexadecimal digits that tell this fleet from every other on the same machine.
    pub fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.run().hash(&mut hasher);
        format!("{:08x}", hasher.finish() as u32)
    }
}
