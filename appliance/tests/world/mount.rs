//! File systems that a test mounts.

use std::path::PathBuf;
use std::process::Command;

/// A mount of a test, gone at its end.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts over what lies at `place`, in these steps. None, with the reason on standard error, where this user may not mount.
    pub(crate) fn at(place: PathBuf, steps: &[&[&str]]) -> Option<Self> {
        let mount = Self(place);
        for step in steps {
            let mounted = Command::new("mount").args(*step).arg(&mount.0).status();
            if !mounted.is_ok_and(|status| status.success()) {
                eprintln!("skipped: this user may not mount");
                return None;
            }
        }
        Some(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(&self.0).status();
    }
}
