//! A client outside the hosts that talks to a guest over one TCP connection and judges what it hears.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guest_load::journal::Audit;
use guest_load::words::{Ask, MemoryReport, PORT, Tock};

use crate::error::{Doing, LabError, Result};
use crate::wait;
use crate::wire::Wires;

/// Time between two ticks.
const PERIOD: Duration = Duration::from_millis(100);
/// A connection that is silent for this long counts as lost.
const SILENCE_BOUND: Duration = Duration::from_secs(60);

/// What a client heard over one connection that never broke.
#[derive(Debug, Clone, Default)]
pub struct Hearing {
    /// Ticks that were answered, each once and in order.
    pub ticks: u64,
    /// The longest time from a tick to its answer.
    pub longest_silence: Duration,
    /// Journal records that the guest said were on its disk, with their checksums, in order.
    pub acknowledged: Vec<(u64, u64)>,
    /// The guest's own longest gap between two looks at its clock, since its service started.
    pub guest_gap: Duration,
    /// How often the guest saw its clock go back.
    pub clock_back: u64,
}

impl Hearing {
    /// What is wrong between what the guest acknowledged and what lies on its disk; nothing if all is well.
    pub fn compare(&self, audit: &Audit) -> Vec<String> {
        let mut faults = audit.faults.clone();
        let last = audit.last.map_or(0, |record| record.number);
        let lost = self.acknowledged.iter().filter(|(number, _)| *number > last).count();
        if lost > 0 {
            faults.push(format!("{lost} acknowledged records are not on the disk, whose last is {last}"));
        }
        let another = |(number, sum): &&(u64, u64)| audit.sum_of(*number).is_some_and(|found| found != *sum);
        if let Some((number, _)) = self.acknowledged.iter().find(another) {
            faults.push(format!("record {number} on the disk is not the one that the guest acknowledged"));
        }
        if self.clock_back > 0 {
            faults.push(format!("the guest's clock went back {} times", self.clock_back));
        }
        faults
    }

    fn take(&mut self, tock: &Tock, sent: u64, took: Duration) -> std::result::Result<(), String> {
        if tock.number != sent {
            return Err(format!("tick {sent} was answered with {}: lost or doubled", tock.number));
        }
        if tock.served != self.ticks + 1 {
            return Err(format!("the guest served {} ticks, {} were sent", tock.served, self.ticks + 1));
        }
        match self.acknowledged.last() {
            Some((number, _)) if tock.record < *number => {
                return Err(format!("the guest had acknowledged record {number} and now says {}", tock.record));
            }
            Some((number, sum)) if tock.record == *number && tock.sum != *sum => {
                return Err(format!("record {number} changed after it was acknowledged"));
            }
            Some((number, _)) if tock.record == *number => {}
            _ if tock.record == 0 => {}
            _ => self.acknowledged.push((tock.record, tock.sum)),
        }
        self.ticks += 1;
        self.longest_silence = self.longest_silence.max(took);
        self.guest_gap = Duration::from_nanos(tock.gap_ns);
        self.clock_back = tock.clock_back;
        Ok(())
    }
}

/// A client that talks on a thread of its own until it is told to stop.
pub struct Talker {
    stop: Arc<AtomicBool>,
    records: Arc<AtomicUsize>,
    thread: JoinHandle<std::result::Result<Hearing, String>>,
}

impl Talker {
    /// Connects within `bound` (a guest that boots does not answer yet) and starts to talk.
    pub fn start(wires: &Wires, address: Ipv4Addr, bound: Duration) -> Result<Self> {
        let stream = connect(wires, address, bound)?;
        let stop = Arc::new(AtomicBool::new(false));
        let records = Arc::new(AtomicUsize::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&records));
        let thread = std::thread::spawn(move || talk(stream, &stopped, &counted));
        Ok(Self { stop, records, thread })
    }

    /// Waits until the guest has acknowledged this many more journal records to this client, or the talk has failed (which
    /// [`Self::stop`] tells).
    pub fn hear_more(&self, records: usize, bound: Duration) -> Result<()> {
        let goal = self.records.load(Ordering::Relaxed) + records;
        let heard = || {
            let records = self.records.load(Ordering::Relaxed);
            let enough = records >= goal || self.has_failed();
            Ok(enough.then_some(()).ok_or_else(|| format!("{} are still to come", goal - records)))
        };
        wait::until(&format!("{records} more records of the guest's journal"), bound, heard)
    }

    /// Stops talking; what was heard. A connection that broke, and an answer that was wrong, are errors.
    pub fn stop(self) -> Result<Hearing> {
        self.stop.store(true, Ordering::Relaxed);
        let heard = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        heard.map_err(|what| LabError::Input(format!("the client's connection: {what}")))
    }

    /// Whether it has ended by itself, which only a fault makes it do.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Changes the load on the guest's memory.
