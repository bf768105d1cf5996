//! The orders.
//!
//! | order | what |
//! |---|---|
//! | `kill ROLE [WORD]`, `stop ROLE [WORD]`, `continue ROLE [WORD]` | a signal to every process of a role (whose command line holds WORD) |
//! | `processes` | process ids and command lines |
//! | `show PATH` | a file of /run, /proc or /sys, its last 64 KiB |
//! | `list PATH` | the names in a folder |
//! | `when PHASE ORDER` | carries out ORDER as soon as the migration log tells that a move entered PHASE |

use std::fs;
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

/// Carries out one order; what it printed, or why it could not.
pub(crate) fn carry_out(order: &str) -> Result<String, String> {
    let words: Vec<&str> = order.split_whitespace().collect();
    match words[..] {
        ["kill", role] => signal(role, "", Signal::KILL),
        ["kill", role, word] => signal(role, word, Signal::KILL),
        ["stop", role] => signal(role, "", Signal::STOP),
        ["stop", role, word] => signal(role, word, Signal::STOP),
        ["continue", role] => signal(role, "", Signal::CONT),
        ["continue", role, word] => signal(role, word, Signal::CONT),
        ["processes"] => Ok(processes().map(|(pid, words)| format!("{pid} {}\n", words.join(" "))).collect()),
        ["show", path] => show(path),
        ["list", path] => list(path),
        ["when", phase, ..] => when(phase, order.splitn(3, ' ').nth(2).unwrap_or_default()),
        _ => Err(format!("not understood: {order}")),
    }
}

/// Waits for the phase in what the log gets from now on, and carries the order out at once.
fn when(phase: &str, order: &str) -> Result<String, String> {
    let read = || fs::read(MIGRATION_LOG).unwrap_or_default();
    let (before, started) = (read().len(), Instant::now());
    let told = format!(": {phase}");
    while started.elapsed() < PHASE_BOUND {
        let log = read();
        let fresh = String::from_utf8_lossy(log.get(before..).unwrap_or_default()).into_owned();
        if fresh.lines().any(|line| line.ends_with(&told)) {
            return carry_out(order);
        }
        std::thread::sleep(LOOK);
    }
    Err(format!("no move entered the phase {phase}"))
}

fn signal(role: &str, word: &str, signal: Signal) -> Result<String, String> {
    let mut done = String::new();
    for (pid, words) in processes() {
        // The first process is init, which no fault of ours may touch: the host would panic.
        if pid == 1 || !is_role(&words, role) || !words.iter().any(|have| have.contains(word)) {
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
        assert!(carry_out("kill no-such-role").is_err());
        assert!(carry_out("show /no/such/file").is_err());
        assert!(carry_out("dance").is_err());
        assert!(carry_out("processes").unwrap().contains(&std::process::id().to_string()));
    }
}
