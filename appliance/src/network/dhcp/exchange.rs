//! The DHCP client as a machine without clock or socket: it is told messages and times, and says what to send and when
//! it wants to be woken.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};

/// First pause before a message is sent again; it doubles (RFC 2131, 4.1).
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// Longest pause before a message is sent again.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Unanswered requests for an offered address before the client looks for another offer.
const REQUESTS_MAX: u32 = 4;
/// Least lease time that is believed: a server that says less would have its clients do nothing else.
const LEASE_LEAST: Duration = Duration::from_secs(60);

/// A point in time, since some fixed moment.
pub type Instant = Duration;

/// An address that a server gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Granted {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix in bits.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// The server that gave it.
    pub server: Ipv4Addr,
    /// For how long.
    pub lease: Duration,
}

/// What the client wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send this message by broadcast.
    Send(Box<Message>),
    /// Use this address from now on.
    Use(Granted),
    /// Stop using the address: its time is over or the server took it back.
    Drop(Granted),
}

#[derive(Debug)]
enum State {
    Selecting,
    Requesting {
        offer: Granted,
    },
    Bound {
        granted: Granted,
        renew: Instant,
        rebind: Instant,
        end: Instant,
    },
    /// T1 or T2 has passed: asking to keep it.
    Extending {
        granted: Granted,
        rebind: Instant,
        end: Instant,
    },
}

/// The machine. Call [`Exchange::wake`] first and whenever [`Exchange::next_wake`] has come, [`Exchange::receive`] with
/// each message; carry out the effects of both in order.
#[derive(Debug)]
pub struct Exchange {
    hardware: [u8; 6],
    hostname: String,
    transaction: u32,
    began: Instant,
    state: State,
    sent: u32,
    wake_at: Instant,
}

impl Exchange {
    /// A client for the NIC with this address. `transaction` is a random number.
    pub fn new(now: Instant, hardware: [u8; 6], hostname: &str, transaction: u32) -> Self {
        let hostname = hostname.to_owned();
        Self { hardware, hostname, transaction, began: now, state: State::Selecting, sent: 0, wake_at: now }
    }

    /// When the client wants to be woken.
    pub fn next_wake(&self) -> Instant {
        self.wake_at
    }

    /// Time has passed.
    pub fn wake(&mut self, now: Instant) -> Vec<Effect> {
        if now < self.wake_at {
            return Vec::new();
        }
        match std::mem::replace(&mut self.state, State::Selecting) {
            State::Selecting => vec![self.again(now, MessageType::Discover, None)],
            State::Requesting { .. } if self.sent >= REQUESTS_MAX => self.start_over(now),
            State::Requesting { offer } => {
                let effect = self.again(now, MessageType::Request, Some(&offer));
                self.state = State::Requesting { offer };
                vec![effect]
            }
            State::Bound { granted, rebind, end, .. } => {
                self.sent = 0;
                self.began = now;
                self.transaction = self.transaction.wrapping_add(1);
                self.extend(now, granted, rebind, end)
            }
            State::Extending { granted, rebind, end } => self.extend(now, granted, rebind, end),
        }
    }

    fn extend(&mut self, now: Instant, granted: Granted, rebind: Instant, end: Instant) -> Vec<Effect> {
        if now >= end {
            let mut effects = vec![Effect::Drop(granted)];
            effects.extend(self.start_over(now));
            return effects;
        }
        let message = self.message(now, MessageType::Request, Some(&granted), true);
        // Half of what is left of this phase, a minute at least (RFC 2131, 4.4.5).
        let limit = if now < rebind { rebind } else { end };
        self.wake_at = (now + (limit.saturating_sub(now) / 2).max(Duration::from_secs(60))).min(limit);
        self.state = State::Extending { granted, rebind, end };
        vec![Effect::Send(Box::new(message))]
    }

    fn start_over(&mut self, now: Instant) -> Vec<Effect> {
        self.sent = 0;
        self.began = now;
        self.transaction = self.transaction.wrapping_add(1);
        self.state = State::Selecting;
        vec![self.again(now, MessageType::Discover, None)]
    }

    fn again(&mut self, now: Instant, kind: MessageType, about: Option<&Granted>) -> Effect {
        let pause = RETRY_FIRST.saturating_mul(1 << self.sent.min(8)).min(RETRY_MAX);
        self.sent += 1;
        self.wake_at = now + pause;
        Effect::Send(Box::new(self.message(now, kind, about, false)))
    }