pub fn set_memory_load(wires: &Wires, address: Ipv4Addr, mebibytes: u32, pages_per_second: u32) -> Result<()> {
    ask(wires, address, Ask::Dirty { mebibytes, pages_per_second }).map(drop)
}

/// How the memory under load is.
pub fn memory_report(wires: &Wires, address: Ipv4Addr) -> Result<MemoryReport> {
    ask(wires, address, Ask::Memory)?.parse().map_err(LabError::Input)
}

/// Whether the guest takes a connection now, or within a second.
pub fn answers(wires: &Wires, address: Ipv4Addr) -> Result<bool> {
    wires.enter(|| TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), Duration::from_secs(1)).is_ok())
}

/// Asks the guest to power off.
pub fn ask_off(wires: &Wires, address: Ipv4Addr) -> Result<()> {
    let mut stream = connect(wires, address, Duration::from_secs(20))?;
    stream.write_all(format!("{}\n", Ask::Off).as_bytes()).doing("asking the guest to power off")
}

fn ask(wires: &Wires, address: Ipv4Addr, ask: Ask) -> Result<String> {
    let mut stream = connect(wires, address, Duration::from_secs(20))?;
    stream.write_all(format!("{ask}\n").as_bytes()).doing("asking the guest")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).doing("waiting for the guest's answer")?;
    Ok(line.trim_end().to_owned())
}

fn connect(wires: &Wires, address: Ipv4Addr, bound: Duration) -> Result<TcpStream> {
    let to = SocketAddr::from((address, PORT));
    let attempt = || {
        let connected = wires.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)))?;
        Ok(connected.map_err(|error| error.to_string()))
    };
    let stream = wait::until(&format!("the guest at {to} to answer"), bound, attempt)?;
    stream.set_nodelay(true).doing("setting up the client")?;
    stream.set_read_timeout(Some(SILENCE_BOUND)).doing("setting up the client")?;
    Ok(stream)
}

fn talk(stream: TcpStream, stop: &AtomicBool, records: &AtomicUsize) -> std::result::Result<Hearing, String> {
    let mut hearing = Hearing::default();
    let mut says = stream.try_clone().map_err(|error| error.to_string())?;
    let mut lines = BufReader::new(stream).lines();
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sent = Instant::now();
        says.write_all(format!("{}\n", Ask::Tick(number)).as_bytes()).map_err(|error| error.to_string())?;
        let line = lines.next().ok_or("the guest closed it")?.map_err(|error| error.to_string())?;
        hearing.take(&line.parse()?, number, sent.elapsed())?;
        records.store(hearing.acknowledged.len(), Ordering::Relaxed);
        std::thread::sleep(PERIOD);
    }
    Ok(hearing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tock(number: u64, served: u64, record: u64, sum: u64) -> Tock {
        Tock { number, served, record, sum, uptime_ns: 0, gap_ns: 0, clock_back: 0 }
    }

    #[test]
    fn answers_in_order_are_heard_and_each_record_once() {
        let mut hearing = Hearing::default();
        for (number, record) in [(1, 0), (2, 5), (3, 5), (4, 6)] {
            hearing.take(&tock(number, number, record, record * 10), number, PERIOD).unwrap();
        }
        assert_eq!((hearing.ticks, hearing.acknowledged), (4, vec![(5, 50), (6, 60)]));
    }

    #[test]
    fn a_doubled_a_forgotten_and_a_changed_answer_are_each_an_error() {
        let mut hearing = Hearing::default();
        hearing.take(&tock(1, 1, 5, 50), 1, PERIOD).unwrap();
        assert!(hearing.take(&tock(1, 2, 5, 50), 2, PERIOD).is_err());
        assert!(hearing.take(&tock(2, 1, 5, 50), 2, PERIOD).is_err());
        assert!(hearing.take(&tock(2, 2, 4, 40), 2, PERIOD).is_err());
        assert!(hearing.take(&tock(2, 2, 5, 51), 2, PERIOD).is_err());
    }

    #[test]
    fn an_acknowledged_record_that_is_not_on_the_disk_is_a_fault() {
        let hearing = Hearing { acknowledged: vec![(3, 30)], ..Hearing::default() };
        assert_eq!(hearing.compare(&Audit::default()), ["1 acknowledged records are not on the disk, whose last is 0"]);
    }
}
