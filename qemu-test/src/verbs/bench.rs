//! `cargo lab bench SUBJECT`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use crate::bench::{self, Choice, Plan};
use crate::error::{LabError, Result};
use crate::fleet::{self, Fleet};
use crate::home::Home;
use crate::servers::Make;
use crate::setup::{self, Purpose};
use crate::tests::{contend, measure_take_overs};

/// What to measure.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Subject {
    /// Moves of the witness on this machine's /dev/kvm, side by side with QEMU's; writes appliance/docs/benchmarks.md
    Migrate {
        /// How often each case is measured with each contestant
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
        repetitions: u32,
        /// Only cases whose title holds this, and each further one: "512 MiB", "flat out", "50 ms"; what is printed is then not
        /// written
        #[arg(long)]
        only: Vec<String>,
        /// Only contestants whose name holds this, or a further one: Godwit, multifd, TLS; what is printed is then not written
        #[arg(long)]
        with: Vec<String>,
        /// Measure this godwit, built for release already, instead of building one
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Moves of the witness between nested hosts, side by side with QEMU's on hosts of Debian; writes appliance/docs/benchmarks.md
    Nested {
        /// How often each case is measured with each contestant
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
        repetitions: u32,
        /// Only cases whose title holds this, and each further one: "idle", "50 ms"; what is printed is then not written
        #[arg(long)]
        only: Vec<String>,
        /// Only contestants whose name holds this, or a further one: Godwit, multifd, TLS; what is printed is then not written
        #[arg(long)]
        with: Vec<String>,
    },
    /// From the loss of a host (its cable to the datastore, its power) to the start of its VM on another, on nested hosts
    TakeOver {
        /// How often each loss is measured
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        times: u32,
        /// The NFS server
        #[arg(long, value_enum, default_value_t)]
        server: Make,
    },
    /// Two nested hosts start ten VMs at the same instants, again and again; each is to be won by exactly one
    SameInstant {
        /// How many rounds
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// The NFS server
        #[arg(long, value_enum, default_value_t)]
        server: Make,
    },
}

/// Measures it.
pub(super) fn run(home: &Home, subject: Subject) -> Result<ExitCode> {
    match subject {
        Subject::Migrate { repetitions, only, with, program } => {
            migrate(home, &Plan { repetitions, choice: Choice { only, with } }, program.as_deref())
        }
        Subject::Nested { repetitions, only, with } => {
            nested(home, &Plan { repetitions, choice: Choice { only, with } })
        }
        Subject::TakeOver { times, server } => on_a_fleet(home, |home| measure_take_overs(home, server, times)),
        Subject::SameInstant { rounds, server } => on_a_fleet(home, |home| contend(home, server, rounds)),
    }
}

fn on_a_fleet(home: &Home, work: impl FnOnce(&Home) -> Result<()>) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Image, Purpose::Fleet, Purpose::Guests])?;
    work(home)?;
    Fleet::down(home)?;
    Ok(ExitCode::SUCCESS)
}

fn migrate(home: &Home, plan: &Plan, program: Option<&Path>) -> Result<ExitCode> {
    let usable = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    if usable.is_err() {
        let what = "this machine has no usable /dev/kvm, and emulated guests are not worth measuring".into();
        return Err(LabError::Missing { what, hint: "ls -l /dev/kvm; modprobe kvm_amd, or kvm_intel".into() });
    }
    setup::ensure(&[Purpose::Build, Purpose::Fleet])?;
    let _held = fleet::hold(home)?;
    show(home, plan, &bench::migrate(home, plan, program)?)
}

fn nested(home: &Home, plan: &Plan) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Image, Purpose::Fleet, Purpose::Guests])?;
    let _held = fleet::hold(home)?;
    show(home, plan, &bench::nested(home, plan)?)
}

/// Prints a section, and puts it on the page if nothing was left out.
fn show(home: &Home, plan: &Plan, section: &str) -> Result<ExitCode> {
    println!("\n{section}");
    if plan.choice.is_all() {
        bench::write(home, section)?;
    }
    Ok(ExitCode::SUCCESS)
}
