//! Which slot of the host bank a host claims.

use model::limits;

use super::effect::Note;
use super::machine::HostIdentity;
use crate::lease::identity::{Generation, Slot};
use crate::lease::watch::{Life, Watch};
use crate::time::Instant;

/// What a look at the host bank says to a host that has no life.
#[derive(Debug)]
pub(super) enum Choice {
    /// Claim this slot, whose last life had this generation.
    Claim(Slot, Generation),
    /// A fresh look decides.
    LookAgain,
    /// Wait, for this reason.
    Wait(Note),
}

/// Chooses a slot: the one that this host had before, if that life is over, else a free one. `last_life` is the last life
/// of this process, whose VMs are dead. Also says whether an earlier process of this boot was seen, whose writes may still
/// be under way.
pub(super) fn choose(identity: &HostIdentity, last_life: Option<(Slot, Generation)>, watch: &Watch) -> (Choice, bool) {
    let (mut mine, mut predecessor) = (None, false);
    for (slot, seen) in watch.slots() {
        let Some(record) = seen.record.as_ref().filter(|record| record.name == identity.name) else {
            continue;
        };
        if last_life.is_some_and(|(last, generation)| last == slot && generation == record.generation) {
            mine = Some((slot, record.generation));
            break;
        }
        let same_boot = record.host == identity.host && record.boot == identity.boot;
        predecessor |= same_boot;
        let blocked = match watch.life(record.incarnation(slot), Instant::ZERO) {
            Life::Over(_) => None,
            // This boot's own earlier life is dead as soon as its VMs are.
            Life::Alive { .. } if same_boot => None,
            Life::Alive { .. } if seen.changed => Some(Choice::Wait(Note::NameInUse(slot))),
            Life::Alive { .. } => Some(Choice::Wait(Note::WaitingForOldLife(slot))),
            Life::LookAgain => Some(Choice::LookAgain),
        };
        match blocked {
            Some(choice) => return (choice, predecessor),
            None => mine = mine.or(Some((slot, record.generation))),
        }
    }
    let choice = match mine.or_else(|| free_slot(identity, watch)) {
        Some((slot, generation)) => Choice::Claim(slot, generation),
        None => Choice::Wait(Note::AreaFull),
    };
    (choice, predecessor)
}

/// A slot that nobody ever had, else one that was left in order; searched from a place of this host's own, so
/// that hosts that boot at once seldom meet.
fn free_slot(identity: &HostIdentity, watch: &Watch) -> Option<(Slot, Generation)> {
    let count = watch.slots().count().max(1);
    let first = (identity.host.0 % count as u128) as usize;
    let around = || watch.slots().cycle().skip(first).take(count);
    let empty = around().find(|(_, seen)| seen.record.is_none() && !seen.corrupt);
    empty.map(|(slot, _)| (slot, Generation(0))).or_else(|| {
        let left = around().find_map(|(slot, seen)| Some((slot, seen.record.as_ref().filter(|record| record.left)?)));
        left.map(|(slot, record)| (slot, record.generation))
    })
}

/// Another host that lives, as far as is known, and counts on a shorter expiry than this one: it would call this one dead too early.
/// One that counts on a longer expiry waits longer, and is waited for longer.
pub(super) fn shorter_expiry(identity: &HostIdentity, watch: &Watch) -> Option<(Slot, u32)> {
    let records = watch.slots().filter_map(|(slot, seen)| Some((slot, seen.record.as_ref()?)));
    let mut shorter = records.filter(|(slot, record)| {
        let lives = || !matches!(watch.life(record.incarnation(*slot), Instant::ZERO), Life::Over(_));
        record.name != identity.name && u64::from(record.expiry_ms) < limits::LEASE_EXPIRY_MS && lives()
    });
    shorter.next().map(|(slot, record)| (slot, record.expiry_ms))
}
