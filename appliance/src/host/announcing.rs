//! The networks are told where a VM is that came to run here: by its monitor, which has the taps, whatever became of the control plane that
//! made them. They are told again until the guest's own traffic has shown them, because a frame may be lost and a port may need its
//! time; a guest that stays silent is announced for [`BOUND`], which its monitor counts: a control plane that adopts it goes on with that.

use std::sync::Arc;
use std::time::Duration;

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
        Ok(VmmAnswer::Announced { frames, unheard, .. }) => (frames, unheard),
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
        go_on(running);
    }
    frames
}

/// Tells them again by itself, of a VM that was announced: by this control plane, or by one before it.
pub fn go_on(running: &Arc<Running>) {
    let running = Arc::clone(running);
    let repeats = std::thread::Builder::new().name("announce".to_owned());
    if let Err(error) = repeats.spawn(move || repeat(&running)) {
        log::warn!("a VM is not announced again: {error}");
    }
}

/// Until nothing is left to announce (or never was), the monitor does not announce any more (the VM stands still, moves on or ended), or the
/// time is over.
fn repeat(running: &Running) {
    let vm = &running.vm.vm;
    for times in 1.. {
        std::thread::sleep(pause(times));
        match running.monitor.ask(&VmmRequest::Announce { again: true }, &[]) {
            Ok(VmmAnswer::Announced { since_ms: None, .. }) => return,
            Ok(VmmAnswer::Announced { unheard: 0, .. }) => {
                return log::info!("VM {vm}: its networks have heard of it");
            }
            Ok(VmmAnswer::Announced { unheard, since_ms: Some(since), .. })
                if Duration::from_millis(since) >= BOUND =>
            {
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
            Some(VmmAnswer::Announced { frames: unheard, unheard, since_ms: Some(0) })
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
            Some(if *again { stopped() } else { VmmAnswer::Announced { frames: 2, unheard: 2, since_ms: Some(0) } })
        });
        assert_eq!(by_monitor(&monitor.running()), 2);
        let heard: Vec<bool> = (0..2).map(|_| tells.recv_timeout(BOUND).expect("announced")).collect();
        assert_eq!(heard, [false, true]);
        assert!(tells.recv_timeout(AGAIN[3] * 3).is_err(), "it may run elsewhere");
    }

    #[test]
    fn what_a_control_plane_before_this_one_began_to_announce_is_announced_for_the_rest_of_the_time_and_nothing_else_is()
     {
        let ms = |bound: Duration| u64::try_from(bound.as_millis()).expect("it is short");
        // It came from nowhere; it is announced for long enough; it has some time left.
        for (since_ms, times) in [(None, 1), (Some(ms(BOUND)), 1), (Some(ms(BOUND) - 1), 2)] {
            let monitor = StandIn::start(&"web".parse().expect("valid"));
            let (told, tells) = channel();
            let state = Mutex::new((told, since_ms));
            monitor.answers(move |request| {
                let VmmRequest::Announce { again } = request else { return None };
                let mut state = state.lock().expect("held");
                let _ = state.0.send(*again);
                let unheard = u32::from(state.1.is_some());
                let answer = VmmAnswer::Announced { frames: unheard, unheard, since_ms: state.1 };
                state.1 = state.1.map(|since| since + 1);
                Some(answer)
            });
            go_on(&monitor.running());
            let heard: Vec<bool> = (0..times).map(|_| tells.recv_timeout(BOUND).expect("asked")).collect();
            assert_eq!(heard, vec![true; times], "{since_ms:?}");
            assert!(tells.recv_timeout(AGAIN[3]).is_err(), "{since_ms:?}");
        }
    }
}
