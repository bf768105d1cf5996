//! The orders.
//!
//! | order | what |
//! |---|---|
//! | `kill ROLE [WORD]`, `stop ROLE [WORD]`, `continue ROLE [WORD]` | a signal to every process of a role (with WORD as one of its arguments) |
//! | `processes` | process ids and command lines |
//! | `show PATH` | a file of /run, /proc or /sys, its last 64 KiB |
//! | `list PATH` | the names in a folder |
//! | `when PHASE ORDER` | carries out ORDER as soon as the migration log tells that a move entered PHASE |

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Where the migration role tells of the phases of its moves.
const MIGRATION_LOG: &str = "/run/godwit/log/migrate.log";
/// How often that is looked at: a phase may last some milliseconds.
const LOOK: Duration = Duration::from_millis(1);
/// How long a move may take to come to a phase.
const PHASE_BOUND: Duration = Duration::from_secs(200);
/// Most bytes of a file that are shown.
const SHOWN: usize = 64 << 10;

/// Carries out one order; what it printed, or why it could not. One that waits for its moment calls `armed` as soon as that
/// cannot be missed any more.
pub(crate) fn carry_out(order: &str, armed: &mut dyn FnMut()) -> Result<String, String> {
    let words: Vec<&str> = order.split_whitespace().collect();
    match words[..] {
        ["kill" | "stop" | "continue", role] | ["kill" | "stop" | "continue", role, _] => {
            Signals::prepare(order).send().map_err(|what| format!("role {role}: {what}"))
        }
        ["processes"] => Ok(processes().map(|(pid, words)| format!("{pid} {}\n", words.join(" "))).collect()),
        ["show", path] => show(path),
        ["list", path] => list(path),
        ["when", phase, ..] => {
            let order = order.splitn(3, ' ').nth(2).unwrap_or_default();
            when(Path::new(MIGRATION_LOG), phase, order, armed)
        }
        _ => Err(format!("not understood: {order}")),
    }
}

/// Waits for the phase in what the log gets from now on, and carries the order out at once: whom it signals was looked up
/// before, for a phase may be over before all processes were looked through.
fn when(log: &Path, phase: &str, order: &str, armed: &mut dyn FnMut()) -> Result<String, String> {
    let (mut log, prepared, started) = (Log::from_its_end(log), Signals::prepare(order), Instant::now());
    armed();
    let told = format!(": {phase}");
    while started.elapsed() < PHASE_BOUND {
        if log.fresh().lines().any(|line| line.ends_with(&told)) {
            // Who is gone by now was followed by another, and who came meanwhile was not known.
            return prepared.send().or_else(|_| carry_out(order, &mut || ()));
        }
        std::thread::sleep(LOOK);
    }
    Err(format!("no move entered the phase {phase}"))
}

/// A log from a place on; it begins anew when it is full.
struct Log<'a> {
    path: &'a Path,
    from: u64,
    longest: u64,
}

impl<'a> Log<'a> {
    fn from_its_end(path: &'a Path) -> Self {
        let length = fs::metadata(path).map_or(0, |file| file.len());
        Self { path, from: length, longest: length }
    }

    /// What it has beyond the place.
    fn fresh(&mut self) -> String {
        let Ok(mut file) = File::open(self.path) else { return String::new() };
        let length = file.metadata().map_or(0, |file| file.len());
        if length < self.longest {
            self.from = 0;
        }
        self.longest = length;
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(self.from)).and_then(|_| file.read_to_end(&mut bytes));
        if read.is_ok() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() }
    }
}

/// A signal, and the processes that it is for.
struct Signals {
    signal: Signal,
    processes: Vec<(i32, String)>,
}

impl Signals {
    /// Looks up whom an order signals; nobody, where it is another kind of order.
    fn prepare(order: &str) -> Self {
        let words: Vec<&str> = order.split_whitespace().collect();
        let known = words.first().and_then(|verb| signal_of(verb));
        match (known, &words[1.min(words.len())..]) {
            (Some(signal), [role]) => Self::to(role, None, signal),
            (Some(signal), [role, word]) => Self::to(role, Some(word), signal),
            _ => Self { signal: Signal::CONT, processes: Vec::new() },
        }
    }

    fn to(role: &str, word: Option<&str>, signal: Signal) -> Self {
        // The first process is init, which no fault of ours may touch: the host would panic.
        let meant = processes().filter(|(pid, words)| {
            *pid != 1 && is_role(words, role) && word.is_none_or(|word| words.iter().any(|have| have == word))
        });
        Self { signal, processes: meant.map(|(pid, words)| (pid, words.join(" "))).collect() }
    }

