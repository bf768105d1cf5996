//! The journal of a role: one line for each record on standard error, which `init` gathers into `/run/godwit/log`.

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use model::host_config::LogLevel;
use rustix::time::{ClockId, clock_gettime};

use crate::role::RoleName;

/// Target of records that are news to whoever sits at this host's console, though nothing is wrong.
pub const NEWS: &str = "news";

/// The level of what is no trouble, as the journal spells it.
pub const INFO: &str = "info";

/// Who hears a record beside the log: the record, and its text without control characters.
type Listener = fn(&Record<'_>, &str);

/// The least weight that the log keeps, as a number of `log`: a greater one is a lesser weight.
static KEPT: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);
static LISTENER: OnceLock<Listener> = OnceLock::new();
/// What every record is about, where that is one thing.
static ABOUT: OnceLock<String> = OnceLock::new();

struct Journal {
    role: RoleName,
}

/// Sends this process's log records to standard error. Only the first call counts.
pub fn install(role: RoleName) {
    static JOURNAL: OnceLock<Journal> = OnceLock::new();
    if log::set_logger(JOURNAL.get_or_init(|| Journal { role })).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// From now on records are told to `listener` too. Only the first call counts.
pub fn tell_too(listener: Listener) {
    LISTENER.get_or_init(|| listener);
}

/// From now on each record says that it is about this VM: the monitors of all VMs write into one log. Only the first call counts.
pub fn is_about(vm: &str) {
    ABOUT.get_or_init(|| format!("VM {vm}: "));
}

/// From now on records of less weight than this are not kept in the log. Until then it is `info`.
pub fn set_level(level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    };
    KEPT.store(level as usize, Ordering::Relaxed);
    // What is told beside the log does not depend on what the log keeps.
    log::set_max_level(level.max(LevelFilter::Info));
}

/// From now on a panic of this process is one record, and the process makes no other call for it: the usual way to tell of a
/// panic looks into files for a backtrace, which a role under a system call filter must not.
pub fn record_panics() {
    std::panic::set_hook(Box::new(|panic| {
        log::error!("thread {}: {panic}", std::thread::current().name().unwrap_or("without a name"));
    }));
}

/// Seconds and milliseconds since the machine started, as the kernel's own messages have them.
pub fn uptime() -> String {
    let now = since_boot();
    format!("{}.{:03}", now.as_secs(), now.subsec_millis())
}

/// Time since the machine started.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A level as the journal spells it.
pub fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => INFO,
        Level::Debug | Level::Trace => "debug",
    }
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // One record, one line: a control character in a message from outside must not forge a second record.
        let text = record.args().to_string().replace(char::is_control, " ");
        if record.level() as usize <= KEPT.load(Ordering::Relaxed) {
            let about = ABOUT.get().map_or("", String::as_str);
            let line = format!("{} {} {}: {about}{text}\n", uptime(), self.role, name(record.level()));
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        if let Some(listener) = LISTENER.get() {
            listener(record, &text);
        }
    }

    fn flush(&self) {}
}
