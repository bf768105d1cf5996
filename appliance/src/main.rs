//! Godwit: one static binary that is every process of the appliance. The name of a role (or being PID 1) decides which.

use std::process::ExitCode;

use godwit::api::paths::RunDir;
use godwit::role::{self, RoleName};
use godwit::{configuration, console, host, init, journal, lease, migrate, vmm};

/// In the place of musl's, which gives memory back to the kernel as soon as it is free and takes it again at once: a sixth of
/// what a move's source computed (`docs/decisions/another-allocator.md`).
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = match role::requested(&arguments) {
        Ok(name) => name,
        Err(error) => {
            eprintln!("godwit: {error}");
            return ExitCode::from(2);
        }
    };
    let rest = arguments.get(1..).unwrap_or_default();
    if let (RoleName::Vmm, [vm, ..]) = (name, rest) {
        journal::is_about(vm);
    }
    if let Err(error) = role::enter(name, rest) {
        eprintln!("godwit {name}: {error}");
        return ExitCode::FAILURE;
    }
    // The roles that last. A monitor learns no configuration: it has no files.
    if matches!(name, RoleName::Host | RoleName::Lease | RoleName::Migrate)
        && let Some(config) = configuration::of_this_host(&RunDir::from_environment(), None).config
    {
        journal::set_level(config.log_level);
    }
    match name {
        RoleName::Init => init::run(),
        RoleName::Configure => init::configure::run(),
        RoleName::Console => ended(name, console::session::run(&RunDir::from_environment())),
        RoleName::Host => ended(name, host::role::run(&RunDir::from_environment())),
        RoleName::Vmm => ended(name, vmm::role::run()),
        RoleName::Lease => ended(name, lease::role::run(&RunDir::from_environment())),
        RoleName::Migrate => ended(name, migrate::role::run(&RunDir::from_environment())),
    }
}

fn ended(name: RoleName, outcome: Result<(), impl std::fmt::Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("godwit {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
