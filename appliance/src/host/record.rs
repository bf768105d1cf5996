//! What a control plane leaves beside a running VM, so that after a restart it finds the VM again. It lies in the
//! host's memory: a reboot of the host leaves neither records nor VMs.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::names::{HostName, VmName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::lease::VmOnDatastore;
use crate::api::migrate::MigrationId;
use crate::api::paths::RunDir;
use crate::host::running::Running;

/// What is needed to adopt a VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmRecord {
    /// Its place.
    pub vm: VmOnDatastore,
    /// The epoch in which this host holds it.
    pub epoch: u64,
    /// Its vm.toml as it was when it started.
    pub config_text: String,
    /// The process of its monitor.
    pub pid: u32,
    /// Its vCPUs were paused by a person.
    pub paused: bool,
    /// It was moving out; whether it ever came to be another host's, the lease says.
    pub moving_out: Option<MovingOut>,
    /// It was moving in; whether it ever came to be this host's, the lease says.
    pub moving_in: Option<MovingIn>,
}

/// A move away that was under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovingOut {
    /// Which.
    pub id: MigrationId,
    /// Where to.
    pub destination: HostName,
}

/// A move to here that was under way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MovingIn {
    /// Which.
    pub id: MigrationId,
    /// The epoch in which the source holds the VM.
    pub source_epoch: u64,
    /// The VM is paused, and stays so.
    pub paused: bool,
}

/// Who writes and who removes take turns: a folder that gets a file while it is removed stays, and its VM would be found by the next control plane.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file by which a VM is known that is only being made, or whose lease is still to be given up.
const BEGUN: &str = "begun";

/// Notes that a VM has no record here and this host may hold its lease all the same: before the lease is asked for and its
/// monitor is born, and when it cannot be given up. A control plane after this one ends the monitor and gives the lease up.
///
/// # Errors
/// The note cannot be written.
pub fn begin(run_dir: &RunDir, vm: &VmOnDatastore) -> io::Result<()> {
    let _turn = turn();
    let folder = run_dir.vm(&vm.vm);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(BEGUN), postcard::to_stdvec(vm).map_err(io::Error::other)?)
}

/// Writes the record of a VM before its guest runs. Without it a control plane after this one would end the VM.
///
/// # Errors
/// It cannot be written.
pub fn write(run_dir: &RunDir, running: &Running, paused: bool) -> io::Result<()> {
    write_record(run_dir, running, paused, (None, None))
}

/// As [`write()`], for a VM that is moving in.
///
/// # Errors
/// It cannot be written.
pub fn write_moving_in(run_dir: &RunDir, running: &Running, moving_in: MovingIn) -> io::Result<()> {
    write_record(run_dir, running, moving_in.paused, (None, Some(moving_in)))
}

/// As [`write()`], for a VM that moves out.
///
/// # Errors
/// It cannot be written.
pub fn write_moving_out(run_dir: &RunDir, running: &Running, paused: bool, moving_out: MovingOut) -> io::Result<()> {
    write_record(run_dir, running, paused, (Some(moving_out), None))
}

/// Writes the record of a VM anew that has one; one that ended meanwhile has none any more. If that fails the one before stays, which is worth a
/// warning but not the VM's life: what it does not tell, the lease does.
pub fn update(run_dir: &RunDir, running: &Running, paused: bool) {
    let _turn = turn();
    if !run_dir.vm(&running.vm.vm).join("record").exists() {
        return;
    }
    if let Err(error) = write_in_turn(run_dir, running, paused, (None, None)) {
        log::warn!("record of VM {}: {error}", running.vm.vm);
    }
}

fn write_record(
    run_dir: &RunDir,
    running: &Running,
    paused: bool,
    moving: (Option<MovingOut>, Option<MovingIn>),
) -> io::Result<()> {
    let _turn = turn();
    write_in_turn(run_dir, running, paused, moving)
}

fn write_in_turn(
    run_dir: &RunDir,
    running: &Running,
    paused: bool,
    (moving_out, moving_in): (Option<MovingOut>, Option<MovingIn>),
) -> io::Result<()> {
    let record = VmRecord {
        vm: running.vm.clone(),
        epoch: running.epoch(),
        config_text: running.config_text.clone(),
        pid: running.monitor.pid(),
        paused,
        moving_out,
        moving_in,
    };
    let folder = run_dir.vm(&running.vm.vm);
    fs::write(folder.join("record.new"), postcard::to_stdvec(&record).map_err(io::Error::other)?)?;
    fs::rename(folder.join("record.new"), folder.join("record"))
}

/// Removes the record of a VM that does not run here any more, with its sockets, if there is one.
pub fn remove(run_dir: &RunDir, vm: &VmName) {
    let _turn = turn();
    match fs::remove_dir_all(run_dir.vm(vm)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => log::warn!("folder of VM {vm}: {error}"),
        _ => {}
    }
}

/// What an earlier control plane left.
#[derive(Debug, Default)]
pub struct Left {
    /// The VMs that it ran, or that were moving in.
    pub records: Vec<VmRecord>,
    /// The VMs that it was about to make, whose guests never ran here, and those whose leases it was to give up.
    pub begun: Vec<VmOnDatastore>,
}

/// Reads what an earlier control plane left.
pub fn left(run_dir: &RunDir) -> Left {
    let mut left = Left::default();
    for folder in fs::read_dir(run_dir.vms()).into_iter().flatten().flatten().map(|folder| folder.path()) {
        let read = match read(&folder.join("record")) {
            Ok(record) => {
                left.records.push(record);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                read(&folder.join(BEGUN)).map(|vm| left.begun.push(vm))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            log::error!("{}: {error}", folder.display());
        }
    }
    left
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    postcard::from_bytes(&fs::read(path)?).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::monitor::stand_in::StandIn;

    #[test]
    fn a_record_that_is_updated_while_it_is_removed_does_not_stay() {
        let web = "web".parse().expect("valid");
        let monitor = StandIn::start(&web);
        let running = monitor.running();
        let run_dir = RunDir::at(std::env::temp_dir().join(format!("godwit-records-{}", std::process::id())));
        for round in 0..300 {
            begin(&run_dir, &running.vm).expect("noted");
            write(&run_dir, &running, false).expect("written");
            std::thread::scope(|scope| {
                scope.spawn(|| (0..4).for_each(|_| update(&run_dir, &running, true)));
                remove(&run_dir, &web);
            });
            assert!(!run_dir.vm(&web).exists(), "in round {round}");
        }
        fs::remove_dir_all(run_dir.path()).expect("removed");
    }
}
