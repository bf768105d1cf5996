//! The journal of a role: one line for each record on standard error, which `init` gathers into `/run/godwit/log`.

use std::io::Write as _;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};
use model::host_config::LogLevel;
use rustix::time::{ClockId, clock_gettime};

use crate::role::RoleName;

/// Target of records that are news to whoever sits at this host's console, though nothing is wrong.
pub const NEWS: &str = "news";

/// Who hears a record beside the log: the record, and its text without control characters.
type Listener = fn(&Record<'_>, &str);

static LISTENER: OnceLock<Listener> = OnceLock::new();

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

/// From now on records of less weight than this are dropped. Until then it is `info`.
pub fn set_level(level: LogLevel) {
    log::set_max_level(match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    });
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
    let now = clock_gettime(ClockId::Boottime);
    format!("{}.{:03}", now.tv_sec, now.tv_nsec / 1_000_000)
}

/// A level as the journal spells it.
pub fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
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
        let line = format!("{} {} {}: {text}\n", uptime(), self.role, name(record.level()));
        let _ = std::io::stderr().write_all(line.as_bytes());
        if let Some(listener) = LISTENER.get() {
            listener(record, &text);
        }
    }

    fn flush(&self) {}
}
