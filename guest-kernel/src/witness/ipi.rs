//! Interrupts between processors. Each CPU sends one to the next, sees that it has arrived, and sends another: so none that a
//! move loses, or delivers twice, goes unnoticed, and nearly always one is under way.

#[cfg(target_os = "none")]
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Looks after which an interrupt that has not arrived is lost. Between two of them the CPU has worked for 10 ms at least:
/// time in which the machine stands still is no delay.
const PATIENCE: u32 = 1000;

/// What a look finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The last one has arrived: send another.
    Send,
    /// It is under way.
    Wait,
    /// It never arrived: counted, and another is sent.
    Lost,
    /// So many arrived that were never sent: counted, and another is sent.
    Extra(u64),
}

/// The sending side of one pair of CPUs.
#[derive(Debug, Default)]
pub struct Caller {
    sent: u64,
    waited: u32,
}

impl Caller {
    /// Looks at how many have arrived, ever. Whatever the result but [`Look::Wait`], one is sent now.
    pub fn look(&mut self, arrived: u64) -> Look {
        let look = match arrived.checked_sub(self.sent) {
            Some(0) => Look::Send,
            Some(extra) => Look::Extra(extra),
            None if self.waited < PATIENCE => {
                self.waited += 1;
                return Look::Wait;
            }
            None => Look::Lost,
        };
        (self.sent, self.waited) = (arrived + 1, 0);
        look
    }
}

#[cfg(target_os = "none")]
static LOST: AtomicU64 = AtomicU64::new(0);
#[cfg(target_os = "none")]
static EXTRA: AtomicU64 = AtomicU64::new(0);

/// How many interrupts between processors never arrived, and how many arrived that were never sent.
#[cfg(target_os = "none")]
pub fn faults() -> [u64; 2] {
    [LOST.load(Relaxed), EXTRA.load(Relaxed)]
}

/// Calls the next CPU.
#[cfg(target_os = "none")]
#[derive(Debug)]
pub struct Ring {
    caller: Caller,
    /// Number and LAPIC identifier of the next CPU; none if there is no other.
    next: Option<(u8, u8)>,
}

#[cfg(target_os = "none")]
impl Ring {
    /// Of the CPU with this number; `apics` are the LAPIC identifiers of all of them.
    pub fn new(cpu: u64, apics: &[u8]) -> Self {
        crate::ring0::stubs::IPIS[cpu as usize].ready.store(true, core::sync::atomic::Ordering::Release);
        let next = (cpu as usize + 1) % apics.len();
        Self { caller: Caller::default(), next: (apics.len() > 1).then(|| (next as u8, apics[next])) }
    }

    /// Looks once, and sends the next interrupt if it is time.
    pub fn look(&mut self) {
        use crate::ring0::{descriptors::IPI_VECTOR, stubs::IPIS};
        let Some((cpu, apic)) = self.next else { return };
        let there = &IPIS[usize::from(cpu)];
        if !there.ready.load(core::sync::atomic::Ordering::Acquire) {
            return;
        }
        match self.caller.look(there.count.load(Relaxed)) {
            Look::Wait => return,
            Look::Send => {}
            Look::Lost => _ = LOST.fetch_add(1, Relaxed),
            Look::Extra(extra) => _ = EXTRA.fetch_add(extra, Relaxed),
        }
        crate::witness::timer::send(apic, FIXED | u32::from(IPI_VECTOR + cpu));
    }
}

/// Delivery mode fixed, level assert (Intel SDM, volume 3, section 12.6.1).
#[cfg(target_os = "none")]
const FIXED: u32 = 0x4000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_sent_when_the_last_has_arrived_and_no_earlier() {
        let mut caller = Caller::default();
        assert_eq!(caller.look(0), Look::Send);
        assert_eq!(
            [caller.look(0), caller.look(0), caller.look(1), caller.look(1)],
            [Look::Wait, Look::Wait, Look::Send, Look::Wait]
        );
    }

    #[test]
    fn one_that_never_arrives_is_lost_once() {
        let mut caller = Caller::default();
        caller.look(0);
        (0..PATIENCE).for_each(|_| assert_eq!(caller.look(0), Look::Wait));
        assert_eq!([caller.look(0), caller.look(0), caller.look(1)], [Look::Lost, Look::Wait, Look::Send]);
    }

    #[test]
    fn one_that_arrives_twice_is_counted() {
        let mut caller = Caller::default();
        caller.look(0);
        assert_eq!([caller.look(2), caller.look(2), caller.look(3)], [Look::Extra(1), Look::Wait, Look::Send]);
    }
}
