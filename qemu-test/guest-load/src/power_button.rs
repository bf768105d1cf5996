//! The power button: a guest without systemd must itself do what is expected when it is pressed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of the kernel's `struct input_event` on 64-bit machines: two words of time, type, code, value.
const EVENT_BYTES: usize = 24;
/// `EV_KEY` and `KEY_POWER` (Linux, include/uapi/linux/input-event-codes.h).
const KEY: u16 = 1;
const POWER: u16 = 116;

/// Listens on every input device, a thread each; the first press powers the guest off.
///
/// # Errors
/// A thread cannot be started.
pub fn listen() -> io::Result<()> {
    for device in devices() {
        std::thread::Builder::new().name("power button".into()).spawn(move || {
            if let Err(error) = wait_for_press(&device).and_then(|()| power_off()) {
                println!("guest-load: {}: {error}", device.display());
            }
        })?;
    }
    Ok(())
}

/// Writes back what is cached and powers the guest off.
///
/// # Errors
/// This process may not.
pub fn power_off() -> io::Result<()> {
    rustix::fs::sync();
    // What was said to clients before gets a moment on the network.
    std::thread::sleep(Duration::from_millis(100));
    Ok(rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?)
}

fn devices() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev/input").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("event")).map(|entry| entry.path()).collect()
}

fn wait_for_press(device: &PathBuf) -> io::Result<()> {
    let mut events = File::open(device)?;
    let mut event = [0; EVENT_BYTES];
    loop {
        events.read_exact(&mut event)?;
        if is_press(&event) {
            return Ok(());
        }
    }
}

fn is_press(event: &[u8; EVENT_BYTES]) -> bool {
    let half = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
    half(16) == KEY && half(18) == POWER && half(20) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        let event = |kind: u16, code: u16, value: u16| {
            let mut bytes = [0; EVENT_BYTES];
            bytes[16..18].copy_from_slice(&kind.to_le_bytes());
            bytes[18..20].copy_from_slice(&code.to_le_bytes());
            bytes[20..22].copy_from_slice(&value.to_le_bytes());
            bytes
        };
        assert!(is_press(&event(1, 116, 1)));
        assert!(!is_press(&event(1, 116, 0)), "the release");
        assert!(!is_press(&event(1, 30, 1)), "another key");
        assert!(!is_press(&event(0, 116, 1)), "another kind of event");
    }
}
