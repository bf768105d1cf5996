//! Power that fails: everything of a host ends at once, and what its memory held is gone.

use super::{Host, kill, wait};

impl Host {
    /// Kills everything of the host at once, as a power failure would.
    pub(crate) fn power_off(&mut self) {
        // What is being born meanwhile is killed once those are dead who bear it.
        wait("nothing of it lives", || {
            let processes = self.processes();
            processes.iter().for_each(|(pid, _)| kill(*pid));
            processes.is_empty()
        });
        self.kill_roles();
    }

    /// Powers off for good: what its next boot would find of it in the host's memory is gone.
    pub(crate) fn lose_memory(mut self) {
        self.power_off();
        std::fs::remove_dir_all(&self.run).expect("removed");
    }

    /// Powers off; only its boot medium is left, and its logs, for whoever wants to know what became of it.
    pub(crate) fn lose_power(&mut self) {
        self.power_off();
        for entry in std::fs::read_dir(&self.run).expect("it is there").flatten() {
            if ["config", "log"].iter().any(|kept| entry.file_name() == *kept) {
                continue;
            }
            let (path, is_folder) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let removed = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            removed.expect("removed");
        }
    }

    /// Boots after [`Host::lose_power`], and waits until it may run VMs and move them. `identity` is to be a new one: this machine's boot goes on, and
    /// a host of the same identity and boot would be the one that lost its power.
    pub(crate) fn boot_again(&mut self, identity: u8) {
        std::fs::create_dir_all(self.run.join("vm")).expect("made");
        std::fs::write(self.run.join("identity"), format!("{identity:02x}").repeat(16)).expect("written");
        self.start_roles();
        wait("the migration stack is up", || self.stack_is_up());
    }
}
