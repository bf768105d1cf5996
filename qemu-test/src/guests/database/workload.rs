//! pgbench, run again and again, and the transactions that it counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::guests::database::{Database, Stop};

/// Transactions of each of two connections in one run.
const TRANSACTIONS: u64 = 40;
const CONNECTIONS: u64 = 2;
/// Transactions a second, of both together: an emulated guest keeps up with them while it moves.
const RATE: u64 = 8;
/// How long one run may take.
const RUN_BOUND: Duration = Duration::from_secs(300);
/// What stands before the number.
const COUNTED: &str = "number of transactions actually processed: ";

/// It runs on a thread of its own until it is told to stop.
pub struct Workload {
    stop: Stop,
    thread: JoinHandle<Result<u64>>,
}

impl Workload {
    /// Starts it.
    pub fn start(database: &Database) -> Self {
        let stop = Stop::default();
        let (stopped, database) = (stop.flag(), database.clone());
        Self { stop, thread: std::thread::spawn(move || run(&database, &stopped)) }
    }

    /// Lets the run that is under way end; gives the transactions that were committed.
    ///
    /// # Errors
    /// A connection broke, or a transaction failed.
    pub fn stop(self) -> Result<u64> {
        self.stop.set();
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn run(database: &Database, stop: &AtomicBool) -> Result<u64> {
    let mut committed = 0;
    while !stop.load(Ordering::Relaxed) {
        let words = [("client", CONNECTIONS), ("transactions", TRANSACTIONS), ("rate", RATE)];
        let words = words.map(|(name, value)| format!("--{name}={value}"));
        let said = database.program("pgbench", RUN_BOUND).arg("--no-vacuum").args(words).output()?;
        committed += counted(&said).ok_or_else(|| LabError::Input(format!("pgbench counted otherwise: {said}")))?;
    }
    Ok(committed)
}

/// The transactions of a run in which none failed.
fn counted(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix(COUNTED))?;
    let (done, wanted) = line.split_once('/')?;
    (done == wanted).then(|| done.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_in_which_every_transaction_was_committed_is_counted() {
        assert_eq!(counted("scaling factor: 1\nnumber of transactions actually processed: 80/80\n"), Some(80));
        assert_eq!(counted("number of transactions actually processed: 79/80\n"), None);
        assert_eq!(counted("pgbench: error: connection refused\n"), None);
    }
}
