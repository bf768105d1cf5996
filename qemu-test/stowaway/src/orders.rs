//! The orders.
//!
//! | order | what |
//! |---|---|
//! | `kill ROLE [WORD]`, `stop ROLE [WORD]`, `continue ROLE [WORD]` | a signal to every process of a role (with WORD as one of its arguments) |
//! | `processes` | process ids and command lines |
//! | `show PATH` | a file of /run, /proc or /sys, its last 64 KiB |
//! | `list PATH` | the names in a folder |
//! | `when PHASE ORDER` | carries out ORDER as soon as the migration log tells that a move entered PHASE |

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Where the migration role tells of the phases of its moves.
const MIGRATION_LOG: &str = "/run/godwit/log/migrate.log";
/// How often that is looked at: a stun lasts a tenth of a second.
const LOOK: Duration = Duration::from_millis(3);
/// How long a move may take to come to a phase.
const PHASE_BOUND: Duration = Duration::from_secs(200);
/// Most bytes of a file that are shown.
const SHOWN: usize = 64 << 10;

/// Carries out one order; what it printed, or why it could not. One that waits for its moment calls `armed` as soon as that
/// cannot be missed any more.
pub(crate) fn carry_out(order: &str, armed: &mut dyn FnMut()) -> Result<String, String> {
    let words: Vec<&str> = order.split_whitespace().collect();
    match words[..] {
        ["kill", role] => signal(role, None, Signal::KILL),
        ["kill", role, word] => signal(role, Some(word), Signal::KILL),
        ["stop", role] => signal(role, None, Signal::STOP),
        ["stop", role, word] => signal(role, Some(word), Signal::STOP),
        ["continue", role] => signal(role, None, Signal::CONT),
        ["continue", role, word] => signal(role, Some(word), Signal::CONT),
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

/// Waits for the phase in what the log gets from now on, and carries the order out at once.
fn when(log: &Path, phase: &str, order: &str, armed: &mut dyn FnMut()) -> Result<String, String> {
    let read = || fs::read(log).unwrap_or_default();
    let (mut place, started) = (Place::at_the_end_of(&read()), Instant::now());
    armed();
    let told = format!(": {phase}");
    while started.elapsed() < PHASE_BOUND {
        if String::from_utf8_lossy(place.fresh(&read())).lines().any(|line| line.ends_with(&told)) {
            return carry_out(order, &mut || ());
        }
        std::thread::sleep(LOOK);
    }
    Err(format!("no move entered the phase {phase}"))
}

/// A place in a log, which begins anew when it is full.
struct Place {
    at: usize,
    longest: usize,
}

impl Place {
    fn at_the_end_of(log: &[u8]) -> Self {
        Self { at: log.len(), longest: log.len() }
    }

    /// What the log has beyond the place.
    fn fresh<'a>(&mut self, log: &'a [u8]) -> &'a [u8] {
        if log.len() < self.longest {
            *self = Self { at: 0, longest: 0 };
        }
        self.longest = log.len();
        &log[self.at..]
    }
}

fn signal(role: &str, word: Option<&str>, signal: Signal) -> Result<String, String> {
    let mut done = String::new();
    for (pid, words) in processes() {
        // The first process is init, which no fault of ours may touch: the host would panic.
        let meant = word.is_none_or(|word| words.iter().any(|have| have == word));
        if pid == 1 || !is_role(&words, role) || !meant {
            continue;
        }
        if let Some(pid) = Pid::from_raw(pid) {
            kill_process(pid, signal).map_err(|error| format!("process {pid:?}: {error}"))?;
        }
        done += &format!("{pid} {}\n", words.join(" "));
    }
    if done.is_empty() { Err(format!("no process of role {role}")) } else { Ok(done) }
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
        let mut place = Place::at_the_end_of(b"old\n");
        assert_eq!(place.fresh(b"old\n"), b"");
        assert_eq!(place.fresh(b"old\nnew\n"), b"new\n");
        assert_eq!(place.fresh(b"anew\n"), b"anew\n", "longer than the place, and shorter than the log was");
        assert_eq!(place.fresh(b"anew\nand more\n"), b"anew\nand more\n");
    }
}
