//! Over: nothing that comes now matters.

use model::diagnosis::Reason;

use super::context::Context;
use super::machine::{Phase, Step};
use crate::wire::Message;

/// The last effect was given.
#[derive(Debug)]
pub struct Finished;

impl Step for Finished {
    fn message(self, _cx: &mut Context, _message: Message) -> Phase {
        self.into()
    }

    fn lost(self, _cx: &mut Context, _reason: Reason) -> Phase {
        self.into()
    }

    fn cancel(self, _cx: &mut Context) -> Phase {
        self.into()
    }

    fn guest_gone(self, _cx: &mut Context, _reason: Reason) -> Phase {
        self.into()
    }
}
