//! The process: the listening socket on standard input, a thread for each connection.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::api::channel::Listener;
use crate::vmm::guest::Guest;
use crate::vmm::{filter, session};

/// Runs the monitor until it is asked to end.
///
/// # Errors
/// Standard input is no listening socket, or the system call filter cannot be put round this process.
pub fn run() -> io::Result<()> {
    crate::journal::record_panics();
    filter::install().map_err(|error| io::Error::other(format!("no system call filter: {error}")))?;
    let listener = Listener::of(io::stdin().as_fd().try_clone_to_owned()?);
    let guest = Arc::new(Guest::default());
    loop {
        let connection = Arc::new(listener.accept()?);
        let guest = Arc::clone(&guest);
        std::thread::Builder::new().name("session".to_owned()).spawn(move || session::serve(&guest, &connection))?;
    }
}
