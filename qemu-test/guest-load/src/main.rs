//! `guest-load [JOURNAL-DEVICE]`: run by the lab's Debian guest as its last step of booting.

use std::process::ExitCode;

fn main() -> ExitCode {
    let journal = std::env::args().nth(1);
    match guest_load::service::run(journal.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("guest-load: {error}");
            ExitCode::FAILURE
        }
    }
}
