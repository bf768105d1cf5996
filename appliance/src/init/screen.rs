//! The screen: lines of `init` to the person in front of the machine, on every console that the kernel writes to.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use crate::journal::uptime;

static SCREENS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Opens the kernel's consoles (all of them: a person may sit at any one), or `/dev/console` when they are not known.
pub(super) fn open() {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut files: Vec<File> = active.split_whitespace().filter_map(|name| open_one(&format!("/dev/{name}"))).collect();
    if files.is_empty() {
        files.extend(open_one("/dev/console"));
    }
    *SCREENS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = files;
}

fn open_one(path: &str) -> Option<File> {
    // Never the controlling terminal of PID 1, and never blocked by a serial line that holds its output back.
    let flags = (rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK).bits();
    OpenOptions::new().write(true).custom_flags(flags.cast_signed()).open(path).ok()
}

/// Writes one line with the time since power-on.
pub(super) fn say(line: &str) {
    let text = format!("[{:>9}] {line}\r\n", uptime());
    let screens = SCREENS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for mut screen in screens.iter() {
        let _ = screen.write_all(text.as_bytes());
    }
}

/// Tells the person what is broken and what can be done, then keeps the machine as it is, for ever.
pub(super) fn stop_and_explain(what: &str, hint: &str) -> ! {
    open();
    say(&format!("error: godwit cannot go on: {what}"));
    say(&format!("hint:  {hint}"));
    say("The machine stays as it is and does not reboot by itself. Reset it when you are done.");
    loop {
        std::thread::park();
    }
}

/// A panic in PID 1 would take the kernel down with it: explain and stop instead. The roles go on.
pub(super) fn explain_panics() {
    std::panic::set_hook(Box::new(|panic| {
        stop_and_explain(&format!("init itself failed: {panic}"), "please report this text; the running VMs go on");
    }));
}
