//! The thread that carries out what the exchange decides, on one link.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dhcproto::v4::Message;
use dhcproto::{Decodable, Decoder, Encodable};
use model::host_config::Cidr;

use super::exchange::{Effect, Exchange, Granted};
use super::frame;
use crate::api::channel::wait_readable;
use crate::network::address;
use crate::network::link;
use crate::network::netlink::Netlink;
use crate::network::packet::PacketSocket;

/// Longest sleep, so that an order to stop is noticed.
const NAP: Duration = Duration::from_millis(500);
/// Pause after a failure of the link (it vanished, it is down).
const LINK_PAUSE: Duration = Duration::from_secs(5);

/// A running client. Dropping it stops the thread; the address stays.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    status: Mutex<Status>,
}

/// Where the client is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// The address in use.
    pub granted: Option<Granted>,
    /// What is wrong, for a person.
    pub problem: Option<String>,
}

impl Client {
    /// Starts asking on the link of this index, which must be up.
    pub fn start(index: u32, mac: [u8; 6], hostname: &str) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (mine, hostname) = (Arc::clone(&shared), hostname.to_owned());
        let run = move || {
            while !mine.stop.load(Ordering::Relaxed) {
                if let Err(error) = serve(&mine, index, mac, &hostname) {
                    log::warn!("DHCP: {error}");
                    mine.set_problem(Some(error));
                    std::thread::sleep(LINK_PAUSE);
                }
            }
        };
        std::thread::Builder::new().name("dhcp".into()).spawn(run)?;
        Ok(Self { shared })
    }

    /// Where the client is now.
    pub fn status(&self) -> Status {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn set_problem(&self, problem: Option<String>) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).problem = problem;
    }

    fn set_granted(&self, granted: Option<Granted>) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Status { granted, problem: None };
    }
}

fn serve(shared: &Shared, index: u32, mac: [u8; 6], hostname: &str) -> Result<(), String> {
    let socket = PacketSocket::open(index, frame::ETHER_TYPE).map_err(|error| error.to_string())?;
    let mut netlink = Netlink::open().map_err(|error| error.to_string())?;
    let start = Instant::now();
    let transaction = u32::from_ne_bytes(random()?);
    let mut exchange = Exchange::new(start.elapsed(), mac, hostname, transaction);
    let mut buffer = vec![0; 4096];
    let mut unanswered = 0_u32;
    while !shared.stop.load(Ordering::Relaxed) {
        let mut effects = exchange.wake(start.elapsed());
        if !effects.is_empty() && exchange.bound().is_none() {
            unanswered += 1;
            if unanswered == 3 {
                shared.set_problem(Some("no DHCP server answers".to_owned()));
            }
        }
        while let Some(packet) = socket.receive(&mut buffer).map_err(|error| error.to_string())? {
            if let Some(Ok(message)) = frame::to_client(packet).map(|bytes| Message::decode(&mut Decoder::new(bytes))) {
                effects.extend(exchange.receive(start.elapsed(), &message));
            }
        }
        for effect in effects {
            carry_out(shared, &socket, &mut netlink, index, mac, effect)?;
        }
        if exchange.bound().is_some() {
            unanswered = 0;
        }
        let pause = exchange.next_wake().saturating_sub(start.elapsed()).min(NAP);
        wait_readable(socket.as_fd(), pause).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn carry_out(
    shared: &Shared,
    socket: &PacketSocket,
    netlink: &mut Netlink,
    index: u32,
    mac: [u8; 6],
    effect: Effect,
) -> Result<(), String> {
    match effect {
        Effect::Send(message) => {
            let bytes = message.to_vec().map_err(|error| error.to_string())?;
            // A link that is down for a moment loses the message; it is sent again.
            if let Err(error) = socket.send(&frame::from_client(mac, message.ciaddr(), &bytes)) {
                log::info!("DHCP: a message was not sent: {error}");
                let _ = link::set_up(netlink, index, true);
            }
        }
        Effect::Use(granted) => {
            log::info!("DHCP: {}/{} from {} for {:?}", granted.address, granted.prefix, granted.server, granted.lease);
            address::add(netlink, index, cidr(&granted)).map_err(|error| describe(&error))?;
            if let Some(gateway) = granted.gateway {
                address::set_default_route(netlink, index, IpAddr::V4(gateway)).map_err(|error| describe(&error))?;
            }
            shared.set_granted(Some(granted));
        }
        Effect::Drop(granted) => {
            log::warn!("DHCP: {} is given up", granted.address);
            if let Some(gateway) = granted.gateway {
                let _ = address::remove_default_route(netlink, index, IpAddr::V4(gateway));
            }
            address::remove(netlink, index, cidr(&granted)).map_err(|error| describe(&error))?;
            shared.set_granted(None);
        }
    }
    Ok(())
}

fn cidr(granted: &Granted) -> Cidr {
    Cidr { address: IpAddr::V4(granted.address), prefix: granted.prefix }
}

fn describe(error: &crate::network::netlink::NetlinkError) -> String {
    error.errno().map_or_else(|| error.to_string(), |errno| format!("{error}: {errno}"))
}

fn random() -> Result<[u8; 4], String> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE).map_err(|error| error.to_string())?;
    Ok(bytes)
}
