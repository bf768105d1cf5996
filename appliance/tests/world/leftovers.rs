//! What a host holds: processes with their threads, descriptors of its roles, folders of its VMs, links of its network, files in its memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Host, cable, files_below, wait};

/// How the taps of VMs are named.
const TAP: &str = "vm";

/// All that a host holds, by its kind, so that two moments can be compared.
#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<String, usize>);

impl Held {
    /// What there is more of now than there was then; a line for each kind.
    fn grown_since(&self, then: &Self) -> String {
        let grown = self.0.iter().filter_map(|(kind, now)| {
            let before = then.0.get(kind).copied().unwrap_or(0);
            (*now > before).then(|| format!("{kind}: {before} before, {now} now\n"))
        });
        grown.collect()
    }
}

impl Host {
    /// What this host holds when no move goes on.
    pub(crate) fn held_at_rest(&self) -> Held {
        wait("no move goes on", || !self.held().0.contains_key("migrate holds memfd"));
        self.held()
    }

    /// Waits until this host holds nothing that it did not hold then.
    pub(crate) fn lets_go_of_all_since(&self, then: &Held) {
        let mut told = String::new();
        wait("nothing is left over", || {
            let grown = self.held().grown_since(then);
            if grown != told {
                println!("{}: {grown}{}", self.run.display(), self.log("host"));
                told.clone_from(&grown);
            }
            grown.is_empty()
        });
    }

    fn held(&self) -> Held {
        let Held(mut held) = Held::default();
        for (pid, words) in self.processes() {
            let role = words.get(1).cloned().unwrap_or_default();
            *held.entry(format!("process {role}")).or_default() += 1;
            let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            // The lease role has as many threads as there once was work at a time.
            if role != "lease" {
                let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
                *held.entry(format!("threads of {role}")).or_default() += threads;
            }
            for kind in descriptors.filter_map(|entry| kind(pid, &entry.path())) {
                *held.entry(format!("{role} holds {kind}")).or_default() += 1;
            }
        }
        let folders = std::fs::read_dir(self.run.join("vm")).into_iter().flatten().flatten();
        for folder in folders {
            let files = std::fs::read_dir(folder.path()).into_iter().flatten().flatten();
            let names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
            held.insert(format!("folder of VM {} with {names:?}", folder.file_name().to_string_lossy()), 1);
        }
        for link in self.namespace.iter().flat_map(|namespace| cable::links(namespace)) {
            held.insert(format!("link {link}"), 1);
        }
        for path in files_below(&self.run).into_keys() {
            // What belongs to a VM was told already. The lease role has one list of monitors for each datastore, and writes it when it guards the next;
            // and a host that has begun notes once, for each datastore, that its VMs were started.
            if !["vm/", "guards-", "autostarted-"].iter().any(|begin| path.starts_with(begin)) {
                held.insert(format!("file {path}"), 1);
            }
        }
        Held(held)
    }

    /// The connections that monitors of this host serve.
    pub(crate) fn sessions_of_monitors(&self) -> usize {
        self.monitor_processes().into_iter().map(sessions_of_monitor).sum()
    }

    /// The taps of this host's VMs.
    pub(crate) fn taps(&self) -> Vec<String> {
        let links = self.namespace.iter().flat_map(|namespace| cable::links(namespace));
        links.filter(|link| link.starts_with(TAP)).collect()
    }
}

/// The connections that this monitor serves, each by a thread.
pub(crate) fn sessions_of_monitor(pid: u32) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let names = threads.map(|thread| std::fs::read_to_string(thread.path().join("comm")));
    names.filter(|name| name.as_ref().is_ok_and(|name| name.trim() == "session")).count()
}

/// `socket` of `socket:[123]`, `memfd` of `/memfd:ram (deleted)`, and the path of a file; none of what is closed meanwhile,
/// and of what is no leftover.
fn kind(pid: u32, descriptor: &Path) -> Option<String> {
    let target: PathBuf = std::fs::read_link(descriptor).ok()?;
    let text = target.to_string_lossy().into_owned();
    if text.starts_with("/memfd:") {
        return Some("memfd".to_owned());
    }
    // Each thread of the lease role's pool holds the area; there are as many threads as there once was work at a time.
    if text.ends_with("/godwit/lease") {
        return None;
    }
    if text == "anon_inode:[pidfd]" {
        let name = descriptor.file_name()?.to_string_lossy().into_owned();
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{name}")).ok()?;
        // The lease role lets go of a process that has ended when it guards the next.
        let ended = info.lines().any(|line| line.strip_prefix("Pid:").is_some_and(|pid| pid.trim() == "-1"));
        return (!ended).then(|| "process".to_owned());
    }
    Some(text.split(":[").next().unwrap_or_default().to_owned())
}
