//! How much memory those roles take that live as long as their host, and whether it grows with every move.

use std::collections::BTreeMap;

use super::Host;

/// The roles, with the KiB that each may have grown by whatever it did, and with each move. The heap of an engine rises and falls by as much as it
/// needs for moves at once and lets go of late: what it may not do is to rise with their number.
const ROLES: [(&str, u64, u64); 3] = [("host", 2 << 10, 16), ("lease", 2 << 10, 16), ("migrate", AT_ONCE, 32)];

/// The KiB that an engine needs for the moves of a crowded moment: what the transport takes for a loop that does not come to read (32 MiB of
/// a connection: `receive_window_bytes`), what waits to be stored (4 MiB), and the records and what is known of the pages of four moves.
const AT_ONCE: u64 = (32 + 4 + 12) << 10;

/// Moves after which a process has what it keeps however many come.
const WARM: u64 = 8;

/// What processes took when they were looked at while they were new, or were warm for the first time, with the moves made until then.
#[derive(Default)]
pub(crate) struct RoleMemory {
    new: BTreeMap<(String, u32), u64>,
    warm: BTreeMap<(String, u32), (u64, u64)>,
}

impl RoleMemory {
    /// No role of these hosts takes more than what it took when it was warm allows for, with so many moves since. `moves` were made in all.
    pub(crate) fn looked_at(&mut self, hosts: &[Host; 2], moves: u64) {
        for (process, now) in hosts.iter().flat_map(Host::role_memory) {
            if moves < *self.new.entry(process.clone()).or_insert(moves) + WARM {
                continue;
            }
            let (made, before) = *self.warm.entry(process.clone()).or_insert((moves, now));
            let since = moves - made;
            let (_, once, by_a_move) =
                ROLES.into_iter().find(|(role, ..)| *role == process.0).expect("only these are looked at");
            let bound = before + once + since * by_a_move;
            println!("{process:?}: {now} KiB after {since} moves, {before} before them");
            assert!(
                now <= bound,
                "{process:?}: {now} KiB after {since} moves, {before} before them; {bound} would be well"
            );
        }
    }
}

impl Host {
    /// KiB of memory of its own that each role's process takes, by its name and number.
    fn role_memory(&self) -> BTreeMap<(String, u32), u64> {
        let roles = self.processes().into_iter().filter_map(|(pid, words)| {
            let role = words.get(1).filter(|role| ROLES.iter().any(|(name, ..)| name == role))?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
            Some(((role.clone(), pid), own.trim().trim_end_matches(" kB").parse().ok()?))
        });
        roles.collect()
    }
}
