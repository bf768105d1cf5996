//! Does a keeper's I/O, a thread for each lane. A thread that the storage holds beyond the bound is left to itself and a
//! new one takes its place; its late answer is heard by nobody.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

use protocol::lease::keeper::{Access, Io, IoId, IoResult, Lane};

use crate::lease::area::direct;

/// Alignment that O_DIRECT asks for at most.
const ALIGNMENT: usize = 4096;

/// Bytes at an address that O_DIRECT accepts.
#[derive(Debug)]
pub struct Aligned {
    space: Vec<u8>,
    from: usize,
    length: usize,
}

impl Aligned {
    /// So many bytes of zeros.
    pub fn new(length: usize) -> Self {
        let space = vec![0; length + ALIGNMENT];
        let from = space.as_ptr().align_offset(ALIGNMENT);
        Self { space, from, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.space[self.from..self.from + self.length]
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.from..self.from + self.length]
    }
}

/// The lanes of one lease area.
#[derive(Debug)]
pub struct Lanes {
    area: PathBuf,
    threads: BTreeMap<Lane, Sender<Io>>,
}

impl Lanes {
    /// Lanes to the area at this path. Each opens it for itself, because opening may hang as well.
    pub fn new(area: PathBuf) -> Self {
        Self { area, threads: BTreeMap::new() }
    }

    /// Begins an I/O; `ended` is called when it ended, on another thread.
    pub fn begin(&mut self, io: Io, ended: impl Fn(IoId, IoResult) + Send + Clone + 'static) {
        let lane = io.lane;
        let unsent = match self.threads.get(&lane) {
            Some(thread) => thread.send(io).err().map(|unsent| unsent.0),
            None => Some(io),
        };
        let Some(io) = unsent else { return };
        let (sender, receiver) = channel::<Io>();
        let (area, id, told) = (self.area.clone(), io.id, ended.clone());
        let started = std::thread::Builder::new().name("lease-io".to_owned()).spawn(move || {
            let mut file = None;
            for io in receiver {
                told(io.id, carry_out(&area, &mut file, io.access));
            }
        });
        match started {
            Ok(_) => {
                // The receiver lives as long as the thread, which was just started.
                let _ = sender.send(io);
                self.threads.insert(lane, sender);
            }
            Err(error) => {
                log::error!("no thread for lease I/O: {error}");
                ended(id, IoResult::Failed);
            }
        }
    }

    /// The storage holds the lane's thread: the next I/O gets another.
    pub fn abandon(&mut self, lane: Lane) {
        self.threads.remove(&lane);
    }
}

fn carry_out(area: &Path, opened: &mut Option<File>, access: Access) -> IoResult {
    let file = match opened {
        Some(file) => file,
        None => match direct(area) {
            Ok(file) => opened.insert(file),
            Err(error) => return failed("opening", 0, &error),
        },
    };
    let (what, offset, outcome) = match access {
        Access::Read { offset, bytes } => {
            let mut buffer = Aligned::new(bytes);
            let read = file.read_exact_at(buffer.bytes_mut(), offset);
            ("read", offset, read.map(|()| IoResult::Read(buffer.bytes().to_vec())))
        }
        Access::Write { offset, data } => {
            let mut buffer = Aligned::new(data.len());
            buffer.bytes_mut().copy_from_slice(&data);
            ("write", offset, file.write_all_at(buffer.bytes(), offset).map(|()| IoResult::Written))
        }
    };
    outcome.unwrap_or_else(|error| {
        // A stale handle, for instance, is mended by opening again.
        *opened = None;
        failed(what, offset, &error)
    })
}

fn failed(what: &str, offset: u64, error: &std::io::Error) -> IoResult {
    log::warn!("{what} of the lease area at {offset}: {error}");
    IoResult::Failed
}
