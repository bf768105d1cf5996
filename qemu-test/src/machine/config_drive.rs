//! A volume that a host finds its configuration on, as a person would put it on a stick beside the ISO.

use std::fs;
use std::path::{Path, PathBuf};

use crate::child::Child;
use crate::error::{Doing, Result};

/// A FAT volume labelled GODWIT with this `godwit/host.toml`, as a file in `folder`.
pub fn config_drive(folder: &Path, host: &str, text: &str) -> Result<PathBuf> {
    fs::create_dir_all(folder).at("creating", folder)?;
    let (drive, file) = (folder.join(format!("config-drive-{host}.img")), folder.join("host.toml"));
    fs::write(&file, text).at("writing", &file)?;
    let _ = fs::remove_file(&drive);
    // 2,880 sectors of 512 bytes: the size that FAT tools agree on.
    Child::new("mformat", ["-C", "-f", "1440", "-v", "GODWIT", "-i"]).arg(&drive).arg("::").run()?;
    Child::new("mmd", ["-i"]).arg(&drive).arg("::godwit").run()?;
    Child::new("mcopy", ["-i"]).arg(&drive).arg(&file).arg("::godwit/host.toml").run()?;
    Ok(drive)
}
