//! A command that was typed and has not ended: a move, as far as it is told.

use std::time::Instant;

use godwit::api::channel::{Channel, wait_readable};
use godwit::api::host::{HostAnswer, HostRequest};
use rustix::fd::AsFd;

use super::{BOUND, Host, line};

/// The console on which it was typed.
pub(crate) struct Command {
    channel: Channel<HostRequest, HostAnswer>,
    /// How it ended; without an answer where its control plane died.
    ended: Option<Option<HostAnswer>>,
}

impl Command {
    /// Types it.
    pub(crate) fn typed(host: &Host, text: &str) -> Self {
        Self { channel: host.begin(text), ended: None }
    }

    fn hear(&mut self, until: Instant, what: &str) -> Option<String> {
        let left = until.saturating_duration_since(Instant::now());
        assert!(wait_readable(self.channel.as_fd(), left).expect("polled"), "{what}: not within {BOUND:?}");
        match self.channel.receive() {
            Ok((HostAnswer::TakenUp, _)) => Some("taken up".to_owned()),
            Ok((HostAnswer::Progress { doing, .. }, _)) => Some(doing),
            ended => {
                self.ended = Some(ended.ok().map(|(answer, _)| answer));
                None
            }
        }
    }

    /// Waits until the move is in a phase.
    pub(crate) fn wait_for(&mut self, phase: &str) {
        self.wait_until(phase, |doing| doing.starts_with(phase));
    }

    /// Waits until the progress tells of this.
    pub(crate) fn wait_until(&mut self, what: &str, told: impl Fn(&str) -> bool) {
        let until = Instant::now() + BOUND;
        let mut passed = Vec::new();
        while self.ended.is_none() {
            match self.hear(until, what) {
                Some(doing) if told(&doing) => return,
                Some(doing) => passed.push(doing),
                None => {}
            }
        }
        let end = self.ended.iter().flatten().next().map(line).unwrap_or_default();
        panic!("it ended before {what}, after {passed:?}: {end}");
    }

    /// Presses Ctrl-C.
    pub(crate) fn press_ctrl_c(&self) {
        self.channel.send(&HostRequest::Cancel, &[]).expect("it is heard");
    }

    /// Waits for its end, and gives the answer.
    pub(crate) fn end(self) -> HostAnswer {
        self.outcome().expect("the control plane answers")
    }

    /// The same where the host that it was typed at may die: nothing is heard then.
    pub(crate) fn outcome(mut self) -> Option<HostAnswer> {
        let until = Instant::now() + BOUND;
        loop {
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            self.hear(until, "the end of the command");
        }
    }
}