    fn message(&self, now: Instant, kind: MessageType, about: Option<&Granted>, bound: bool) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let current = about.filter(|_| bound).map_or(none, |granted| granted.address);
        let mut message = Message::new_with_id(self.transaction, current, none, none, none, &self.hardware);
        let waited = now.saturating_sub(self.began).as_secs();
        message.set_secs(u16::try_from(waited).unwrap_or(u16::MAX));
        message.set_flags(dhcproto::v4::Flags::default().set_broadcast());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::Hostname(self.hostname.clone()));
        let mut identifier = vec![1];
        identifier.extend(self.hardware);
        options.insert(DhcpOption::ClientIdentifier(identifier));
        options.insert(DhcpOption::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::AddressLeaseTime,
            OptionCode::Renewal,
            OptionCode::Rebinding,
        ]));
        if let Some(granted) = about.filter(|_| !bound) {
            options.insert(DhcpOption::RequestedIpAddress(granted.address));
            options.insert(DhcpOption::ServerIdentifier(granted.server));
        }
        message
    }

    /// A message has come. What is not an answer to this client is passed over.
    pub fn receive(&mut self, now: Instant, message: &Message) -> Vec<Effect> {
        let ours = message.xid() == self.transaction && message.chaddr().starts_with(&self.hardware);
        let kind = message.opts().msg_type().filter(|_| ours);
        match (kind, &self.state) {
            (Some(MessageType::Offer), State::Selecting) => {
                let Some(offer) = granted(message) else { return Vec::new() };
                self.sent = 0;
                let effect = self.again(now, MessageType::Request, Some(&offer));
                self.state = State::Requesting { offer };
                vec![effect]
            }
            (Some(MessageType::Ack), State::Requesting { .. } | State::Extending { .. }) => {
                self.acknowledged(now, message)
            }
            (Some(MessageType::Nak), State::Requesting { .. }) => self.start_over(now),
            (Some(MessageType::Nak), State::Extending { granted, .. }) => {
                let mut effects = vec![Effect::Drop(granted.clone())];
                effects.extend(self.start_over(now));
                effects
            }
            _ => Vec::new(),
        }
    }

    fn acknowledged(&mut self, now: Instant, message: &Message) -> Vec<Effect> {
        let Some(granted) = granted(message) else { return Vec::new() };
        let seconds = |code| match message.opts().get(code) {
            Some(DhcpOption::Renewal(seconds) | DhcpOption::Rebinding(seconds)) => {
                Some(Duration::from_secs((*seconds).into()))
            }
            _ => None,
        };
        let lease = granted.lease;
        let rebind = seconds(OptionCode::Rebinding).filter(|t2| *t2 < lease).unwrap_or(lease * 7 / 8);
        let renew = seconds(OptionCode::Renewal).filter(|t1| *t1 < rebind).unwrap_or(rebind.min(lease / 2));
        let mut effects = Vec::new();
        if let State::Extending { granted: old, .. } = &self.state
            && (old.address, old.prefix, old.gateway) != (granted.address, granted.prefix, granted.gateway)
        {
            effects.push(Effect::Drop(old.clone()));
        }
        effects.push(Effect::Use(granted.clone()));
        self.wake_at = now + renew;
        self.state = State::Bound { granted, renew: now + renew, rebind: now + rebind, end: now + lease };
        effects
    }

    /// The address in use and the time it is to be renewed, if there is one.
    pub fn bound(&self) -> Option<(&Granted, Instant)> {
        match &self.state {
            State::Bound { granted, renew, .. } => Some((granted, *renew)),
            State::Extending { granted, end, .. } => Some((granted, *end)),
            State::Selecting | State::Requesting { .. } => None,
        }
    }
}

