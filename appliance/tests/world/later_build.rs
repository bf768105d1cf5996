//! A migration engine of a later build in the place of a host's own: it speaks other versions of the protocol, and says so with the host's name, key
//! and address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use godwit::api::host::HostAnswer;
use model::names::HostName;
use netstack::{Allowed, Event, KeyPair, Nic, NicConfig, NicSelector, Stack, StackConfig};
use protocol::destination::{Destination, Effect, Input, Welcome};
use protocol::session::Versions;

use super::cable::enter;
use super::{Cable, Frozen, Host, freeze};

/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Ends, and lets the host's own engine go on, when it is dropped.
pub(crate) struct LaterBuild {
    ends: Arc<AtomicBool>,
    work: Option<JoinHandle<()>>,
    _own: Frozen,
}

impl LaterBuild {
    /// Takes the place of the engine of the host at the second end of a cable, towards that at the first. Its control plane finds its own
    /// engine silent, and tells others of it as before.
    pub(crate) fn takes_over(a: &Host, b: &Host, cable: &Cable, build: &str, versions: Versions) -> Self {
        let HostAnswer::MigrationNic(nic) = b.ask("network migration-nic").1 else { panic!("it has one") };
        let address = nic.address.split('/').next().and_then(|address| address.parse().ok()).expect("an address");
        let config = StackConfig::new(address, 24, nic.port);
        let key = |host: &Host| {
            let bytes = std::fs::read(host.run.join("migrate.key")).expect("it has one");
            KeyPair::from_pkcs8(&bytes).expect("a key")
        };
        let (identity, peer) = (key(b), key(a).public());
        let name = |name: &str| -> HostName { name.parse().expect("valid") };
        let (here, there, build) = (name("host-b"), name("host-a"), build.to_owned());
        let welcome =
            move || Welcome { here: here.clone(), peer: there.clone(), build: build.clone(), started_unix_s: 0 };
        let own = freeze(b.migrate_pid());
        let ends = Arc::<AtomicBool>::default();
        let (namespace, ended) = (cable.namespace(1).to_owned(), Arc::clone(&ends));
        let work = std::thread::spawn(move || {
            enter(&namespace);
            let nic = NicConfig { selector: NicSelector::Name("mig0".to_owned()), mtu: None, vlan: None };
            let allowed = Allowed::default();
            allowed.insert(peer);
            let nic = Nic::open(&nic).expect("the NIC is there");
            let stack = Stack::new(nic, config, identity, allowed, Instant::now()).expect("a stack");
            serve(stack, &ended, welcome, versions);
        });
        Self { ends, work: Some(work), _own: own }
    }
}

impl Drop for LaterBuild {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.work.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the later build panicked");
    }
}

fn serve(mut stack: Stack<Nic>, ends: &AtomicBool, welcome: impl Fn() -> Welcome, versions: Versions) {
    let begun = Instant::now();
    let mut arrivals = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        let now = Instant::now();
        let at = protocol::time::Instant::from_nanos(u64::try_from((now - begun).as_nanos()).expect("not that long"));
        stack.poll(now);
        while let Some(event) = stack.next_event() {
            match event {
                Event::Connected { connection, incoming: true, .. } => {
                    arrivals.push((connection, Destination::speaking(at, welcome(), versions)));
                }
                Event::Control(connection) => {
                    let Some((_, arrival)) = arrivals.iter_mut().find(|(known, _)| *known == connection) else {
                        continue;
                    };
                    while let Some(bytes) = stack.recv_control(connection, now) {
                        arrival.handle_input(at, Input::Control(bytes.to_vec()));
                    }
                }
                Event::Closed { connection, .. } => {
                    arrivals.retain(|(known, _)| *known != connection);
                    stack.forget(connection, now);
                }
                _ => {}
            }
        }
        for (connection, arrival) in &mut arrivals {
            while let Some(effect) = arrival.poll_effect() {
                match effect {
                    Effect::SendControl(bytes) => stack.send_control(*connection, &bytes).expect("there is room"),
                    Effect::Finish(_) => stack.finish(*connection),
                    _ => {}
                }
            }
        }
        stack.poll(now);
        stack.wait(now, Some(now + LOOK), &[]).expect("it waits");
    }
}
