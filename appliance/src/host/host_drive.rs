//! A drive of this host as a VM's disk: a CD in its tray, a disk that is no datastore.

use std::fs::File;
use std::io;

use model::diagnosis::Reason;
use model::vm_config::DevicePath;
use rustix::fs::{FileType, Mode, OFlags, fstat, open as open_path};
use rustix::io::Errno;

/// Why a drive cannot be a VM's disk.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// Nothing has that name.
    #[error("this host has no such drive")]
    Missing,
    /// There is nothing in it.
    #[error("no medium is in it")]
    Empty,
    /// It is mounted, or something else of this host is made of it.
    #[error("this host uses it itself")]
    InUse,
    /// It cannot be written.
    #[error("it can only be read")]
    ReadOnly,
    /// It is something else.
    #[error("it is no drive (no block device)")]
    NotABlockDevice,
    /// The kernel refuses it otherwise.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl DriveError {
    /// What a person is told.
    pub fn reason(&self, device: &DevicePath) -> Reason {
        let reason = reason(device, self);
        match self {
            Self::Empty => Reason { hint: "put a medium in, or take the disk out of vm.toml".to_owned(), ..reason },
            Self::ReadOnly => Reason { hint: "write read_only = true beside it in vm.toml".to_owned(), ..reason },
            _ => reason,
        }
    }
}

/// What a person is told of a drive.
pub fn reason(device: &DevicePath, error: &dyn std::fmt::Display) -> Reason {
    Reason::new(
        format!("drive {device} of this host: {error}"),
        "mend device in vm.toml, or start the VM on the host that has the drive",
    )
}

/// Opens a drive past the page cache, for a VM alone where it is written: a drive that is mounted, or in another's use, is refused (O_EXCL on
/// a block device, open(2)).
///
/// # Errors
/// [`DriveError`].
pub fn open(device: &DevicePath, read_only: bool) -> Result<File, DriveError> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR | OFlags::EXCL };
    // Not blocking: what is no drive, a terminal for one, may wait for its other end in open(2).
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = open_path(device.as_str(), flags, Mode::empty());
    let file = opened.map_err(|errno| match errno {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => DriveError::Missing,
        Errno::NOMEDIUM => DriveError::Empty,
        Errno::BUSY => DriveError::InUse,
        Errno::ROFS | Errno::ACCESS => DriveError::ReadOnly,
        // What is not a block device mostly has no O_DIRECT.
        Errno::INVAL => DriveError::NotABlockDevice,
        other => DriveError::Io(other.into()),
    })?;
    let kind = FileType::from_raw_mode(fstat(&file).map_err(io::Error::from)?.st_mode);
    if kind == FileType::BlockDevice { Ok(File::from(file)) } else { Err(DriveError::NotABlockDevice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(device: &str, read_only: bool) -> String {
        let device = device.parse().expect("valid");
        let error = open(&device, read_only).expect_err("no drive");
        error.reason(&device).cause
    }

    #[test]
    fn what_is_no_drive_is_refused_in_words() {
        assert_eq!(
            told("/dev/nothing-here", true),
            "drive /dev/nothing-here of this host: this host has no such drive"
        );
        for device in ["/dev/null", "/dev/zero", "/dev/tty"] {
            let said = told(device, true);
            assert!(said.contains("it is no drive") || said.contains("no such drive"), "{said}");
        }
    }
}
