//! The machine's power button: pressed, it shuts the machine down in order, VMs first, as `host shutdown` does.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use super::screen::say;
use super::supervise::Event;
use crate::api::init::InitRequest;

/// Bytes of `struct input_event` on x86-64 (linux/input.h): 16 of time, type, code, value.
const EVENT_BYTES: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: i32 = 1;

/// Waits for the buttons that there are, each in a thread of its own. A machine without one has nothing to wait for.
pub(super) fn watch(events: &Sender<Event>) {
    for device in buttons() {
        let events = events.clone();
        let wait = move || {
            if pressed(&device).is_ok() {
                say("the power button was pressed");
                let (answer, _) = channel();
                let _ = events.send(Event::Ordered(InitRequest::Shutdown, answer));
            }
        };
        let _ = std::thread::Builder::new().name("power".into()).spawn(wait);
    }
}

/// Event devices of power buttons: `/sys/class/input/inputN/name` says what it is, `eventM` below it is the device.
fn buttons() -> Vec<PathBuf> {
    let inputs = fs::read_dir("/sys/class/input").into_iter().flatten().flatten();
    let named = inputs
        .filter(|input| fs::read_to_string(input.path().join("name")).is_ok_and(|name| name.trim() == "Power Button"));
    let devices = named.flat_map(|input| fs::read_dir(input.path()).into_iter().flatten().flatten());
    let names = devices.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("event")).map(|name| PathBuf::from("/dev/input").join(name)).collect()
}

fn pressed(device: &PathBuf) -> std::io::Result<()> {
    let mut file = File::open(device)?;
    let mut event = [0; EVENT_BYTES];
    loop {
        file.read_exact(&mut event)?;
        if is_press(&event) {
            return Ok(());
        }
    }
}

fn is_press(event: &[u8; EVENT_BYTES]) -> bool {
    let kind = u16::from_ne_bytes([event[16], event[17]]);
    let code = u16::from_ne_bytes([event[18], event[19]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    (kind, code, value) == (EV_KEY, KEY_POWER, PRESSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut event = [0; EVENT_BYTES];
            event[16..18].copy_from_slice(&kind.to_ne_bytes());
            event[18..20].copy_from_slice(&code.to_ne_bytes());
            event[20..24].copy_from_slice(&value.to_ne_bytes());
            event
        };
        assert!(is_press(&event(1, 116, 1)));
        assert!(!is_press(&event(1, 116, 0)), "its release");
        assert!(!is_press(&event(1, 143, 1)), "another key");
        assert!(!is_press(&event(0, 0, 0)), "the end of a report");
    }
}
