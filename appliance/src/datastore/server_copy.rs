//! Whether an NFS server copies files by itself. copy_file_range(2) does not tell: where the server cannot, the kernel's client
//! reads and writes in its place. Its counters do (/proc/self/mountstats, one line for each operation of NFS).

use std::path::Path;

/// How many copies the server of the mount at `root` has made by itself; `None` where nothing is counted: no NFS, or a version of
/// it that knows no copies. Asks the kernel and never the server.
pub fn copies_made(root: &Path) -> Option<u64> {
    counted(&std::fs::read_to_string("/proc/self/mountstats").ok()?, root)
}

/// The operations COPY of a mount that were answered without an error. A line has the operation, how often it was made, and,
/// the last of nine, how often it failed (Linux 5.3 and later).
fn counted(stats: &str, root: &Path) -> Option<u64> {
    let mut here = false;
    let mut copies = None;
    for line in stats.lines() {
        if let Some(device) = line.strip_prefix("device ") {
            let place = device.split(" mounted on ").nth(1).and_then(|rest| rest.split(" with fstype ").next());
            here = place.is_some_and(|place| Path::new(place) == root);
        }
        if let Some(counters) = line.trim_start().strip_prefix("COPY:").filter(|_| here) {
            let counters: Vec<u64> = counters.split_whitespace().filter_map(|counter| counter.parse().ok()).collect();
            // What is mounted last at a place is what one sees there.
            copies = Some(counters.first()? - counters.get(8).unwrap_or(&0).min(counters.first()?));
        }
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "device proc mounted on /proc with fstype proc
device 192.168.0.2:/lab mounted on /run/godwit/datastore/lab with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t        READ: 3 3 0 600 1500 0 1 1 0
\t        COPY: 12 12 0 3360 2688 4 1042 1047 2
\tOFFLOAD_CANCEL: 0 0 0 0 0 0 0 0 0
\t       CLONE: 1 1 0 44 24 0 0 0 0

device 192.168.0.2:/old mounted on /run/godwit/datastore/old with fstype nfs statvers=1.1
\t        READ: 3 3 0 600 1500 0 1 1 0

device 192.168.0.2:/more mounted on /run/godwit/datastore/more with fstype nfs4 statvers=1.1
\t        COPY: 1 1 0 280 224 0 2 2 1
";

    #[test]
    fn copies_that_the_server_made_are_told_from_those_that_it_refused_and_from_other_mounts() {
        let of = |name: &str| counted(STATS, &Path::new("/run/godwit/datastore").join(name));
        assert_eq!((of("lab"), of("more")), (Some(10), Some(0)));
        assert_eq!((of("old"), of("other")), (None, None));
    }
}
