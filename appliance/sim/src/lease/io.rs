//! How the I/O of a lease process meets the disk: late, in parts, torn, or not at all.

use model::limits;
use protocol::lease::keeper::{Access, Input, Io, IoId, IoResult};
use protocol::time::{Duration, Instant};

use super::event::{Ending, Event};
use super::world::World;
use crate::rng::Rng;

const IO_BOUND: Duration = Duration::from_millis(limits::LEASE_IO_BOUND_MS);
/// A little less than what a writer waits by its own clock, which may be fast.
const LATE_MOST: Duration = Duration::from_millis(limits::LEASE_SETTLE_MS * 9 / 10);

/// When an I/O that `takes` so long and `ends` then meets the disk: at any moment of it, or, where only the answer or only
/// the question is late, at its begin or its end.
fn when(rng: &mut Rng, ends: Instant, takes: Duration, lags: bool) -> Instant {
    match rng.below(4) {
        0 if lags => ends,
        1 | 2 if lags => ends - takes,
        _ => ends - rng.span(Duration::ZERO, takes),
    }
}

impl World {
    pub(super) fn issue(&mut self, host: usize, process: u64, io: Io) {
        let now = self.queue.now();
        if !self.hosts[host].has_process(process) {
            return;
        }
        let clock = &self.hosts[host].clock;
        let bound = clock.when(clock.shows(now) + IO_BOUND);
        let slow = self.rng.chance(self.faults.slow_ppm);
        let most = if slow { Duration::from_secs(20) } else { self.faults.latency_most };
        let lags = self.hosts[host].lags;
        let takes = if lags {
            self.rng.span(IO_BOUND / 10, IO_BOUND / 10 * 11)
        } else {
            self.rng.latency(Duration::from_micros(300), most)
        };
        let fails = self.hosts[host].cut || self.rng.chance(self.faults.fail_ppm) || now + takes >= bound;
        let quick = !self.hosts[host].cut && now + takes < bound;
        let ends = if quick { now + takes } else { bound };
        let mut buffer = None;
        match io.access {
            Access::Read { offset, bytes } => {
                if !fails {
                    buffer = Some(self.sample(ends, takes, lags, offset, bytes));
                }
            }
            Access::Write { offset, data } if fails => self.land_perhaps(ends, offset, &data),
            Access::Write { offset, data } => self.land(ends, takes, lags, offset, data),
        }
        let result = if fails { Ending::Failed } else { Ending::Done };
        self.queue.at(ends, Event::Return { host, process, io: io.id, buffer, result });
    }

    /// A read that sees the disk at some moment of its duration, or two parts of it at two moments.
    fn sample(&mut self, ends: Instant, takes: Duration, lags: bool, offset: u64, bytes: usize) -> u64 {
        let buffer = self.name();
        self.buffers.insert(buffer, vec![0; bytes]);
        let at = |rng: &mut Rng| when(rng, ends, takes, lags);
        if self.rng.chance(self.faults.split_ppm) {
            let cut = self.rng.index(bytes / 512) * 512;
            let (first, second) = (at(&mut self.rng), at(&mut self.rng));
            self.queue.at(first, Event::Sample { buffer, from: 0, to: cut, offset });
            self.queue.at(second, Event::Sample { buffer, from: cut, to: bytes, offset });
        } else {
            let moment = at(&mut self.rng);
            self.queue.at(moment, Event::Sample { buffer, from: 0, to: bytes, offset });
        }
        buffer
    }

    pub(super) fn sampled(&mut self, buffer: u64, from: usize, to: usize, offset: u64) {
        if let Some(bytes) = self.buffers.get_mut(&buffer) {
            bytes[from..to].copy_from_slice(self.disk.read(offset + from as u64, to - from));
        }
    }

    /// A write that is reported as done has landed by then; others may see a half of it before.
    fn land(&mut self, ends: Instant, takes: Duration, lags: bool, offset: u64, data: Vec<u8>) {
        let at = when(&mut self.rng, ends, takes, lags);
        if self.rng.chance(self.faults.split_ppm) {
            let cut = self.rng.index(data.len());
            let sooner = at - self.rng.span(Duration::ZERO, at.since(ends - takes));
            self.queue.at(sooner, Event::Land { offset, data: data[..cut].to_vec() });
            self.queue.at(at, Event::Land { offset: offset + cut as u64, data: data[cut..].to_vec() });
        } else {
            self.queue.at(at, Event::Land { offset, data });
        }
    }

    /// A write that is not reported as done lands before, late, torn, or never.
    fn land_perhaps(&mut self, ends: Instant, offset: u64, data: &[u8]) {
        let now = self.queue.now();
        let whole = if self.rng.chance(200_000) { self.rng.index(data.len()) } else { data.len() };
        let at = match self.rng.below(3) {
            0 => return,
            1 => now + self.rng.span(Duration::ZERO, ends.since(now)),
            _ => ends + self.rng.latency(Duration::from_millis(1), LATE_MOST),
        };
        self.queue.at(at, Event::Land { offset, data: data[..whole].to_vec() });
    }

    pub(super) fn returned(&mut self, host: usize, process: u64, io: IoId, buffer: Option<u64>, ending: Ending) {
        let bytes = buffer.and_then(|buffer| self.buffers.remove(&buffer));
        if !self.hosts[host].has_process(process) {
            return;
        }
        let result = match (ending, bytes) {
            (Ending::Failed, _) => IoResult::Failed,
            (Ending::Done, Some(bytes)) => IoResult::Read(bytes),
            (Ending::Done, None) => IoResult::Written,
        };
        self.feed(host, Input::IoEnded(io, result));
    }
}
