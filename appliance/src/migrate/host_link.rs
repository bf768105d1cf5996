//! The line to the control plane, which may be restarted at any time. What it has to know of a move that ended meanwhile
//! is kept for the next one: the receipt is in it.

use std::collections::VecDeque;

use crate::api::channel::Channel;
use crate::api::migrate::{FromMigrate, ToMigrate};

/// Ends of moves that are kept; the oldest are let go of.
const KEPT_MAX: usize = 64;

type HostChannel = Channel<FromMigrate, ToMigrate>;

/// The connection, if there is one, and what could not be said.
#[derive(Debug, Default)]
pub struct HostLink {
    channel: Option<HostChannel>,
    unsaid: VecDeque<FromMigrate>,
}

impl HostLink {
    /// The connection.
    pub fn channel(&self) -> Option<&HostChannel> {
        self.channel.as_ref()
    }

    /// A control plane is there: it is told what the one before it did not hear.
    pub fn connected(&mut self, channel: HostChannel) {
        self.channel = Some(channel);
        for message in std::mem::take(&mut self.unsaid) {
            self.tell(message);
        }
    }

    /// The control plane went away.
    pub fn lost(&mut self) {
        self.channel = None;
    }

    /// Tells the control plane; if it is away, keeps what must not be lost.
    pub fn tell(&mut self, message: FromMigrate) {
        if let Some(channel) = &self.channel {
            match channel.send(&message, &[]) {
                Ok(()) => return,
                Err(error) => log::error!("the control plane cannot be told: {error}"),
            }
            self.channel = None;
        }
        if matches!(message, FromMigrate::Ended(_)) {
            if self.unsaid.len() == KEPT_MAX {
                self.unsaid.pop_front();
            }
            self.unsaid.push_back(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::migrate::{Ended, MigrationProgress};
    use protocol::session::PhaseName;
    use std::time::Duration;

    const BOUND: Duration = Duration::from_secs(60);

    fn ended(id: u64) -> FromMigrate {
        FromMigrate::Ended(Box::new(Ended::nothing_moved(id, 1)))
    }

    #[test]
    fn the_end_of_a_move_is_told_to_the_next_control_plane_if_none_was_there() {
        let mut link = HostLink::default();
        let (here, there) = HostChannel::pair().expect("sockets");
        link.connected(here);
        drop(there);
        link.tell(ended(1));
        let (phase, doing) = (Some(PhaseName::Release), "release".to_owned());
        link.tell(FromMigrate::Progress(MigrationProgress { id: 2, phase, doing, thousandths: None }));
        link.tell(ended(2));
        let (here, there) = HostChannel::pair().expect("sockets");
        link.connected(here);
        link.tell(ended(3));
        for id in 1..=3 {
            let heard = there.receive_within(BOUND).expect("heard").0;
            assert!(matches!(&heard, FromMigrate::Ended(ended) if ended.id == id), "{heard:?} is not the end of {id}");
        }
    }
}
