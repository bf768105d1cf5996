//! Listens for what roles ask of `init` and hands it to the supervisor, which answers.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::supervise::Event;
use crate::api::channel::{Channel, ChannelError, Listener};
use crate::api::init::{InitRequest, PATIENCE, RoleReport};
use crate::api::paths::RunDir;

/// Listens in a thread of its own.
pub(super) fn listen_for(run: &RunDir, events: Sender<Event>) -> io::Result<()> {
    let path = run.socket("init");
    let listener = Listener::bind(&path)?;
    rustix::fs::chmod(&path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    let serve = move || {
        loop {
            match listener.accept() {
                // A client that says nothing, or nonsense, costs its own connection.
                Ok(client) => drop(serve_one(&client, &events)),
                // Out of descriptors or memory: give them time to come back.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    };
    std::thread::Builder::new().name("orders".into()).spawn(serve).map(drop)
}

fn serve_one(client: &Channel<Vec<RoleReport>, InitRequest>, events: &Sender<Event>) -> Result<(), ChannelError> {
    let (order, _) = client.receive_within(PATIENCE)?;
    let (answer, report) = channel();
    events.send(Event::Ordered(order, answer)).map_err(|_| ChannelError::Closed)?;
    let report = report.recv_timeout(PATIENCE).map_err(|_| ChannelError::Timeout(PATIENCE))?;
    client.send(&report, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::init::ask;

    #[test]
    fn an_order_reaches_init_and_is_answered_with_the_roles() {
        let run = RunDir::at(std::env::temp_dir().join(format!("godwit-order-{}", std::process::id())));
        std::fs::create_dir_all(run.path()).unwrap();
        let (sender, events) = channel();
        listen_for(&run, sender).unwrap();
        let role = RoleReport { title: "host".into(), pid: Some(7), restarts: 1, falls: 1, last_fall: None };
        let answer = role.clone();
        let supervisor = std::thread::spawn(move || match events.recv().unwrap() {
            Event::Ordered(order, reply) => {
                reply.send(vec![answer]).unwrap();
                order
            }
            Event::Ended(..) | Event::Silent(_) => panic!("no child ended, and nobody is silent"),
        });
        let nonsense = Channel::<[u8; 3], Vec<RoleReport>>::connect(&run.socket("init")).unwrap();
        assert!(nonsense.ask(&[200, 1, 1], &[], PATIENCE).is_err(), "nonsense ends the connection and orders nothing");
        assert_eq!(ask(&run, InitRequest::Shutdown).unwrap(), [role]);
        assert_eq!(supervisor.join().unwrap(), InitRequest::Shutdown);
        std::fs::remove_dir_all(run.path()).unwrap();
    }
}