    /// Sends it; to whom it went, a line each.
    fn send(&self) -> Result<String, String> {
        if self.processes.is_empty() {
            return Err("no such process".into());
        }
        for (pid, _) in &self.processes {
            let process = Pid::from_raw(*pid).ok_or("process 0")?;
            kill_process(process, self.signal).map_err(|error| format!("process {pid}: {error}"))?;
        }
        Ok(self.processes.iter().map(|(pid, words)| format!("{pid} {words}\n")).collect())
    }
}

fn signal_of(verb: &str) -> Option<Signal> {
    match verb {
        "kill" => Some(Signal::KILL),
        "stop" => Some(Signal::STOP),
        "continue" => Some(Signal::CONT),
        _ => None,
    }
}

/// A role is the product's binary with the role's name as its first argument.
fn is_role(words: &[String], role: &str) -> bool {
    words.get(1).is_some_and(|first| first == role)
}

fn processes() -> impl Iterator<Item = (i32, Vec<String>)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        (!words.is_empty()).then_some((pid, words))
    })
}

fn show(path: &str) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN)..]).into_owned())
}

fn list(path: &str) -> Result<String, String> {
    let entries = fs::read_dir(path).map_err(|error| format!("{path}: {error}"))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_known_by_its_first_argument_only() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_role(&words("/proc/self/exe migrate"), "migrate"));
        assert!(!is_role(&words("/proc/self/exe vmm migrate"), "migrate"));
        assert!(!is_role(&words("migrate"), "migrate"));
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert!(carry_out("kill no-such-role", &mut || ()).is_err());
        assert!(carry_out("show /no/such/file", &mut || ()).is_err());
        assert!(carry_out("dance", &mut || ()).is_err());
        assert!(carry_out("processes", &mut || ()).unwrap().contains(&std::process::id().to_string()));
    }

    #[test]
    fn a_phase_that_comes_as_soon_as_the_order_is_said_to_be_armed_is_not_missed() {
        let log = std::env::temp_dir().join(format!("stowaway-armed-{}", std::process::id()));
        fs::write(&log, "an earlier move: pre-copy\n").unwrap();
        let mut armed = 0;
        let done = when(&log, "pre-copy", "processes", &mut || {
            armed += 1;
            fs::write(&log, "an earlier move: pre-copy\nthis move: pre-copy\n").unwrap();
        });
        fs::remove_file(&log).unwrap();
        assert!(done.unwrap().contains(&std::process::id().to_string()));
        assert_eq!(armed, 1);
    }

    #[test]
    fn a_log_that_began_anew_is_read_from_its_start() {
        let path = std::env::temp_dir().join(format!("stowaway-anew-{}", std::process::id()));
        let write = |text: &str| fs::write(&path, text).unwrap();
        write("old\n");
        let mut log = Log::from_its_end(&path);
        assert_eq!(log.fresh(), "");
        write("old\nnew\n");
        assert_eq!(log.fresh(), "new\n");
        write("anew\n");
        assert_eq!(log.fresh(), "anew\n", "longer than the place, and shorter than the log was");
        write("anew\nand more\n");
        assert_eq!(log.fresh(), "anew\nand more\n");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_order_for_who_was_not_there_when_it_was_armed_finds_them_in_its_moment() {
        let log = std::env::temp_dir().join(format!("stowaway-late-{}", std::process::id()));
        fs::write(&log, "").unwrap();
        let mut late = None;
        // Seconds that are no other process' first argument.
        let role = format!("300.{}", std::process::id());
        let done = when(&log, "commit", &format!("kill {role}"), &mut || {
            late = Some(std::process::Command::new("sleep").arg(&role).spawn().unwrap());
            // Who starts a process goes on before its arguments can be read.
            let started = Instant::now();
            while !processes().any(|(_, words)| is_role(&words, &role)) {
                assert!(started.elapsed() < PHASE_BOUND, "it does not begin");
                std::thread::sleep(LOOK);
            }
            fs::write(&log, "this move: commit\n").unwrap();
        });
        fs::remove_file(&log).unwrap();
        let mut late = late.unwrap();
        assert!(done.unwrap().starts_with(&late.id().to_string()));
        assert!(!late.wait().unwrap().success());
    }
}
