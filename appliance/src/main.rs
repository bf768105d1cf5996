//! Godwit: one static binary that is every process of the appliance. The name of a role (or being PID 1) decides which.

use std::process::ExitCode;

use godwit::init;
use godwit::role::{self, RoleName};

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
    if let Err(error) = role::enter(name, rest) {
        eprintln!("godwit {name}: {error}");
        return ExitCode::FAILURE;
    }
    match name {
        RoleName::Init => init::run(),
        RoleName::Configure => init::configure::run(),
        RoleName::Host | RoleName::Lease | RoleName::Migrate | RoleName::Vmm | RoleName::Console => {
            eprintln!("godwit {name}: this build does not contain the role");
            ExitCode::from(role::EXIT_ABSENT)
        }
    }
}
