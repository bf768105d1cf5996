//! The conversation with the lease role: a connection for each question, so that none waits for another.

use std::os::fd::{AsFd, BorrowedFd};

use model::diagnosis::Reason;
use protocol::session::{self, LeaseAsk};

use crate::api::channel::Channel;
use crate::api::lease::{LeaseAnswer, LeaseRequest, VmOnDatastore};
use crate::api::paths::RunDir;

/// A question that was not answered yet.
#[derive(Debug)]
pub struct Question {
    channel: Channel<LeaseRequest, LeaseAnswer>,
    ask: LeaseAsk,
    base: u64,
}

impl AsFd for Question {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Question {
    /// Asks. `source` is the identity of the host that moves the VM, `base` the epoch in which it holds it.
    ///
    /// # Errors
    /// The answer, where the lease role cannot be asked.
    pub fn ask(
        run_dir: &RunDir,
        ask: LeaseAsk,
        vm: VmOnDatastore,
        source: [u8; 16],
        base: u64,
    ) -> Result<Self, session::LeaseAnswer> {
        let request = match ask {
            LeaseAsk::Prepare => LeaseRequest::Prepare { vm, source, epoch: base },
            LeaseAsk::Commit => LeaseRequest::Commit { vm, epoch: base },
            LeaseAsk::Reclaim => LeaseRequest::Resolve { vm, epoch: base },
            LeaseAsk::Confirm => LeaseRequest::Confirm { vm, epoch: base },
        };
        let away = |error: &dyn std::error::Error| session::LeaseAnswer::Unknown {
            cause: format!("the lease role does not answer: {error}"),
        };
        let channel = Channel::connect(&run_dir.socket("lease")).map_err(|error| away(&error))?;
        channel.send(&request, &[]).map_err(|error| away(&error))?;
        Ok(Self { channel, ask, base })
    }

    /// What was asked.
    pub fn asked(&self) -> LeaseAsk {
        self.ask
    }

    /// The answer; to be called when the connection is readable.
    pub fn answer(&self) -> session::LeaseAnswer {
        let unknown = |cause: String| session::LeaseAnswer::Unknown { cause };
        match self.channel.receive() {
            Ok((answer, _)) => translate(self.ask, self.base, answer),
            Err(error) => unknown(format!("the lease role does not answer: {error}")),
        }
    }
}

/// What the lease says to a source that asked whether it may let the VM go on, when it has the locks of its disks: the epoch in
/// which it does, a later one than that of the move where the next was at stake (`docs/decisions/the-disk-locks.md`).
///
/// # Errors
/// Another holds the VM, or the lease does not tell.
pub fn assured(answer: session::LeaseAnswer) -> Result<u64, Reason> {
    let why = match answer {
        session::LeaseAnswer::Won { epoch } => return Ok(epoch),
        session::LeaseAnswer::Lost { holder, .. } => format!("{holder} holds it"),
        session::LeaseAnswer::Unknown { cause } | session::LeaseAnswer::Damaged { cause } => cause,
        session::LeaseAnswer::Prepared | session::LeaseAnswer::NotPrepared => {
            "it answered what was not asked".to_owned()
        }
    };
    Err(Reason::new(format!("its lease does not say that it is this host's still: {why}"), "log show lease"))
}

/// Only an epoch after `base` is a decision of this move; that of the move itself is what a source has confirmed.
fn translate(ask: LeaseAsk, base: u64, answer: LeaseAnswer) -> session::LeaseAnswer {
    let unknown = |cause: String| session::LeaseAnswer::Unknown { cause };
    match answer {
        LeaseAnswer::Prepared { .. } if ask == LeaseAsk::Prepare => session::LeaseAnswer::Prepared,
        LeaseAnswer::Held { epoch, .. } if epoch > base || ask == LeaseAsk::Confirm => {
            session::LeaseAnswer::Won { epoch }
        }
        LeaseAnswer::HeldBy(holder) if holder.epoch > base => {
            session::LeaseAnswer::Lost { holder: holder.name, epoch: holder.epoch }
        }
        LeaseAnswer::NotPrepared if ask == LeaseAsk::Commit => session::LeaseAnswer::NotPrepared,
        LeaseAnswer::Failed(cause) | LeaseAnswer::Unknown(cause) => unknown(cause),
        LeaseAnswer::Damaged { why: cause, .. } | LeaseAnswer::AreaDamaged(cause) => {
            session::LeaseAnswer::Damaged { cause }
        }
        LeaseAnswer::NoLease => {
            session::LeaseAnswer::Damaged { cause: "the VM has no lease on this datastore".to_owned() }
        }
        _ => unknown("the next epoch of the lease is not decided".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::lease::Holder;

    fn held_by(epoch: u64) -> LeaseAnswer {
        LeaseAnswer::HeldBy(Holder {
            host: [2; 16],
            name: "host-b".parse().expect("a name"),
            generation: 1,
            epoch,
            alive: true,
            own: false,
            since_unix_s: None,
        })
    }

    #[test]
    fn an_old_epoch_decides_nothing() {
        let undecided = |answer| matches!(answer, session::LeaseAnswer::Unknown { .. });
        assert!(undecided(translate(LeaseAsk::Reclaim, 5, held_by(5))));
        assert!(undecided(translate(LeaseAsk::Reclaim, 5, LeaseAnswer::held(5))));
        assert!(undecided(translate(LeaseAsk::Commit, 5, LeaseAnswer::Prepared { epoch: 6 })));
    }

    #[test]
    fn a_damaged_lease_is_not_taken_for_one_that_cannot_be_read_now() {
        let vm = || "web".parse().expect("a name");
        let never = [
            LeaseAnswer::Damaged { vm: vm(), why: "it is damaged".to_owned(), mark: 1 },
            LeaseAnswer::AreaDamaged("it is damaged".to_owned()),
            LeaseAnswer::NoLease,
        ];
        for answer in never {
            let told = translate(LeaseAsk::Reclaim, 5, answer);
            assert!(matches!(told, session::LeaseAnswer::Damaged { .. }), "{told:?}");
        }
        for answer in [LeaseAnswer::Failed("it is away".to_owned()), LeaseAnswer::Unknown("it is away".to_owned())] {
            let told = translate(LeaseAsk::Reclaim, 5, answer);
            assert!(matches!(told, session::LeaseAnswer::Unknown { .. }), "{told:?}");
        }
    }

    #[test]
    fn a_later_epoch_decides() {
        let won = session::LeaseAnswer::Won { epoch: 6 };
        assert_eq!(translate(LeaseAsk::Commit, 5, LeaseAnswer::held(6)), won);
        let lost = translate(LeaseAsk::Reclaim, 5, held_by(6));
        assert!(matches!(lost, session::LeaseAnswer::Lost { epoch: 6, .. }));
    }
}
