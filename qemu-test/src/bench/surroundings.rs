//! What the machine itself tells: time stamps, memory of processes, and the work of everybody else.

use std::arch::x86_64::_rdtsc;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::error::{Doing, LabError, Result};

/// Memory that is touched beside the guest's size.
const SPARE_BYTES: u64 = 100 << 20;
/// `sysconf(_SC_CLK_TCK)`: 100 on every Linux for x86-64.
const TICKS_PER_SECOND: f64 = 100.0;

/// This processor's time stamp counter.
pub(super) fn tsc() -> u64 {
    // SAFETY: RDTSC has no operands and every x86-64 processor has it.
    unsafe { _rdtsc() }
}

/// Touches a guest's worth of memory and frees it. On a virtual machine that returns free memory to its own host the
/// first to touch it waits for it; after this nobody does, whichever contestant comes next.
pub(super) fn warm(guest_bytes: u64) {
    let bytes = usize::try_from(guest_bytes + SPARE_BYTES).unwrap_or(usize::MAX);
    drop(std::hint::black_box(vec![1_u8; bytes]));
}

/// Memory of a process beside the guest's, in bytes: its share of every mapping (Pss of `/proc/PID/smaps`) but those of
/// guest memory, which are memfds named after a VM or, where there is none, the one that has the guest's size.
pub(super) fn memory_beside(pid: u32, guest_bytes: u64) -> Result<u64> {
    let path = Path::new("/proc").join(pid.to_string()).join("smaps");
    let text = fs::read_to_string(&path).at("reading", &path)?;
    let mappings = mappings(&text);
    let is_vm = |mapping: &Mapping| mapping.name.contains("memfd:vm-");
    let named = mappings.iter().any(is_vm);
    let guest =
        mappings.iter().position(|mapping| mapping.size >= guest_bytes && mapping.size < guest_bytes + (64 << 20));
    if !named && guest.is_none() {
        return Err(LabError::Input(format!("{}: none of the mappings is the guest's memory", path.display())));
    }
    let is_guest = |at: usize, mapping: &Mapping| if named { is_vm(mapping) } else { Some(at) == guest };
    Ok(mappings
        .iter()
        .enumerate()
        .filter(|(at, mapping)| !is_guest(*at, mapping))
        .map(|(_, mapping)| mapping.share)
        .sum())
}

/// All memory of a process but guest memory, in bytes (Pss).
pub(super) fn memory_of(pid: u32) -> Result<u64> {
    let path = Path::new("/proc").join(pid.to_string()).join("smaps");
    let text = fs::read_to_string(&path).at("reading", &path)?;
    Ok(mappings(&text).iter().filter(|mapping| !mapping.name.contains("memfd:vm-")).map(|mapping| mapping.share).sum())
}

/// One mapping of a process.
#[derive(Debug, Default)]
struct Mapping {
    name: String,
    size: u64,
    share: u64,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let Some(key) = first.strip_suffix(':').filter(|key| !key.contains('-')) else {
            // `55d0-55e0 r-xp 00000000 08:01 42 /path`: the name is all that follows the inode.
            mappings.push(Mapping { name: words.skip(4).collect::<Vec<_>>().join(" "), ..Mapping::default() });
            continue;
        };
        let kib: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        if let Some(mapping) = mappings.last_mut() {
            match key {
                "Size" => mapping.size = kib << 10,
                "Pss" => mapping.share = kib << 10,
                _ => {}
            }
        }
    }
    mappings
}

/// CPU time that was spent up to one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    at: Instant,
    everybody: f64,
    ours: f64,
}

impl Work {
    /// Now, with the contestant's processes.
    pub(super) fn now(workers: &[u32]) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ours = workers.iter().map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            process_ticks(&stat)
        });
        Self {
            at: Instant::now(),
            everybody: machine_ticks(&stat) / TICKS_PER_SECOND,
            ours: ours.sum::<f64>() / TICKS_PER_SECOND,
        }
    }

    /// How many processors were kept busy since `before`: by the contestant, the guest among it, and by everybody else, which is
    /// other programs, this one, and what the kernel does on its own account.
    pub(super) fn shares_since(&self, before: &Self) -> Shares {
        let (ours, seconds) = (self.ours - before.ours, (self.at - before.at).as_secs_f64());
        let others = self.everybody - before.everybody - ours;
        Shares { contestant: (ours / seconds).max(0.0), others: (others / seconds).max(0.0) }
    }
}

/// Processors that were kept busy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    pub(super) contestant: f64,
    pub(super) others: f64,
}

/// User, nice, system, interrupts and stolen time (proc(5), /proc/stat).
fn machine_ticks(stat: &str) -> f64 {
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    [0, 1, 2, 5, 6, 7].into_iter().filter_map(|at| fields.get(at)).sum()
}

/// utime, stime, and those of children that were waited for (proc(5), /proc/PID/stat: fields 14 to 17).
fn process_ticks(stat: &str) -> f64 {
    // The program's name, in brackets, may hold anything.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().skip(11).take(4).flat_map(str::parse::<f64>).sum()
}

/// The machine, as far as it matters to a reader.
pub(super) fn machine_description() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, name)| name);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = kernel.split('-').next().unwrap_or("?").to_owned();
    let svm = cpus.contains(" svm") || cpus.contains(" vmx");
    let virtualization =
        if svm { "hardware virtualization" } else { "no VMX or SVM: KVM runs its guests by paravirtualization" };
    format!("{count} cores ({model}), {} GiB, Linux {kernel}; {virtualization}", (kib + (1 << 19)) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_with_their_names_sizes_and_shares() {
        let smaps = "7f00-7f10 rw-s 00000000 00:01 5   /memfd:vm-web (deleted)\nSize:  524288 kB\nPss:  1000 kB\nPss_Dirty: 7 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0 \nSize: 40 kB\nPss: 12 kB\nVmFlags: rd wr\n";
        let read = mappings(smaps);
        assert_eq!(read.len(), 2);
        assert!(read[0].name.contains("memfd:vm-"));
        assert_eq!((read[0].size, read[1].name.as_str(), read[1].share), (512 << 20, "", 12 << 10));
    }

    #[test]
    fn what_the_contestant_worked_is_not_the_work_of_others() {
        let at = Instant::now();
        let before = Work { at, everybody: 100.0, ours: 10.0 };
        let after = Work { at: at + std::time::Duration::from_secs(2), everybody: 104.0, ours: 13.0 };
        let shares = after.shares_since(&before);
        assert!((shares.contestant - 1.5).abs() < 1e-9 && (shares.others - 0.5).abs() < 1e-9, "{shares:?}");
    }

    #[test]
    fn cpu_time_is_read_behind_any_program_name() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4 0 0 0 0 10 20 3 4 20 0 1 0 5";
        assert!((process_ticks(stat) - 37.0).abs() < 1e-9);
        assert!((machine_ticks("cpu  1 2 3 100 50 4 5 6 9 9\ncpu0 7") - 21.0).abs() < 1e-9);
    }
}
