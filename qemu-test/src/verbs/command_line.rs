//! The verbs and their words.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::home::Home;
use crate::privilege;
use crate::servers::Make;
use crate::tests::OLDER;
use crate::verbs::bench::Subject;
use crate::verbs::fault::Fault;
use crate::verbs::image::MadeElsewhere;
use crate::verbs::{
    bench, console, database, demo, down, exec, fault, fuzz, image, inside, losses, moves, older, sim, status, test, up,
};

/// Boots real Godwit images in QEMU, drives their consoles and injects faults.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", disable_help_subcommand = true)]
pub struct CommandLine {
    /// Work with this fleet: `run` (that of `up`), `test`, `demo`
    #[arg(long, global = true)]
    fleet: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the bootable image (target/lab/image/godwit.iso) and check its sizes
    Image {
        #[command(flatten)]
        from: Option<MadeElsewhere>,
    },
    /// Boot hosts with a shared NFS datastore that holds the example VMs, and leave them running
    Up {
        /// The NFS server
        #[arg(long, value_enum, default_value_t)]
        server: Make,
        /// How many: host-a, host-b, ...
        #[arg(long, default_value_t = 2)]
        hosts: u8,
        /// Memory of each host in MiB
        #[arg(long, default_value_t = 1536)]
        memory_mib: u32,
        /// A further word for the kernel's command line of each host, as godwit.log_level=debug
        #[arg(long = "word")]
        words: Vec<String>,
    },
    /// Say what is up
    Status,
    /// End everything that `up` started
    Down,
    /// Type one command on a host's console, print what it prints, end with its status
    Exec {
        /// Which host
        host: String,
        /// The longest that the command may take, in seconds
        #[arg(long, default_value_t = 600)]
        within: u64,
        /// The command, after --
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Sit down at a host's serial line (Ctrl-\ leaves)
    Console {
        /// Which host
        host: String,
    },
    /// Check everything; the last line sums it up
    Test {
        /// Only what needs no hosts
        #[arg(long)]
        quick: bool,
        /// Only the nested tests whose name holds this, or whose server is this (ganesha, knfsd)
        #[arg(long, conflicts_with = "quick")]
        nested: Option<String>,
    },
    /// Run the lease in simulated worlds, one a seed; prints seeds, events and schedules per second
    Sim {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Tell what happens in the world of this one seed
        #[arg(long, conflicts_with_all = ["seeds", "first"])]
        trace: Option<u64>,
    },
    /// Move VMs between two hosts of this machine and disturb them, as a seed has it
    Moves {
        /// How many moves
        #[arg(long, default_value_t = 300)]
        moves: u64,
        /// The seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Give what reads words of other hosts, datastores and roles real ones that a seed has changed; prints executions per second and, of a failure, the input
    Fuzz {
        /// How long, for each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// The seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this: messages, records, frames, device-states, machine, lease, texts, api
        target: Option<String>,
    },
    /// Move a VM with PostgreSQL under load between two hosts, and hold it against what its clients know to be committed
    Database {
        /// The NFS server
        #[arg(long, value_enum, default_value_t)]
        server: Make,
        /// Its vCPUs
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
        cpus: u32,
        /// How many moves
        #[arg(long, default_value_t = 10)]
        moves: usize,
    },
    /// Break moves of a VM by each fault, at either end, in each of their phases (an hour and more)
    Losses {
        /// The NFS server
        #[arg(long, value_enum, default_value_t)]
        server: Make,
        /// Only faults with this in their name: migrate, monitor, cable, datastore, power
        #[arg(long, default_value_t)]
        only: String,
    },
    /// Build the product as it was in a commit, and move a VM between that build and this one
    Older {
        /// The commit
        #[arg(default_value = OLDER)]
        commit: String,
    },
    /// Look into a host behind its console's back: processes, show PATH, list PATH, kill|stop|continue ROLE [WORD]
    Inside {
        /// Which host
        host: String,
        /// The order, after --
        #[arg(last = true, required = true)]
        order: Vec<String>,
    },
    /// Two hosts, one VM, a move under a running client, the receipt; then a live serial console
    Demo {
        /// End by itself instead of handing over a console
        #[arg(long)]
        auto: bool,
    },
    /// Measure, side by side with other programs of the kind, and write it down
    Bench {
        #[command(subcommand)]
        subject: Subject,
    },
    /// Break something
    Fault {
        /// Which host, or `server`
        host: String,
        #[command(subcommand)]
        fault: Fault,
    },
}

impl CommandLine {
    /// Does what was asked; gives the status that the process ends with.
    pub fn run(self) -> Result<ExitCode> {
        if let Verb::Image { from: Some(parts) } = self.verb {
            return image::pack(parts);
        }
        privilege::become_root()?;
        let home = Home::open(self.fleet.as_deref().unwrap_or(self.verb.fleet()))?;
        match self.verb {
            Verb::Image { .. } => image::run(&home),
            Verb::Up { server, hosts, memory_mib, words } => up::run(&home, server, hosts, memory_mib, &words),
            Verb::Status => status::run(&home),
            Verb::Down => down::run(&home),
            Verb::Moves { moves, seed } => moves::run(&home, moves, seed),
            Verb::Fuzz { seconds, seed, target } => fuzz::run(&home, seconds, seed, target.as_deref()),
            Verb::Database { server, cpus, moves } => database::run(&home, server, cpus, moves),
            Verb::Losses { server, only } => losses::run(&home, server, &only),
            Verb::Older { commit } => older::run(&home, &commit),
            Verb::Sim { seeds, first, trace } => sim::run(&home, seeds, first, trace),
            Verb::Test { quick, nested } => test::run(&home, quick, nested.as_deref()),
            Verb::Exec { host, within, command } => exec::run(&home, &host, &command, Duration::from_secs(within)),
            Verb::Inside { host, order } => inside::run(&home, &host, &order),
            Verb::Demo { auto } => demo::run(&home, auto),
            Verb::Console { host } => console::run(&home, &host),
            Verb::Bench { subject } => bench::run(&home, subject),
            Verb::Fault { host, fault } => fault::run(&home, &host, &fault),
        }
    }
}

impl Verb {
    fn fleet(&self) -> &'static str {
        match self {
            Self::Test { .. } => "test",
            Self::Demo { .. } => "demo",
            Self::Bench { .. } => "bench",
            _ => "run",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::source_tree;

    /// What the lab makes of `image` and these words, or what it says against them.
    fn understood(words: &[&str]) -> std::result::Result<Option<MadeElsewhere>, String> {
        let line = CommandLine::try_parse_from(["lab", "image"].iter().chain(words));
        match line.map_err(|error| error.to_string())?.verb {
            Verb::Image { from } => Ok(from),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn parts_made_elsewhere_come_all_or_none_and_all_missing_ones_are_named_at_once() {
        let all = ["--kernel", "k", "--modules", "m", "--binary", "b", "--to", "t"];
        assert!(understood(&[]).unwrap().is_none());
        assert!(understood(&all).unwrap().is_some());
        for given in [0, 2, 4, 6] {
            let said = understood(&all[given..given + 2]).unwrap_err();
            for missing in [0, 2, 4, 6].into_iter().filter(|at| *at != given) {
                assert!(said.contains(&format!("  {} <", all[missing])), "{said}");
            }
        }
    }

    #[test]
    fn the_last_step_of_buildroot_says_what_the_lab_understands() {
        let script = std::fs::read_to_string(source_tree().join("buildroot/external/board/post-image.sh")).unwrap();
        let joined = script.replace("\\\n", " ");
        let call = joined.lines().find_map(|line| line.strip_prefix("godwit-lab image ")).expect("a call of the lab");
        let words: Vec<&str> = call.split_whitespace().collect();
        assert!(understood(&words).is_ok_and(|from| from.is_some()), "{words:?}");
    }
}
