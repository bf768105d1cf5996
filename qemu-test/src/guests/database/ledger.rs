//! A client that writes numbered rows over one connection, one transaction each, and waits for each to be committed.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::process::{Child as Process, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};
use crate::guests::database::{Database, PSQL, Stop};
use crate::wait;

/// Time between two rows.
const PERIOD: Duration = Duration::from_millis(100);
/// How long the client may live.
const LIFE_BOUND: Duration = Duration::from_secs(3600);
/// What is sent and not taken for this long breaks the connection, milliseconds.
const SILENCE_BOUND_MS: u64 = 60_000;

/// It writes on a thread of its own until it is told to stop.
pub struct Ledger {
    stop: Stop,
    rows: Arc<AtomicU64>,
    thread: JoinHandle<Result<Duration>>,
}

impl Ledger {
    /// Connects and starts to write.
    ///
    /// # Errors
    /// psql cannot be started.
    pub fn start(database: &Database) -> Result<Self> {
        let (stop, rows) = (Stop::default(), Arc::new(AtomicU64::new(0)));
        let mut client = Client::start(database)?;
        let (stopped, counted) = (stop.flag(), Arc::clone(&rows));
        let thread = std::thread::spawn(move || {
            let written = client.write(&stopped, &counted);
            client.end(written)
        });
        Ok(Self { stop, rows, thread })
    }

    /// Waits until so many more rows are committed, or the client has failed (which [`Self::stop`] tells).
    ///
    /// # Errors
    /// They are not, in time.
    pub fn hear_more(&self, rows: u64, bound: Duration) -> Result<()> {
        let goal = self.rows.load(Ordering::Relaxed) + rows;
        wait::until(&format!("{rows} more rows in the database"), bound, || {
            let written = self.rows.load(Ordering::Relaxed);
            let enough = written >= goal || self.thread.is_finished();
            Ok(enough.then_some(()).ok_or_else(|| format!("{} are still to come", goal - written)))
        })
    }

    /// Stops it; the rows that were committed, and the longest that one took.
    ///
    /// # Errors
    /// The connection broke, or a row was answered wrongly.
    pub fn stop(self) -> Result<(u64, Duration)> {
        self.stop.set();
        let longest = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((self.rows.load(Ordering::Relaxed), longest))
    }
}

/// psql, and its two pipes.
struct Client {
    process: Process,
    says: Option<ChildStdin>,
    hears: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(database: &Database) -> Result<Self> {
        let silence = format!("dbname=postgres tcp_user_timeout={SILENCE_BOUND_MS}");
        let mut command = database.program("psql", LIFE_BOUND).args(PSQL).arg(silence).into_command();
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().doing("starting psql")?;
        let (says, hears) = (process.stdin.take(), process.stdout.take());
        let hears = hears.ok_or_else(|| LabError::Input("psql has no output".into()))?;
        Ok(Self { process, says, hears: BufReader::new(hears).lines() })
    }

    /// Writes rows from 1; gives the longest time from a row to its commit. psql prints what a statement gives when the
    /// server has said that its transaction is committed.
    fn write(&mut self, stop: &AtomicBool, rows: &AtomicU64) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        let says = self.says.as_mut().ok_or_else(|| LabError::Input("psql has no input".into()))?;
        for number in 1_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let sent = Instant::now();
            writeln!(says, "INSERT INTO ledger VALUES ({number}, md5('{number}')) RETURNING number;")
                .doing("telling psql of a row")?;
            let said = self.hears.next().transpose().doing("hearing of a row from psql")?;
            if said.as_deref() != Some(&*number.to_string()) {
                return Err(LabError::Input(format!("row {number} of the ledger was answered with {said:?}")));
            }
            longest = longest.max(sent.elapsed());
            rows.store(number, Ordering::Relaxed);
            std::thread::sleep(PERIOD);
        }
        Ok(longest)
    }

    /// Ends psql; where it failed, what it said stands in the error.
    fn end(mut self, written: Result<Duration>) -> Result<Duration> {
        drop(self.says.take());
        let mut said = String::new();
        if let Some(mut errors) = self.process.stderr.take() {
            errors.read_to_string(&mut said).doing("reading what psql said")?;
        }
        let status = self.process.wait().doing("waiting for psql")?;
        match written {
            Ok(longest) if status.success() => Ok(longest),
            Ok(_) => Err(LabError::Input(format!("psql ended with {status}: {said}"))),
            Err(error) => Err(LabError::Input(format!("{error}; psql ended with {status}: {said}"))),
        }
    }
}
