//! Events and serial output, sent to every connection that asked for them. A connection that cannot take more is
//! closed: a console that hangs must not hold the guest up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::channel::Channel;
use crate::api::vmm::{VmmAnswer, VmmRequest};

/// The monitor's end of a connection.
pub type Connection = Arc<Channel<VmmAnswer, VmmRequest>>;

/// Connections that get what is sent.
#[derive(Debug, Default)]
pub struct Broadcast {
    connections: Mutex<Vec<Connection>>,
}

impl Broadcast {
    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; `first` is sent to it before anything else, without a gap.
    pub fn add(&self, connection: Connection, first: impl IntoIterator<Item = VmmAnswer>) {
        let mut connections = self.lock();
        if first.into_iter().all(|answer| connection.send_at_once(&answer).is_ok()) {
            connections.push(connection);
        }
    }

    /// Sends to all, and forgets those that are gone.
    pub fn send(&self, answer: &VmmAnswer) {
        self.lock().retain(|connection| connection.send_at_once(answer).is_ok());
    }
}
