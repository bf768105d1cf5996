//! The migration NIC: brings the stack up, tells it whom to talk to, and tells people of it.

use std::time::Instant;

use model::diagnosis::{Reason, chain};
use model::host_config::{self, MigrationNic};
use netstack::{Allowed, KeyPair, Nic, NicConfig, NicSelector, Stack, StackConfig};

use super::turn::Engine;
use crate::api::host::MigrationNicDetail;
use crate::api::migrate::{FromMigrate, Own, Peer};
use crate::migrate::desk::key_of;

impl Engine {
    /// Brings the stack up. What is configured already stays as it is, with all that goes on over it; what did not come up
    /// is tried again.
    pub(super) fn configure(&mut self, own: Own) {
        let same = self.stack.is_some() && self.own.as_ref().is_some_and(|known| known.nic == own.nic);
        if !same {
            match self.bring_up(&own.nic) {
                Ok(stack) => {
                    let next = self.slots.link_changed(stack.link().speed_mbit, self.clock.of(Instant::now()));
                    self.stack = Some(stack);
                    self.begin_all(next);
                    self.trouble = None;
                }
                Err(trouble) => {
                    if self.trouble.as_ref() != Some(&trouble) {
                        log::error!("the migration stack is not up: {trouble}");
                    }
                    self.stack = None;
                    self.trouble = Some(trouble);
                }
            }
        }
        self.own = Some(own);
        let outcome = self.trouble.clone().map_or(Ok(()), Err);
        self.host.tell(FromMigrate::Configured(outcome));
    }

    fn bring_up(&self, nic: &MigrationNic) -> Result<Stack<Nic>, String> {
        let selector = match &nic.nic {
            host_config::NicSelector::Mac(mac) => NicSelector::Mac(mac.bytes()),
            host_config::NicSelector::Pci(address) => NicSelector::Pci(address.clone()),
            host_config::NicSelector::Name(name) => NicSelector::Name(name.clone()),
        };
        let port = Nic::open(&NicConfig { selector, mtu: nic.mtu, vlan: nic.vlan }).map_err(|error| chain(&error))?;
        let mut config = StackConfig::new(nic.address.address, nic.address.prefix, nic.port);
        config.gateway = nic.gateway;
        let identity = KeyPair::from_pkcs8(self.identity.to_pkcs8()).map_err(|error| chain(&error))?;
        let allowed = Allowed::default();
        allowed.replace(self.peers.iter().filter_map(key_of));
        Stack::new(port, config, identity, allowed, Instant::now()).map_err(|error| chain(&error))
    }

    pub(super) fn know(&mut self, peers: Vec<Peer>) {
        if let Some(stack) = &self.stack {
            stack.allowed().replace(peers.iter().filter_map(key_of));
        }
        self.peers = peers;
    }

    pub(super) fn detail(&mut self) -> MigrationNicDetail {
        let nic = self.own.as_ref().map(|own| own.nic.clone());
        let (link, mtu) = self.stack.as_ref().map(|stack| (stack.link(), stack.mtu())).unzip();
        let counters = self.stack.as_mut().map(Stack::counters).unwrap_or_default();
        MigrationNicDetail {
            nic: nic.as_ref().map_or_else(String::new, |nic| match &nic.nic {
                host_config::NicSelector::Mac(mac) => mac.to_string(),
                host_config::NicSelector::Pci(text) | host_config::NicSelector::Name(text) => text.clone(),
            }),
            mac: nic.as_ref().and_then(|nic| match &nic.nic {
                host_config::NicSelector::Mac(mac) => Some(*mac),
                _ => None,
            }),
            address: nic
                .as_ref()
                .map_or_else(String::new, |nic| format!("{}/{}", nic.address.address, nic.address.prefix)),
            port: nic.map_or(0, |nic| nic.port),
            link: link.is_some_and(|link| link.up),
            speed_mbits: link.and_then(|link| link.speed_mbit),
            mtu: mtu.map_or(0, u32::from),
            public_key: self.identity.public().to_string(),
            frames_out: counters.sent_frames,
            frames_in: counters.received_frames,
            drops: counters.dropped_by_socket + counters.device_receive_errors,
            connections: self
                .stack
                .as_ref()
                .map_or(0, |stack| u32::try_from(stack.open_connections()).unwrap_or(u32::MAX)),
            problems: self.trouble.iter().map(|trouble| Reason::new(trouble.clone(), "config show")).collect(),
        }
    }
}
