//! What a request comes to, by what the blocks of its VM say.

use super::job::Context;
use super::request::{Answer, Holder, LeaseError, Request, Take, Taken};
use crate::lease::identity::{Epoch, Incarnation, Value};
use crate::lease::paxos::View;
use crate::lease::record::Watchdog;
use crate::lease::watch::{Death, Life};
use crate::time::Instant;

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The answer is known.
    Finish(Result<Answer, LeaseError>),
    /// Contend for the next epoch, to decide this.
    Contend(Value),
    /// The same for this host, which so takes the VM from a holder that had not given it up.
    TakeOver(Taken),
    /// This host holds this epoch, and nobody contends for the next one.
    Held(Epoch),
    /// This host holds this epoch, and gives it up.
    GiveUp(Epoch),
    /// A fresh look at the host bank decides.
    Look,
}

/// Decides from a view of the blocks that was read before `learned_at`.
pub(super) fn judge(request: &Request, context: &Context<'_>, view: &View, learned_at: Instant) -> Verdict {
    let me = Value::Holder(context.me);
    let held = held(view);
    let mine = held.filter(|(_, who)| *who == context.me);
    match *request {
        Request::Query(_) | Request::Glance(_) | Request::Mend(..) => {
            Verdict::Finish(Ok(Answer::Holder(held.map(|(epoch, who)| describe(context, view, epoch, who)))))
        }
        Request::GiveUp(_) => give_up(context, view, mine),
        Request::Prepare(_, source, base) => match held {
            Some((epoch, who)) if who.host == source && epoch == base && who != context.me => Verdict::Contend(me),
            held => tell_holder(context, view, held),
        },
        Request::Resolve(_, base) => resolve(context, view, base),
        Request::Confirm(_, epoch) => match mine {
            // Whoever decides the next epoch has written its proposal before; who has only promised has decided nothing.
            Some((held, _)) if held == epoch && view.accepted().is_none() => Verdict::Held(epoch),
            _ => resolve(context, view, Epoch(epoch.0.saturating_sub(1))),
        },
        Request::Acquire(_, take) => acquire(context, view, learned_at, held, take),
        Request::Forget(_) => acquire(context, view, learned_at, held, Take::IfFree),
        // It never comes to a look: phase 2 is all of it, and what came of that is told without one.
        Request::Commit(..) => Verdict::Finish(Err(LeaseError::OutcomeUnknown)),
    }
}

fn resolve(context: &Context<'_>, view: &View, base: Epoch) -> Verdict {
    let me = Value::Holder(context.me);
    let (holder, held) = (holder(view), held(view));
    match holder {
        Some((epoch, who)) if epoch > base && who == context.me && holder == held => keep(context, view, epoch),
        Some((epoch, _)) if epoch > base => tell_holder(context, view, holder),
        Some((epoch, who)) if epoch == base && (who == context.me || view.mine().0.epoch > base) => {
            Verdict::Contend(me)
        }
        None if base == Epoch(0) && view.mine().0.epoch > base => Verdict::Contend(me),
        // The base itself may be decided without having been published: complete that first.
        _ => match view.accepted() {
            Some((_, value)) if view.decided_epoch() < base => Verdict::Contend(value),
            _ => tell_holder(context, view, held),
        },
    }
}

fn acquire(
    context: &Context<'_>,
    view: &View,
    learned_at: Instant,
    held: Option<(Epoch, Incarnation)>,
    take: Take,
) -> Verdict {
    let Some((epoch, who)) = held else { return Verdict::Contend(Value::Holder(context.me)) };
    if who == context.me {
        return keep(context, view, epoch);
    }
    let death = match (context.watch.life(who, learned_at), take) {
        (Life::Over(death), _) => death,
        (_, Take::ByForce(named)) if named == epoch => Death::Forced,
        (Life::LookAgain, _) => return Verdict::Look,
        (Life::Alive { .. }, _) => return tell_holder(context, view, held),
    };
    let watchdog = context.watch.published(who).map_or(Watchdog::None, |(_, watchdog)| watchdog);
    Verdict::TakeOver(Taken { from: who, death, watchdog })
}

/// This host holds `epoch`; if somebody has begun to contend for the next one (the destination of a move whose
/// outcome nobody here remembers), only winning that one is proof.
fn keep(context: &Context<'_>, view: &View, epoch: Epoch) -> Verdict {
    if view.is_contested() { Verdict::Contend(Value::Holder(context.me)) } else { Verdict::Held(epoch) }
}

fn give_up(context: &Context<'_>, view: &View, mine: Option<(Epoch, Incarnation)>) -> Verdict {
    match (mine, view.accepted()) {
        (Some((epoch, _)), _) => Verdict::GiveUp(epoch),
        // Decided for me, perhaps, but not published: complete that first.
        (None, Some((_, value))) if value == Value::Holder(context.me) => Verdict::Contend(value),
        (None, _) => Verdict::Finish(Ok(Answer::GivenUp)),
    }
}

fn tell_holder(context: &Context<'_>, view: &View, holder: Option<(Epoch, Incarnation)>) -> Verdict {
    let holder = holder.map(|(epoch, who)| Answer::HeldBy(describe(context, view, epoch, who)));
    Verdict::Finish(holder.ok_or(LeaseError::NoLease))
}

/// Who was decided last to hold it.
fn holder(view: &View) -> Option<(Epoch, Incarnation)> {
    view.decided().and_then(|(epoch, value)| Some((epoch, value.holder()?)))
}

/// The same, if it was not given up since.
fn held(view: &View) -> Option<(Epoch, Incarnation)> {
    holder(view).filter(|(epoch, who)| !gave_up(view, *epoch, *who))
}

fn gave_up(view: &View, epoch: Epoch, who: Incarnation) -> bool {
    view.block(who.slot).is_some_and(|block| block.given_up >= epoch)
}

fn describe(context: &Context<'_>, view: &View, epoch: Epoch, who: Incarnation) -> Holder {
    Holder { who, epoch, life: context.watch.life(who, Instant::ZERO), since: view.held_since(epoch, who) }
}
