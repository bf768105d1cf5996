//! What the control plane says.

use std::os::fd::OwnedFd;

use protocol::checks::physical_network::Found;
use protocol::source::Input;

use super::turn::Engine;
use crate::api::channel::ChannelError;
use crate::api::migrate::{FromMigrate, MigrationId, ToMigrate};

impl Engine {
    pub(super) fn host_connects(&mut self) {
        match self.listener.accept() {
            Ok(channel) => self.knocking.push(channel),
            Err(error) => log::error!("the control plane cannot connect: {error}"),
        }
    }

    pub(super) fn first_word(&mut self, index: usize) {
        let channel = self.knocking.remove(index);
        if let Ok((message, beside)) = channel.receive() {
            self.host.connected(channel);
            self.obey(message, beside);
        }
    }

    pub(super) fn host_says(&mut self) {
        let Some(host) = self.host.channel() else { return };
        match host.receive() {
            Ok((message, beside)) => self.obey(message, beside),
            Err(ChannelError::Malformed(error)) => log::error!("the control plane is not understood: {error}"),
            Err(error) => {
                log::warn!("the control plane went away: {error}");
                self.host.lost();
            }
        }
    }

    fn obey(&mut self, message: ToMigrate, beside: Vec<OwnedFd>) {
        match message {
            ToMigrate::Configure(own) => self.configure(*own),
            ToMigrate::Peers(peers) => self.know(peers),
            ToMigrate::Start(order) => self.order(*order, beside),
            ToMigrate::Cancel(id) => self.cancel(id),
            ToMigrate::Follow(id) => self.tell_of(id),
            ToMigrate::Facts(id, facts) => {
                self.arrival_of(id, |arrival, now, desk, wire| arrival.facts(now, desk, wire, facts));
            }
            ToMigrate::Accept { id, disks_us } => {
                self.arrival_of(id, |arrival, now, desk, wire| arrival.accepted(now, desk, wire, beside, disks_us));
            }
            ToMigrate::Refuse(id, reasons) => {
                self.arrival_of(id, |arrival, now, desk, wire| arrival.refused(now, desk, wire, reasons));
            }
            ToMigrate::UplinksOpen(id) => {
                self.departure_of(id, |departure, now, desk, wire| departure.hear(now, desk, wire, Input::UplinksOpen));
            }
            ToMigrate::UplinksHeard(id, found) => self.uplinks_heard(id, found),
            ToMigrate::DisksOpen(id, opened) => {
                self.arrival_of(id, |arrival, now, desk, wire| arrival.disks_open(now, desk, wire, opened));
            }
            ToMigrate::Announced { id, frames } => {
                let input = protocol::destination::Input::Announced { frames };
                self.arrival_of(id, |arrival, now, desk, wire| arrival.hear(now, desk, wire, input));
            }
            ToMigrate::Ping(id, to) => self.ping(id, &to),
            ToMigrate::Nic => {
                let detail = self.detail();
                self.host.tell(FromMigrate::Nic(Box::new(detail)));
            }
        }
    }

    /// At the source it is what the move waits for; at the destination the verdict follows.
    fn uplinks_heard(&mut self, id: MigrationId, found: Option<Vec<Found>>) {
        let heard = found.clone();
        self.arrival_of(id, |arrival, _, _, _| arrival.uplinks_heard(heard));
        let input = Input::UplinksHeard(found);
        self.departure_of(id, |departure, now, desk, wire| departure.hear(now, desk, wire, input));
    }
}
