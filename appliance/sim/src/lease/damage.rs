//! Leases of VMs that are damaged, and the person who mends them: one who says that a VM runs nowhere only where that is so.

use protocol::lease::identity::{Slot, Tenancy};
use protocol::lease::layout::Place;
use protocol::lease::vm_lease::{Request, Vouched};
use protocol::time::Duration;

use super::event::Event;
use super::wishes::Wish;
use super::world::{World, vm_name};

/// Places that a world has beside those of its VMs: none that was damaged is used again.
pub(super) const SPARE_PLACES: usize = 100;
/// How many of the first places, and of the last, damage may reach.
const REACHED: u64 = 12;
/// Mean time between two damages.
const EVERY: Duration = Duration::from_secs(12);

impl World {
    /// Some hosts' records about the VMs in some places are lost.
    pub(super) fn damage(&mut self) {
        if self.healed {
            return;
        }
        let next = self.luck_of_damage.span(Duration::from_secs(1), EVERY * 2);
        self.queue.after(next, Event::Damage);
        let (first, places) = (self.luck_of_damage.below(REACHED), self.luck_of_damage.between(1, 4));
        let slots = u64::from(self.area.geometry.slots());
        let (slot, count) = (self.luck_of_damage.below(slots), self.luck_of_damage.between(1, slots));
        self.note(|| {
            format!("{count} records from slot {slot} are damaged in {places} places from {first}, at an end")
        });
        // New leases are at the end.
        let from =
            if self.luck_of_damage.chance(500_000) { 0 } else { u64::from(self.area.geometry.vms()) - REACHED - 4 };
        for place in from + first..from + first + places {
            let bank = self.area.geometry.vm(Place(place as u16));
            for slot in slot..slots.min(slot + count) {
                for sector in 0..2 {
                    let extent = bank.sector(Slot(slot as u16), sector);
                    self.disk.write(extent.offset, &vec![0xA5; extent.bytes]);
                }
            }
        }
    }

    /// A host met a damaged lease. A person who sees that the VM runs nowhere, and is not being brought up, says so.
    pub(super) fn mend_lease(&mut self, host: usize, vm: usize, damaged: Tenancy) {
        let vouched = if self.runs_nowhere(vm) { Vouched::Of(damaged) } else { Vouched::No };
        self.ask(host, Wish::Mend, Request::Mend(vm_name(vm), vouched));
    }

    fn runs_nowhere(&self, vm: usize) -> bool {
        self.hosts.iter().filter(|host| host.up).all(|host| {
            let is_wanted = host.wishes.values().any(|(_, wish)| match wish {
                Wish::Start(other)
                | Wish::Confirm(other, _)
                | Wish::Assure(other, _)
                | Wish::Prepare(other, _)
                | Wish::Commit(other, _)
                | Wish::ResolveSource(other, ..)
                | Wish::ResolveDestination(other, _) => *other == vm,
                Wish::GiveUp(_) | Wish::Mend | Wish::Query => false,
            });
            !is_wanted && !host.instances.contains_key(&vm)
        })
    }
}
