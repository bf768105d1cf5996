//! Work that is up to date is skipped: a result remembers a digest of what it was made from.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::error::{Doing, Result};

/// A digest of everything that a piece of work depends on.
#[derive(Default)]
pub struct Inputs {
    hasher: DefaultHasher,
}

impl Inputs {
    /// Inputs of the step `name`; raise `version` whenever the step's own code makes something else from the same inputs.
    pub fn of(name: &str, version: u32) -> Self {
        let mut inputs = Self::default();
        name.hash(&mut inputs.hasher);
        version.hash(&mut inputs.hasher);
        inputs
    }

    /// Adds a plain value.
    pub fn value(mut self, value: impl Hash) -> Self {
        value.hash(&mut self.hasher);
        self
    }

    /// Adds a file's content.
    pub fn content(mut self, path: &Path) -> Result<Self> {
        fs::read(path).at("reading", path)?.hash(&mut self.hasher);
        Ok(self)
    }

    /// Adds a large file by its path, size and time of change.
    pub fn large_file(mut self, path: &Path) -> Result<Self> {
        let about = fs::metadata(path).at("reading", path)?;
        let changed = about.modified().at("reading", path)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        (path, about.len(), changed.as_nanos()).hash(&mut self.hasher);
        Ok(self)
    }

    /// Makes `result` by `work` unless it exists and was made from equal inputs. Says whether work was done.
    pub fn make(self, result: &Path, work: impl FnOnce() -> Result<()>) -> Result<bool> {
        let stamp_file = stamp_of(result);
        let digest = format!("{:016x}", self.hasher.finish());
        if result.exists() && fs::read_to_string(&stamp_file).is_ok_and(|stamp| stamp == digest) {
            return Ok(false);
        }
        let _ = fs::remove_file(&stamp_file);
        work()?;
        fs::write(&stamp_file, digest).at("writing", &stamp_file)?;
        Ok(true)
    }
}

fn stamp_of(result: &Path) -> PathBuf {
    let mut name = result.file_name().unwrap_or_default().to_owned();
    name.push(".stamp");
    result.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_once_for_equal_inputs_and_again_for_changed_ones() {
        let folder = std::env::temp_dir().join(format!("godwit-stamp-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let result = folder.join("result");
        let make =
            |value: u32| Inputs::of("test", 1).value(value).make(&result, || fs::write(&result, "x").at("w", &result));
        assert!(make(1).unwrap());
        assert!(!make(1).unwrap());
        assert!(make(2).unwrap());
        fs::remove_file(&result).unwrap();
        assert!(make(2).unwrap(), "a result that was removed is made again");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn failed_work_is_not_taken_for_done() {
        let folder = std::env::temp_dir().join(format!("godwit-stamp-failed-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let result = folder.join("result");
        fs::write(&result, "half").unwrap();
        let failing = || Err(crate::error::LabError::Input("broken".into()));
        assert!(Inputs::of("test", 1).make(&result, failing).is_err());
        assert!(Inputs::of("test", 1).make(&result, || Ok(())).unwrap());
        fs::remove_dir_all(&folder).unwrap();
    }
}
