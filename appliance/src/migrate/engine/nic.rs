//! The migration NIC: brings the stack up, tells it whom to talk to, and tells people of it.

use std::time::{Duration, Instant};

use model::diagnosis::{Reason, chain};
use model::host_config::{self, MigrationNic};
use model::names::MacAddress;
use netstack::{Allowed, KeyPair, Neighbour, Nic, NicConfig, NicSelector, Stack, StackConfig};

use super::news::warnings;
use super::turn::Engine;
use crate::api::host::{MigrationNeighbour, MigrationNicDetail, MigrationPeer};
use crate::api::migrate::{FromMigrate, Own, Peer};
use crate::migrate::desk::key_of;
use crate::network::address::in_network;

/// Pause between two looks whether a NIC that is gone is back.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

fn open(nic: &MigrationNic) -> Result<Nic, String> {
    let selector = match &nic.nic {
        host_config::NicSelector::Mac(mac) => NicSelector::Mac(mac.bytes()),
        host_config::NicSelector::Pci(address) => NicSelector::Pci(address.clone()),
        host_config::NicSelector::Name(name) => NicSelector::Name(name.clone()),
    };
    Nic::open(&NicConfig { selector, mtu: nic.mtu, vlan: nic.vlan }).map_err(|error| chain(&error))
}

impl Engine {
    /// Brings the stack up. What is configured already stays as it is, with all that goes on over it; what did not come up
    /// is tried again.
    pub(super) fn configure(&mut self, own: Own) {
        let same = self.stack.is_some() && self.own.as_ref().is_some_and(|known| known.nic == own.nic);
        if !same {
            match self.bring_up(&own.nic) {
                Ok(stack) => {
                    let next = self.slots.link_changed(stack.link().speed_mbit, self.clock.of(Instant::now()));
                    self.link_told = stack.link().up;
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
        let port = open(nic)?;
        let mut config = StackConfig::new(nic.address.address, nic.address.prefix, nic.port);
        config.gateway = nic.gateway;
        let identity = KeyPair::from_pkcs8(self.identity.to_pkcs8()).map_err(|error| chain(&error))?;
        let allowed = Allowed::default();
        allowed.replace(self.peers.iter().filter_map(key_of));
        Stack::new(port, config, identity, allowed, Instant::now()).map_err(|error| chain(&error))
    }

    /// The NIC was unplugged. What goes on over it goes on if it is back before the peers lose patience.
    pub(super) fn nic_is_gone(&mut self) {
        let Some(stack) = &self.stack else { return };
        let trouble = format!("the migration NIC {} is gone", stack.nic_name());
        self.tell_news(true, format!("{trouble}: it is taken up again when it is back"));
        self.host.tell(FromMigrate::Configured(Err(trouble.clone())));
        self.trouble = Some(trouble);
    }

    /// Takes a NIC up again that is back.
    pub(super) fn look_for_nic(&mut self, now: Instant) {
        let (Some(stack), Some(own)) = (&mut self.stack, &self.own) else { return };
        if !stack.is_gone() || now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_AGAIN;
        // What is wrong with it meanwhile is that it is not there.
        let Ok(port) = open(&own.nic) else { return };
        match stack.replace_port(port, now) {
            Ok(()) => {
                let text = format!("the migration NIC {} is back and taken up again", stack.nic_name());
                self.trouble = None;
                self.tell_news(false, text);
                self.host.tell(FromMigrate::Configured(Ok(())));
            }
            Err(error) => log::error!("the migration NIC is back and not taken up: {}", chain(&error)),
        }
    }

    pub(super) fn know(&mut self, peers: Vec<Peer>) {
        if let Some(stack) = &self.stack {
            stack.allowed().replace(peers.iter().filter_map(key_of));
        }
        self.peers = peers;
    }

    /// What a person is told of it.
    pub(super) fn detail(&mut self) -> MigrationNicDetail {
        let mut detail = MigrationNicDetail {
            public_key: self.identity.public().to_string(),
            problems: self.trouble.iter().map(|trouble| Reason::new(trouble.clone(), "config show")).collect(),
            ..MigrationNicDetail::default()
        };
        let Some(MigrationNic { nic, address, gateway, vlan, port, .. }) = self.own.as_ref().map(|own| &own.nic) else {
            return detail;
        };
        detail.nic = nic.to_string();
        detail.address = format!("{}/{}", address.address, address.prefix);
        (detail.gateway, detail.vlan, detail.port) = (*gateway, *vlan, *port);
        let Some(stack) = &mut self.stack else { return detail };
        let (link, counters) = (stack.link(), stack.counters());
        detail.nic = stack.nic_name().to_owned();
        detail.mac = MacAddress::new(stack.mac()).ok();
        (detail.link, detail.speed_mbits, detail.mtu) = (link.up, link.speed_mbit, u32::from(stack.mtu()));
        (detail.frames_out, detail.bytes_out) = (counters.sent_frames, counters.sent_bytes);
        (detail.frames_in, detail.bytes_in) = (counters.received_frames, counters.received_bytes);
        detail.drops = counters.dropped_by_socket + counters.device_receive_errors;
        detail.drops_out = counters.send_failed + counters.device_send_errors;
        detail.warnings = warnings(stack);
        detail.connections = u32::try_from(stack.open_connections()).unwrap_or(u32::MAX);
        let neighbours = stack.neighbours(Instant::now());
        let network = *address;
        let peer = |peer: &Peer| {
            let routed = !in_network(network, peer.address);
            let by = if routed { *gateway } else { Some(peer.address) };
            let by = by.and_then(|by| neighbours.iter().find(|neighbour| neighbour.address == by));
            let mac = by.and_then(|neighbour| MacAddress::new(neighbour.mac).ok());
            MigrationPeer { host: peer.name.clone(), address: peer.address, port: peer.port, mac, routed }
        };
        detail.peers = self.peers.iter().map(peer).collect();
        let neighbour = |Neighbour { address, mac, age }: &Neighbour| {
            Some(MigrationNeighbour { address: *address, mac: MacAddress::new(*mac).ok()?, age_s: age.as_secs() })
        };
        detail.neighbours = neighbours.iter().filter_map(neighbour).collect();
        detail
    }
}
