//! The process: a thread for each connection.

use std::io;
use std::sync::Arc;

use crate::api::channel::Listener;
use crate::api::paths::RunDir;
use crate::lease::serve::Leases;

/// Runs the role until the process is ended.
///
/// # Errors
/// It cannot listen.
pub fn run(run_dir: &RunDir) -> io::Result<()> {
    let listener = Listener::bind(&run_dir.socket("lease"))?;
    let leases = Arc::new(Leases::new(run_dir.clone()));
    loop {
        let connection = Arc::new(listener.accept()?);
        let leases = Arc::clone(&leases);
        std::thread::Builder::new().name("connection".to_owned()).spawn(move || leases.serve(&connection))?;
    }
}
