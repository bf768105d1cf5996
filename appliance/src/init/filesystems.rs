//! The file systems of the appliance: the kernel's, and the two in RAM that hold state.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, mount};

struct Mount {
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    data: &'static str,
    vital: bool,
}

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

const MOUNTS: [Mount; 9] = [
    Mount { source: "proc", target: "/proc", kind: "proc", flags: NO_PROGRAMS, data: "", vital: true },
    Mount { source: "sys", target: "/sys", kind: "sysfs", flags: NO_PROGRAMS, data: "", vital: true },
    Mount {
        source: "dev",
        target: "/dev",
        kind: "devtmpfs",
        flags: MountFlags::NOSUID,
        data: "mode=0755",
        vital: true,
    },
    Mount {
        source: "pts",
        target: "/dev/pts",
        kind: "devpts",
        flags: MountFlags::NOSUID,
        data: "mode=0600",
        vital: false,
    },
    Mount { source: "shm", target: "/dev/shm", kind: "tmpfs", flags: NO_PROGRAMS, data: "mode=0700", vital: false },
    Mount { source: "run", target: "/run", kind: "tmpfs", flags: NO_PROGRAMS, data: "mode=0755,size=25%", vital: true },
    Mount {
        source: "tmp",
        target: "/tmp",
        kind: "tmpfs",
        flags: NO_PROGRAMS,
        data: "mode=1777,size=25%",
        vital: false,
    },
    Mount { source: "debug", target: "/sys/kernel/debug", kind: "debugfs", flags: NO_PROGRAMS, data: "", vital: false },
    Mount { source: "cgroup", target: "/sys/fs/cgroup", kind: "cgroup2", flags: NO_PROGRAMS, data: "", vital: false },
];

/// Folders that roles rely on.
const FOLDERS: [&str; 5] =
    ["/run/godwit", "/run/godwit/log", "/run/godwit/vm", "/run/godwit/config", "/run/godwit/datastore"];

/// Mounts everything and makes the folders. Returns the mounts that failed and that the host can live without.
pub(super) fn mount_all() -> Result<Vec<String>, String> {
    let mut missed = Vec::new();
    for one in &MOUNTS {
        let outcome = fs::create_dir_all(one.target).and_then(|()| mount_one(one));
        match outcome {
            Ok(()) => {}
            Err(error) if one.vital => {
                return Err(format!("{} could not be mounted on {}: {error}", one.kind, one.target));
            }
            Err(error) => missed.push(format!("{} ({error})", one.target)),
        }
    }
    for folder in FOLDERS {
        fs::create_dir_all(folder).map_err(|error| format!("{folder} could not be made: {error}"))?;
    }
    Ok(missed)
}

fn mount_one(one: &Mount) -> io::Result<()> {
    let data = std::ffi::CString::new(one.data)?;
    match mount(one.source, one.target, one.kind, one.flags, data.as_c_str()) {
        // The kernel mounts devtmpfs by itself in some configurations.
        Err(rustix::io::Errno::BUSY) => Ok(()),
        outcome => Ok(outcome?),
    }
}
