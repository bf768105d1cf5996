//! The processors of this host that a VM may run on: a monitor inherits those of the thread that makes it, and its vCPUs from
//! it (sched_setaffinity(2)).

use std::io;

use model::diagnosis::Reason;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Those of these processors that this host does not have.
fn absent(cpus: &[u32]) -> io::Result<Vec<u32>> {
    let here = sched_getaffinity(None)?;
    let is_here = |cpu: u32| usize::try_from(cpu).is_ok_and(|cpu| cpu < CpuSet::MAX_CPU && here.is_set(cpu));
    Ok(cpus.iter().copied().filter(|cpu| !is_here(*cpu)).collect())
}

/// Why a VM cannot be kept to these processors here, if it cannot.
pub fn problem(cpus: &[u32]) -> Option<Reason> {
    const HINT: &str = "cpu_affinity in vm.toml: name processors of this host, or leave it out; host show";
    match absent(cpus) {
        Ok(_) if cpus.is_empty() => Some(Reason::new("vm.cpu_affinity names no processor", HINT)),
        Ok(absent) if absent.is_empty() => None,
        Ok(absent) => {
            let absent: Vec<String> = absent.iter().map(u32::to_string).collect();
            Some(Reason::new(format!("this host has no processor {}", absent.join(", ")), HINT))
        }
        Err(error) => Some(Reason::new(format!("the processors of this host are not known: {error}"), "host check")),
    }
}

/// Does `work`, on these processors if any are given; processes and threads that it makes stay there.
///
/// # Errors
/// Those of `work`, and that this host does not let itself be kept to them.
pub fn on<T: Send>(cpus: Option<&[u32]>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let Some(cpus) = cpus else { return work() };
    let mut set = CpuSet::new();
    for cpu in cpus.iter().filter_map(|cpu| usize::try_from(*cpu).ok()).filter(|cpu| *cpu < CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    // A thread of its own: this one goes on wherever it is let.
    std::thread::scope(|scope| {
        let pinned = move || {
            sched_setaffinity(None, &set)?;
            work()
        };
        let pinned = std::thread::Builder::new().name("pinned".to_owned()).spawn_scoped(scope, pinned)?;
        pinned.join().map_err(|_| io::Error::other("the thread that was kept to them ended"))?
    })
}
