//! Runs inside the guest: writes the journal, serves clients, watches the clock, loads the memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::journal::{RECORD_BYTES, Record, Writer};
use crate::memory::{Dirtier, Load};
use crate::power_button::{self, power_off};
use crate::words::{Ask, PORT, Tock};

/// Time between two journal records.
const RECORD_PERIOD: Duration = Duration::from_millis(200);
/// Time between two looks at the clock: the resolution of the gap that is reported. Every look is a timer, and in an
/// emulated host every timer of the guest costs several switches between guest and host, of some milliseconds together.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// What the threads share.
#[derive(Clone, Default)]
struct Shared {
    journal: Arc<Mutex<Option<Record>>>,
    gap_ns: Arc<AtomicU64>,
    clock_back: Arc<AtomicU64>,
    dirtier: Dirtier,
}

/// Serves for ever; `journal` is the block device of the journal, if there is one.
///
/// # Errors
/// The journal or the network cannot be opened.
pub fn run(journal: Option<&str>) -> io::Result<()> {
    let shared = Shared::default();
    if let Some(path) = journal {
        let mut disk = File::options().read(true).write(true).open(path)?;
        let bytes = io::Seek::seek(&mut disk, io::SeekFrom::End(0))?;
        let writer = Writer::open(disk, bytes / RECORD_BYTES as u64 * RECORD_BYTES as u64, now_ns())?;
        let shared = shared.clone();
        std::thread::spawn(move || write_journal(writer, &shared));
    }
    let watched = shared.clone();
    std::thread::spawn(move || watch_clock(&watched));
    let dirtier = shared.dirtier.clone();
    std::thread::spawn(move || dirtier.run());
    power_button::listen()?;
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("guest-load: serving");
    for stream in listener.incoming() {
        let (stream, shared) = (stream?, shared.clone());
        std::thread::spawn(move || serve(stream, &shared));
    }
    Ok(())
}

fn write_journal(mut writer: Writer, shared: &Shared) {
    loop {
        match writer.append(now_ns()) {
            Ok(record) => *shared.journal.lock().unwrap_or_else(PoisonError::into_inner) = Some(record),
            Err(error) => println!("guest-load: the journal's disk refuses a record: {error}"),
        }
        std::thread::sleep(RECORD_PERIOD);
    }
}

fn watch_clock(shared: &Shared) {
    let mut last = now_ns();
    loop {
        std::thread::sleep(LOOK_PERIOD);
        let now = now_ns();
        if now < last {
            shared.clock_back.fetch_add(1, Ordering::Relaxed);
        }
        shared.gap_ns.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        last = now;
    }
}

/// Answers one client until it leaves.
fn serve(stream: TcpStream, shared: &Shared) {
    let answer_all = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut answers = stream.try_clone()?;
        let mut served = 0;
        for line in BufReader::new(&stream).lines() {
            let answer = match line?.parse() {
                Ok(Ask::Tick(number)) => {
                    served += 1;
                    tock(number, served, shared).to_string()
                }
                Ok(Ask::Dirty { mebibytes, pages_per_second }) => {
                    shared.dirtier.set(Load { pages: mebibytes as usize * 256, pages_per_second });
                    "ok".into()
                }
                Ok(Ask::Memory) => shared.dirtier.report().to_string(),
                Ok(Ask::Off) => return power_off(),
                Err(refusal) => refusal,
            };
            // One write for the whole line: what is acknowledged is one segment.
            answers.write_all(format!("{answer}\n").as_bytes())?;
        }
        Ok(())
    };
    if let Err(error) = answer_all() {
        println!("guest-load: a client was lost: {error}");
    }
}

fn tock(number: u64, served: u64, shared: &Shared) -> Tock {
    let record = *shared.journal.lock().unwrap_or_else(PoisonError::into_inner);
    Tock {
        number,
        served,
        record: record.map_or(0, |record| record.number),
        sum: record.map_or(0, |record| record.sum()),
        uptime_ns: now_ns(),
        gap_ns: shared.gap_ns.load(Ordering::Relaxed),
        clock_back: shared.clock_back.load(Ordering::Relaxed),
    }
}

fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
