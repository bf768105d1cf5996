//! The measurements of paths that go on.

use std::time::Instant;

use model::diagnosis::Reason;
use model::names::HostName;
use netstack::ConnectionId;

use super::turn::Engine;
use crate::api::migrate::{FromMigrate, MigrationId};
use crate::migrate::desk::{Desk, Wire};
use crate::migrate::ping::Ping;

impl Engine {
    /// Begins one.
    pub(super) fn ping(&mut self, id: MigrationId, to: &HostName) {
        if let Err(reason) = self.begin_ping(id, to) {
            self.host.tell(FromMigrate::Pinged(id, Err(reason)));
        }
    }

    fn begin_ping(&mut self, id: MigrationId, to: &HostName) -> Result<(), Reason> {
        let (own, peer) = (self.own()?, self.peer(to)?);
        let connection = self.call(&peer)?;
        self.pings.push(Ping::new(id, connection, own.name, peer));
        Ok(())
    }

    pub(super) fn ping_index(&self, connection: ConnectionId) -> Option<usize> {
        self.pings.iter().position(|ping| ping.connection == connection)
    }

    pub(super) fn with_ping(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut Ping, Instant, &mut Desk<'_>, &mut Wire<'_>),
    ) {
        let Self { clock, run_dir, hasher, storer, host, slots, stack, pings, .. } = self;
        if let (Some(ping), Some(stack)) = (pings.get_mut(index), stack) {
            let mut desk = Desk { clock: *clock, run_dir, hasher, storer, host, slots };
            work(ping, Instant::now(), &mut desk, &mut Wire { stack });
        }
    }

    pub(super) fn cancel_ping(&mut self, id: MigrationId) {
        if let Some(index) = self.pings.iter().position(|ping| ping.id == id) {
            self.with_ping(index, Ping::cancel);
        }
    }
}
