//! The conversation with a VM's monitor: one request at a time, the others wait in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::limits;
use rustix::fs::MemfdFlags;

use crate::api::channel::{Channel, ChannelError};
use crate::api::vmm::{VmmAnswer, VmmRequest};

/// What an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The dirty log was to start.
    StartLog,
    /// The dirty log was to be harvested.
    Harvest,
    /// The guest was to be stunned.
    Stun,
    /// To see how long it takes to restore a state.
    Rehearse,
    /// The state was to be restored.
    Restore,
    /// The guest was looked at: at the source whether it runs, before it is to go on; at the destination what its clock
    /// shows, when it goes on.
    Look,
    /// To have the locks of its disks again, before the lease is asked whether it may run.
    TakeDisks,
    /// The guest was to go on.
    Resume,
    /// Nobody waits for the answer.
    Nothing,
}

/// An answer, and the descriptors beside it.
pub type Answered = (Purpose, VmmAnswer, Vec<OwnedFd>);

/// A VM's monitor.
#[derive(Debug)]
pub struct Monitor {
    channel: Channel<VmmRequest, VmmAnswer>,
    waiting: VecDeque<(VmmRequest, Vec<OwnedFd>, Purpose)>,
    asked: Option<Purpose>,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Monitor {
    /// Over this connection.
    pub fn over(socket: OwnedFd) -> Self {
        Self { channel: Channel::of(socket), waiting: VecDeque::new(), asked: None }
    }

    /// Asks, now or after what was asked before.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn ask(&mut self, request: VmmRequest, beside: Vec<OwnedFd>, purpose: Purpose) -> Result<(), ChannelError> {
        self.waiting.push_back((request, beside, purpose));
        self.send_next()
    }

    fn send_next(&mut self) -> Result<(), ChannelError> {
        if self.asked.is_some() {
            return Ok(());
        }
        let Some((request, beside, purpose)) = self.waiting.pop_front() else { return Ok(()) };
        self.asked = Some(purpose);
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        self.channel.send(&request, &beside)
    }

    /// Takes an answer; to be called when the connection is readable.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn take(&mut self) -> Result<Option<Answered>, ChannelError> {
        let (answer, beside) = self.channel.receive()?;
        let Some(purpose) = self.asked.take() else { return Ok(None) };
        self.send_next()?;
        Ok(Some((purpose, answer, beside)))
    }
}

/// A memfd that holds these bytes.
///
/// # Errors
/// No memory is left.
pub fn memfd_of(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memfd);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// The first `length` bytes of a memfd that came beside an answer.
///
/// # Errors
/// It has fewer, or more than a state may have.
pub fn bytes_of(beside: Vec<OwnedFd>, length: u64) -> io::Result<Vec<u8>> {
    let memfd = beside.into_iter().next().ok_or_else(|| io::Error::other("no memory came beside the answer"))?;
    if length > limits::MIGRATION_STATE_BYTES_MAX {
        return Err(io::Error::other(format!("{length} bytes of state are more than a VM may have")));
    }
    let mut file = File::from(memfd);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::Error::other("the state is cut short")) }
}
