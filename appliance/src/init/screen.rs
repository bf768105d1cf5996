//! The screen: lines of `init` to the person in front of the machine, on every console that the kernel writes to.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::gather::LogFile;
use crate::api::paths::RunDir;
use crate::journal::uptime;

/// How long a line waits for a terminal that is busy.
const BUSY_MAX: Duration = Duration::from_secs(1);
/// Time between two tries.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A terminal and its place.
struct Screen {
    path: String,
    file: Option<File>,
}

static SCREENS: Mutex<Vec<Screen>> = Mutex::new(Vec::new());
/// Consoles have the screens.
static LEFT: AtomicBool = AtomicBool::new(false);
/// The machine ends, or cannot go on.
static ENDING: AtomicBool = AtomicBool::new(false);
static LOG: Mutex<Option<LogFile>> = Mutex::new(None);

/// Finds the kernel's consoles (all of them: a person may sit at any one), or `/dev/console` when they are not known.
pub(super) fn open() {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut paths: Vec<String> = active.split_whitespace().map(|name| format!("/dev/{name}")).collect();
    if paths.is_empty() {
        paths.push("/dev/console".to_owned());
    }
    let screens = paths.into_iter().map(|path| Screen { file: open_one(&path), path });
    *SCREENS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = screens.collect();
}

fn open_one(path: &str) -> Option<File> {
    // Never the controlling terminal of PID 1, and never blocked by a serial line that holds its output back.
    let flags = (rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK).bits();
    OpenOptions::new().write(true).custom_flags(flags.cast_signed()).open(path).ok()
}

impl Screen {
    fn write(&mut self, text: &[u8]) {
        let mut rest = text;
        let deadline = Instant::now() + BUSY_MAX;
        let mut reopened = false;
        while !rest.is_empty() && Instant::now() < deadline {
            match self.file.as_mut().map(|file| file.write(rest)) {
                Some(Ok(written)) => rest = &rest[written..],
                // A console is writing on the same terminal at this moment, or the line is slow.
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(BUSY_PAUSE),
                Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                // The end of a console hangs its terminal up, and with it every descriptor of it.
                _ if !reopened => {
                    self.file = open_one(&self.path);
                    reopened = true;
                }
                _ => return,
            }
        }
    }
}

/// From now on the screens are the consoles': what is said goes to the log alone, and not into the middle of a command's
/// output.
pub(super) fn leave_to_consoles() {
    LEFT.store(true, Ordering::Relaxed);
}

/// The screens are `init`'s again: the machine ends.
pub(super) fn take_back() {
    LEFT.store(false, Ordering::Relaxed);
    ENDING.store(true, Ordering::Relaxed);
}

/// Shows what a role says, as it says it, while the machine ends: there is no console then that could be asked what the
/// machine waits for.
pub(super) fn pass_on(said: &[u8]) {
    if ENDING.load(Ordering::Relaxed) {
        let lines = String::from_utf8_lossy(said).replace('\n', "\r\n");
        show(lines.as_bytes());
    }
}

/// Writes one line with the time since power-on.
pub(super) fn say(line: &str) {
    let text = format!("[{:>9}] {line}\r\n", uptime());
    if !LEFT.load(Ordering::Relaxed) {
        show(text.as_bytes());
    }
    keep(line);
}

fn show(text: &[u8]) {
    let mut screens = SCREENS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for screen in screens.iter_mut() {
        screen.write(text);
    }
}

/// Keeps a line among the logs of the roles, once there is a place for them.
fn keep(line: &str) {
    let mut log = LOG.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if log.is_none() {
        *log = LogFile::open(RunDir::from_environment().log("init")).ok();
    }
    let (level, text) = ["error", "warning"]
        .iter()
        .find_map(|level| Some((*level, line.strip_prefix(level)?.strip_prefix(": ")?)))
        .unwrap_or(("info", line));
    if let Some(log) = &mut *log {
        let _ = log.append(format!("{} init {level}: {text}\n", uptime()).as_bytes());
    }
}

/// Tells the person what is broken and what can be done, then keeps the machine as it is, for ever.
pub(super) fn stop_and_explain(what: &str, hint: &str) -> ! {
    open();
    take_back();
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
