//! Godwit: one static binary that is every process of the appliance. The name of a role (or being PID 1) decides which.

use std::process::ExitCode;

use godwit::api::paths::RunDir;
use godwit::role::{self, RoleName};
use godwit::{console, init};

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
        RoleName::Console => match console::session::run(&RunDir::from_environment()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("godwit console: {error}");
                ExitCode::FAILURE
            }
        },
        RoleName::Host | RoleName::Lease | RoleName::Migrate | RoleName::Vmm => {
            eprintln!("godwit {name}: this build does not contain the role");
            ExitCode::from(role::EXIT_ABSENT)
        }
    }
}
