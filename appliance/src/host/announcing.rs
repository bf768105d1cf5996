//! The networks are told where a VM is that came to run here: by its monitor, which has the taps, whatever became of the control plane that
//! made them. They are told again until the guest's own traffic has shown them, because a frame may be lost and a port may need its
//! time; a guest that stays silent is announced for [`BOUND`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::vmm::{VmmAnswer, VmmRequest};
use crate::host::running::Running;

/// How long it is waited before the networks are told again, the first times; then always as long as the last.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(300), Duration::from_millis(500)];
/// How long they are told again. Most bridges let frames through a new port within 30 s (IEEE 802.1D: twice the forward delay of 15 s).
const BOUND: Duration = Duration::from_secs(35);

/// Tells them by the monitor, and by the guest.
pub fn announce(running: &Arc<Running>) {
    by_monitor(running);
    by_guest(running);
}

/// Has the guest tell them too: its own word, of addresses that the host does not know.
pub fn by_guest(running: &Running) {
    if let Err(error) = running.monitor.ask(&VmmRequest::AnnounceByGuest, &[]) {
        log::warn!("VM {}: its guest is not asked to announce itself: {error}", running.vm.vm);
    }
}

/// Tells them by the monitor, and gives how many frames were sent at once; the rest goes on by itself. A frame that cannot be sent costs a
/// second of the VM's connections and not the VM.
pub fn by_monitor(running: &Arc<Running>) -> u32 {
    let (frames, unheard) = match running.monitor.ask(&VmmRequest::Announce { again: false }, &[]) {
        Ok(VmmAnswer::Announced { frames, unheard }) => (frames, unheard),
        Ok(other) => {
            log::warn!("VM {} is not announced: {other:?}", running.vm.vm);
            return 0;
        }
        Err(error) => {
            log::warn!("VM {} is not announced: {error}", running.vm.vm);
            return 0;
        }
    };
    if unheard > 0 {
        let running = Arc::clone(running);
        let repeats = std::thread::Builder::new().name("announce".to_owned());
        if let Err(error) = repeats.spawn(move || repeat(&running)) {
            log::warn!("a VM is announced once only: {error}");
        }
    }
    frames
}

/// Until nothing is left to announce, the monitor does not announce any more (the VM stands still, moves on or ended), or the time is over.
fn repeat(running: &Running) {
    let vm = &running.vm.vm;
    let deadline = Instant::now() + BOUND;
    for times in 1.. {
        std::thread::sleep(pause(times));
        match running.monitor.ask(&VmmRequest::Announce { again: true }, &[]) {
            Ok(VmmAnswer::Announced { unheard: 0, .. }) => {
                return log::info!("VM {vm}: its networks have heard of it ({times} times announced)");
            }
            Ok(VmmAnswer::Announced { unheard, .. }) if Instant::now() >= deadline => {
                return log::info!(
                    "VM {vm}: {unheard} of its NICs were silent for {} s; they are not announced any more",
                    BOUND.as_secs()
                );
            }
            Ok(VmmAnswer::Announced { .. }) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// The time before the networks are told again for the nth time, from 1 on.
fn pause(times: usize) -> Duration {
    AGAIN[times.min(AGAIN.len()) - 1]
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::host::monitor::stand_in::StandIn;

    #[test]
    fn a_vm_is_announced_until_its_guest_is_heard_of_and_no_more() {
        let monitor = StandIn::start(&"web".parse().expect("valid"));
        let (told, tells) = channel();
        let state = Mutex::new((told, 0));
        monitor.answers(move |request| {
            let VmmRequest::Announce { again } = request else { return None };
            let mut state = state.lock().expect("held");
            state.1 += 1;
            // The test may be over.
            let _ = state.0.send(*again);
            let unheard = u32::from(state.1 < 4);
            Some(VmmAnswer::Announced { frames: unheard, unheard })
        });
        assert_eq!(by_monitor(&monitor.running()), 1);
        let heard: Vec<bool> = (0..4).map(|_| tells.recv_timeout(BOUND).expect("announced")).collect();
        assert_eq!(heard, [false, true, true, true]);
        assert!(tells.recv_timeout(AGAIN[3] * 3).is_err(), "it was heard of");
    }

    #[test]
    fn a_vm_that_does_not_run_any_more_is_not_announced_again() {
        let monitor = StandIn::start(&"web".parse().expect("valid"));
        let (told, tells) = channel();
        let told = Mutex::new(told);
        monitor.answers(move |request| {
            let VmmRequest::Announce { again } = request else { return None };
            let _ = told.lock().expect("held").send(*again);
            let stopped = || VmmAnswer::Failed("the machine cannot be announced again while it is paused".to_owned());
            Some(if *again { stopped() } else { VmmAnswer::Announced { frames: 2, unheard: 2 } })
        });
        assert_eq!(by_monitor(&monitor.running()), 2);
        let heard: Vec<bool> = (0..2).map(|_| tells.recv_timeout(BOUND).expect("announced")).collect();
        assert_eq!(heard, [false, true]);
        assert!(tells.recv_timeout(AGAIN[3] * 3).is_err(), "it may run elsewhere");
    }
}