/// What a server's message gives; `None` for one without what an address needs.
fn granted(message: &Message) -> Option<Granted> {
    let options = message.opts();
    let Some(DhcpOption::ServerIdentifier(server)) = options.get(OptionCode::ServerIdentifier) else { return None };
    let mask = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => mask.to_bits(),
        _ => return None,
    };
    if mask.leading_ones() + mask.trailing_zeros() < 32 || message.yiaddr().is_unspecified() {
        return None;
    }
    let list = |code| match options.get(code) {
        Some(DhcpOption::Router(list) | DhcpOption::DomainNameServer(list)) => list.clone(),
        _ => Vec::new(),
    };
    let lease = match options.get(OptionCode::AddressLeaseTime) {
        Some(DhcpOption::AddressLeaseTime(seconds)) => Duration::from_secs((*seconds).into()),
        _ => Duration::from_secs(3600),
    };
    Some(Granted {
        address: message.yiaddr(),
        prefix: u8::try_from(mask.leading_ones()).unwrap_or(32),
        gateway: list(OptionCode::Router).first().copied(),
        name_servers: list(OptionCode::DomainNameServer),
        server: *server,
        lease: lease.max(LEASE_LEAST),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// What a server answers to `request`.
    fn answer(request: &Message, kind: MessageType, address: [u8; 4]) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(request.xid(), none, address.into(), none, none, &HARDWARE);
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier([10, 0, 0, 1].into()));
        options.insert(DhcpOption::SubnetMask([255, 255, 255, 0].into()));
        options.insert(DhcpOption::Router(vec![[10, 0, 0, 1].into()]));
        options.insert(DhcpOption::AddressLeaseTime(1000));
        message
    }

    fn sent(effects: &[Effect]) -> &Message {
        match effects {
            [.., Effect::Send(message)] => message,
            other => panic!("nothing was sent: {other:?}"),
        }
    }

    fn bound_at_zero() -> Exchange {
        let mut client = Exchange::new(seconds(0), HARDWARE, "host-a", 7);
        let discover = sent(&client.wake(seconds(0))).clone();
        let offer = answer(&discover, MessageType::Offer, [10, 0, 0, 5]);
        let request = sent(&client.receive(seconds(0), &offer)).clone();
        let effects = client.receive(seconds(0), &answer(&request, MessageType::Ack, [10, 0, 0, 5]));
        assert!(matches!(&effects[..], [Effect::Use(granted)] if granted.address == Ipv4Addr::new(10, 0, 0, 5)));
        client
    }

    #[test]
    fn a_client_is_renewed_before_its_lease_ends_and_keeps_its_address() {
        let mut client = bound_at_zero();
        assert_eq!(client.next_wake(), seconds(500), "T1 is half of the lease");
        let request = sent(&client.wake(seconds(500))).clone();
        assert_eq!(request.ciaddr(), Ipv4Addr::new(10, 0, 0, 5));
        let effects = client.receive(seconds(501), &answer(&request, MessageType::Ack, [10, 0, 0, 5]));
        assert!(matches!(&effects[..], [Effect::Use(_)]), "{effects:?}");
        assert_eq!(client.next_wake(), seconds(1001));
    }

    #[test]
    fn an_address_whose_server_is_away_is_given_up_when_its_lease_ends_and_not_before() {
        let mut client = bound_at_zero();
        let mut requests = 0;
        loop {
            let now = client.next_wake();
            let effects = client.wake(now);
            if matches!(effects[..], [Effect::Drop(_), Effect::Send(_)]) {
                assert_eq!(now, seconds(1000));
                break;
            }
            assert!(now < seconds(1000), "still using it at {now:?}");
            assert!(sent(&effects).ciaddr() == Ipv4Addr::new(10, 0, 0, 5));
            requests += 1;
            assert!(requests < 20, "asks too often");
        }
        assert!(requests >= 3, "T1, a repetition, T2");
    }

    #[test]
    fn a_refused_address_is_given_up_at_once() {
        let mut client = bound_at_zero();
        let request = sent(&client.wake(seconds(500))).clone();
        let effects = client.receive(seconds(500), &answer(&request, MessageType::Nak, [0; 4]));
        assert!(matches!(effects[..], [Effect::Drop(_), Effect::Send(_)]), "{effects:?}");
    }

    #[test]
    fn answers_to_others_and_nonsense_are_passed_over() {
        let mut client = Exchange::new(seconds(0), HARDWARE, "host-a", 7);
        let discover = sent(&client.wake(seconds(0))).clone();
        let mut foreign = answer(&discover, MessageType::Offer, [10, 0, 0, 9]);
        foreign.set_xid(8);
        assert_eq!(client.receive(seconds(0), &foreign), []);
        let mut holes = answer(&discover, MessageType::Offer, [10, 0, 0, 9]);
        holes.opts_mut().insert(DhcpOption::SubnetMask([255, 0, 255, 0].into()));
        assert_eq!(client.receive(seconds(0), &holes), []);
        assert_eq!(client.receive(seconds(0), &answer(&discover, MessageType::Ack, [10, 0, 0, 9])), []);
    }

    #[test]
    fn discovery_goes_on_for_ever_with_a_bounded_pause() {
        let mut client = Exchange::new(seconds(0), HARDWARE, "host-a", 7);
        for _ in 0..100 {
            let now = client.next_wake();
            assert_eq!(sent(&client.wake(now)).opts().msg_type(), Some(MessageType::Discover));
            assert!(client.next_wake() - now <= RETRY_MAX);
        }
    }
}
