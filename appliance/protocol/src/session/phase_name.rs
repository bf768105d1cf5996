//! The phases of a migration by name (DESIGN.md, section 9), as logs, receipts, lists and progress show them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A phase. Each side enters those that it takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PhaseName {
    /// The hosts agree on a version.
    Hello,
    /// The source measures the path.
    Probe,
    /// The source says what it wants to move.
    Offer,
    /// Both look whether it can be.
    Checks,
    /// The destination builds the VM.
    Reserve,
    /// Rounds of memory while the guest runs.
    PreCopy,
    /// The guest stands still.
    Stun,
    /// The destination compares what it has.
    Verify,
    /// The next epoch of the lease is decided.
    Commit,
    /// The guest is let run at the destination.
    Resume,
    /// All memory is compared after the resume.
    Audit,
    /// The source, or a destination that came to nothing, lets go of what it has.
    Release,
}

impl PhaseName {
    /// Its name: `pre-copy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Probe => "probe",
            Self::Offer => "offer",
            Self::Checks => "checks",
            Self::Reserve => "reserve",
            Self::PreCopy => "pre-copy",
            Self::Stun => "stun",
            Self::Verify => "verify",
            Self::Commit => "commit",
            Self::Resume => "resume",
            Self::Audit => "audit",
            Self::Release => "release",
        }
    }

    /// Whether a source in this phase has given the VM away for good.
    pub fn is_after_the_commit(self) -> bool {
        matches!(self, Self::Resume | Self::Audit | Self::Release)
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
