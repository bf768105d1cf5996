//! Runs and moves guests by QEMU's control protocol, wherever its two ends are.

use std::cell::{RefCell, RefMut};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::case::Case;
use crate::bench::contestant::{Contestant, Guest, Moved};
use crate::bench::conversation::Conversation;
use crate::bench::qemu::way::Way;
use crate::bench::surroundings;
use crate::error::{LabError, Result};
use crate::machine::Qmp;

/// Where the other end waits for a guest.
const PORT: u16 = 4446;

/// Where QEMU runs: two ends, 0 and 1, with a cable between them.
pub(in crate::bench) trait Ends {
    /// Starts a QEMU at an end, in the place of one that was there; gives its guest's serial port.
    fn launch(&mut self, way: Way, case: Case, end: usize) -> Result<Conversation>;

    /// The control protocol of the QEMU at an end.
    fn control(&mut self, end: usize) -> Result<Qmp>;

    /// The address of an end on the cable.
    fn address(&self, end: usize) -> Ipv4Addr;

    /// The longest that a move may take; one that does not converge never ends.
    fn move_bound(&self) -> Duration;

    /// Processes of this machine that work for QEMU beside itself.
    fn workers(&self) -> Vec<u32>;

    /// Ends the QEMUs that do not end with the conversations.
    fn clear(&mut self) -> Result<()>;

    /// Forgets the ends after a failure, if others can take their places.
    fn give_up(&mut self) {}
}

/// QEMU, used in one way.
pub(in crate::bench) struct Qemu<'a, E> {
    pub(in crate::bench) way: Way,
    /// One guest at a time is theirs.
    pub(in crate::bench) ends: &'a RefCell<E>,
}

impl<E: Ends> Contestant for Qemu<'_, E> {
    fn name(&self) -> String {
        self.way.name()
    }

    fn moves(&self) -> bool {
        self.way != Way::MicroVm
    }

    fn start(&mut self, case: Case) -> Result<Box<dyn Guest + '_>> {
        let way = self.way;
        let mut ends = self.ends.borrow_mut();
        let ordered_tsc = surroundings::tsc();
        let source = ends.launch(way, case, 0)?;
        Ok(Box::new(Running { ends, way, case, ordered_tsc, source, destination: None, moved: false }))
    }

    fn give_up(&mut self) {
        self.ends.borrow_mut().give_up();
    }
}

struct Running<'a, E> {
    ends: RefMut<'a, E>,
    way: Way,
    case: Case,
    ordered_tsc: u64,
    source: Conversation,
    destination: Option<Destination>,
    moved: bool,
}

/// The waiting other end, and the control sockets of both.
struct Destination {
    serial: Conversation,
    qmp: [Qmp; 2],
}

impl<E: Ends> Running<'_, E> {
    fn uri(&self) -> Value {
        json!({ "uri": format!("tcp:{}:{PORT}", self.ends.address(1)) })
    }
}

impl<E: Ends> Guest for Running<'_, E> {
    fn ordered_tsc(&self) -> u64 {
        self.ordered_tsc
    }

    fn serial(&mut self) -> Result<&mut Conversation> {
        Ok(match &mut self.destination {
            Some(destination) if self.moved => &mut destination.serial,
            _ => &mut self.source,
        })
    }

    fn machine(&self) -> Option<u32> {
        self.source.pid()
    }

    fn workers(&mut self) -> Result<Vec<u32>> {
        let destination = self.destination.iter().filter_map(|destination| destination.serial.pid());
        Ok(self.source.pid().into_iter().chain(destination).chain(self.ends.workers()).collect())
    }

    fn prepare_move(&mut self) -> Result<()> {
        let serial = self.ends.launch(self.way, self.case, 1)?;
        let mut qmp = [self.ends.control(0)?, self.ends.control(1)?];
        for end in &mut qmp {
            for (command, arguments) in self.way.agreement(self.case) {
                end.execute(command, arguments)?;
            }
        }
        qmp[1].execute("migrate-incoming", self.uri())?;
        self.destination = Some(Destination { serial, qmp });
        Ok(())
    }

    fn migrate(&mut self) -> Result<Moved> {
        let (uri, bound) = (self.uri(), self.ends.move_bound());
        let Some(Destination { qmp: [source, destination], .. }) = &mut self.destination else {
            return Err(LabError::Input("the move was not prepared".into()));
        };
        let ordered = Instant::now();
        source.execute("migrate", uri)?;
        let status = |event: &Value| event["data"]["status"].as_str().unwrap_or_default().to_owned();
        let is_end = |event: &Value| {
            event["event"] == "MIGRATION" && ["completed", "failed", "cancelled"].contains(&status(event).as_str())
        };
        let ended = source.event("the end of the move", bound, is_end);
        if !ended.as_ref().is_ok_and(|event| status(event) == "completed") {
            let why = source.execute("query-migrate", json!({}))?;
            let late = ended.err().map(|error| format!("{error}; ")).unwrap_or_default();
            return Err(LabError::Input(format!("QEMU did not move its guest: {late}{why}")));
        }
        destination.event("the guest at the other end", bound, |event| event["event"] == "RESUME")?;
        let whole = ordered.elapsed();
        self.moved = true;
        let told = source.execute("query-migrate", json!({}))?;
        let number = |value: &Value| {
            value.as_u64().ok_or_else(|| LabError::Input(format!("QEMU's account of the move is not whole: {told}")))
        };
        let (sent_bytes, stun_ms) = (number(&told["ram"]["transferred"])?, number(&told["downtime"])?);
        Ok(Moved { runs_there: whole, whole, sent_bytes, stun: Duration::from_millis(stun_ms) })
    }

    fn end(self: Box<Self>) -> Result<()> {
        let Self { mut ends, source, destination, .. } = *self;
        drop((source, destination));
        ends.clear()
    }
}
