//! What is read, and real inputs of it.
//!
//! From another host: [`messages`], [`records`], [`frames`], [`device_states`], [`machine`]. From a datastore: [`lease`], [`texts`]. From another role:
//! [`api`]. [`broken`] are readers that break, for the tests of all this; [`example`] is what a VM and two hosts say of themselves.

mod api;
pub(crate) mod broken;
mod device_states;
mod example;
mod frames;
mod lease;
mod machine;
mod messages;
mod records;
mod texts;

/// Whether an input was read, or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was, and what it says was used.
    Taken,
    /// It was not.
    Refused,
}

impl Outcome {
    fn taken_if(taken: bool) -> Self {
        if taken { Self::Taken } else { Self::Refused }
    }
}

/// Reads an input and uses what was read; panics where a promise is broken.
type Reader = Box<dyn FnMut(&[u8]) -> Outcome>;

/// A target that is ready for inputs.
pub(crate) struct Prepared {
    /// Real inputs: each is taken.
    pub(crate) inputs: Vec<Vec<u8>>,
    /// They are text.
    pub(crate) text: bool,
    /// The most memory that one input may cost, in bytes.
    pub(crate) bytes_max: usize,
    pub(crate) execute: Reader,
}

/// Something that reads.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Inputs in a test: a second or two.
    pub(crate) executions: u64,
    /// Gets it ready, or says why that cannot be done here.
    pub(crate) prepare: fn() -> Result<Prepared, String>,
}

/// All of them.
pub(crate) const ALL: &[Target] = &[
    Target { name: "messages", executions: 10_000, prepare: messages::prepare },
    Target { name: "records", executions: 5_000, prepare: records::prepare },
    Target { name: "frames", executions: 300, prepare: frames::prepare },
    Target { name: "device-states", executions: 1_000, prepare: device_states::prepare },
    Target { name: "machine", executions: 50, prepare: machine::prepare },
    Target { name: "lease", executions: 500, prepare: lease::prepare },
    Target { name: "texts", executions: 2_000, prepare: texts::prepare },
    Target { name: "api", executions: 20_000, prepare: api::prepare },
];
